"""Observed rows, arranged once for any number of passes: blocks, weights, missing cells, known labels.

Arranging is done on the host, from real data. Where some family needs it (a full covariance), rows are
grouped so that all rows of a block have the same cells missing: the cost of missing data then grows with
the number of patterns, not with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..families.augmented import Statistic
from ..families.likelihoods import Family
from .graph import Graph

# entries of one block's (K, D, n) temporary; a block should stay in a core's cache
_BLOCK_ENTRIES = 1 << 15
_SMALLEST_BLOCK = 128
_UNBLOCKED_ROWS = 1024


class Observed(NamedTuple):
    """What a call says of its rows, rows first.

    values: each observed site's value (N, *event), with some feasible number in missing cells;
    present: the same shape, False where missing, or None where the site is complete;
    weight: (N,), or None where every row counts once; labels: for each latent that the program
    observes the index of a row's value, (N,), -1 where it is not known; or None where there is none.
    """

    values: dict[str, Any]
    present: dict[str, Any]
    weight: Any = None
    labels: Any = None

    @property
    def num_rows(self) -> int:
        """N."""
        return int(next(iter({**self.values, **(self.labels or {})}.values())).shape[0])

    def take(self, index: Any) -> Observed:
        """Some of the rows."""
        return jax.tree.map(lambda array: array[index], self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """Rows of each site with a family, arranged (B, ..., n).

    weight: (B, n), 0 on padding; index: (B, n), each place's row, `num_rows` on padding, or None where
    rows keep their order; pattern: (B,), which of the `patterns` (P, D) of each grouped site a block
    has, or None where nothing is missing in those; labels: (B, n) by observed latent, -1 where not
    known.
    """

    rows: dict[str, Any]
    weight: Array
    index: Array | None
    pattern: Array | None
    patterns: dict[str, Array]
    labels: dict[str, Array] | None
    num_rows: int = field(metadata={"static": True})

    def restore(self, value: Array) -> Array:
        """Values by block (B, ..., n) as values by row (..., N), in the order of the data."""
        value = jnp.moveaxis(value, 0, -2)
        flat = value.reshape(*value.shape[:-2], value.shape[-2] * value.shape[-1])
        if self.index is None:
            return flat[..., : self.num_rows]
        empty = jnp.zeros((*flat.shape[:-1], self.num_rows), flat.dtype)
        return empty.at[..., self.index.reshape(-1)].set(flat, mode="drop")

    def distribute(self, value: Array) -> Array:
        """Values by row (..., N) as values by block (B, ..., n); zero or arbitrary on padding."""
        count, size = self.weight.shape
        if self.index is None:
            padding = count * size - self.num_rows
            flat = jnp.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, padding)])
        else:
            flat = jnp.take(value, self.index.reshape(-1), axis=-1, mode="clip")
        return jnp.moveaxis(flat.reshape(*value.shape[:-1], count, size), -2, 0)

    def first(self) -> Blocks:
        """The first block alone, its rows in place."""
        cut = jax.tree.map(lambda x: x[:1], replace(self, index=None, patterns={}))
        size = self.weight.shape[1]
        return replace(cut, patterns=self.patterns, num_rows=min(self.num_rows, size))


def arrange(
    families: dict[str, Statistic],
    observed: Observed,
    graph: Graph,
    whole: bool = False,
) -> Blocks:
    """Store the observed rows as blocks, once per fit; where `whole` and nothing is grouped, as one."""
    arranged, num_rows = by_family(families, observed), observed.num_rows
    size = block_size(arranged, num_rows, graph, whole)
    grouped = patterns_of(families, observed)
    if grouped is None:
        places = np.arange(-(-num_rows // size) * size).reshape(-1, size)
        blocks = lay_out(arranged, observed, np.minimum(places, num_rows))
        return replace(blocks, index=None)
    patterns, of_row = grouped
    taken, pattern = _grouped_places(of_row, min(size, _SMALLEST_BLOCK))
    return lay_out(arranged, observed, taken.reshape(pattern.size, -1), pattern, patterns)


def by_family(families: dict[str, Statistic], observed: Observed) -> dict[str, Any]:
    """Rows as each family wants them, (..., N) by observed site."""
    tracing = any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(observed))
    as_array = jnp.asarray if tracing else np.asarray
    return {
        name: family.arrange(as_array(observed.values[name]), observed.present[name])
        for name, family in families.items()
        if isinstance(family, Family)
    }


def lay_out(
    arranged: dict[str, Any],
    observed: Observed,
    places: np.ndarray,
    pattern: np.ndarray | None = None,
    patterns: dict[str, np.ndarray] | None = None,
) -> Blocks:
    """Blocks with arranged rows in their places (B, n), `num_rows` for a place that stays empty.

    Where rows are grouped, `pattern` (B,) says which of the `patterns` the rows of a block have.
    """
    arrays = jnp if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(observed)) else np
    num_rows, size = observed.num_rows, places.shape[1]
    there = places.reshape(-1) < num_rows
    taken = np.minimum(places.reshape(-1), num_rows - 1)
    in_place = taken.size == num_rows and bool((np.diff(taken) == 1).all())

    def cut(value: Any) -> Any:
        chosen = value if in_place else value[..., taken]
        return arrays.moveaxis(chosen.reshape(*value.shape[:-1], -1, size), -2, 0)

    dtype = np.dtype(jnp.result_type(float))
    weight = (there & _says_something(observed)[taken]).astype(dtype)
    if observed.weight is not None:
        weight = weight * arrays.asarray(observed.weight, dtype)[taken]
    blocks = Blocks(
        rows=jax.tree.map(cut, arranged),
        weight=weight.reshape(-1, size),
        index=places,
        pattern=pattern,
        patterns=patterns or {},
        labels=jax.tree.map(lambda x: cut(arrays.asarray(x)), observed.labels),
        num_rows=num_rows,
    )
    return jax.tree.map(jnp.asarray, blocks)


def _says_something(observed: Observed) -> np.ndarray:
    """False for rows with nothing in them: their evidence is 1 whatever the parameters, and their
    responsibilities would only slow EM down."""
    says = np.zeros(observed.num_rows, bool)
    for there in observed.present.values():
        if there is None:
            return np.ones(observed.num_rows, bool)
        says |= np.asarray(there).reshape(observed.num_rows, -1).any(axis=1)
    for labels in (observed.labels or {}).values():
        says |= np.asarray(labels) >= 0
    return says


def block_size(arranged: dict[str, Any], num_rows: int, graph: Graph, whole: bool = False) -> int:
    """How many rows a block has, so that what is computed of one stays in a core's cache."""
    leaves = jax.tree.leaves(arranged)
    width = max((leaf.shape[0] for leaf in leaves if leaf.ndim > 1), default=1)
    sizes = [graph.size(clique) for clique in range(len(graph.cliques))]
    block = max(_SMALLEST_BLOCK, _BLOCK_ENTRIES // max(width * max(sizes), sum(sizes)))
    return num_rows if whole or num_rows <= max(block, _UNBLOCKED_ROWS) else block


def patterns_of(
    families: dict[str, Statistic], observed: Observed
) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Which cells are there: every distinct combination (P, D) by grouped site, and each row's own."""
    names = [
        name
        for name, family in families.items()
        if isinstance(family, Family) and family.grouped and observed.present[name] is not None
    ]
    if not names:
        return None
    tables = [np.asarray(observed.present[name]).reshape(observed.num_rows, -1) for name in names]
    joined = np.concatenate(tables, axis=1)
    distinct, of_row = np.unique(joined, axis=0, return_inverse=True)
    ends = np.cumsum([table.shape[1] for table in tables])[:-1]
    parts = np.split(distinct, ends, axis=1)
    return dict(zip(names, parts, strict=True)), of_row.reshape(-1)


def _grouped_places(of_row: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by place, pattern after pattern, each padded to whole blocks; and each block's pattern."""
    counts = np.bincount(of_row)
    # blocks no longer than the longest pattern needs, so that few rows cost little
    size = int(min(size, counts.max()))
    order = np.argsort(of_row, kind="stable")
    blocks = -(-counts // size)
    starts = np.concatenate([[0], np.cumsum(blocks)[:-1]]) * size
    within = np.arange(of_row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.full(int(blocks.sum()) * size, of_row.size)
    places[np.repeat(starts, counts) + within] = order
    return places, np.repeat(np.arange(counts.size), blocks)
