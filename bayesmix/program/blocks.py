"""Observed rows, arranged once for any number of passes: blocks, weights, missing cells, known labels.

Arranging is done on the host, from real data. Where some family needs it (a full covariance), rows are
grouped so that all rows of a block have the same cells missing: the cost of missing data then grows with
the number of patterns, not with the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from ..families.augmented import Statistic
from ..families.likelihoods import Family
from .devices import place
from .elimination import Graph
from .observed import Observed

# bytes of one block's largest temporary: with more, a pass takes up to twice as long; where that leaves
# too few rows to a block, it has as many as make up for visiting it
_BLOCK_BYTES = 1 << 17
_SMALLEST_BLOCK, _USUAL_BLOCK = 32, 128
# what visiting a block costs beyond its rows, in rows
_VISIT = 128
_UNBLOCKED_ROWS = 1024
_VECTOR = 8
_ALIGNMENT = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """Rows of each site with a family, arranged (B, ..., n).

    weight: (B, n), 0 on padding; index: (B, n), each place's row, `num_rows` on padding, or None where
    rows keep their order; pattern: (B,), which of the `patterns` (P, D) of each grouped site a block
    has, or None where nothing is missing in those; labels: (B, n) by observed latent, -1 where not
    known; mesh: the devices that the blocks are spread over, or None.
    """

    rows: dict[str, Any]
    weight: Array
    index: Array | None
    pattern: Array | None
    patterns: dict[str, Array]
    labels: dict[str, Array] | None
    num_rows: int = field(metadata={"static": True})
    mesh: Mesh | None = field(default=None, metadata={"static": True})

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

    def telling(self, most: int = 8) -> list[Any]:
        """Places of a few blocks that tell the most of any: the first of each of the patterns in which
        the fewest cells are missing, or the first."""
        if self.pattern is None:
            return [0]
        cells = [jnp.sum(there.reshape(len(there), -1), axis=1) for there in self.patterns.values()]
        fullest = jnp.argsort(-sum(cells[1:], cells[0]))
        return [jnp.argmax(self.pattern == fullest[i]) for i in range(min(most, len(fullest)))]


def arrange(
    families: dict[str, Statistic],
    observed: Observed,
    graph: Graph,
    whole: bool = False,
    fits: int = 1,
) -> Blocks:
    """Store the observed rows as blocks, once per fit; where `whole` and nothing is grouped, as one.

    So many `fits` will visit a block at a time. Rows that are spread over devices come as the same
    number of blocks for each.
    """
    arranged, num_rows = by_family(families, observed), observed.num_rows
    size = block_size(families, arranged, num_rows, graph, whole, fits)
    devices = observed.mesh.size if observed.mesh else 1
    grouped = patterns_of(families, observed)
    if grouped is None:
        each = -(-num_rows // (devices * size))
        size = min(size, _whole_vectors(-(-num_rows // (devices * each))))
        return lay_out(arranged, observed, InOrder(devices * each, size, num_rows))
    patterns, of_row = grouped
    taken, pattern = _grouped_places(of_row, size, devices)
    return lay_out(arranged, observed, taken.reshape(pattern.size, -1), pattern, patterns)


def _whole_vectors(size: int) -> int:
    return -(-size // _VECTOR) * _VECTOR


def by_family(families: dict[str, Statistic], observed: Observed) -> dict[str, Any]:
    """Rows as each family wants them, (..., N) by observed site."""
    as_array = jnp.asarray if observed.traced else np.asarray
    return {
        name: family.arrange(as_array(observed.values[name]), observed.present[name])
        for name, family in families.items()
        if isinstance(family, Family)
    }


class InOrder(NamedTuple):
    """Rows one after another in blocks of `size`, the last places empty."""

    num_blocks: int
    size: int
    num_rows: int


def lay_out(
    arranged: dict[str, Any],
    observed: Observed,
    places: np.ndarray | InOrder,
    pattern: np.ndarray | None = None,
    patterns: dict[str, np.ndarray] | None = None,
) -> Blocks:
    """Blocks with arranged rows in their places (B, n), `num_rows` for a place that stays empty.

    Where rows are grouped, `pattern` (B,) says which of the `patterns` the rows of a block have.
    """
    if isinstance(places, InOrder):
        cut, index = partial(_cut_in_order, places), None
        there = np.zeros((places.num_blocks, places.size), bool)
        there.reshape(-1)[: observed.num_rows] = True
    else:
        cut, index = partial(_cut, np.minimum(places, observed.num_rows - 1)), places
        there = places < observed.num_rows
    dtype = np.dtype(jnp.result_type(float))
    weight = _says_something(observed).astype(dtype)
    if observed.weight is not None:
        weight = weight * observed.weight
    by_block, everywhere = place(
        (
            jax.tree.map(cut, arranged),
            (cut(weight) * there).astype(dtype),
            index,
            pattern,
            jax.tree.map(cut, observed.labels),
        ),
        patterns or {},
        observed.mesh,
    )
    rows, weight, index, pattern, labels = by_block
    return Blocks(
        rows, weight, index, pattern, everywhere, labels, observed.num_rows, observed.mesh
    )


def _cut(taken: np.ndarray, value: Any) -> Any:
    """Arranged rows (..., N) as blocks (B, ..., n), `taken` (B, n) from them."""
    arrays = jnp if isinstance(value, jax.Array) else np
    return arrays.moveaxis(value[..., taken], -2, 0)


def _cut_in_order(places: InOrder, value: Any) -> Any:
    """Arranged rows (..., N) as blocks (B, ..., n); empty places hold the last row."""
    count, size, num_rows = places
    lead = value.shape[:-1]
    if isinstance(value, jax.Array):
        widths = [(0, 0)] * len(lead) + [(0, count * size - num_rows)]
        padded = jnp.pad(value, widths, mode="edge")
        return jnp.moveaxis(padded.reshape(*lead, count, size), -2, 0)
    # written once, to where JAX can take it without a copy of its own
    blocks = aligned_empty((count, *lead, size), value.dtype)
    full, rest = divmod(num_rows, size)
    turned = value[..., : full * size].reshape(*lead, full, size)
    blocks[:full] = np.moveaxis(turned, -2, 0)
    if full < count:
        blocks[full:] = value[..., -1:]
        blocks[full, ..., :rest] = value[..., full * size :]
    return blocks


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins where JAX has its own arrays begin, so that JAX needs no copy of it.

    >>> aligned_empty((3, 2), np.dtype(float)).ctypes.data % 64
    0
    """
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + count].view(dtype).reshape(shape)


