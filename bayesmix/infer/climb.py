"""Climbing the sites that have no closed form, on the expected log joint: Newton, or L-BFGS for many.

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
Loss = Callable[[Array], Array]

LARGEST_HESSIAN = 60  # coordinates; beyond it L-BFGS
_NEWTON_STEPS, _LBFGS_STEPS = 3, 12
# lengths tried along a Newton direction, all at once
_LENGTHS = (1.0, 0.5, 0.2, 0.05, 1e-2, 1e-3)


def climb(sites: tuple[Site, ...], log_joint: Callable[[Values], Array], values: Values) -> Values:
    """Raise `log_joint` over `sites`, all else held fixed; returns values that are no worse."""
    bijections = {site.name: biject_to(site.support) for site in sites}
    start, unravel = ravel_pytree({n: b.inv(values[n]) for n, b in bijections.items()})

    def constrained(flat: Array) -> Values:
        free = unravel(flat)
        return {**values, **{n: b(free[n]) for n, b in bijections.items()}}

    def loss(flat: Array) -> Array:
        return -log_joint(constrained(flat))

    flat = (_newton if start.size <= LARGEST_HESSIAN else _lbfgs)(loss, start)
    better = (loss(flat) < loss(start)) & jnp.all(jnp.isfinite(flat))
    found = constrained(jnp.where(better, flat, start))
    return {n: jnp.where(better, v, values[n]) if n in bijections else v for n, v in found.items()}


def _newton(loss: Loss, start: Array) -> Array:
    """Newton steps with the curvature's absolute value, so that each goes downhill, of the best length.

    Source: Nocedal & Wright (2006), *Numerical Optimization*, section 3.4.
    """
    slope = jax.grad(loss)
    lengths = jnp.asarray(_LENGTHS, start.dtype)

    def step(flat: Array, _: None) -> tuple[Array, None]:
        gradient, product = jax.linearize(slope, flat)
        hessian = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
        curvature, axes = jnp.linalg.eigh((hessian + hessian.T) / 2)
        size = jnp.abs(curvature)
        floor = jnp.sqrt(jnp.finfo(flat.dtype).eps) * jnp.max(size) + jnp.finfo(flat.dtype).tiny
        direction = -axes @ ((axes.T @ gradient) / jnp.maximum(size, floor))
        tried = flat + jnp.concatenate([jnp.zeros(1, flat.dtype), lengths])[:, None] * direction
        heights = jax.vmap(loss)(tried)
        return tried[jnp.argmin(jnp.where(jnp.isfinite(heights), heights, jnp.inf))], None

    return jax.lax.scan(step, start, length=_NEWTON_STEPS)[0]


def _lbfgs(loss: Loss, start: Array) -> Array:
    """L-BFGS steps with optax's line search."""
    solver = optax.lbfgs(memory_size=8)
    value_and_grad = optax.value_and_grad_from_state(loss)
    State = tuple[Array, optax.OptState]

    def step(carry: State, _: None) -> tuple[State, None]:
        flat, state = carry
        value, gradient = value_and_grad(flat, state=state)
        update, state = solver.update(
            gradient, state, flat, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(flat, update), state), None

    return jax.lax.scan(step, (start, solver.init(start)), length=_LBFGS_STEPS)[0][0]
