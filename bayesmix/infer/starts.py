"""Starting values, for any program: from a rough partition of the rows, through the M step itself.

Rows are partitioned about K seeds; the partition's responsibilities give statistics; the program's own M
step turns them into parameters. Nothing needs to know what the parameters mean. `numpyro.param` sites
start at the program's own initial values, where these differ from entry to entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..families.peel import peel
from ..program import row_pass
from ..program.arguments import on_device
from ..program.blocks import Blocks
from ..program.elimination import independent
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.modules import array_names, array_values, initial_values
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.statistics import expected_factors
from .m_steps import maximise_blocks
from .predict import sites_by_component
from .units import in_units_of_data, latents_along, ordered_sites, sorted_along

Seeding = Callable[[Array, Array, int], Array]

_SEEDING_ROWS = 4096
ALIKE_STEPS = 4
SOFTENING = 0.05  # share of a row of the partition that is spread over all components


def kmeans_plus_plus(rng_key: Array, points: Array, num_seeds: int) -> Array:
    """Indices of seeds (K,): each next row drawn in proportion to its squared distance from the seeds.

    `points` is (N, D). Source: Arthur & Vassilvitskii (2007), SODA, 1027-1035.
    """
    count, dtype = points.shape[0], jnp.result_type(points, float)

    def add(distance: Array, uniform: Array) -> tuple[Array, Array]:
        below = jnp.cumsum(distance)
        # by inversion; the first seed, and one where all rows are seeds, is any row
        drawn = jnp.sum(below <= uniform * below[-1])
        index = jnp.where(
            jnp.isfinite(below[-1]) & (below[-1] > 0), drawn, (uniform * count).astype(int)
        )
        index = jnp.minimum(index, count - 1)
        return jnp.minimum(distance, jnp.sum((points - points[index]) ** 2, axis=1)), index

    uniforms = random.uniform(rng_key, (num_seeds,), dtype)
    return jax.lax.scan(add, jnp.full(count, jnp.inf, dtype), uniforms)[1]


def random_rows(rng_key: Array, points: Array, num_seeds: int) -> Array:
    """Indices of K different rows, all equally likely."""
    return random.choice(rng_key, points.shape[0], (num_seeds,), replace=False)


class Starting(NamedTuple):
    """Statistics that the first M steps are made from: of all rows alike, which finds place and scale
    (leading with starts, like the rest), then of the rows partitioned about each start's seeds; and
    where the first of them leaves from."""

    alike: row_pass.Statistics
    partitioned: row_pass.Statistics
    values: Values


class SeedingRows(NamedTuple):
    """The rows that seeds are chosen among, as blocks; the points (M, D) that latents with the same
    labels are started from, M rows for each of them in turn; and known labels by latent."""

    points: tuple[Array, ...]
    blocks: Blocks
    known: dict[str, Array]


def seeding_rows(problem: Problem, observed: Observed) -> SeedingRows:
    """At most a few thousand rows, spread over all; made on the host, once per fit."""
    plan = problem.plan
    telling = plan.remember(("telling", problem.arguments.layout), lambda: _telling(problem))
    if observed.num_rows > _SEEDING_ROWS and not plan.by_row:
        rng = np.random.default_rng(observed.num_rows)
        observed = observed.take(rng.choice(observed.num_rows, _SEEDING_ROWS, replace=False))
        problem = problem.at(plan.arrange(observed))
    points = tuple(
        on_device(_seen_from(plan, group, telling, observed)) for group in started_together(plan)
    )
    known = {name: on_device(labels) for name, labels in (observed.labels or {}).items()}
    return SeedingRows(points, problem.blocks, known)


def started_together(plan: Plan) -> list[tuple[str, ...]]:
    """Latents that are started together: those with the same labels, whose data look alike."""
    found, left = [], list(plan.graph.names)
    while left:
        group = plan.labels.group_of(left[0])
        names = group.latents if group and _alike(plan, group.latents) else (left[0],)
        found.append(names)
        left = [name for name in left if name not in names]
    return found


def _children(plan: Plan, latent: str) -> list[str]:
    """Observed sites that depend on a latent."""
    place = plan.graph.names.index(latent)
    return [site.name for site in plan.reading.observed if place in plan.graph.scope(site.name)]


def _alike(plan: Plan, latents: tuple[str, ...]) -> bool:
    shapes = {site.name: site.shape for site in plan.reading.observed}
    seen = {tuple(shapes[name] for name in _children(plan, latent)) for latent in latents}
    return len(seen) == 1


def _telling(problem: Problem) -> frozenset[str]:
    """Names of observed sites whose components have one density for all rows: only of these are values
    close together where rows belong together. Those of a regression are not."""
    plan = problem.plan
    told = set()

    def look(problem: Problem) -> None:
        sites = sites_by_component(problem, rough_values(plan))
        width, axis = plan.reading.width, plan.reading.rows.dim
        for site in plan.reading.observed:
            peeled = peel(sites[site.name]["fn"])
            shape = peeled.base.batch_shape
            shape = shape[: max(0, len(shape) - peeled.reinterpreted)]
            if ((1,) * (width - len(shape)) + shape)[axis] == 1:
                told.add(site.name)

    jax.eval_shape(look, Problem(plan, problem.arguments))
    return frozenset(told)


def _seen_from(
    plan: Plan, latents: tuple[str, ...], telling: frozenset[str], observed: Observed
) -> np.ndarray:
    """What tells of each of these latents, one below the other: the sites that depend on it, or all data
    where none does. No columns where all of these are regressions."""
    parts = []
    for latent in latents:
        children = _children(plan, latent)
        names = children or [site.name for site in plan.reading.observed]
        parts.append(_points(observed, [name for name in names if name in telling], not children))
    return _scaled(np.concatenate(parts))


def _points(observed: Observed, names: list[str], labels: bool) -> np.ndarray:
    """Observed sites side by side, (N, D), NaN where they are missing; known labels too where asked."""
    columns = [np.zeros((observed.num_rows, 0))]
    for name in names:
        column = np.asarray(observed.values[name], float).reshape(observed.num_rows, -1)
        present = observed.present[name]
        if present is not None:
            column = np.where(np.asarray(present).reshape(column.shape), column, np.nan)
        columns.append(column)
    for known in (observed.labels or {}).values() if labels else ():
        columns.append(np.where(known < 0, np.nan, known)[:, None])
    return np.concatenate(columns, axis=1)


def _scaled(points: np.ndarray) -> np.ndarray:
    """Columns centred and scaled; missing cells at the mean."""
    points = points[:, np.isfinite(points).any(axis=0)]
    points = points - np.nanmean(points, axis=0)
    spread = np.nanstd(points, axis=0)
    points = np.nan_to_num(points / np.where(spread > 0, spread, 1.0))
    return points.astype(np.dtype(jnp.result_type(float)))


def rough_values(plan: Plan) -> Values:
    """Values of ordinary size, the same for every start: from where the first M step leaves."""
    return {name: jnp.asarray(value[0], float) for name, value in plan.points.items()}


def _leaving(problem: Problem, rng_keys: Array) -> Values:
    """Where the first M step leaves from, leading with starts: rough values, but `numpyro.param` sites
    at the program's own initial values, drawn anew for each start."""
    plan, rough = problem.plan, rough_values(problem.plan)
    wide = {name: jnp.broadcast_to(v, (len(rng_keys), *v.shape)) for name, v in rough.items()}
    own = partial(initial_values, plan.program, plan.reading, problem.arguments, rough)
    return {**wide, **jax.vmap(own)(rng_keys)}


