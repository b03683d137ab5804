"""Climbing the sites that have no closed form, on the expected log joint: Newton, or L-BFGS for many.

The density climbed is that of the constrained space (a mode is a mode there, no Jacobian); only the
coordinates are unconstrained. A step that does not raise the objective is not taken, so that every
climb is a generalised EM step (Dempster, Laird & Rubin 1977, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ..program.reading import Site
from ..program.settings import check_fields
from .coordinates import constrained, unconstrained

if TYPE_CHECKING:
    import optax

Values = dict[str, Array]
Loss = Callable[[Array], Array]

Climber = Callable[[Loss, Array], Array]  # from a loss and a start, (P,), to a lower point

LARGEST_HESSIAN = 60  # coordinates; beyond it L-BFGS
# lengths tried along a Newton direction, all at once; where none lowers the loss, all are made shorter
_LENGTHS, _SHORTER, _SHORTEST = (1.0, 0.5, 0.2, 0.05, 1e-2, 1e-3), 1e-4, 1e-13


def usual_climber(loss: Loss, start: Array) -> Array:
    """:class:`Newton` for few coordinates, :class:`LBFGS` for many."""
    return (Newton() if start.size <= LARGEST_HESSIAN else LBFGS())(loss, start)


def climb(
    sites: tuple[Site, ...],
    log_joint: Callable[[Values], Array],
    values: Values,
    climber: Climber = usual_climber,
) -> Values:
    """Raise `log_joint` over `sites`, all else held fixed; returns values that are no worse."""
    start, unravel = ravel_pytree(unconstrained(sites, values))

    def loss(flat: Array) -> Array:
        return -log_joint({**values, **constrained(sites, unravel(flat))})

    flat = climber(loss, start)
    better = (loss(flat) < loss(start)) & jnp.all(jnp.isfinite(flat))
    found = constrained(sites, unravel(jnp.where(better, flat, start)))
    return {**values, **{n: jnp.where(better, v, values[n]) for n, v in found.items()}}


@dataclass(frozen=True)
class Newton:
    """Newton steps with the curvature's absolute value, so that each goes downhill, of the best length.

    Where the curvature is next to nothing, as that of a Poisson's tiny rate, a step is far too long, and
    shorter and shorter ones are tried, as long as the slope promises more than rounding.

    Example:
        >>> import jax.numpy as jnp
        >>> Newton(steps=1)(lambda v: jnp.sum((v - 3.0) ** 2), jnp.zeros(2)).tolist()
        [3.0, 3.0]

    Source: Nocedal & Wright (2006), *Numerical Optimization*, section 3.4.
    """

    steps: int = 3

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, loss: Loss, start: Array) -> Array:
        """A point no higher than `start`."""
        slope = jax.grad(loss)
        lengths = jnp.asarray((0.0, *_LENGTHS), start.dtype)

        def step(flat: Array, _: None) -> tuple[Array, None]:
            gradient, product = jax.linearize(slope, flat)
            hessian = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
            curvature, axes = jnp.linalg.eigh((hessian + hessian.T) / 2)
            size = jnp.abs(curvature)
            tiny = jnp.finfo(flat.dtype)
            floor = jnp.sqrt(tiny.eps) * jnp.max(size) + tiny.tiny
            direction = -axes @ ((axes.T @ gradient) / jnp.maximum(size, floor))
            promised = -jnp.vdot(gradient, direction)

            def look(tried: _Tried) -> _Tried:
                points = flat + tried.scale * lengths[:, None] * direction
                heights = jax.vmap(loss)(points)
                best = jnp.argmin(jnp.where(jnp.isfinite(heights), heights, jnp.inf))
                rounding = tiny.eps * jnp.abs(heights[0])
                scale = tried.scale * _SHORTER
                return _Tried(points[best], scale, (best > 0) | ~(scale * promised > rounding))

            one = jnp.ones((), flat.dtype)
            found = jax.lax.while_loop(
                lambda tried: ~tried.ended & (tried.scale > _SHORTEST),
                look,
                _Tried(flat, one, jnp.asarray(False)),
            )
            return found.point, None

        return jax.lax.scan(step, start, length=self.steps)[0]


class _Tried(NamedTuple):
    """The best point of those tried, the scale of the lengths that come next, and whether to stop."""

    point: Array
    scale: Array
    ended: Array


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS steps with optax's line search.

    Example:
        >>> import jax.numpy as jnp
        >>> LBFGS()(lambda v: jnp.sum((v - 3.0) ** 2), jnp.zeros(2)).round(6).tolist()
        [3.0, 3.0]

    Source: Liu & Nocedal (1989), *Mathematical Programming* 45, 503-528.
    """

    steps: int = 12
    memory: int = 8

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, loss: Loss, start: Array) -> Array:
        """A point no higher than `start`."""
        import optax

        return _follow(optax.lbfgs(memory_size=self.memory), self.steps, loss, start)


@dataclass(frozen=True)
class GradientAscent:
    """Steps along the gradient, halved until they raise the objective enough (Armijo's rule).

    Example:
        >>> import jax.numpy as jnp
        >>> GradientAscent(steps=1)(lambda v: jnp.sum((v - 3.0) ** 2), jnp.zeros(2)).tolist()
        [3.0, 3.0]

    Source: Nocedal & Wright (2006), *Numerical Optimization*, section 3.1.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, loss: Loss, start: Array) -> Array:
        """A point no higher than `start`."""
        import optax

        search = optax.scale_by_backtracking_linesearch(
            max_backtracking_steps=40, decrease_factor=0.5, store_grad=True
        )
        return _follow(optax.chain(optax.sgd(1.0), search), self.steps, loss, start)


def _follow(
    solver: optax.GradientTransformationExtraArgs, steps: int, loss: Loss, start: Array
) -> Array:
    """Some steps of an optax solver with a line search."""
    import optax

    value_and_grad = optax.value_and_grad_from_state(loss)
    State = tuple[Array, optax.OptState]

    def step(carry: State, _: None) -> tuple[State, None]:
        flat, state = carry
        value, gradient = value_and_grad(flat, state=state)
        update, state = solver.update(
            gradient, state, flat, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(flat, update), state), None

    return jax.lax.scan(step, (start, solver.init(start)), length=steps)[0][0]
