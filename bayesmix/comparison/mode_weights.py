"""The modes that MAP-EM found: how heavy each is, and what share of each sampler's draws is near it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..infer.laplace import laplace_log_weight, log_copies
from ..posterior import arviz_compat
from ..posterior.draws import at_draws
from ..program.problem import Problem
from .engines import EngineResult


def weighed_modes(problem: Problem, results: Mapping[str, EngineResult]) -> list[dict[str, Any]]:
    """A record for each distinct mode of MAP-EM, best first, at most ten; [] where it found none.

    Each has its `objective`, the number of `starts` that ended there, `copies` (relabelled copies that
    the prior cannot tell from it), `log_weight` and `weight` (Laplace's, of the mode and its copies,
    among those that have one; a mode found alone has weight 1, and its integral is not computed; a
    `reason` says why there is none), and `draws`: the share of each sampler's draws that is nearest.
    """
    found = results.get("MAP-EM")
    if found is None or not found.modes:
        return []
    modes = found.modes[: len(found.mode_parameters)]
    log_weights, reasons = np.array([np.nan]), [""]
    weights = np.array([1.0])
    if len(modes) > 1:
        arranged = problem.with_rows()
        weighed = [laplace_log_weight(arranged, at) for at in found.mode_parameters]
        log_weights = np.array([np.nan if w.value is None else w.value for w in weighed])
        reasons = [w.reason for w in weighed]
        weights = relative_weights(log_weights)
    shares = _shares_of_draws(problem, found.mode_parameters, results)
    return [
        {
            "objective": objective,
            "starts": starts,
            "copies": round(math.exp(log_copies(problem.plan, found.mode_parameters[i]))),
            "log_weight": _number(log_weights[i]),
            "weight": _number(weights[i]),
            "reason": reasons[i],
            "draws": {name: float(share[i]) for name, share in shares.items()},
        }
        for i, (objective, starts) in enumerate(modes)
    ]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def relative_weights(log_weights: np.ndarray) -> np.ndarray:
    """Weights that add up to one over those that are known (NaN where they are not).

    >>> relative_weights(np.log([3.0, 1.0, np.nan])).round(2).tolist()
    [0.75, 0.25, nan]
    """
    known = np.isfinite(log_weights)
    return np.exp(log_weights - logsumexp(log_weights[known])) if known.any() else log_weights


def _shares_of_draws(
    problem: Problem,
    modes: list[dict[str, np.ndarray]],
    results: Mapping[str, EngineResult],
) -> dict[str, np.ndarray]:
    sampled = {name: result for name, result in results.items() if result.draws is not None}
    if len(modes) == 1 or not sampled:
        return {name: np.ones(1) for name in sampled}
    stacked = {name: np.stack([at[name] for at in modes]) for name in modes[0]}
    at_modes = at_draws(problem, stacked).log_likelihood
    shares = {}
    for name, result in sampled.items():
        (found,) = arviz_compat.dataset(result.raw, "log_likelihood").data_vars.values()
        places = nearest(found.values.reshape(-1, at_modes.shape[1]), at_modes)
        shares[name] = np.bincount(places, minlength=len(modes)) / len(places)
    return shares


def nearest(draws: np.ndarray, modes: np.ndarray) -> np.ndarray:
    r"""The mode that is nearest to each draw, (S,), from log densities of rows, (S, N) and (M, N).

    The squared distance is :math:`\sum_i (\log p(x_i | \theta_s) - \log p(x_i | \theta_m))^2`. Near a
    mode it is :math:`(\theta_s - \theta_m)' J (\theta_s - \theta_m)` with J the sum of outer products of
    scores, an estimate of Fisher's information; no renaming of components changes it.

    >>> nearest(np.array([[0.0, -1.0], [-5.0, -5.5]]), np.array([[0.1, -1.1], [-5.0, -5.0]])).tolist()
    [0, 1]
    """
    # |a - b|^2 = |a|^2 - 2ab + |b|^2, where |a|^2 is the same for all modes
    centre = modes.mean(axis=0)
    a, b = draws - centre, modes - centre
    return np.argmin((b**2).sum(axis=1) - 2 * a @ b.T, axis=1)
