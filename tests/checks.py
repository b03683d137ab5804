"""Checks that several tests make of a fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from bayesmix import EMResult, Plan
from bayesmix.program.arguments import Arguments


def log_posterior(plan: Plan, arguments: Arguments, values: dict[str, Any]) -> jax.Array:
    """Log posterior up to a constant, in the constrained space."""
    prior = plan.log_prior(plan.evaluate(arguments, values))
    return plan.log_likelihood(arguments, values) + prior


def slopes(fit: EMResult) -> dict[str, np.ndarray]:
    """Gradient of the log posterior at the fit, along unconstrained coordinates of each site.

    The density is that of the constrained space, so the gradient vanishes at its mode; the
    coordinates only keep the directions inside the supports (the simplex, symmetric matrices).
    """
    bijections = {site.name: biject_to(site.support) for site in fit.plan.reading.parameters}

    def height(free: dict[str, Any], arrays: Any) -> jax.Array:
        values = {name: bijection(free[name]) for name, bijection in bijections.items()}
        return log_posterior(fit.plan, fit.arguments._replace(arrays=arrays), values)

    free = {name: b.inv(jnp.asarray(fit.parameters[name])) for name, b in bijections.items()}
    found = jax.jit(jax.grad(height))(free, fit.arguments.arrays)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_never_falls(trace: np.ndarray, num_rows: int = 0) -> None:
    """No step lowers the objective by more than the rounding of a sum over the rows."""
    assert np.isfinite(trace).all()
    rounding = 64 * np.finfo(trace.dtype).eps * (np.abs(trace[1:]) + num_rows)
    assert (np.diff(trace) >= -rounding).all(), np.diff(trace).min()
