"""Checks that several tests make of a fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from bayesmix import EMResult, Plan
from bayesmix.program.arguments import Arguments
from bayesmix.program.blocks import Blocks
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.conjugacy import random_noise, random_points
from bayesmix.program.problem import Problem


def log_posterior(
    plan: Plan, arguments: Arguments, blocks: Blocks, values: dict[str, Any]
) -> jax.Array:
    """Log posterior up to a constant, in the constrained space."""
    prior = plan.evaluate(arguments, values).log_prior
    return Problem(plan, arguments, blocks).log_likelihood(values) + prior


def slopes(fit: EMResult) -> dict[str, np.ndarray]:
    """Gradient of the log posterior at the fit, along unconstrained coordinates of each site.

    The density is that of the constrained space, so the gradient vanishes at its mode; the
    coordinates only keep the directions inside the supports (the simplex, symmetric matrices).
    """
    bijections = {site.name: biject_to(site.support) for site in fit.plan.reading.parameters}

    def height(free: dict[str, Any], arrays: Any, blocks: Blocks) -> jax.Array:
        values = {name: bijection(free[name]) for name, bijection in bijections.items()}
        return log_posterior(fit.plan, fit.arguments.with_arrays(arrays), blocks, values)

    free = {name: b.inv(jnp.asarray(fit.parameters[name])) for name, b in bijections.items()}
    blocks = Problem(fit.plan, fit.arguments).with_rows().blocks
    found = compile_lightly(jax.grad(height))(free, fit.arguments.arrays, blocks)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_never_falls(trace: np.ndarray, num_rows: int = 0) -> None:
    """No step lowers the objective by more than the rounding of a sum over the rows."""
    assert np.isfinite(trace).all()
    rounding = 64 * np.finfo(trace.dtype).eps * (np.abs(trace[1:]) + num_rows)
    assert (np.diff(trace) >= -rounding).all(), np.diff(trace).min()


def random_values(plan: Plan, seed: int) -> dict[str, jax.Array]:
    """Random values of the parameters, leading with an axis of three."""
    noise = random_noise(plan.reading.parameters, np.random.default_rng(seed))
    return random_points(plan.reading.parameters, noise)
