"""How a fit ended, told from where it is: which of the statuses fits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import constraints

from ..families.forms import BetaForm, DirichletForm, base_support
from ..program.plan import Plan
from .status import Status

_EMPTY = 1e-6


class Marks(NamedTuple):
    """What a last look at fits says, by start: are components alike, and is some gate without bound?"""

    symmetric: np.ndarray
    steep: np.ndarray


def status_of(found: Plan, state: Any, start: int, marks: Marks) -> Status:
    """How a start ended: its status, made more telling by where it is.

    `state` leads with starts: values, statistics, step, status, and whether each closed block's mode was
    proper.
    """
    status = Status(int(state.status[start]))
    if status is Status.RUNNING:
        status = Status.OUT_OF_STEPS
    if marks.symmetric[start] and status is Status.CONVERGED:
        return Status.SYMMETRIC_START
    if marks.steep[start] and status in (Status.CONVERGED, Status.OUT_OF_STEPS):
        return Status.GATE_WITHOUT_BOUND
    if status is Status.OBJECTIVE_FELL and _ill_conditioned(found, state, start):
        return Status.ROUNDING
    if state.proper[start].all() or status is Status.OBJECTIVE_FELL:
        return status
    closed = [block for block in found.blocks if block.form is not None]
    improper = [b for b, proper in zip(closed, state.proper[start], strict=True) if not proper]
    if all(isinstance(block.form, DirichletForm | BetaForm) for block in improper):
        return Status.AT_BOUNDARY
    if any(counts[start].min() < _EMPTY for counts in state.statistics.counts.values()):
        return Status.COMPONENT_EMPTY
    return Status.COVARIANCE_SINGULAR


def _ill_conditioned(found: Plan, state: Any, start: int) -> bool:
    """Has rounding changed the smallest axis of some covariance by more than a hundred thousandth?"""
    for site in found.reading.parameters:
        if base_support(site.support) == constraints.positive_definite:
            value = state.values[site.name][start]
            if np.max(np.linalg.cond(value)) * np.finfo(value.dtype).eps > 1e-5:
                return True
    return False
