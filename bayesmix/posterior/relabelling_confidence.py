r"""How sure a relabelling can be: is there another naming of a draw's components that fits as well?

After relabelling, let q_ik be the share of draws in which row i belongs to component k. A naming of
draw t costs :math:`-\sum_i \sum_k p_t[i, perm(k)] \log q_{ik}`, the negative log likelihood of its
labels. With D_t the cost of the best *other* naming minus that of the one chosen, the confidence in draw
t is :math:`\tanh(D_t / 2)`, the difference of the two namings' probabilities: 0 where another naming is
as good (or better), 1 where none comes near.

The best other naming is the cheapest cycle in the graph whose edge from k to j weighs
cost[k, j] - cost[k, k]; shortest paths find it without running through permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..program.errors import ProgramError
from .labelled_draws import LabelledDraws
from .partitions import posterior_similarity
from .relabelling_methods import Array, average_table, inner_products

_FLAT = 0.05  # deviation of posterior similarities between rows below which they say nothing


@dataclass(frozen=True, eq=False)
class Confidence:
    """Confidence in a relabelling: by draw (S,), and of each pair of components (K, K).

    `pairs[k, j]` is the mean over draws of the confidence that k and j are not to be exchanged (1
    on the diagonal).
    """

    draws: Array
    pairs: Array

    @property
    def mean(self) -> float:
        """The mean over draws."""
        return float(self.draws.mean())


def confidence(draws: LabelledDraws, permutations: Array) -> Confidence:
    """How sure the renaming by `permutations` (S, K) is; the formula is at the top of this file.

    Probabilities are used where they are there, else drawn labels. Raises
    :class:`~bayesmix.program.errors.ProgramError` without either.

    >>> p = np.array([[[0.9, 0.1]] * 20 + [[0.2, 0.8]] * 20] * 50)
    >>> order = np.tile([0, 1], (50, 1))
    >>> round(confidence(LabelledDraws(probabilities=p), order).mean, 3)
    1.0
    >>> round(confidence(LabelledDraws(probabilities=0.5 + 0.0 * p), order).mean, 3)
    0.0
    """
    table = draws.allocations if draws.probabilities is None else draws.probabilities
    if table is None:
        raise ProgramError(
            "how sure a relabelling is can be judged from labels of rows only: give `probabilities` "
            "or `allocations`"
        )
    count, size = permutations.shape
    shares = (count * average_table(table, permutations) + 1 / size) / (count + 1)
    cost = -inner_products(np.log(shares), table)
    cost = np.take_along_axis(cost, permutations[:, None, :], -1)
    weight = cost - np.diagonal(cost, axis1=1, axis2=2)[:, :, None]
    exchange = np.maximum(weight + weight.transpose(0, 2, 1), 0.0)
    pairs = np.where(np.eye(size, dtype=bool), 1.0, np.tanh(exchange / 2).mean(0))
    return Confidence(np.tanh(np.maximum(_cheapest_cycle(weight), 0.0) / 2), pairs)


def _cheapest_cycle(weight: Array) -> Array:
    """Weight of the cheapest cycle in each of S graphs (S, K, K), or below 0 where one is."""
    size = weight.shape[1]
    path = np.where(np.eye(size, dtype=bool), np.inf, weight)
    for via in range(size):
        path = np.minimum(path, path[:, :, [via]] + path[:, [via], :])
    return np.diagonal(path, axis1=1, axis2=2).min(1)


def refuse_below(draws: LabelledDraws, permutations: Array, least: float) -> None:
    """Raise with the reason where the confidence in a relabelling is below `least`.

    >>> flat = LabelledDraws(probabilities=np.full((50, 20, 2), 0.5))
    >>> refuse_below(flat, np.tile([0, 1], (50, 1)), 0.9)
    Traceback (most recent call last):
    bayesmix.program.errors.ProgramError: components cannot be told apart (confidence 0.00, ...
    """
    found = confidence(draws, permutations)
    if found.mean < least:
        raise ProgramError(
            f"components cannot be told apart (confidence {found.mean:.2f}, below {least:g}): "
            f"{ambiguity(draws, permutations, found, least)}. Read quantities that need no labels, or "
            "fit fewer components"
        )


def ambiguity(
    draws: LabelledDraws, permutations: Array, found: Confidence, least: float = 0.9
) -> str:
    """Why a relabelling is in doubt: no structure, components without rows, or overlapping ones."""
    table = draws.allocations if draws.probabilities is None else draws.probabilities
    assert table is not None  # or there would be no confidence
    spread = _similarity_spread(table)
    empty = _empty_share(table, permutations)
    if spread < _FLAT and (empty < 0.5).all():
        return (
            "no two rows are together more often than any others (posterior similarities deviate by "
            f"{spread:.3f}), so the data say nothing about components"
        )
    size, reasons = len(empty), []
    for k in range(size):
        for j in range(k + 1, size):
            if found.pairs[k, j] >= least:
                continue
            vacant = f"have no rows in {empty[k]:.0%} and {empty[j]:.0%} of the draws"
            how = vacant if max(empty[k], empty[j]) > 0.5 else "overlap"
            reasons.append(f"components {k} and {j} {how} (confidence {found.pairs[k, j]:.2f})")
    if not reasons:
        return "every pair is told apart, but longer exchanges of three or more components are not"
    more = f", and {len(reasons) - 4} more pairs" if len(reasons) > 4 else ""
    return "; ".join(reasons[:4]) + more


def _similarity_spread(table: Array) -> float:
    """Standard deviation of the posterior similarities of pairs of rows, over at most 200 rows."""
    some = np.unique(np.linspace(0, table.shape[1] - 1, 200).astype(int))
    together = posterior_similarity(table, some)
    pairs = together[np.triu_indices(len(some), 1)]
    return float(pairs.std()) if pairs.size else 0.0


def _empty_share(table: Array, permutations: Array) -> Array:
    """The share of draws in which each renamed component has less than half a row, (K,)."""
    count, size = permutations.shape
    if table.ndim == 2:
        code = np.arange(count)[:, None] * size + table
        rows = np.bincount(code.ravel(), minlength=count * size).reshape(count, size)
    else:
        rows = table.sum(1)
    return (np.take_along_axis(rows, permutations, 1) < 0.5).mean(0)
