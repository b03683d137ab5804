"""Starting values, for any program: from a rough partition of the rows, through the M step itself.

Rows are partitioned about K seeds; the partition's responsibilities give statistics; the program's own M
step turns them into parameters. Nothing needs to know what the parameters mean.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, random

from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.conjugacy import random_points
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.reading import observed_values
from .steps import maximise_blocks

Seeding = Callable[[Array, Array, int], Array]

_SEEDING_ROWS = 4096
# share of a row that is spread over all components: all of it at first, little at the end
_SOFTENINGS = (1.0, 1.0, 1.0, 1.0, 0.05)


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


def _points(observed: dict[str, Array]) -> Array:
    """Observed sites side by side, (N, D), each column centred and scaled."""
    columns = [jnp.reshape(v, (v.shape[0], -1)).astype(float) for v in observed.values()]
    points = jnp.concatenate(columns, axis=1)
    points = points - jnp.mean(points, axis=0)
    spread = jnp.std(points, axis=0)
    return points / jnp.where(spread > 0, spread, 1.0)


def starting_values(
    plan: Plan, arguments: Arguments, rng_keys: Array, seeding: Seeding = kmeans_plus_plus
) -> Values:
    """Starting values for each key, leading with an axis of starts; to be called under jit."""
    size, count = plan.reading.num_components, plan.reading.rows.size
    observed = observed_values(plan.program, arguments, tuple(plan.families))
    if count > _SEEDING_ROWS and not plan.by_row:
        chosen = random.choice(
            random.fold_in(rng_keys[0], 1), count, (_SEEDING_ROWS,), replace=False
        )
        observed = {name: value[chosen] for name, value in observed.items()}
    points = _points(observed)
    blocks = plan.arrange(observed)
    rough = jax.tree.map(lambda x: x[0], random_points(plan.reading.parameters, rng_keys[0]))

    def one(rng_key: Array) -> Values:
        seeds = seeding(rng_key, points, size)
        squares = jnp.sum((points[None] - points[seeds][:, None]) ** 2, axis=-1)
        hard = jax.nn.one_hot(jnp.argmin(squares, axis=0), size, axis=0)

        def once(values: Values, softening: Array) -> tuple[Values, None]:
            weights = _in_blocks(blocks, (1 - softening) * hard + softening / size)
            evaluation = plan.evaluate(arguments, values)
            found = row_pass.weighted_statistics(plan.families, evaluation, blocks, weights)
            return maximise_blocks(plan, arguments, found, values)[0], None

        # first every component is fitted to all rows alike, which finds the place and the scale
        return jax.lax.scan(once, rough, jnp.array(_SOFTENINGS))[0]

    return jax.vmap(one)(rng_keys)


def _in_blocks(blocks: row_pass.Blocks, weights: Array) -> Array:
    count, size = blocks.mask.shape
    padded = jnp.pad(weights, [(0, 0), (0, count * size - blocks.num_rows)])
    return jnp.moveaxis(padded.reshape(weights.shape[0], count, size), 1, 0)
