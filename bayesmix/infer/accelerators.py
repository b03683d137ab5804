"""Accelerators as parts: where EM goes after an M step. Passed as `EM(..., accelerator=...)`.

An accelerator works in unconstrained coordinates, so that constraints hold wherever it goes. What it
proposes is kept only if the objective has not fallen there; else the plain step is taken. It is a small
frozen record of three functions of flat vectors (P,), all traced::

    begin(start)                  -> pace       what it carries from step to step
    propose(before, mapped, pace) -> (candidate, pace)      mapped: where the M step went
    judge(pace, accepted)         -> pace
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.settings import check_fields
from .coordinates import constrained, unconstrained


class Accelerator(Protocol):
    """What every accelerator offers; see the module's text."""

    def begin(self, start: Array) -> Any: ...
    def propose(self, before: Array, mapped: Array, pace: Any) -> tuple[Array, Any]: ...
    def judge(self, pace: Any, accepted: Array) -> Any: ...


@dataclass(frozen=True)
class OverRelaxation:
    """theta + eta (M(theta) - theta), with eta grown by `growth` after each step that was kept, and set
    back to 1 after one that was not.

    `largest` = 1 is plain EM.

    Example:
        >>> import bayesmix
        >>> bayesmix.accelerators.OverRelaxation(growth=1.2)
        OverRelaxation(growth=1.2, largest=1000.0)

    Source: Salakhutdinov & Roweis (2003), ICML, 664-671 (adaptive overrelaxed bound optimisation).
    """

    growth: float = 1.3
    largest: float = 1000.0

    def __post_init__(self) -> None:
        check_fields(self, growth=1.0, largest=1.0)

    def begin(self, start: Array) -> Array:
        """eta = 1."""
        return jnp.ones((), start.dtype)

    def propose(self, before: Array, mapped: Array, pace: Array) -> tuple[Array, Array]:
        """A longer step along the M step's."""
        return jnp.where(pace == 1, mapped, before + pace * (mapped - before)), pace

    def judge(self, pace: Array, accepted: Array) -> Array:
        """The next eta."""
        grown = jnp.minimum(pace * self.growth, self.largest)
        return jnp.where(accepted, grown, 1.0).astype(pace.dtype)


class _Squared(NamedTuple):
    """The cycle's first point, whether one M step has been made from it, and the longest step."""

    origin: Array
    second: Array
    longest: Array


@dataclass(frozen=True)
class Squarem:
    """Two plain steps, theta_0 to theta_1 to theta_2, then theta_0 - 2 a r + a^2 v, with
    r = theta_1 - theta_0, v = theta_2 - theta_1 - r and a = -|r|/|v|.

    The longest step starts at `longest` and is multiplied by `factor` whenever it was taken and kept.

    Example:
        >>> import bayesmix
        >>> bayesmix.accelerators.Squarem()
        Squarem(longest=1.0, factor=4.0)

    Source: Varadhan & Roland (2008), *Scandinavian Journal of Statistics* 35, 335-353, scheme S3.
    """

    longest: float = 1.0
    factor: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self, longest=1.0, factor=1.0)

    def begin(self, start: Array) -> _Squared:
        """Before the first step of a cycle."""
        return _Squared(start, jnp.asarray(False), jnp.asarray(self.longest, start.dtype))

    def propose(self, before: Array, mapped: Array, pace: _Squared) -> tuple[Array, _Squared]:
        """The plain step, or the extrapolated one after the cycle's second."""
        step = before - pace.origin
        bend = mapped - before - step
        length = jnp.linalg.norm(step) / jnp.linalg.norm(bend)
        bounded = jnp.clip(jnp.nan_to_num(length, nan=1.0), 1.0, pace.longest)
        far = pace.origin + 2 * bounded * step + bounded**2 * bend
        candidate = jnp.where(pace.second & (bounded > 1), far, mapped)
        grown = jnp.where(pace.second & (length >= pace.longest), self.factor, 1.0) * pace.longest
        origin = jnp.where(pace.second, mapped, before)
        return candidate, _Squared(origin, ~pace.second, grown.astype(far.dtype))

    def judge(self, pace: _Squared, accepted: Array) -> _Squared:
        """A new cycle, with shorter steps, after one that was not kept."""
        shorter = jnp.maximum(pace.longest / self.factor, self.longest)
        return _Squared(
            pace.origin, pace.second & accepted, jnp.where(accepted, pace.longest, shorter)
        )


