"""From fits that have ended to what a user is given: the best of them, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.statistics import Statistics
from .last_look import Look, marks_of
from .modes import gather_modes
from .outcome import outcome_of
from .result import EMResult
from .status import Status


class Ended(NamedTuple):
    """Where fits ended, leading with starts: what their statuses are told from."""

    values: Values
    statistics: Statistics
    proper: Array
    curvature: Array
    objective: Array
    step: Array
    status: Array


def result_of(
    problem: Problem,
    call: Problem,
    ended: Ended,
    look: Look,
    traces: Sequence[np.ndarray],
    *,
    steep: Array | None = None,
    paths: Values | None = None,
    prefer: Callable[[Status], bool] = bool,
) -> EMResult:
    """The best of the starts: of those whose status is preferred the one with the highest objective.

    Args:
        problem: the program with its data arranged, on which the fits were made.
        call: the program with its arguments as they were given.
        ended, look: the fits, and what a last look says of them.
        traces: each start's objectives.
        steep: which gates are without bound, by start; None for none.
        paths: the values of every step by site, leading with starts.
        prefer: statuses to be preferred; those that are true.
    """
    marks = marks_of(problem, ended, look)
    if steep is not None:
        marks = marks._replace(steep=np.asarray(steep))
    host, derived = jax.tree.map(np.asarray, (ended, look.derived))
    outcomes = [outcome_of(problem.plan, host, i, marks) for i in range(len(host.objective))]
    statuses = [outcome.status for outcome in outcomes]
    heights = np.where(np.isfinite(host.objective), host.objective, -np.inf)
    best = max(range(len(statuses)), key=lambda i: (prefer(statuses[i]), heights[i]))

    def of_best(values: Any) -> dict[str, np.ndarray]:
        return {name: np.asarray(value)[best] for name, value in (values or {}).items()}

    return EMResult(
        parameters=of_best(host.values),
        deterministic=of_best(derived),
        objective=traces[best],
        status=statuses[best],
        status_sites=outcomes[best].sites,
        modes=gather_modes(problem.plan, host.values, host.objective, statuses),
        restart_objectives=host.objective,
        restart_statuses=tuple(statuses),
        restart_steps=host.step,
        restart_parameters=host.values,
        path={name: value[: len(traces[best])] for name, value in of_best(paths).items()},
        problem=call,
    )
