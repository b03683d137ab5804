r"""Posterior similarity of many rows: nothing here has the size of rows times rows.

With n_t(i) the size of row i's cluster in draw t, sums of similarities are means of counts:
:math:`\sum_j s_{ij} = \frac1S \sum_t n_t(i)`, and the same for sums over the rows of any cluster. They
are exact and cost rows times draws. Single entries are kept where they are large, and left out where
they are small; what was left out is then known, row by row, from the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..program.errors import ProgramError
from .partitions import (
    Array,
    chunks,
    cluster_sizes,
    compact,
    contingency,
    posterior_similarity,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_ENTRIES = 20_000_000  # entries of a block of rows before small ones are dropped


@dataclass(frozen=True, eq=False)
class SparseSimilarity:
    """Entries of the posterior similarity matrix that are at least `threshold`.

    `matrix` (N, N) holds them; `dropped` (N,) is the exact sum of what was left out of each row. An
    entry that is not there is below `threshold`; and no weighted mean of a row's entries, no
    matrix-vector product in the maximum norm and no eigenvalue is off by more than `largest_dropped`
    for weights and vectors with entries of at most 1 (Gershgorin's bound).
    """

    matrix: csr_array
    threshold: float
    dropped: Array

    @property
    def largest_dropped(self) -> float:
        """The largest of `dropped`: a bound on the spectral norm of the error."""
        return float(self.dropped.max())

    def __str__(self) -> str:
        rows, count = self.matrix.shape[0], self.matrix.nnz
        return (
            f"{count} of {rows * rows} similarities are {self.threshold:g} or more, "
            f"{count / rows:.3g} a row; what is below adds up to at most {self.largest_dropped:.3g} "
            f"in a row, {self.dropped.mean():.3g} on average"
        )

    __repr__ = __str__


def sparse_similarity(
    draws: Any,
    threshold: float = 0.05,
    *,
    max_entries: int = 30_000_000,
    progress_bar: bool = True,
) -> SparseSimilarity:
    r"""The posterior similarity matrix without its small entries, made in blocks of rows.

    :math:`s_{ij} = \frac1S \sum_t [z_{ti} = z_{tj}]`, the share of draws in which two rows are together,
    where it is at least `threshold`. Time is that of all pairs that are together, draw by draw, and
    memory that of the result: this is for many rows in many clusters. Of clusters with thousands of rows
    each, look at :func:`similarity_to_clusters`, or at some rows
    (:func:`~bayesmix.posterior.partitions.posterior_similarity` with `rows`).

    Args:
        draws: drawn labels (S, N).
        threshold: smaller entries are left out; above 0 and at most 1.
        max_entries: the most entries of the result; one takes 12 bytes.
        progress_bar: show one where this takes longer than two seconds.

    Raises:
        ProgramError: for labels that are not integers (S, N), a threshold outside (0, 1], or where the
            result has more than `max_entries`.

    >>> found = sparse_similarity([[0, 0, 1, 2], [0, 0, 1, 1], [0, 1, 2, 2]], threshold=0.5)
    >>> found.matrix.toarray().round(2).tolist()[0]
    [1.0, 0.67, 0.0, 0.0]
    >>> found.dropped.round(2).tolist()
    [0.0, 0.0, 0.0, 0.0]

    Source: Binder (1978), Biometrika 65, 31-38, for the matrix.
    """
    from scipy.sparse import csr_array, vstack

    z = _labels(draws)
    if not 0 < threshold <= 1:
        raise ProgramError(
            f"`threshold` is a share of draws above 0 and at most 1, not {threshold}"
        )
    count, rows = z.shape
    sizes = cluster_sizes(z)
    together = _own_sizes(z, sizes)  # sum over draws of the size of each row's cluster
    _refuse_many(np.maximum((together / count - threshold * rows) / (1.001 - threshold), 1).sum(),
                 threshold, max_entries)  # fmt: skip
    need = int(np.ceil(threshold * count - 1e-9))
    members = _members(z, sizes)
    parts, kept = [], 0
    with tqdm(total=rows, desc="similarity", delay=2.0, disable=not progress_bar) as bar:
        for start, stop in _row_blocks(np.minimum(together, rows)):
            counts = _one_hot(z[:, start:stop], sizes.shape[1], np.uint16) @ members
            counts.data[counts.data < need] = 0
            counts.eliminate_zeros()
            kept += counts.nnz
            _refuse_many(kept, threshold, max_entries)
            index = counts.indices.astype(np.int32)
            parts.append(csr_array((counts.data / count, index, counts.indptr), counts.shape))
            bar.update(stop - start)
    matrix = vstack(parts, format="csr")
    matrix.sort_indices()
    dropped = np.maximum(together / count - matrix.sum(axis=1), 0.0)
    return SparseSimilarity(matrix, threshold, dropped)


def _refuse_many(entries: float, threshold: float, most: int) -> None:
    if entries > most:
        raise ProgramError(
            f"there are more than {most} similarities of at least {threshold:g}: raise `threshold`, or "
            "`max_entries` where memory allows; of large clusters, ask for the similarity to clusters "
            "(similarity_to_clusters) or of some rows (posterior_similarity with `rows`)"
        )


def _own_sizes(z: Array, sizes: Array) -> Array:
    """The size of each row's cluster summed over draws, (N,)."""
    total = np.zeros(z.shape[1], np.int64)
    for start, stop in chunks(*z.shape):
        own = np.take_along_axis(sizes[start:stop], z[start:stop].astype(np.intp), 1)
        total += own.sum(0)
    return total


def _one_hot(z: Array, wide: int, kind: type) -> Any:
    """[z_ti = k] as sparse (N, S K)."""
    from scipy.sparse import csr_array

    count, rows = z.shape
    place = (z.T + wide * np.arange(count, dtype=np.int32)).astype(np.int32)
    ends = np.arange(rows + 1, dtype=np.int64) * count
    return csr_array((np.ones(place.size, kind), place.ravel(), ends), (rows, count * wide))


def _members(z: Array, sizes: Array) -> Any:
    """[z_ti = k] as sparse (S K, N): the rows of each cluster of each draw."""
    from scipy.sparse import csr_array

    order = np.empty(z.shape, np.int32)
    for t, labels in enumerate(z):
        order[t] = np.argsort(labels, kind="stable")
    ends = np.concatenate([[0], np.cumsum(sizes.ravel())])
    return csr_array((np.ones(z.size, np.uint16), order.ravel(), ends), (sizes.size, z.shape[1]))


def _row_blocks(width: Array) -> list[tuple[int, int]]:
    """Ranges of rows with at most so many entries, of which each row has no more than `width` (N,)."""
    block = np.cumsum(width) // _ENTRIES
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(width)], strict=True))


