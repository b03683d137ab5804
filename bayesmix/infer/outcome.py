"""How a fit ended, told from where it is: which of the statuses fits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import constraints

from ..families.forms import BetaForm, DirichletForm, base_support
from ..program.plan import Plan
from .coordinates import ENDLESS
from .status import Status

EMPTY = 1e-6  # rows: a component that explains no more is empty
# nats about one unit of a climbed coordinate, below which it has gone to the boundary of its support
_FLAT = 1e-6


class Marks(NamedTuple):
    """What a last look at fits says, by start: are components alike since the start, have two become the
    same, is one so narrow that its density is one of rounding, and is some gate without bound?"""

    symmetric: np.ndarray
    coincide: np.ndarray
    narrow: np.ndarray
    steep: np.ndarray


class Outcome(NamedTuple):
    """How a start ended, and the sites that the status is about, where it is about some."""

    status: Status
    sites: tuple[str, ...] = ()


_STILL = (Status.CONVERGED, Status.OUT_OF_STEPS, Status.CLIMB_STUCK, Status.ROUNDING)


def outcome_of(plan: Plan, state: Any, start: int, marks: Marks) -> Outcome:
    """How a start ended: its status, made more telling by where it is.

    `state` leads with starts: values, statistics, step, status, whether each closed block's mode was
    proper, and the curvature along climbed sites.
    """
    status = Status(int(state.status[start]))
    if status is Status.RUNNING:
        status = Status.OUT_OF_STEPS
    if marks.symmetric[start] and status is Status.CONVERGED:
        return Outcome(Status.SYMMETRIC_START)
    if marks.steep[start] and status in (Status.CONVERGED, Status.OUT_OF_STEPS):
        return Outcome(Status.GATE_WITHOUT_BOUND)
    if marks.coincide[start] and status in _STILL:
        return Outcome(Status.COMPONENTS_COINCIDE)
    closed = [block for block in plan.blocks if block.form is not None]
    improper = [b for b, proper in zip(closed, state.proper[start], strict=False) if not proper]
    shares = [isinstance(block.form, DirichletForm | BetaForm) for block in improper]
    if shares and all(shares) and status is not Status.NOT_FINITE:
        return Outcome(Status.AT_BOUNDARY, tuple(block.site for block in improper))
    if status is Status.OBJECTIVE_FELL:
        return Outcome(Status.ROUNDING if _ill_conditioned(plan, state, start) else status)
    if improper:
        names = tuple(name for block in improper for name in block.sites)
        if any(counts[start].min() < EMPTY for counts in state.statistics.counts.values()):
            return Outcome(Status.COMPONENT_EMPTY, names)
        return Outcome(Status.COVARIANCE_SINGULAR, names)
    if marks.narrow[start] and status in _STILL:
        return Outcome(Status.COVARIANCE_SINGULAR)
    flat = _at_boundary(plan, state, start)
    if flat and status in _STILL:
        return Outcome(Status.AT_BOUNDARY, flat)
    return Outcome(status)


def _at_boundary(plan: Plan, state: Any, start: int) -> tuple[str, ...]:
    """Climbed sites with a coordinate along which next to nothing changes any more, though its support
    has a boundary, or with a value at the end of an interval."""
    climbed = {block.site for block in plan.blocks if block.form is None}
    ended = []
    for site, curvature in zip(plan.reading.parameters, state.curvature[start], strict=True):
        if site.name in climbed and not any(base_support(site.support) == each for each in ENDLESS):
            gap = _distance(base_support(site.support), state.values[site.name][start])
            if curvature < _FLAT or gap <= 4 * np.finfo(curvature.dtype).eps:
                ended.append(site.name)
    return tuple(ended)


def _distance(support: Any, value: np.ndarray) -> float:
    """The distance of the nearest entry from an end of an interval, over its length; infinite where the
    support is none."""
    if not isinstance(support, type(constraints.interval(0.0, 1.0))):
        return np.inf
    low, high = np.asarray(support.lower_bound), np.asarray(support.upper_bound)
    return float(np.min(np.minimum(value - low, high - value) / (high - low)))


def _ill_conditioned(plan: Plan, state: Any, start: int) -> bool:
    """Has rounding changed the smallest axis of some covariance by more than a hundred thousandth?"""
    for site in plan.reading.parameters:
        if base_support(site.support) == constraints.positive_definite:
            value = state.values[site.name][start]
            if np.max(np.linalg.cond(value)) * np.finfo(value.dtype).eps > 1e-5:
                return True
    return False
