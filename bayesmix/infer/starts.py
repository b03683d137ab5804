"""Starting values, for any program: from a rough partition of the rows, through the M step itself.

Rows are partitioned about K seeds; the partition's responsibilities give statistics; the program's own M
step turns them into parameters. Nothing needs to know what the parameters mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks, Observed
from ..program.conjugacy import random_noise, random_points
from ..program.evaluate import Values
from ..program.plan import Plan
from .steps import maximise_blocks

Seeding = Callable[[Array, Array, int], Array]

_SEEDING_ROWS = 4096
ALIKE_STEPS = 4
SOFTENING = 0.05  # share of a row of the partition that is spread over all components


def kmeans_plus_plus(rng_key: Array, points: Array, num_seeds: int) -> Array:
    """Indices of seeds (K,): each next row drawn in proportion to its squared distance from the seeds.

    `points` is (N, D). Source: Arthur & Vassilvitskii (2007), SODA, 1027-1035.
    """
    first_key, rng_key = random.split(rng_key)
    first = random.randint(first_key, (), 0, points.shape[0])
    distance = jnp.sum((points - points[first]) ** 2, axis=1)

    def add(distance: Array, key: Array) -> tuple[Array, Array]:
        total = jnp.sum(distance)
        log_weight = jnp.log(jnp.where(total > 0, distance, 1.0))
        index = random.categorical(key, log_weight)
        closer = jnp.minimum(distance, jnp.sum((points - points[index]) ** 2, axis=1))
        return closer, index

    _, rest = jax.lax.scan(add, distance, random.split(rng_key, num_seeds - 1))
    return jnp.concatenate([first[None], rest])


def random_rows(rng_key: Array, points: Array, num_seeds: int) -> Array:
    """Indices of K different rows, all equally likely."""
    return random.choice(rng_key, points.shape[0], (num_seeds,), replace=False)


class Starting(NamedTuple):
    """Statistics that the first M steps are made from: of all rows alike, which finds place and scale
    (leading with starts, like the rest), then of the rows partitioned about each start's seeds."""

    alike: row_pass.Statistics
    partitioned: row_pass.Statistics


class SeedingRows(NamedTuple):
    """The rows that seeds are chosen among: points (M, D), and the same rows as blocks."""

    points: Array
    blocks: Blocks


def seeding_rows(plan: Plan, blocks: Blocks, observed: Observed) -> SeedingRows:
    """At most a few thousand rows, spread over all; made on the host, once per fit."""
    if observed.num_rows <= _SEEDING_ROWS or plan.by_row:
        return SeedingRows(jnp.asarray(_points(observed)), blocks)
    rng = np.random.default_rng(observed.num_rows)
    few = observed.take(rng.choice(observed.num_rows, _SEEDING_ROWS, replace=False))
    return SeedingRows(jnp.asarray(_points(few)), plan.arrange(few))


def _points(observed: Observed) -> np.ndarray:
    """Observed sites side by side, (N, D), each column centred and scaled; missing cells at the mean."""
    columns = []
    for name, value in observed.values.items():
        column = np.asarray(value, float).reshape(len(value), -1)
        present = observed.present[name]
        if present is not None:
            column = np.where(np.asarray(present).reshape(column.shape), column, np.nan)
        columns.append(column)
    points = np.concatenate(columns, axis=1)
    points = points - np.nanmean(points, axis=0)
    spread = np.nanstd(points, axis=0)
    points = np.nan_to_num(points / np.where(spread > 0, spread, 1.0))
    return points.astype(np.dtype(jnp.result_type(float)))


def rough_values(plan: Plan) -> Values:
    """Values of ordinary size, the same for every start: from where the first M step leaves."""
    noise = random_noise(plan.reading.parameters, np.random.default_rng(0))
    noise = jax.tree.map(lambda x: plan.step * x, noise)
    return jax.tree.map(lambda x: x[0], random_points(plan.reading.parameters, noise))


def starting_statistics(
    plan: Plan,
    arguments: Arguments,
    rows: SeedingRows,
    rough: Values,
    rng_keys: Array,
    seeding: Seeding = kmeans_plus_plus,
) -> Starting:
    """Statistics for each key, leading with an axis of starts; to be called under jit."""
    size = plan.reading.num_components
    evaluation = plan.evaluate(arguments, rough)

    def of(weights: Array) -> row_pass.Statistics:
        return row_pass.weighted_statistics(plan.families, evaluation, rows.blocks, weights)

    def one(rng_key: Array) -> row_pass.Statistics:
        seeds = rows.points[seeding(rng_key, rows.points, size)]
        squares = jnp.sum((rows.points[None] - seeds[:, None]) ** 2, axis=-1)
        hard = jax.nn.one_hot(jnp.argmin(squares, axis=0), size, axis=0)
        return of((1 - SOFTENING) * hard + SOFTENING / size)

    partitioned = jax.vmap(one)(rng_keys)
    alike = of(jnp.full((size, len(rows.points)), 1.0 / size))
    return Starting(
        jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), alike, partitioned), partitioned
    )


def starting_values(
    plan: Plan,
    arguments: Arguments,
    rows: SeedingRows,
    rng_keys: Array,
    seeding: Seeding = kmeans_plus_plus,
) -> Values:
    """Starting values for each key, leading with an axis of starts; to be called under jit.

    Every component is fitted to all rows alike, then to its part of them.
    """
    rough = rough_values(plan)
    starting = starting_statistics(plan, arguments, rows, rough, rng_keys, seeding)

    def one(starting: Starting) -> Values:
        def once(values: Values, last: Array) -> tuple[Values, None]:
            statistics = jax.tree.map(
                partial(jnp.where, last), starting.partitioned, starting.alike
            )
            return maximise_blocks(plan, arguments, statistics, values)[0], None

        return jax.lax.scan(once, rough, jnp.arange(ALIKE_STEPS + 1) == ALIKE_STEPS)[0]

    return jax.vmap(one)(starting)
