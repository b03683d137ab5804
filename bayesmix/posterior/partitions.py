r"""Partitions of rows, which no renaming can change: similarity, distances, occupied components.

A partition is an array of labels (N,), draws of it (S, N); which integers are used does not matter. Two
losses are of one form. With n_a and n_b the sizes of the clusters of two partitions, and n_ab the rows
in both, the distance is

.. math:: c_N \Big( \sum_a f(n_a) + \sum_b f(n_b) - 2 \sum_{ab} f(n_{ab}) \Big)

with f(n) = n^2 for Binder's loss and f(n) = n log2 n for the variation of information. So distances and
expected losses need tables of counts only, never a matrix of rows by rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..program.errors import ProgramError
from .label_dims import latents_of
from .labelled_draws import SUFFIX

Array = np.ndarray
_CHUNK = 4_000_000  # entries of an indicator or of a table of counts held at a time
_FEW = 32  # labels below this need no renumbering


@dataclass(frozen=True)
class PartitionLoss:
    """A distance of partitions of the form above: f of counts, and c_N."""

    name: str
    f: Callable[[Array], Array]
    scale: Callable[[int], float]


def _square(n: Array) -> Array:
    return n * n


def _n_log_n(n: Array) -> Array:
    return n * np.log2(np.maximum(n, 1))


#: The share of pairs of rows that are together in one partition and apart in the other (Binder 1978).
binder = PartitionLoss("Binder", _square, lambda n: 1 / max(n * (n - 1), 1))
#: The variation of information in bits, from 0 to log2 N (Meila 2007, J. Multivariate Analysis 98).
variation_of_information = PartitionLoss("variation of information", _n_log_n, lambda n: 1 / n)


def distance(one: Any, other: Any, loss: PartitionLoss) -> Array:
    """The distance of every partition of `one` (C, N) to every one of `other` (S, N), as (C, S).

    A partition without draws, (N,), gives a result without that axis. Raises
    :class:`~bayesmix.program.errors.ProgramError` where they are not of the same rows.

    >>> float(distance([0, 0, 1, 1], [[1, 1, 0, 0]], variation_of_information)[0])
    0.0
    >>> float(distance([0, 0, 1, 1], [0, 0, 0, 0], variation_of_information))
    1.0
    >>> float(distance([0, 0, 1, 1], [0, 0, 0, 0], binder).round(3))
    0.667
    """
    a, b, shape = _pair(one, other)
    sums = (_sizes(part, loss.f).sum(1) for part in (a, b))
    first, second = sums
    found = first[:, None] + second - 2 * _sum_over_cells(a, b, loss.f)
    return (np.maximum(found, 0.0) * loss.scale(a.shape[1])).reshape(shape)


def adjusted_rand_index(one: Any, other: Any) -> Array:
    """Agreement of partitions, shaped as in :func:`distance`: 1 where equal, 0 in expectation by chance.

    Source: Hubert and Arabie (1985), Journal of Classification 2, 193-218.

    >>> adjusted_rand_index([0, 0, 1, 1], [[1, 1, 0, 0], [0, 1, 0, 1]]).round(2).tolist()
    [1.0, -0.5]
    """
    a, b, shape = _pair(one, other)
    rows = a.shape[1]
    both = (_sum_over_cells(a, b, _square) - rows) / 2
    first, second = ((_sizes(part, _square).sum(1) - rows) / 2 for part in (a, b))
    expected = first[:, None] * second / max(rows * (rows - 1) / 2, 1)
    largest = (first[:, None] + second) / 2
    same = largest == expected  # both are one cluster, or both single rows
    return np.where(same, 1.0, (both - expected) / np.where(same, 1.0, largest - expected)).reshape(
        shape
    )


def expected_loss(candidates: Any, draws: Any, loss: PartitionLoss) -> Array:
    """The mean distance of each candidate (C, N) to the draws (S, N), as (C,).

    >>> draws = [[0, 0, 1], [0, 0, 1], [0, 1, 1]]
    >>> expected_loss([[0, 0, 1], [0, 1, 2]], draws, binder).round(3).tolist()
    [0.222, 0.333]
    """
    a, b, _ = _pair(candidates, draws)
    step = max(1, _CHUNK // max(1, len(b)))
    return np.concatenate(
        [distance(a[i : i + step], b, loss).mean(1) for i in range(0, len(a), step)]
    )


def _pair(one: Any, other: Any) -> tuple[Array, Array, tuple[int, ...]]:
    a, b = (compact(part) for part in (one, other))
    if a.shape[-1] != b.shape[-1]:
        raise ProgramError(
            f"partitions of {a.shape[-1]} and of {b.shape[-1]} rows have no distance: give labels of "
            "the same rows"
        )
    return np.atleast_2d(a), np.atleast_2d(b), a.shape[:-1] + b.shape[:-1]


def compact(labels: Any) -> Array:
    """Labels as small positions from 0, in the smallest integers that hold them: renumbered where
    there are negative or large ones."""
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ProgramError(
            "partitions are integer labels, (N,) or (draws, N); these have shape "
            f"{labels.shape} and type {labels.dtype}"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if 0 <= lowest and highest < _FEW:
        return labels.astype(np.int8)
    known = np.zeros(0, labels.dtype)
    for start, stop in chunks(len(labels), labels[0].size):
        known = np.union1d(known, labels[start:stop])
    found = np.empty(labels.shape, np.min_scalar_type(-len(known)))
    for start, stop in chunks(len(labels), labels[0].size):
        found[start:stop] = np.searchsorted(known, labels[start:stop])
    return found


def chunks(count: int, width: int) -> list[tuple[int, int]]:
    """Ranges of `count` things of `width` entries each, such that few entries are held at a time."""
    step = max(1, _CHUNK // max(1, width))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def canonical(labels: Array) -> Array:
    """Labels numbered by first appearance within each partition, so that equal partitions are equal.

    >>> canonical(np.array([[2, 0, 2, 1]])).tolist()
    [[0, 1, 0, 2]]
    """
    count, rows = labels.shape
    size = int(labels.max()) + 1
    found = np.empty(labels.shape, np.min_scalar_type(-size))
    for start, stop in chunks(count, rows + size):
        part = labels[start:stop]
        first = np.full((len(part), size), rows)
        np.minimum.at(first, (np.arange(len(part))[:, None], part), np.arange(rows))
        rank = np.argsort(np.argsort(first, 1, kind="stable"), 1, kind="stable")
        found[start:stop] = np.take_along_axis(rank, part.astype(np.intp), 1)
    return found


def cluster_sizes(labels: Array) -> Array:
    """Rows of each label at each draw, (S, K) from positions (S, N)."""
    return contingency(np.zeros(labels.shape[1], np.int8), labels, 1)[:, :, 0]


def contingency(labels: Array, draws: Array, size: int) -> Array:
    """Rows with each label of each draw (S, N) and each of the `size` labels of one partition (N,),
    (S, K, size)."""
    wide = int(draws.max()) + 1
    found = np.empty((len(draws), wide, size), np.intp)
    for start, stop in chunks(len(draws), draws.shape[1] + wide * size):
        code = np.arange(stop - start)[:, None] * wide + draws[start:stop]
        code *= size
        code += labels
        counts = np.bincount(code.ravel(), minlength=(stop - start) * wide * size)
        found[start:stop] = counts.reshape(-1, wide, size)
    return found


def _sizes(labels: Array, f: Callable[[Array], Array]) -> Array:
    return f(cluster_sizes(labels).astype(float))


def _sum_over_cells(one: Array, other: Array, f: Callable[[Array], Array]) -> Array:
    """sum_ab f(n_ab) for every pair of partitions, (C, S)."""
    wide, found = int(one.max()) + 1, np.empty((len(one), len(other)))
    width = wide * (int(other.max()) + 1)
    for start, stop in chunks(len(other), width):
        for i, labels in enumerate(one):
            cells = contingency(labels, other[start:stop], wide).astype(float)
            found[i, start:stop] = f(cells).sum((1, 2))
    return found


# --- from draws


def posterior_similarity(table: Any, rows: Array | None = None) -> Array:
    r"""How probable it is that two rows share a component: the posterior similarity matrix (N, N).

    :math:`s_{ij} = \frac1S \sum_t \sum_k p_t[i, k] p_t[j, k]` off the diagonal, with drawn labels
    [z_ti = k] in place of p where these are given. Probabilities give the same expectation with less
    noise, as rows are independent given the parameters. Memory is that of the result; with many rows
    pass positions of some of them, `rows`: entries for these are what they are in the whole matrix,
    and an average over pairs of m rows drawn at random has, as an estimate of that over all, a
    standard error of about 2 / sqrt(m) times the deviation over rows of their mean similarity.

    An entry s from labels has the Monte Carlo standard error sqrt(s (1 - s) / effective size).

    Args:
        table: drawn labels (S, N), or probabilities (S, N, K).
        rows: positions of the rows wanted, by default all.

    >>> posterior_similarity(np.array([[0, 0, 1], [1, 1, 1]])).tolist()
    [[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]]

    Source: Binder (1978), Biometrika 65, 31-38; Fritsch and Ickstadt (2009), Bayesian Analysis 4(2).
    """
    table = np.asarray(table)
    drawn = table.ndim == 2
    table = compact(table) if drawn else table
    table = table if rows is None else table[:, rows]
    size = int(table.max()) + 1 if drawn else table.shape[2]
    count = table.shape[1]
    total = np.zeros((count, count))
    for start, stop in chunks(len(table), count * size):
        part = table[start:stop]
        flat = _indicator(part, size) if drawn else part.transpose(0, 2, 1).reshape(-1, count)
        total += flat.T @ flat
    total /= len(table)
    np.fill_diagonal(total, 1.0)
    return total


def _indicator(labels: Array, size: int) -> Array:
    """[z_ti = k] as (S K, N), in single precision: sums of up to 2^24 ones are exact."""
    found = labels[:, None, :] == np.arange(size)[:, None]
    return found.astype(np.float32).reshape(-1, labels.shape[1])


def occupied_components(allocations: Any) -> Array:
    """How many components have a row, draw by draw: (S,) from drawn labels (S, N).

    >>> occupied_components(np.array([[0, 0, 1], [2, 2, 2]])).tolist()
    [2, 1]
    """
    return (cluster_sizes(np.atleast_2d(compact(allocations))) > 0).sum(1)


def occupied_probabilities(allocations: Any) -> Array:
    """The posterior of the number of occupied components: entry k is its probability of being k.

    >>> occupied_probabilities(np.array([[0, 0, 1], [2, 2, 2]])).tolist()
    [0.0, 0.5, 0.5]
    """
    return np.bincount(occupied_components(allocations)) / len(np.atleast_2d(allocations))


def allocations_of(idata: Any, latent: str | None = None, seed: int = 0) -> Array:
    """Drawn labels (S, N) of a container of ArviZ, chains one after another.

    A run of Gibbs keeps them. A run of NUTS has probabilities only: labels are then drawn from them,
    row by row, as rows are independent given the parameters.

    Raises:
        ProgramError: without such a group, or where `latent` does not choose one of several.

    >>> from bayesmix.posterior import arviz_compat
    >>> idata = arviz_compat.make({"latents": {"z": np.zeros((2, 5, 3), int)}})
    >>> allocations_of(idata).shape
    (10, 3)
    """
    latents = latents_of(idata)
    names = [str(name) for name in latents.data_vars if not str(name).startswith("permutation")]
    known = list(dict.fromkeys(name.removesuffix(SUFFIX) for name in names))
    if latent is None and len(known) == 1:
        (latent,) = known
    if latent not in known:
        raise ProgramError(
            f"`latent` chooses the labels of the rows, and {latent!r} does not: the group `latents` has "
            f"{', '.join(known) or 'no variables (declare_labels puts them there)'}"
        )
    if latent in names:
        drawn = latents[latent].transpose("chain", "draw", ...).values
        return drawn.reshape(-1, *drawn.shape[2:])
    p = latents[latent + SUFFIX].transpose("chain", "draw", ...).values
    p = p.reshape(-1, *p.shape[2:])
    uniform = np.random.default_rng(seed).uniform(size=(*p.shape[:2], 1))
    return np.minimum((uniform > p.cumsum(-1)).sum(-1), p.shape[2] - 1)
