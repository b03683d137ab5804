r"""One partition for all draws, the least expected loss, and how far the posterior spreads about it.

Candidates are draws, cuts of the average-linkage tree of the posterior similarity, and what greedy
sweeps make of the best of these: a sweep moves every row in turn to the cluster, or to a new one,
where the expected loss is least. A move changes few counts, so a sweep costs rows times draws times
clusters and its losses are exact. All candidates are compared by their expected loss over all draws.

Of many rows, a random part is partitioned so first. The best partitions of the part are then carried to
all rows by sweeps, in which a row without a cluster joins the one where the expected loss is least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from tqdm.auto import tqdm

from ..program.compiling import Compiled
from ..program.errors import ProgramError
from ..program.settings import whole
from .partitions import (
    Array,
    PartitionLoss,
    allocations_of,
    canonical,
    cluster_sizes,
    compact,
    contingency,
    distance,
    expected_loss,
    posterior_similarity,
    variation_of_information,
)

_PART_ROWS = 3000  # beyond this many rows a random part of them is partitioned first
_CARRIED = 2  # partitions of the part that are carried to all rows


@dataclass(frozen=True, eq=False)
class CredibleBall:
    """Partitions within `radius` of the estimate, which hold `prob` of the draws at least.

    `horizontal` is the farthest draw inside, `upper` the farthest of those with the fewest
    clusters, and `lower` the farthest of those with the most; each (N,).
    """

    prob: float
    radius: float
    horizontal: Array
    upper: Array
    lower: Array


@dataclass(frozen=True, eq=False)
class PointPartition:
    """A partition (N,) with the least expected loss found.

    `labels` are numbered by first appearance; `expected_loss` is the mean over draws of
    `distances` (S,) to it; `found_by` says which candidates it is from ("draw", "average linkage"
    or "sweeps from ..."); `draws` are the partitions it stands for.
    """

    labels: Array
    expected_loss: float
    found_by: str
    loss: PartitionLoss
    draws: Array
    distances: Array

    @property
    def num_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1

    def credible_ball(self, prob: float = 0.95) -> CredibleBall:
        """The smallest ball about the estimate with at least `prob` of the draws, and its bounds.

        Raises :class:`~bayesmix.program.errors.ProgramError` for `prob` outside (0, 1].

        Source: Wade and Ghahramani (2018), Bayesian Analysis 13(2), 559-626.
        """
        if not 0 < prob <= 1:
            raise ProgramError(f"`prob` is a probability above 0 and at most 1, not {prob}")
        need = int(np.ceil(prob * len(self.distances) - 1e-9))
        radius = float(np.sort(self.distances)[need - 1])
        inside = np.flatnonzero(self.distances <= radius)
        clusters = (cluster_sizes(self.draws[inside]) > 0).sum(1)

        def farthest(chosen: Array) -> Array:
            return self.draws[chosen[np.argmax(self.distances[chosen])]].astype(int)

        return CredibleBall(
            prob,
            radius,
            farthest(inside),
            farthest(inside[clusters == clusters.min()]),
            farthest(inside[clusters == clusters.max()]),
        )

    def __str__(self) -> str:
        sizes = np.sort(np.bincount(self.labels))[::-1]
        ball = self.credible_ball()
        shown = ", ".join(map(str, sizes[:12])) + (", ..." if len(sizes) > 12 else "")
        return (
            f"{self.num_clusters} clusters of {shown} rows ({self.found_by}); expected "
            f"{self.loss.name} {self.expected_loss:.4g}\n95% of the draws are within {ball.radius:.4g}, "
            f"with {ball.upper.max() + 1} to {ball.lower.max() + 1} clusters"
        )

    __repr__ = __str__


def point_partition(
    draws: Any,
    loss: PartitionLoss = variation_of_information,
    *,
    max_clusters: int | None = None,
    num_candidates: int = 200,
    num_starts: int = 8,
    max_sweeps: int = 50,
    seed: int = 0,
    progress_bar: bool = True,
) -> PointPartition:
    r"""The partition with the least posterior expected loss, :math:`argmin_c \frac1S \sum_t d(c, z_t)`.

    Args:
        draws: drawn labels (S, N), or a container of ArviZ, which
            :func:`~bayesmix.posterior.partitions.allocations_of` takes them from.
        loss: `variation_of_information`, or `binder`, which tends to many small clusters.
        max_clusters: at most so many clusters; by default twice the most of any draw, 10 at least.
        num_candidates: draws, evenly spaced, that are candidates.
        num_starts: the best candidates that sweeps start from.
        max_sweeps: sweeps over all rows that each start may take at most; it ends when no row moves.
        seed: of the order in which rows are visited.
        progress_bar: show one where this takes longer than two seconds.

    Raises:
        ProgramError: for labels that are not integers (S, N), or less than one cluster.

    >>> rng = np.random.default_rng(0)
    >>> z = np.where(rng.uniform(size=(50, 9)) < 0.1, 1, [0, 0, 0, 0, 1, 1, 2, 2, 2])
    >>> point_partition(z).labels.tolist()
    [0, 0, 0, 0, 1, 1, 2, 2, 2]

    Sources: Wade and Ghahramani (2018), Bayesian Analysis 13(2), 559-626; Dahl, Johnson and Mueller
    (2022), J. Comput. Graph. Statist. 31(4), for sweeps with exact expected losses.
    """
    z = compact(allocations_of(draws) if hasattr(draws, "groups") else draws)
    if z.ndim != 2:
        raise ProgramError(f"draws of a partition are labels (S, N), not {z.shape}")
    max_clusters = None if max_clusters is None else whole("max_clusters", max_clusters)
    num_candidates = whole("num_candidates", num_candidates)
    num_starts = whole("num_starts", num_starts)
    max_sweeps = whole("max_sweeps", max_sweeps, least=0)
    draws = canonical(z)
    rows, most = draws.shape[1], int(draws.max()) + 1
    limit = min(rows, max(10, 2 * most) if max_clusters is None else max_clusters)
    part, few = np.arange(rows), draws
    if rows > _PART_ROWS:
        part = np.sort(np.random.default_rng(seed).choice(rows, _PART_ROWS, replace=False))
        few = canonical(draws[:, part])
    with tqdm(total=4, desc="partition", delay=2.0, disable=not progress_bar) as bar:
        found, names = _candidates(few, limit, num_candidates)
        bar.update()
        losses = expected_loss(found, few, loss)
        best = np.argsort(losses, kind="stable")[:num_starts]
        bar.update()
        swept, names = _swept(found[best], few, loss, limit, max_sweeps, seed), names[best]
        bar.update()
        if len(part) < rows:
            swept, first = np.unique(swept, axis=0, return_index=True)
            chosen = np.argsort(expected_loss(swept, few, loss), kind="stable")[:_CARRIED]
            names = names[first]
            carried = np.full((len(chosen), rows), limit)  # no cluster yet
            carried[:, part] = swept[chosen]
            swept, names = _swept(carried, draws, loss, limit, max_sweeps, seed), names[chosen]
        better = expected_loss(swept, draws, loss)
        bar.update()
    at = int(np.argmin(better))
    labels, origin = swept[at], f"sweeps from {names[at]}"
    if len(part) == rows and losses[best[0]] <= better[at] + 1e-12:  # nothing was gained
        labels, origin = found[best[0]], names[0]
    distances = distance(labels, draws, loss)
    mean = float(distances.mean())
    return PointPartition(labels.astype(int), mean, origin, loss, draws, distances)


def _candidates(draws: Array, most: int, count: int) -> tuple[Array, Array]:
    """Distinct draws and cuts of the tree, (C, N), with at most `most` clusters; and whence."""
    some = np.unique(np.linspace(0, len(draws) - 1, count).astype(int))
    cuts = canonical(_linkage_cuts(draws, most))
    origin = np.repeat(["average linkage", "draw"], [len(cuts), len(some)])
    found, first = np.unique(np.concatenate([cuts, draws[some]]), axis=0, return_index=True)
    few = found.max(1) < most
    return found[few], origin[first][few]


def _linkage_cuts(draws: Array, most: int) -> Array:
    """Cuts of the average-linkage tree at 1 to `most` clusters, (most, N)."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    rows = draws.shape[1]
    if rows == 1:
        return np.zeros((1, 1), int)
    apart = 1 - posterior_similarity(draws)
    tree = linkage(squareform(np.maximum(apart, 0.0), checks=False), "average")
    return cut_tree(tree, n_clusters=np.arange(1, min(most, rows) + 1)).T