def own_starts(problem: Problem, rng_keys: Array) -> Values:
    """Initial values that the program itself gives `numpyro.param` sites, leading with starts.

    A network starts from its initialiser, drawn anew for each start. An array whose entries are all
    equal tells no component from another: it is left out, and started from the data.

    Raises :class:`ProgramError` where an initial value is outside the support of its site.
    """
    sites = [site for site in problem.plan.reading.parameters if site.family == "param"]
    if not sites:
        return {}
    own = replace(problem, arranged=None).run(_leaving, rng_keys)
    for site in sites:
        if not bool(jnp.all(site.support(own[site.name]))):
            raise ProgramError(
                f"the initial value of numpyro.param site '{site.name}' is outside its support "
                f"({site.support}); give one inside"
            )
    pytrees = array_names(problem.plan.program)
    return {
        site.name: own[site.name]
        for site in sites
        if site.name in pytrees or np.ptp(np.asarray(own[site.name][0])) > 0
    }


def starting_statistics(
    problem: Problem,
    rows: SeedingRows,
    rough: Values,
    rng_keys: Array,
    seeding: Seeding = kmeans_plus_plus,
) -> Starting:
    """Statistics for each key, leading with an axis of starts; to be called under jit."""
    plan = problem.plan
    graph, evaluation = plan.graph, problem.evaluate(rough)
    together, ordered = started_together(plan), ordered_sites(plan)

    def of(shares: dict[str, Array]) -> row_pass.Statistics:
        ordered = [shares[name] for name in graph.names]
        weights = independent(graph, ordered, rows.blocks.num_rows)
        return row_pass.weighted_statistics(graph, plan.families, evaluation, rows.blocks, weights)

    def log_likelihood(statistics: row_pass.Statistics, values: Values) -> Array:
        told = problem.evaluate(values)
        return sum(expected_factors(plan.families, told, statistics).values(), jnp.zeros(()))

    def one(rng_key: Array) -> tuple[row_pass.Statistics, Values]:
        shares: dict[str, Array] = {}
        for i, (names, points) in enumerate(zip(together, rows.points, strict=True)):
            size = graph.sizes[graph.names.index(names[0])]
            key = rng_key if len(together) == 1 else random.fold_in(rng_key, i)
            found = _partition(seeding, key, points, size).reshape(size, len(names), -1)
            found = _in_agreement(found, [rows.known.get(name) for name in names])
            shares |= {name: found[:, j] for j, name in enumerate(names)}
        shares = {name: _told(share, rows.known.get(name)) for name, share in shares.items()}
        made, values = of(shares), near
        for site in ordered:
            order, values = sorted_along(site, partial(log_likelihood, made), values)
            shares |= {name: shares[name][order] for name in latents_along(plan, site)}
            made = of(shares)
        return made, values

    count = rows.blocks.num_rows
    uniform = {
        n: jnp.full((s, count), 1.0 / s) for n, s in zip(graph.names, graph.sizes, strict=True)
    }
    alike = of({name: _told(share, rows.known.get(name)) for name, share in uniform.items()})
    near = in_units_of_data(plan, problem.expected_log_joint(alike), rough)
    partitioned, values = jax.vmap(one)(rng_keys)
    values |= jax.vmap(
        partial(initial_values, plan.program, plan.reading, problem.arguments, rough)
    )(rng_keys)
    if ordered:  # alike, components in order would be in a corner of their support
        return Starting(partitioned, partitioned, values)
    wide = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), alike, partitioned)
    return Starting(wide, partitioned, values)


