r"""Are predictions as uncertain as they say? Probability integral transforms, and numbers of them.

If rows come from the predictive distribution, the value u = F(x) of its distribution function at each
cell is uniform on [0, 1]. Where values are whole numbers F jumps, and u is drawn uniformly between its
values just below and at x. Columns by themselves give marginal transforms; each cell given the cells of
its row before it gives Rosenblatt's, whose values are independent too.

Rows must not have been used for the fit: they were held out, or each is left out by importance weights
1 / p(x_i | theta_s), smoothed by a Pareto tail (as in ArviZ's LOO).

Sources: Rosenblatt (1952), *Annals of Mathematical Statistics* 23, 470-472; Smith (1985), *Journal of
Forecasting* 4, 283-291 (randomised); Czado, Gneiting & Held (2009), *Biometrics* 65, 1254-1261; Gelfand,
Dey & Chang (1992), in *Bayesian Statistics 4*, 147-167 (left out); Vehtari, Gelman & Gabry (2017),
*Statistics and Computing* 27 (smoothed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..posterior import arviz_compat
from ..posterior.draws import flatten
from ..posterior.predictive_cdf import MOST_DRAWS, Ends, largest_value, predictive_cdf
from ..program.arguments import has_rows
from ..program.plan import Plan
from ..program.problem import Problem
from .engines import EngineResult, thinned

MOST_ROWS = 5000
HELD_OUT, LEFT_OUT = "held out", "left out one at a time"
_TOO_LONG_A_TAIL = 0.7


@dataclass(frozen=True, eq=False)
class Calibration:
    """Probability integral transforms of one engine's predictions.

    Attributes:
        engine: its name.
        rows: "held out", or "left out one at a time" by importance weights.
        index: which rows of the data, (n,).
        marginal: of each column by itself, (n, D), NaN where a cell is missing.
        in_turn: of each cell given those before it, (n, D).
        pareto_k: the tail's shape of each row's weights, (n,), where rows are left out one at a time;
            above 0.7 the weights are not to be relied on.
    """

    engine: str
    rows: str
    index: np.ndarray
    marginal: np.ndarray
    in_turn: np.ndarray
    pareto_k: np.ndarray | None = None


def uniform_scores(u: Any) -> dict[str, float]:
    """How far values are from uniform: Kolmogorov's distance with its p-value, and the shares inside the
    central intervals of mass 50% and 90%; missing values (NaN) do not count.

    >>> found = uniform_scores(np.linspace(0.005, 0.995, 100))
    >>> round(found["distance"], 3), round(found["p_value"], 3), round(found["inside_90"], 3)
    (0.005, 1.0, 0.9)
    """
    from scipy.stats import kstest

    u = np.asarray(u, float).ravel()
    u = u[np.isfinite(u)]
    if not u.size:
        return dict.fromkeys(("distance", "p_value", "inside_50", "inside_90"), float("nan"))
    tested = kstest(u, "uniform")
    away = np.abs(u - 0.5)
    return {
        "distance": float(tested.statistic),
        "p_value": float(tested.pvalue),
        "inside_50": float(np.mean(away <= 0.25)),
        "inside_90": float(np.mean(away <= 0.45)),
    }


def record(found: Calibration, columns: tuple[str, ...]) -> dict[str, Any]:
    """A line of the table: scores of all cells in turn, and the p-value of each column by itself."""
    high = None if found.pareto_k is None else int(np.sum(found.pareto_k > _TOO_LONG_A_TAIL))
    marginal = {
        name: uniform_scores(u)["p_value"]
        for name, u in zip(columns, found.marginal.T, strict=True)
    }
    return {
        "engine": found.engine,
        "rows": found.rows,
        "cells": int(np.isfinite(found.in_turn).sum()),
        **uniform_scores(found.in_turn),
        "marginal_p_values": marginal,
        "high_pareto_k": high,
    }


def held_out(problem: Problem, part: EngineResult, test: np.ndarray) -> Calibration:
    """Transforms of the rows `test` (their numbers), by an engine's fit without them."""
    rows = _some_rows(problem, test)
    ends = predictive_cdf(rows.problem, _draws(problem.plan, part), largest=rows.largest)
    return _randomised(part.name, HELD_OUT, rows, ends)


def left_out(problem: Problem, result: EngineResult) -> Calibration | None:
    """Transforms of the rows of a fit, each left out by importance weights; None for a point estimate,
    which has no draws to weigh."""
    if result.draws is None:
        return None
    rows = _some_rows(problem, np.arange(problem.plan.reading.rows.size))
    (found,) = arviz_compat.dataset(result.raw, "log_likelihood").data_vars.values()
    log_ratios = -_few({"rows": found.values[..., rows.numbers]})["rows"]
    log_weights, pareto_k = arviz_compat.smoothed_log_weights(log_ratios)
    ends = predictive_cdf(
        rows.problem,
        _draws(problem.plan, result),
        log_weights[:, rows.places],
        rows.largest,
    )
    return _randomised(result.name, LEFT_OUT, rows, ends, pareto_k)


def _draws(plan: Plan, result: EngineResult) -> dict[str, np.ndarray]:
    """Parameters (S, ...), S at most 400: evenly spaced draws, or the point estimate."""
    if result.draws is None:
        return {name: result.estimate[name][None] for name in plan.reading.parameter_names}
    return _few({name: result.draws[name] for name in plan.reading.parameter_names})


def _few(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(chain, draw, ...) to (S, ...), evenly spaced."""
    some = flatten(thinned(draws, MOST_DRAWS))
    return {name: np.asarray(value)[:MOST_DRAWS] for name, value in some.items()}


class _Rows(NamedTuple):
    """A call with some rows of another: in its place i the row `numbers[places[i]]`; and a bound for
    whole numbers in all rows of that other."""

    problem: Problem
    numbers: np.ndarray
    places: np.ndarray
    largest: int


def _some_rows(problem: Problem, index: np.ndarray) -> _Rows:
    """Rows of a call, evenly spaced ones where they are many, repeated up to one number of rows: so one
    compiled function serves held-out rows and all rows."""
    size = problem.plan.reading.rows.size
    largest = largest_value(problem.observe())
    most = min(size, MOST_ROWS)
    if len(index) == size and (size == most or not has_rows(problem.arguments, size)):
        return _Rows(problem, index, index, largest)
    chosen = index[np.unique(np.linspace(0, len(index) - 1, most).astype(int))]
    places = np.resize(np.arange(len(chosen)), most)
    return _Rows(problem.take(chosen[places]), chosen, places, largest)


def _randomised(
    engine: str, kind: str, rows: _Rows, ends: Ends, pareto_k: np.ndarray | None = None
) -> Calibration:
    """Values drawn between the ends, the same random numbers for all engines."""
    marginal, in_turn = (part[:, : len(rows.numbers)] for part in ends)
    v = np.random.default_rng(0).uniform(size=marginal.shape[1:])
    alone, given = (np.clip(low + v * (top - low), 0.0, 1.0) for low, top in (marginal, in_turn))
    return Calibration(engine, kind, rows.numbers, alone, given, pareto_k)