def _swept(
    starts: Array, draws: Array, loss: PartitionLoss, size: int, limit: int, seed: int
) -> Array:
    """Greedy sweeps from several partitions (R, N) at once; a row labelled `size` has no cluster."""
    counts = np.arange(draws.shape[1] + 1, dtype=float)
    gain = np.diff(loss.f(counts))  # what one more row adds to f
    keys = random.split(random.key(seed), len(starts))
    cells = np.stack([contingency(start, draws, size + 1) for start in starts])
    swept = _sweep(
        jnp.asarray(starts, int),
        jnp.asarray(cells),
        jnp.asarray(draws.T),
        jnp.asarray(gain),
        keys,
        limit,
    )
    return canonical(np.asarray(swept))


@Compiled
def _sweep(
    starts: jax.Array,
    cells: jax.Array,
    rows: jax.Array,
    gain: jax.Array,
    keys: jax.Array,
    limit: int,
) -> jax.Array:
    """Each start (R, N), with its counts (R, S, K, size + 1) by the labels of each row in each draw,
    `rows` (N, S), swept until no row moves or `limit` sweeps were made."""
    (num_rows, count), (wide, size) = rows.shape, cells.shape[2:]
    first = wide * jnp.arange(count)  # where each draw's counts begin
    cells = cells.reshape(len(starts), count * wide, size).astype(jnp.int32)
    outside = jnp.where(jnp.arange(size) == size - 1, 1e30, 0.0)  # the last label is no cluster

    def shifted(tables, at, label, by):
        """One row more or less with `label`: sizes, counts, and what the next row would add there."""
        sizes, cells, gains = tables
        renewed = cells[at, label] + by
        gains = gains.at[at, label].set(gain[renewed])
        return sizes.at[label].add(by), cells.at[at, label].set(renewed), gains

    def best(row, labels, tables):
        """The cluster in which a row adds least to the expected loss: its own, unless one is better."""
        sizes, cells, gains = tables
        old, at = labels[row], first + rows[row]
        change = gain[sizes] - 2 * gains[at].mean(0) + outside
        stay = gain[sizes[old] - 1] - 2 * gain[cells[at, old] - 1].mean() + outside[old]
        new = jnp.argmin(change.at[old].set(jnp.inf))
        return jnp.where(change[new] < stay - 1e-6 * jnp.abs(stay), new, old)

    def to_next_move(i, order, labels, tables):
        """From place i of the order to the next row that moves, and where to; N if there is none."""

        def at_rest(state):
            i, new = state
            return (i < num_rows) & (new == labels[order[i]])

        def look(state):
            i = state[0] + 1
            return i, best(order[i], labels, tables)

        return lax.while_loop(at_rest, look, (i, best(order[i], labels, tables)))

    def once(state):
        labels, tables, key, sweeps, _ = state
        key, own = random.split(key)
        order = random.permutation(own, num_rows)

        def move(state):
            i, labels, tables, moved = state
            i, new = to_next_move(i, order, labels, tables)
            row, by = order[i], jnp.where(i < num_rows, 1, 0)
            at, old = first + rows[row], labels[row]
            tables = shifted(shifted(tables, at, old, -by), at, new, by)
            labels = labels.at[row].set(jnp.where(i < num_rows, new, old))
            return i + 1, labels, tables, moved | (i < num_rows)

        state = (0, labels, tables, False)
        _, labels, tables, moved = lax.while_loop(lambda s: s[0] < num_rows, move, state)
        return labels, tables, key, sweeps + 1, moved

    def one(start):
        labels, cells, key = start
        sizes = jnp.zeros(size, int).at[labels].add(1)
        state = (labels, (sizes, cells, gain[cells]), key, 0, True)
        return lax.while_loop(lambda s: s[-1] & (s[-2] < limit), once, state)[0]

    return lax.map(one, (starts, cells, keys))  # by vmap every row would cost what a move costs