def _partition(seeding: Seeding, rng_key: Array, points: Array, size: int) -> Array:
    """Shares (K, M) of points partitioned about seeds, softened; at random where they are all alike."""
    if points.shape[1] == 0:
        hard = jax.nn.one_hot(random.randint(rng_key, points.shape[:1], 0, size), size, axis=0)
    else:
        seeds = points[seeding(rng_key, points, size)]
        squares = jnp.sum((points[None] - seeds[:, None]) ** 2, axis=-1)
        hard = jax.nn.one_hot(jnp.argmin(squares, axis=0), size, axis=0)
    return (1 - SOFTENING) * hard + SOFTENING / size


def _in_agreement(shares: Array, known: list[Array | None]) -> Array:
    """Shares (K, latents, M) with components in an order that agrees with known labels (M,) of latents:
    one after the other, the component and the label that have most rows in common."""
    size = shares.shape[0]
    # a label that is not known has a row of zeros
    common = [
        share @ jax.nn.one_hot(labels, size, dtype=share.dtype)
        for share, labels in zip(jnp.moveaxis(shares, 1, 0), known, strict=True)
        if labels is not None
    ]
    if not common:
        return shares

    def match(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        left, order = found
        component, label = jnp.divmod(jnp.argmax(left), size)
        left = left.at[component].set(-1.0).at[:, label].set(-1.0)
        return left, order.at[label].set(component)

    order = jnp.zeros(size, int)
    return shares[jax.lax.fori_loop(0, size, match, (sum(common), order))[1]]


def _told(share: Array, known: Array | None) -> Array:
    """Shares (K, M) with known labels in their place."""
    if known is None:
        return share
    return jnp.where(known >= 0, jax.nn.one_hot(known, share.shape[0], axis=0), share)


def starting_values(
    problem: Problem, seeding: Seeding, rows: SeedingRows, rng_keys: Array
) -> Values:
    """Starting values for each key, leading with an axis of starts; to be called under jit.

    Every component is fitted to all rows alike, then to its part of them.
    """
    rough = rough_values(problem.plan)
    starting = starting_statistics(problem, rows, rough, rng_keys, seeding)

    def one(starting: Starting) -> Values:
        def once(values: Values, last: Array) -> tuple[Values, None]:
            statistics = jax.tree.map(
                partial(jnp.where, last), starting.partitioned, starting.alike
            )
            return maximise_blocks(problem, statistics, values)[0], None

        lasts = jnp.arange(ALIKE_STEPS + 1) == ALIKE_STEPS
        return jax.lax.scan(once, starting.values, lasts)[0]

    return jax.vmap(one)(starting)


def check_names(plan: Plan, names: Iterable[str], argument: str) -> None:
    """Raise :class:`ProgramError` where a name is no parameter of the program."""
    known = plan.reading.parameter_names
    for name in names:
        if name not in known:
            raise ProgramError(
                f"{argument} names '{name}', which is no parameter of the program; "
                f"its parameters are {', '.join(known)}"
            )


def told_values(problem: Problem, init: dict[str, Any] | None, rng_keys: Array) -> Values:
    """Values to start from, as far as they are told, leading with starts: by the user, or else by the
    program to `numpyro.param` sites.

    Raises :class:`ProgramError` where they do not fit their sites.
    """
    plan = problem.plan
    given = _given_values(plan, array_values(plan.program, init or {}), len(rng_keys))
    return {**own_starts(problem, rng_keys), **given}


def _given_values(plan: Plan, init: dict[str, Any], restarts: int) -> Values:
    """Initial values told by the user, checked and with an axis of starts."""
    known = {site.name: site for site in plan.reading.parameters}
    values: Values = {}
    check_names(plan, init, "init")
    for name, given in init.items():
        given, shape = jnp.asarray(given, float), known[name].shape
        if given.shape not in (shape, (restarts, *shape)):
            raise ProgramError(
                f"the initial value of '{name}' has shape {given.shape}; give {shape}, "
                f"or {(restarts, *shape)} for one value per start"
            )
        inside = known[name].support(given)
        if not bool(jnp.all(inside)):
            raise ProgramError(
                f"the initial value of '{name}' is outside its support "
                f"({known[name].support}); give one inside"
            )
        values[name] = jnp.broadcast_to(given, (restarts, *shape))
    return values
