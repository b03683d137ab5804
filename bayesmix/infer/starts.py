"""Starting values, for any program: from a rough partition of the rows, through the M step itself.

Rows are partitioned about K seeds; the partition's responsibilities give statistics; the program's own M
step turns them into parameters. Nothing needs to know what the parameters mean. `numpyro.param` sites
start at the program's own initial values, where these differ from entry to entry.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..families.peel import peel
from ..program import rows as row_pass
from ..program.arguments import Arguments, compile_lightly
from ..program.blocks import Blocks, Observed
from ..program.conjugacy import random_noise, random_points
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.modules import array_names, initial_values
from ..program.plan import Plan
from .predict import sites_by_component
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
    """The rows that seeds are chosen among: points (M, D) by observed site, and the same rows as
    blocks."""

    points: dict[str, Array]
    blocks: Blocks


def seeding_rows(plan: Plan, blocks: Blocks, observed: Observed) -> SeedingRows:
    """At most a few thousand rows, spread over all; made on the host, once per fit."""
    if observed.num_rows <= _SEEDING_ROWS or plan.by_row:
        return SeedingRows(_points(observed), blocks)
    rng = np.random.default_rng(observed.num_rows)
    few = observed.take(rng.choice(observed.num_rows, _SEEDING_ROWS, replace=False))
    return SeedingRows(_points(few), plan.arrange(few))


def _points(observed: Observed) -> dict[str, Array]:
    """Observed sites (N, D), each column centred and scaled; missing cells at the mean."""
    found = {}
    for name, value in observed.values.items():
        points = np.asarray(value, float).reshape(len(value), -1)
        present = observed.present[name]
        if present is not None:
            points = np.where(np.asarray(present).reshape(points.shape), points, np.nan)
        points = points - np.nanmean(points, axis=0)
        spread = np.nanstd(points, axis=0)
        points = np.nan_to_num(points / np.where(spread > 0, spread, 1.0))
        found[name] = jnp.asarray(points, jnp.result_type(float))
    return found


def _telling(plan: Plan, arguments: Arguments, values: Values) -> tuple[str, ...]:
    """Names of observed sites whose components have one density for all rows: only of these are values
    close together where rows belong together. Those of a regression are not."""
    sites = sites_by_component(plan, arguments, values)
    width, axis = plan.reading.plate_depth + 1, plan.reading.rows.dim

    def differs(name: str) -> bool:
        fn = peel(sites[name]["fn"]).base
        batch = (1,) * (width - len(fn.batch_shape)) + fn.batch_shape
        return batch[axis] > 1

    return tuple(site.name for site in plan.reading.observed if not differs(site.name))


def rough_values(plan: Plan) -> Values:
    """Values of ordinary size, the same for every start: from where the first M step leaves."""
    noise = random_noise(plan.reading.parameters, np.random.default_rng(0))
    noise = jax.tree.map(lambda x: plan.step * x, noise)
    return jax.tree.map(lambda x: x[0], random_points(plan.reading.parameters, noise))


def leaving_values(plan: Plan, arguments: Arguments, rough: Values, rng_keys: Array) -> Values:
    """Where the first M step leaves from, leading with starts: rough values, but `numpyro.param` sites
    at the program's own initial values, drawn anew for each start."""
    wide = {name: jnp.broadcast_to(v, (len(rng_keys), *v.shape)) for name, v in rough.items()}
    own = partial(initial_values, plan.program, plan.reading, arguments, rough)
    return {**wide, **jax.vmap(own)(rng_keys)}


def own_starts(plan: Plan, arguments: Arguments, rng_keys: Array) -> Values:
    """Initial values that the program itself gives `numpyro.param` sites, leading with starts.

    A network starts from its initialiser, drawn anew for each start. An array whose entries are all
    equal tells no component from another: it is left out, and started from the data.

    Raises :class:`ProgramError` where an initial value is outside the support of its site.
    """
    sites = [site for site in plan.reading.parameters if site.family == "param"]
    if not sites:
        return {}
    layout = arguments.layout

    def make() -> Callable[..., Values]:
        def run(arrays: tuple[Array, ...], rng_keys: Array) -> Values:
            told = Arguments(arrays, layout)
            return leaving_values(plan, told, rough_values(plan), rng_keys)

        return compile_lightly(run)

    own = plan.remember(("own starts", layout), make)(arguments.arrays, rng_keys)
    for site in sites:
        if not bool(jnp.all(site.support(own[site.name]))):
            raise ProgramError(
                f"the initial value of numpyro.param site '{site.name}' is outside its support "
                f"({site.support}); give one inside"
            )
    pytrees = array_names(plan.program)
    return {
        site.name: own[site.name]
        for site in sites
        if site.name in pytrees or np.ptp(np.asarray(own[site.name][0])) > 0
    }


def starting_statistics(
    plan: Plan,
    arguments: Arguments,
    rows: SeedingRows,
    rough: Values,
    rng_keys: Array,
    seeding: Seeding = kmeans_plus_plus,
) -> Starting:
    """Statistics for each key, leading with an axis of starts; to be called under jit.

    Rows go to the nearest of K seeds; where every observed site is a regression, to any component.
    """
    size = plan.reading.num_components
    telling = _telling(plan, arguments, rough)
    points = jnp.concatenate([rows.points[name] for name in telling], axis=1) if telling else None
    num_rows = len(next(iter(rows.points.values())))
    evaluation = plan.evaluate(arguments, rough)

    def of(weights: Array) -> row_pass.Statistics:
        return row_pass.weighted_statistics(plan.families, evaluation, rows.blocks, weights)

    def one(rng_key: Array) -> row_pass.Statistics:
        if points is None:
            nearest = random.randint(rng_key, (num_rows,), 0, size)
        else:
            seeds = points[seeding(rng_key, points, size)]
            squares = jnp.sum((points[None] - seeds[:, None]) ** 2, axis=-1)
            nearest = jnp.argmin(squares, axis=0)
        hard = jax.nn.one_hot(nearest, size, axis=0)
        return of((1 - SOFTENING) * hard + SOFTENING / size)

    partitioned = jax.vmap(one)(rng_keys)
    alike = of(jnp.full((size, num_rows), 1.0 / size))
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

    def one(starting: Starting, leaving: Values) -> Values:
        def once(values: Values, last: Array) -> tuple[Values, None]:
            statistics = jax.tree.map(
                partial(jnp.where, last), starting.partitioned, starting.alike
            )
            return maximise_blocks(plan, arguments, statistics, values)[0], None

        return jax.lax.scan(once, leaving, jnp.arange(ALIKE_STEPS + 1) == ALIKE_STEPS)[0]

    return jax.vmap(one)(starting, leaving_values(plan, arguments, rough, rng_keys))
