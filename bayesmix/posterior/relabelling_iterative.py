r"""Relabelling in turns with an estimate of what the components are: ECR, Stephens, the data.

Each method starts from the permutations of another, `start`, and renews what it compares the draws
with and the permutations alternately. Arrays and conventions are those of
:mod:`bayesmix.posterior.relabelling_methods`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from ..program.errors import ProgramError
from .labelled_draws import LabelledDraws
from .relabelling_methods import (
    Array,
    Method,
    Pivot,
    assign,
    average_table,
    drawn_labels,
    inner_products,
)


def as_drawn(draws: LabelledDraws) -> Array:
    """Every draw as it is: the identity permutations (S, K), a start of the iterative methods."""
    return np.tile(np.arange(draws.shape[1]), (draws.shape[0], 1))


def _iterate(step: Callable[[Array], tuple[Array, float]], start: Array, limit: int) -> Array:
    """Renew permutations while their cost falls."""
    permutations, cost = start, np.inf
    for _ in range(limit):
        found, value = step(permutations)
        if value >= cost - 1e-9 * abs(cost):
            break
        permutations, cost = found, value
    return permutations


def _assigned(cost: Array) -> tuple[Array, float]:
    """The best permutations and what they cost together."""
    found = assign(cost)
    return found, float(np.take_along_axis(cost, found[..., None], -1).sum())


@dataclass(frozen=True)
class IterativeECR:
    r"""ECR whose pivot is estimated: the most frequent labels of the renamed draws, in turns.

    :math:`z^*_i = argmax_k \sum_t table_t[i, perm_t(k)]` and ECR with that pivot alternate until the
    number of rows that differ from the pivot no longer falls. `average` says what is averaged for
    the pivot (`drawn_labels`: iterative version 1; `label_probabilities`: version 2) and `match`
    what is matched with it; `start` is a method, `as_drawn` in the publication.

    Source: Papastamoulis (2014), Computational Statistics and Data Analysis 72, 203-213.

    >>> z = np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
    >>> IterativeECR()(LabelledDraws(allocations=z, num_components=2)).tolist()
    [[0, 1], [1, 0], [0, 1]]
    """

    average: Callable[[LabelledDraws], Array] = drawn_labels
    match: Callable[[LabelledDraws], Array] = drawn_labels
    start: Method = as_drawn
    limit: int = 100
    name: ClassVar[str] = "iterative ECR"

    def __call__(self, draws: LabelledDraws) -> Array:
        averaged, matched = self.average(draws), self.match(draws)
        size = draws.shape[1]

        def step(permutations: Array) -> tuple[Array, float]:
            pivot = np.eye(size)[average_table(averaged, permutations).argmax(-1)]
            return _assigned(-inner_products(pivot, matched))

        return _iterate(step, self.start(draws), self.limit)


@dataclass(frozen=True)
class Stephens:
    r"""The renaming under which all draws agree best on who belongs where (Kullback-Leibler).

    Minimises :math:`\sum_t \sum_{ik} p_t[i, perm_t(k)] \log (p_t[i, perm_t(k)] / q_{ik})` over q and
    all permutations, by turns: q is the mean of the renamed probabilities, and
    :math:`cost_t[k, j] = -\sum_i p_t[i, j] \log q_{ik}`. Probabilities below `floor` count as that
    much. The sum falls in every round and ends in a minimum that depends on `start`, a method.

    Source: Stephens (2000), J. R. Statist. Soc. B 62, 795-809, algorithm 2.

    >>> p = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]])
    >>> Stephens()(LabelledDraws(probabilities=p)).tolist()
    [[0, 1], [1, 0]]
    """

    start: Method = field(default_factory=Pivot)
    floor: float = 1e-6
    limit: int = 100
    name: ClassVar[str] = "Stephens"

    def __call__(self, draws: LabelledDraws) -> Array:
        p = _floored(draws.need("probabilities", self), self.floor)

        def step(permutations: Array) -> tuple[Array, float]:
            return _assigned(-inner_products(np.log(average_table(p, permutations)), p))

        return _iterate(step, self.start(draws), self.limit)


def stephens_loss(
    probabilities: Array, permutations: Array, floor: float = Stephens.floor
) -> float:
    """What :class:`Stephens` minimises, at given permutations: 0 where all renamed draws agree.

    >>> p = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.8, 0.2]]])
    >>> stephens_loss(p, np.array([[0, 1], [1, 0]]))
    0.0
    """
    p = _floored(probabilities, floor)
    q = average_table(p, permutations)
    return float((p * np.log(p)).sum() - len(p) * (q * np.log(q)).sum())


def _floored(p: Array, floor: float) -> Array:
    p = np.maximum(p, floor)
    return p / p.sum(-1, keepdims=True)


class RunningAverage(NamedTuple):
    """The mean (N, K) of `num_draws` renamed tables of probabilities."""

    mean: Array
    num_draws: int


def stephens_online(
    probabilities: Array, before: RunningAverage | None = None, floor: float = 1e-6
) -> tuple[Array, RunningAverage]:
    """Rename draws one after another, as they come: permutations (S, K) and the new average.

    Each draw is matched with the running average of those before it and then joins it, so that no
    past draw has to be kept: pass the average on with the next batch. The first draw of all keeps its
    order. Draws are never looked at again, which is what :class:`Stephens` does better.

    Source: Stephens (2000), J. R. Statist. Soc. B 62, 795-809, on-line version.

    >>> p = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]])
    >>> first, average = stephens_online(p[:1])
    >>> stephens_online(p[1:], average)[0].tolist()
    [[1, 0]]
    """
    p = _floored(np.asarray(probabilities, float), floor)
    mean, count = before if before is not None else RunningAverage(p[0], 0)
    found = np.empty((len(p), p.shape[2]), int)
    for t, table in enumerate(p):  # each draw needs all before it
        found[t] = assign(-(np.log(mean).T @ table)[None])[0]
        mean = (count * mean + table[:, found[t]]) / (count + 1)
        count += 1
    return found, RunningAverage(mean, count)


@dataclass(frozen=True)
class OnlineStephens:
    """:func:`stephens_online` as a method, over the draws in the order they have."""

    floor: float = 1e-6
    name: ClassVar[str] = "Stephens, online"

    def __call__(self, draws: LabelledDraws) -> Array:
        return stephens_online(draws.need("probabilities", self), None, self.floor)[0]


@dataclass(frozen=True)
class DataBased:
    r"""Every component keeps its place among the data: k-means on groups of rows that stay together.

    :math:`cost_t[k, j] = \sum_{i: z_{ti} = j} \sum_d ((x_{id} - m_{kd}) / s_{kd})^2`, where m and s are
    the means over draws of the average and the deviation of the rows of the renamed component k, in
    turns with the assignment until no draw is renamed. (The publication updates m and s after every
    draw, which depends on the order of the draws.) Missing cells (NaN) are left out.

    Source: Rodriguez and Walker (2014), J. Comput. Graph. Statist. 23(1), 25-45.

    >>> z, x = np.array([[0, 0, 1, 1], [1, 1, 0, 0]]), np.array([[0.0], [0.2], [5.0], [5.3]])
    >>> DataBased()(LabelledDraws(allocations=z, data=x, num_components=2)).tolist()
    [[0, 1], [1, 0]]
    """

    start: Method = field(default_factory=Pivot)
    limit: int = 100
    name: ClassVar[str] = "data-based"

    def __call__(self, draws: LabelledDraws) -> Array:
        z, x = draws.need("allocations", self), draws.need("data", self)
        if z.shape[1] != len(x):
            raise ProgramError(
                f"`data` has {len(x)} rows where labels have {z.shape[1]}: give one row for each label"
            )
        x = x - np.nanmean(x, 0)
        powers = np.stack([np.isfinite(x), np.nan_to_num(x), np.nan_to_num(x) ** 2])
        count, total, square = (_sums_by_label(z, draws.shape[1], part) for part in powers)
        found = self.start(draws)
        for _ in range(self.limit):
            m, s = _places(count, total, square, found)
            cost = (
                square[:, None] - 2 * m[:, None] * total[:, None] + m[:, None] ** 2 * count[:, None]
            )
            before, found = found, assign((cost / s[:, None] ** 2).sum(-1))
            if (before == found).all():
                break
        return found


def _sums_by_label(z: Array, size: int, part: Array) -> Array:
    """sum_i [z_ti = k] part[i, d], (S, K, D)."""
    code = (np.arange(len(z))[:, None] * size + z).ravel()
    columns = [
        np.bincount(code, np.broadcast_to(column, z.shape).ravel(), len(z) * size)
        for column in part.T
    ]
    return np.stack(columns, -1).reshape(len(z), size, -1)


def _places(count: Array, total: Array, square: Array, order: Array) -> tuple[Array, Array]:
    """Means over draws of the averages and deviations of the renamed components, (K, D) each.

    A draw counts where the component has a row; the deviation of all rows stands in for that of a
    component that never has two.
    """
    n, one, two = (np.take_along_axis(v, order[..., None], 1) for v in (count, total, square))
    mean = one / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(two - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    overall = np.sqrt(square[0].sum(0) / np.maximum(count[0].sum(0) - 1, 1))
    m = (mean * (n > 0)).sum(0) / np.maximum((n > 0).sum(0), 1)
    s = (spread * (n > 1)).sum(0) / np.maximum((n > 1).sum(0), 1)
    return m, np.where(s > 1e-6 * overall, s, np.where(overall > 0, overall, 1.0))
