"""Climbing the sites that have no closed form, on the expected log joint: Newton, or L-BFGS for many.

The density climbed is that of the constrained space (a mode is a mode there, no Jacobian); only the
coordinates are unconstrained. A step that does not raise the objective is not taken, so that every
climb is a generalised EM step (Dempster, Laird & Rubin 1977, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints

from ..families.forms import base_support
from ..program.reading import Site
from ..program.settings import check_fields
from .coordinates import ENDLESS, constrained, unconstrained

if TYPE_CHECKING:
    import optax

Values = dict[str, Array]
Loss = Callable[[Array], Array]

Climber = Callable[[Loss, Array], Array]  # from a loss and a start, (P,), to a lower point

LARGEST_HESSIAN = 60  # coordinates; beyond it L-BFGS
# lengths tried along a direction, all at once; where none lowers the loss, all are made shorter
_LENGTHS, _SHORTER, _SHORTEST = (1.0, 0.5, 0.2, 0.05, 1e-2, 1e-3), 1e-4, 1e-13
# a climb ends after a step that gained what was promised to within this share, as the next will gain
# next to nothing; or one that gained no more than this share of what the climb gained before
_CLOSE, _LITTLE = 1e-6, 1e-9
# a step along Newton's direction that gains less than this share of what was promised meets a corner
_GOOD = 1e-3
_FARTHEST = 10.0  # powers of e in one step


class Climbed(NamedTuple):
    """Where a climb led, (P,); the gain that slope and curvature promised where it began: zero where the
    loss rises in all directions though there be a slope (a corner), infinite where there is no slope
    (NaN); and the curvature along each coordinate there, infinite where it was not looked at."""

    point: Array
    promised: Array
    curvature: Array


def usual_climber(loss: Loss, start: Array) -> Array:
    """:class:`Newton` for few coordinates, :class:`LBFGS` for many."""
    return (Newton() if start.size <= LARGEST_HESSIAN else LBFGS())(loss, start)


def climb(
    sites: tuple[Site, ...],
    log_joint: Callable[[Values], Array],
    values: Values,
    climber: Climber = usual_climber,
) -> tuple[Values, Array, dict[str, Array]]:
    """Raise `log_joint` over `sites`, all else held fixed.

    Returns values that are no worse; what was promised where the climb began, as in :class:`Climbed`;
    and the smallest curvature along a coordinate of each site there.
    """
    start, unravel = ravel_pytree(unconstrained(sites, values))

    def loss(flat: Array) -> Array:
        told = constrained(sites, unravel(flat))
        # families have a finite stand-in for what is infinite, which is no height to climb to
        usable = jnp.all(jnp.isfinite(ravel_pytree(told)[0]))
        return jnp.where(usable, -log_joint({**values, **told}), jnp.inf)

    if climber is usual_climber:
        climber = Newton() if start.size <= LARGEST_HESSIAN else LBFGS()
    if isinstance(climber, Newton):
        climbed = climber.climb(loss, start, ravel_pytree(_longest(sites, unravel(start)))[0])
    else:
        climbed = _by(climber, loss, start)
    moved = jnp.any(climbed.point != start)
    found = constrained(sites, unravel(climbed.point))
    flattest = {name: jnp.min(each) for name, each in unravel(climbed.curvature).items()}
    better = {**values, **{n: jnp.where(moved, v, values[n]) for n, v in found.items()}}
    return better, climbed.promised, flattest


def _longest(sites: tuple[Site, ...], free: Values) -> Values:
    """The longest step of each coordinate: few powers of e in a scale or a share mean anything, and far
    away densities are rounding alone."""
    longest = {}
    for site in sites:
        support, like = base_support(site.support), jnp.full_like(free[site.name], _FARTHEST)
        if any(support == each for each in ENDLESS):
            like = jnp.full_like(like, jnp.inf)
        elif support == constraints.ordered_vector:
            like = like.at[..., 0].set(jnp.inf)
        longest[site.name] = like
    return longest


def _by(climber: Climber, loss: Loss, start: Array) -> Climbed:
    """A climb by anything that takes a loss and a start. What the best step along the slope promises is
    less than what all of the curvature would."""
    gradient, product = jax.linearize(jax.grad(loss), start)
    flat = climber(loss, start)
    better = (loss(flat) < loss(start)) & jnp.all(jnp.isfinite(flat))
    square = jnp.vdot(gradient, gradient)
    bend = jnp.abs(jnp.vdot(gradient, product(gradient)))
    promised = jnp.where(square > 0, square * (square / bend) / 2, 0.0)
    point = jnp.where(better, flat, start)
    return Climbed(point, _or_infinite(promised), jnp.full_like(start, jnp.inf))


def _or_infinite(promised: Array) -> Array:
    return jnp.where(jnp.isfinite(promised), promised, jnp.inf)


@dataclass(frozen=True)
class Newton:
    """Newton steps with the curvature's absolute value, so that each goes downhill, of the best length.

    Coordinates are scaled to a curvature of one each, so that their units do not matter. Where the
    curvature is next to nothing, as that of a Poisson's tiny rate, a step is far too long, and shorter
    and shorter ones are tried, as long as the slope promises more than rounding. Where none lowers the
    loss (it has a corner, or no slope), each coordinate is moved by itself. Steps end after
    one that gained what was promised, or next to nothing.

    Args:
        steps: the largest number of steps.

    Example:
        >>> import jax.numpy as jnp
        >>> Newton(steps=1)(lambda v: jnp.sum((v - 3.0) ** 2), jnp.zeros(2)).tolist()
        [3.0, 3.0]

    Source: Nocedal & Wright (2006), *Numerical Optimization*, section 3.4.
    """

    steps: int = 30

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, loss: Loss, start: Array) -> Array:
        """A point no higher than `start`."""
        return self.climb(loss, start).point

    def climb(self, loss: Loss, start: Array, longest: Array | float = jnp.inf) -> Climbed:
        """The same, with what was promised at the start; `longest` are the longest steps of each
        coordinate, (P,)."""
        one = jnp.ones((), start.dtype)
        nothing = Climbed(start, jnp.inf * one, jnp.full_like(start, jnp.inf))
        walk = jax.lax.while_loop(
            lambda walk: (walk.number < self.steps) & ~walk.ended,
            partial(_newton_step, loss, longest),
            _Walk(nothing, jnp.zeros((), int), 0 * one, jnp.asarray(False)),
        )
        return walk.climbed


class _Walk(NamedTuple):
    """A climb under way: what it will return, steps made, what they gained, and whether it has ended."""

    climbed: Climbed
    number: Array
    gained: Array
    ended: Array


class _Tried(NamedTuple):
    """The best point of those tried, its height, and that of the first; the scale of the lengths that
    come next; the direction: Newton's (0), or that of one coordinate after the other (1, ...); and
    whether to stop."""

    point: Array
    height: Array
    before: Array
    scale: Array
    direction: Array
    ended: Array


def _newton_step(loss: Loss, longest: Array | float, walk: _Walk) -> _Walk:
    flat, tiny = walk.climbed.point, jnp.finfo(walk.climbed.point.dtype)
    gradient, product = jax.linearize(jax.grad(loss), flat)
    hessian = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
    own = jnp.abs(jnp.diagonal(hessian))
    unit = jnp.where((own > tiny.tiny) & jnp.isfinite(own), 1 / jnp.sqrt(own), 1.0)
    scaled = unit[:, None] * (hessian + hessian.T) / 2 * unit
    curvature, axes = jnp.linalg.eigh(scaled)
    size = jnp.abs(curvature)
    size = jnp.maximum(size, jnp.sqrt(tiny.eps) * jnp.max(size) + tiny.tiny)
    newton = -unit * (axes @ ((axes.T @ (unit * gradient)) / size))
    promised = -jnp.vdot(gradient, newton) / 2
    sloped = jnp.isfinite(promised)
    share = jnp.minimum(1.0, jnp.min(longest / jnp.maximum(jnp.abs(newton), tiny.tiny)))
    # each coordinate by itself: its own Newton step, or where there is no slope one up, then one down
    alone = jnp.clip(jnp.where(sloped, -gradient * unit**2, unit), -longest, longest)
    count = jnp.where(sloped, 1, 2) * flat.size
    lengths = jnp.asarray((0.0, *_LENGTHS), flat.dtype)

    def look(tried: _Tried) -> _Tried:
        down, place = jnp.divmod(tried.direction - 1, flat.size)
        along = jnp.where(jnp.arange(flat.size) == place, alone, 0.0) * (1 - 2 * down)
        along = jnp.where(tried.direction == 0, share * newton, along)
        heights = jax.vmap(loss)(tried.point + tried.scale * lengths[:, None] * along)
        best = jnp.argmin(jnp.where(jnp.isfinite(heights), heights, jnp.inf))
        better, rounding = best > 0, tiny.eps * jnp.abs(heights[0])
        scale = tried.scale * _SHORTER
        shortest = (scale < _SHORTEST) | (sloped & ~(scale * promised > rounding))
        # along Newton's direction one good point will do; of the coordinates each is tried
        turn, gain = better | shortest, heights[0] - heights[best]
        good = (gain >= _GOOD * share * promised) | ~(promised > 64 * rounding)
        last = (tried.direction == 0) & good
        direction = tried.direction + turn
        return _Tried(
            point=jnp.where(better, tried.point + tried.scale * lengths[best] * along, tried.point),
            height=heights[best],
            before=jnp.where(jnp.isnan(tried.before), heights[0], tried.before),
            scale=jnp.where(turn, 1.0, scale),
            direction=direction,
            ended=(turn & last & sloped) | (direction > count),
        )

    one = jnp.ones((), flat.dtype)
    tried = jax.lax.while_loop(
        lambda tried: ~tried.ended,
        look,
        _Tried(flat, one, jnp.nan * one, one, jnp.where(sloped, 0, 1), jnp.asarray(False)),
    )
    gain = jnp.where(tried.height < tried.before, tried.before - tried.height, 0.0)
    cornered = (tried.direction > count) & (gain == 0)
    hoped = jnp.where(sloped, jnp.where(cornered, 0.0, promised), jnp.inf)
    first, gained = walk.number == 0, walk.gained + gain
    climbed = Climbed(
        tried.point,
        jnp.where(first, hoped, walk.climbed.promised),
        jnp.where(first & jnp.isfinite(own), own, walk.climbed.curvature),
    )
    close = jnp.abs(gain - promised) <= _CLOSE * promised
    return _Walk(climbed, walk.number + 1, gained, close | (gain <= _LITTLE * walk.gained))


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
