"""M steps as parts: what EM does with the parameters given statistics.

Passed as `EM(..., m_step=...)`. An M step is a sequence of parts, taken in order, each of which visits
some sites. Sites that no part names are visited as usual, before the others: every block at its mode
where there is a closed form (`Maximise()`), then the other sites climbed together (`Climb()`). A part
without names stands for these, and says where they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from ..program import row_pass
from ..program.conjugacy import Conditional, maximise
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from .climb import LBFGS, Climber, GradientAscent, Newton, climb, usual_climber
from .kernel import Parameters, Visited

__all__ = [
    "LBFGS",
    "Climb",
    "ClimbObjective",
    "GradientAscent",
    "Maximise",
    "Newton",
]


@dataclass(frozen=True)
class Maximise:
    """Every block at its mode given all else, in closed form, one after another.

    Two sites that have a joint closed form (a normal mean and an inverse Wishart covariance, say) are
    maximised jointly where one part names both, else each given the other (ECM).

    Args:
        sites: names, in the order in which they are visited; none for all that have a closed form and
            are in no other part, in the order of the plan.

    Example:
        >>> import bayesmix
        >>> bayesmix.m_steps.Maximise(("weights", "mean"))
        Maximise(sites=('weights', 'mean'))

    Source: Meng & Rubin (1993), *Biometrika* 80, 267-278.
    """

    verb: ClassVar[str] = "maximised"

    sites: str | Sequence[str] = ()


@dataclass(frozen=True)
class Climb:
    """Sites climbed together on Q(theta) + log p(theta), all else fixed (generalised EM).

    Args:
        sites: names; none for all without a closed form that are in no other part. Sites with one may be
            named too.
        climber: how: :class:`Newton`, :class:`LBFGS`, :class:`GradientAscent`, each with a number of
            steps, or any function of (loss, start (P,)) in unconstrained coordinates.

    Example:
        >>> import bayesmix
        >>> bayesmix.m_steps.Climb("df", bayesmix.m_steps.Newton(steps=1))
        Climb(sites='df', climber=Newton(steps=1))

    Source: Dempster, Laird & Rubin (1977), *JRSS B* 39, section 3; one Newton step: Lange (1995),
    *JRSS B* 57, 425-437.
    """

    verb: ClassVar[str] = "climbed"

    sites: str | Sequence[str] = ()
    climber: Climber = usual_climber


@dataclass(frozen=True)
class ClimbObjective:
    """Sites climbed on the objective itself, log p(x | theta) + log p(theta), all else fixed (ECME).

    Fewer steps where hidden values say little about a site, such as the degrees of freedom of a
    Student-t, or where components overlap; every climb visits all rows a few times. It comes last: first
    Q, which touches the objective at the values that the statistics were made at, then the objective.

    Args:
        sites: names.
        climber: as in :class:`Climb`.

    Example:
        >>> import bayesmix
        >>> bayesmix.m_steps.ClimbObjective("df").sites
        'df'

    Source: Liu & Rubin (1994), *Biometrika* 81, 633-648; the order: Meng & van Dyk (1997), *JRSS B* 59,
    511-567.
    """

    verb: ClassVar[str] = "climbed on the objective"

    sites: str | Sequence[str]
    climber: Climber = usual_climber


MPart = Maximise | Climb | ClimbObjective
USUAL: tuple[MPart, ...] = (Maximise(), Climb())


@dataclass(frozen=True)
class MStep(Parameters):
    """Parts that name all their sites, from :func:`resolve`, taken in turn: :class:`.Parameters` of a
    kernel whose belief is the values."""

    parts: tuple[MPart, ...] = USUAL

    @property
    def verb(self) -> str:
        """What each kind of part does, in turn."""
        return ", ".join(dict.fromkeys(part.verb for part in self.parts))

    def __call__(
        self,
        problem: Problem,
        statistics: row_pass.Statistics,
        belief: Values,
        memory: Any = None,
    ) -> Visited:
        log_joint = problem.expected_log_joint(statistics)

        def density(objective: bool) -> Callable[[Values], Array]:
            return problem.log_posterior() if objective else log_joint

        return visit(problem.plan, self.parts, density, belief)


def resolve(plan: Plan, parts: MPart | Sequence[MPart]) -> tuple[MPart, ...]:
    """The parts with all their sites named, so that every site is visited.

    Raises :class:`ProgramError` where a site is unknown, or has no closed form to maximise.
    """
    given = (parts,) if isinstance(parts, MPart) else tuple(parts)
    usual = [p for p in USUAL if not any(type(p) is type(g) and not _names(g) for g in given)]
    wide = [replace(part, sites=_names(part)) for part in (*usual, *given)]
    named = {name for part in wide for name in part.sites}
    known = plan.reading.parameter_names
    for name in sorted(named):
        if name not in known:
            raise ProgramError(
                f"m_step names '{name}', which is no parameter of the program; "
                f"its parameters are {', '.join(known)}"
            )
    closed = {name for block in plan.blocks if block.form is not None for name in block.sites}
    found = []
    for part in wide:
        wanted = closed if isinstance(part, Maximise) else set(known) - closed
        rest = tuple(n for b in plan.blocks for n in b.sites if n in wanted and n not in named)
        part = part if part.sites else replace(part, sites=rest)
        if isinstance(part, Maximise):
            for name in set(part.sites) - closed:
                raise ProgramError(
                    f"'{name}' has no closed form to maximise (print the plan for the reason); put it "
                    "in a Climb"
                )
        found.append(part)
    if any(isinstance(part, ClimbObjective) for part in found[:-1]):
        raise ProgramError("put ClimbObjective last in m_step: after it, Q may lower the objective")
    return tuple(part for part in found if part.sites)


def _names(part: MPart) -> tuple[str, ...]:
    return (part.sites,) if isinstance(part.sites, str) else tuple(part.sites)


def visit(
    plan: Plan,
    parts: tuple[MPart, ...],
    density: Callable[[bool], Callable[[Values], Array]],
    values: Values,
) -> Visited:
    """Take all parts, from :func:`resolve`, in turn; `density(objective)` is what is raised, the
    objective itself where `objective` is True."""
    closed = [block for block in plan.blocks if block.form is not None]
    place = {name: i for i, block in enumerate(closed) for name in block.sites}
    proper: list[Any] = [jnp.asarray(True)] * max(1, len(closed))
    promised, flattest = jnp.zeros(()), dict.fromkeys(plan.reading.parameter_names, jnp.inf)
    for part in parts:
        log_joint = density(isinstance(part, ClimbObjective))
        if isinstance(part, Maximise):
            for block in _conditionals(plan, tuple(part.sites)):
                values, found = maximise(block, log_joint, values)
                proper[place[block.site]] &= found
        else:
            sites = tuple(site for site in plan.reading.parameters if site.name in part.sites)
            values, hoped, curvature = climb(sites, log_joint, values, part.climber)
            promised, flattest = jnp.maximum(promised, hoped), flattest | curvature
    return Visited(values, jnp.stack(proper), promised, jnp.stack([*flattest.values()]))


def _conditionals(plan: Plan, names: tuple[str, ...]) -> list[Conditional]:
    """The conditionals of closed sites, a pair's joint one where both are named."""
    found: list[Conditional] = []
    for name in names:
        block = next(block for block in plan.blocks if name in block.sites)
        if not set(block.sites) <= set(names):
            assert block.form is not None
            block = Conditional((name,), block.form.parts[block.sites.index(name)])
        if block not in found:
            found.append(block)
    return found


def maximise_blocks(
    problem: Problem, statistics: row_pass.Statistics, values: Values
) -> tuple[Values, Array]:
    """One usual M step: closed blocks at their modes, then the other sites climbed."""
    return MStep(resolve(problem.plan, USUAL))(problem, statistics, values)[:2]
