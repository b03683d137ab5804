"""Climbing the sites that have no closed form: L-BFGS on the expected log joint.

The density climbed is that of the constrained space (a mode is a mode there, no Jacobian); only the
coordinates are unconstrained. A step that does not raise the objective is not taken, so that every
climb is a generalised EM step (Dempster, Laird & Rubin 1977, section 3).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from ..program.reading import Site

Values = dict[str, Array]

_STEPS = 12


def climb(sites: tuple[Site, ...], log_joint: Callable[[Values], Array], values: Values) -> Values:
    """Raise `log_joint` over `sites`, all else held fixed; returns values that are no worse."""
    bijections = {site.name: biject_to(site.support) for site in sites}
    start, unravel = ravel_pytree({n: b.inv(values[n]) for n, b in bijections.items()})

    def constrained(flat: Array) -> Values:
        free = unravel(flat)
        return {**values, **{n: b(free[n]) for n, b in bijections.items()}}

    def loss(flat: Array) -> Array:
        return -log_joint(constrained(flat))

    solver = optax.lbfgs(memory_size=8)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(
        carry: tuple[Array, optax.OptState], _: None
    ) -> tuple[tuple[Array, optax.OptState], None]:
        flat, state = carry
        value, gradient = value_and_grad(flat, state=state)
        update, state = solver.update(
            gradient, state, flat, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(flat, update), state), None

    (flat, _), _ = jax.lax.scan(step, (start, solver.init(start)), length=_STEPS)
    better = loss(flat) < loss(start)
    chosen = jnp.where(better & jnp.all(jnp.isfinite(flat)), flat, start)
    found = constrained(chosen)
    return {n: jnp.where(better, v, values[n]) if n in bijections else v for n, v in found.items()}
