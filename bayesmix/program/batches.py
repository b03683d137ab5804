"""Rows in batches: blocks of which a fixed number in a row belong to one batch.

A batch has the same shape as any other, so that one compiled function serves all of them; places that it
does not need have weight zero. All batches together are blocks like any others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .blocks import Blocks, block_size, by_family, lay_out, patterns_of
from .observed import Observed
from .plan import Plan

_SMALLEST, _LARGEST = 8, 128  # rows in a block of rows that have the same cells missing


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batches:
    """Rows as blocks, which are `count` batches one after another."""

    blocks: Blocks
    count: int = field(metadata={"static": True})

    def take(self, number: Array) -> Blocks:
        """The blocks of one batch, its rows in no particular order."""
        each = self.blocks.weight.shape[0] // self.count
        whole = replace(self.blocks, index=None, patterns={})
        cut = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, number * each, each), whole)
        return replace(cut, patterns=self.blocks.patterns)


def arrange_batches(plan: Plan, observed: Observed, batch: np.ndarray) -> Batches:
    """Rows in batches, on the host; `batch` (N,) is the number of each row's batch, from 0."""
    arranged, count = by_family(plan.families, observed), int(batch.max()) + 1
    patterns, of_row = patterns_of(plan.families, observed) or ({}, np.zeros(batch.size, int))
    kinds = max((len(each) for each in patterns.values()), default=1)
    together = batch * kinds + of_row
    rows = np.bincount(together, minlength=count * kinds)
    largest = int(np.bincount(batch).max())
    usual = block_size(plan.families, arranged, largest, plan.graph)
    size = _size(rows, usual, bool(patterns))
    needed = -(-rows // size).reshape(count, kinds)
    each = int(needed.sum(axis=1).max())
    # where the blocks of a batch and pattern start
    starts = (np.cumsum(needed, axis=1) - needed + each * np.arange(count)[:, None]).reshape(-1)
    order = np.argsort(together, kind="stable")
    within = np.arange(order.size) - np.repeat(np.cumsum(rows) - rows, rows)
    places = np.full(count * each * size, observed.num_rows)
    places[np.repeat(starts * size, rows) + within] = order
    pattern = None
    if patterns:
        used = needed.reshape(-1)
        number = np.arange(used.sum()) - np.repeat(np.cumsum(used) - used, used)
        pattern = np.zeros(count * each, int)
        pattern[np.repeat(starts, used) + number] = np.repeat(np.arange(used.size) % kinds, used)
    blocks = lay_out(arranged, observed, places.reshape(-1, size), pattern, patterns)
    return Batches(blocks, count)


def _size(rows: np.ndarray, usual: int, grouped: bool) -> int:
    """Rows to a block: of grouped rows about as many as a pattern has in a batch."""
    largest = int(rows.max())
    if not grouped:
        return -(-largest // -(-largest // usual))
    mean = int(np.ceil(rows[rows > 0].mean()))
    return int(np.clip(1 << (mean - 1).bit_length(), _SMALLEST, _LARGEST))


def padded(blocks: Blocks, count: int, patterns: int) -> Blocks:
    """Rows with so many blocks and patterns: those that are added have no weight."""

    def longer(array: Array, size: int, mode: str = "edge") -> Array:
        widths = [(0, size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, widths, mode=mode)

    whole: Any = replace(blocks, index=None, patterns={})
    return replace(
        jax.tree.map(lambda x: longer(x, count), whole),
        weight=longer(blocks.weight, count, "constant"),
        patterns={name: longer(value, patterns) for name, value in blocks.patterns.items()},
    )