class _History(NamedTuple):
    """Points and residuals so far as differences (memory, P), the last ones, and how many."""

    points: Array
    residuals: Array
    point: Array
    residual: Array
    count: Array


@dataclass(frozen=True)
class Anderson:
    """The combination of the last few M steps whose residual M(theta) - theta would be smallest if M
    were linear (Anderson mixing), forgotten after a step that was not kept.

    Args:
        memory: M steps remembered.
        ridge: added to the normal equations, relative to their trace.

    Example:
        >>> import bayesmix
        >>> bayesmix.accelerators.Anderson(memory=3)
        Anderson(memory=3, ridge=1e-10)

    Source: Walker & Ni (2011), *SIAM Journal on Numerical Analysis* 49, 1715-1735; for EM, with
    safeguards: Henderson & Varadhan (2019), *Journal of Computational and Graphical Statistics* 28,
    834-846.
    """

    memory: int = 5
    ridge: float = 1e-10

    def __post_init__(self) -> None:
        check_fields(self)

    def begin(self, start: Array) -> _History:
        """Nothing remembered."""
        nothing = jnp.zeros((self.memory, start.size), start.dtype)
        return _History(nothing, nothing, start, start, jnp.zeros((), int))

    def propose(self, before: Array, mapped: Array, pace: _History) -> tuple[Array, _History]:
        """The mixed step; the plain one where nothing is remembered."""
        residual = mapped - before
        place = (pace.count - 1) % self.memory
        known = pace.count > 0

        def push(table: Array, row: Array) -> Array:
            return jnp.where(known, table.at[place].set(row), table)

        points = push(pace.points, before - pace.point)
        residuals = push(pace.residuals, residual - pace.residual)
        normal = residuals @ residuals.T
        ridge = self.ridge * jnp.trace(normal) + jnp.finfo(normal.dtype).tiny
        # rows that hold nothing get no share: their right-hand side is zero
        shares = jnp.linalg.solve(
            normal + ridge * jnp.eye(self.memory, dtype=normal.dtype), residuals @ residual
        )
        mixed = jnp.where(known, mapped - shares @ (points + residuals), mapped)
        return mixed, _History(points, residuals, before, residual, pace.count + 1)

    def judge(self, pace: _History, accepted: Array) -> _History:
        """Forget after a step that was not kept."""
        return jax.tree.map(lambda x: jnp.where(accepted, x, jnp.zeros_like(x)), pace)


class Proposal(NamedTuple):
    """Values to go to, the pace, and whether they are other than the M step's."""

    values: Values
    pace: Any
    extrapolated: Array


def free_coordinates(plan: Plan, values: Values) -> Array:
    """All parameters in unconstrained coordinates, flat (P,)."""
    return ravel_pytree(unconstrained(plan.reading.parameters, values))[0]


def propose(
    plan: Plan, accelerator: Accelerator, before: Values, mapped: Values, pace: Any
) -> Proposal:
    """Where the accelerator goes from `before`, the M step having gone to `mapped`.

    Where a coordinate is infinite (a weight of zero) it is the plain step, and nothing is remembered.
    """
    sites = plan.reading.parameters
    start = free_coordinates(plan, before)
    goal, unravel = ravel_pytree(unconstrained(sites, mapped))
    candidate, moved = accelerator.propose(start, goal, pace)
    usable = jnp.all(jnp.isfinite(candidate) & jnp.isfinite(goal) & jnp.isfinite(start))
    extrapolated = usable & jnp.any(candidate != goal)
    free = unravel(jnp.where(extrapolated, candidate, jnp.nan_to_num(goal)))
    values = {
        name: jnp.where(extrapolated, value, mapped[name])
        for name, value in constrained(sites, free).items()
    }
    afresh = accelerator.begin(jnp.nan_to_num(goal))
    pace = jax.tree.map(lambda new, old: jnp.where(usable, new, old), moved, afresh)
    return Proposal({**mapped, **values}, pace, extrapolated)