def _says_something(observed: Observed) -> np.ndarray:
    """False for rows with nothing in them: their evidence is 1 whatever the parameters, and their
    responsibilities would only slow EM down."""
    says: Any = np.zeros(observed.num_rows, bool)
    for there in observed.present.values():
        if there is None:
            return np.ones(observed.num_rows, bool)
        says = says | there.reshape(observed.num_rows, -1).any(axis=1)
    for labels in (observed.labels or {}).values():
        says = says | (labels >= 0)
    return says


def block_size(
    families: dict[str, Statistic],
    arranged: dict[str, Any],
    num_rows: int,
    graph: Graph,
    whole: bool = False,
    fits: int = 1,
) -> int:
    """How many rows a block has, so that what so many fits compute of one stays in a core's cache."""
    in_cache = _BLOCK_BYTES // np.dtype(jnp.result_type(float)).itemsize
    # a table of many components is no reason for blocks that are shorter than usual
    entries = [min(fits * sum(graph.table_sizes), in_cache // _USUAL_BLOCK)]
    for name, rows in arranged.items():
        family = families[name]
        assert isinstance(family, Family)
        widths = [leaf.shape[0] for leaf in jax.tree.leaves(rows) if leaf.ndim > 1]
        entries.append(family.entries(max(graph.table_sizes), max(widths, default=1), fits))
    block = in_cache // max(entries)
    block = max(block, _SMALLEST_BLOCK) if 2 * block >= _SMALLEST_BLOCK else _USUAL_BLOCK
    few = max(block, _UNBLOCKED_ROWS // fits)
    return num_rows if whole or num_rows <= few else block


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
    if any(isinstance(observed.present[name], jax.core.Tracer) for name in names):
        # which rows have the same cells is not known yet
        rows = {name: observed.present[name].reshape(observed.num_rows, -1) for name in names}
        return rows, np.arange(observed.num_rows)
    tables = [np.asarray(observed.present[name]).reshape(observed.num_rows, -1) for name in names]
    joined = np.concatenate(tables, axis=1)
    distinct, of_row = np.unique(joined, axis=0, return_inverse=True)
    ends = np.cumsum([table.shape[1] for table in tables])[:-1]
    parts = np.split(distinct, ends, axis=1)
    return dict(zip(names, parts, strict=True)), of_row.reshape(-1)


def _grouped_places(of_row: np.ndarray, size: int, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by place, pattern after pattern, each padded to whole blocks; and each block's pattern.

    At the end come as many empty blocks as make the number of blocks a multiple of `devices`.
    """
    counts = np.bincount(of_row)
    size = _grouped_size(counts, size)
    order = np.argsort(of_row, kind="stable")
    blocks = -(-counts // size)
    starts = np.concatenate([[0], np.cumsum(blocks)[:-1]]) * size
    within = np.arange(of_row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    blocks[-1] += -blocks.sum() % devices
    places = np.full(int(blocks.sum()) * size, of_row.size)
    places[np.repeat(starts, counts) + within] = order
    return places, np.repeat(np.arange(counts.size), blocks)


def _grouped_size(counts: np.ndarray, largest: int) -> int:
    """The length of blocks that makes a pass cheapest: short ones are many, long ones have many places
    that stay empty. `counts` are the rows of each pattern."""
    halvings = np.arange(max(1, int(largest).bit_length()))
    sizes = np.unique(np.minimum(np.maximum(largest >> halvings, 1), counts.max()))
    blocks = -(-counts[:, None] // sizes)
    return int(sizes[np.argmin(blocks.sum(axis=0) * (sizes + _VISIT))])