def similarity_to_clusters(labels: Any, draws: Any) -> Array:
    r"""How probable it is that a row shares a component with a row of each cluster: (N, C).

    Entry (i, c) is the mean of :math:`s_{ij}` over the rows j of cluster c other than i (0 where there
    is none): large at its own cluster alone for a row that surely belongs there. Exact at a cost of
    rows times draws times clusters. Means over the rows of each cluster are the mean similarity of
    two clusters.

    Args:
        labels: a partition (N,), as of :func:`~bayesmix.posterior.point_partition.point_partition`.
        draws: drawn labels (S, N).

    Raises:
        ProgramError: where the two are not of the same rows.

    >>> similarity_to_clusters([0, 0, 1], [[0, 0, 1], [0, 1, 1]]).tolist()
    [[0.5, 0.0], [0.5, 0.5], [0.25, 0.0]]
    """
    own, z = compact(labels).astype(int), _labels(draws)
    if own.shape != z.shape[1:]:
        raise ProgramError(
            f"labels {own.shape} and draws {z.shape} are not of the same rows; give (N,) and (S, N)"
        )
    rows, size = own.size, int(own.max()) + 1
    table = contingency(own, z, size)
    wide, total = table.shape[1], np.zeros((rows, size))
    for start, stop in chunks(len(z), rows):
        cells = table[start:stop].reshape(-1, size).astype(float)
        total += _one_hot(z[start:stop], wide, np.float64) @ cells
    found, others = total / len(z), np.bincount(own) - (own[:, None] == np.arange(size))
    found[np.arange(rows), own] -= 1  # the row itself
    return np.divide(found, others, out=np.zeros_like(found), where=others > 0)


def similarity_error(draws: Any, rows: Any = None, num_chains: int = 1) -> Array:
    r"""The Monte Carlo standard error of each entry of the posterior similarity, by batch means: (m, m).

    Each chain is cut into batches of about :math:`\sqrt{S}` successive draws. With B of them and
    similarities :math:`s^{(b)}` of each, the error is
    :math:`\sqrt{\sum_b (s^{(b)} - \bar s)^2 / (B (B - 1))}`. Two rows that are together in all draws, or
    in none, have the error 0: no draw says how rare the other is.

    Args:
        draws: drawn labels (S, N), chains one after another.
        rows: positions of the rows wanted, by default all.
        num_chains: how many chains there are.

    Raises:
        ProgramError: where the draws are not of so many chains, with two batches at least.

    >>> z = np.random.default_rng(0).integers(0, 2, (400, 3))
    >>> bool(abs(similarity_error(z)[0, 1] - 0.5 / 20) < 0.01)
    True

    Source: Flegal and Jones (2010), Annals of Statistics 38(2), 1034-1070.
    """
    z = _labels(draws)
    length, rest = divmod(len(z), max(num_chains, 1))
    batch = int(np.sqrt(length))
    if num_chains < 1 or rest or num_chains * length < 2 * batch:
        raise ProgramError(
            f"{len(z)} draws are not those of {num_chains} chains of one length, with two batches "
            "at least; give `num_chains`, and draws chain after chain"
        )
    z = z if rows is None else z[:, rows]
    chains = z.reshape(num_chains, length, -1)[:, : length // batch * batch]
    batches = chains.reshape(-1, batch, z.shape[1])
    mean, squares = np.zeros((2, z.shape[1], z.shape[1]))
    for i, part in enumerate(batches):  # Welford's update
        away = posterior_similarity(part) - mean
        mean += away / (i + 1)
        squares += away**2 * (i / (i + 1))
    return np.sqrt(squares / (len(batches) * (len(batches) - 1)))


def _labels(draws: Any) -> Array:
    z = compact(draws)
    if z.ndim != 2:
        raise ProgramError(f"draws of a partition are labels (S, N), not {z.shape}")
    return z
