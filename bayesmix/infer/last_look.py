"""A last look at where fits ended, by which statuses are made more telling."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from ..families.likelihoods import Family
from ..program import graph as eliminate
from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.compiling import compile_lightly
from ..program.evaluate import Evaluation, Values
from ..program.plan import Plan
from .outcome import EMPTY
from .starts import rough_values

_MOVED = 8  # roundings by which parameters are moved
_NARROW = 1e5  # roundings that are worth a closer look
_UNSTEADY = 0.5  # nats by which the density of a row may change then


class Look(NamedTuple):
    """What a last look says, by start: are all components alike since the start; have two become the
    same; might the density be one of rounding alone; and deterministic sites."""

    symmetric: Array
    coincide: Array
    unsteady: Array
    derived: Values


def last_look(plan: Plan, arguments: Arguments, blocks: Blocks, states: Any) -> Look:
    """A look at fits, which lead with starts: values, statistics, step. To be called under jit."""
    places = blocks.telling()

    def one(values: Values) -> tuple[Array, list[Array], Array, Values]:
        evaluation = plan.evaluate(arguments, values)
        seen = [row_pass.each_factor(plan.families, evaluation, blocks, place) for place in places]
        spread = [
            jnp.max(jnp.max(factors[name], axis=0) - jnp.min(factors[name], axis=0))
            for factors in seen
            for name in plan.families
            if plan.graph.scope(name)
        ]
        apart = jnp.max(jnp.stack(spread)) if spread else jnp.asarray(jnp.inf)
        same = [_same(plan, seen, i) for i in _distinct(plan)]
        return apart, same, _narrow(plan, evaluation), evaluation.deterministic

    # ordinary values come last: components that are the same there are so by the program's own design
    usual = jax.tree.map(lambda x, y: x.astype(y.dtype)[None], rough_values(plan), states.values)
    every = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), states.values, usual)
    apart, same, unsteady, derived = jax.vmap(one)(every)
    apart, unsteady, derived = jax.tree.map(lambda x: x[:-1], (apart, unsteady, derived))
    tiny = 1e3 * jnp.finfo(apart.dtype).eps
    symmetric = (plan.reading.num_components > 1) & (states.step <= 3) & (apart <= tiny)
    coincide = jnp.zeros(symmetric.shape, bool)
    for i, pairs in zip(_distinct(plan), same, strict=True):
        there = jax.vmap(lambda statistics, i=i: _counts(plan, statistics, i))(states.statistics)
        there = there > EMPTY
        met = pairs[:-1] & ~pairs[-1] & there[:, None] & there[:, :, None]
        coincide |= jnp.any(met, axis=(1, 2))
    if plan.by_row:
        unsteady |= jax.vmap(lambda *fit: _unsteady(plan, arguments, *fit))(
            states.statistics, states.values
        )
    return Look(symmetric, coincide, unsteady, derived)


def _distinct(plan: Plan) -> list[int]:
    """One latent of each group with the same labels, by its place, where none of them is known."""
    known = {latent.name for latent in plan.reading.latents if latent.observed}
    found, met = [], set(known)
    for place, name in enumerate(plan.graph.names):
        group = plan.labels.group_of(name)
        names = set(group.latents) if group else {name}
        if not names & met and plan.graph.sizes[place] > 1:
            found.append(place)
        met |= names
    return found


def _same(plan: Plan, seen: list[dict[str, Array]], latent: int) -> Array:
    """Which two values of a latent (S, S) have the same factors below them, in all rows, but for
    rounding."""
    graph, tables = plan.graph, []
    for factors in seen:
        for name, table in factors.items():
            scope = graph.scope(name)
            if latent in scope and name != graph.names[latent]:
                full = jnp.reshape(table, (*(graph.sizes[i] for i in scope), -1))
                full = jnp.moveaxis(full, scope.index(latent), 0)
                tables.append(full.reshape(full.shape[0], -1))
    size = graph.sizes[latent]
    if not tables:
        return jnp.zeros((size, size), bool)
    table = jnp.concatenate(tables, axis=1)
    tiny = 1e3 * jnp.finfo(table.dtype).eps

    def like(row: Array) -> Array:
        near = jnp.abs(table - row) <= tiny * (1 + jnp.abs(row))
        return jnp.all((table == row) | near, axis=1)

    return jax.lax.map(like, table) & ~jnp.eye(size, dtype=bool)


def _counts(plan: Plan, statistics: row_pass.Statistics, latent: int) -> Array:
    """Rows that each value of a latent explains, (S,)."""
    graph, name = plan.graph, plan.graph.names[latent]
    if name in statistics.counts:
        counts = statistics.counts[name]
    else:
        counts = jnp.sum(statistics.responsibilities[name], axis=-1)
    scope = graph.scope(name)
    full = jnp.reshape(counts, tuple(graph.sizes[i] for i in scope))
    return jnp.sum(jnp.moveaxis(full, scope.index(latent), 0).reshape(graph.sizes[latent], -1), 1)


def _moved(plan: Plan, values: Values) -> Values:
    """Values a few roundings away, a matrix as a whole."""
    moved = {}
    for number, site in enumerate(plan.reading.parameters):
        value = values[site.name]
        own = (*value.shape[:-2], 1, 1) if site.event_ndim > 1 else value.shape
        share = random.uniform(random.key(number), own, value.dtype, 0.25, 1.0)
        moved[site.name] = value * (1 - _MOVED * jnp.finfo(value.dtype).eps * share)
    return moved


def _narrow(plan: Plan, evaluation: Evaluation) -> Array:
    """Is a component of some family hardly wider, in some direction, than roundings of its place?"""
    found = jnp.asarray(False)
    for name, family in plan.families.items():
        if isinstance(family, Family):
            mean, covariance = family.moments(evaluation.components[name])
            factor = jnp.linalg.cholesky(covariance)
            width = jnp.min(jnp.diagonal(factor, axis1=-2, axis2=-1), axis=-1)
            near = _NARROW * jnp.finfo(width.dtype).eps * jnp.max(jnp.abs(mean), axis=-1)
            found |= jnp.any(~(width > near))
    return found


def _unsteady(
    plan: Plan, arguments: Arguments, statistics: row_pass.Statistics, values: Values
) -> Array:
    """Does rounding of the parameters change Q + log prior by more than it may change a single row?"""
    log_joint = plan.expected_log_joint(arguments, statistics)
    return ~(jnp.abs(log_joint(_moved(plan, values)) - log_joint(values)) <= _UNSTEADY)


def unsteady_row(plan: Plan, arguments: Arguments, blocks: Blocks, values: Values) -> bool:
    """Is there a row whose density is one of rounding alone? A component so narrow that it is no wider
    than the roundings of its place leaves one."""

    def made() -> Any:
        def change(arrays: Any, blocks: Blocks, values: Values) -> Array:
            def density(at: Values) -> Array:
                told = Arguments(arrays, layout)
                return eliminate.sum_out(plan.graph, plan.log_factors(told, blocks, at))

            return jnp.max(jnp.abs(density(_moved(plan, values)) - density(values)))

        return compile_lightly(change)

    layout = arguments.layout
    change = plan.remember(("unsteady", layout), made)(arguments.arrays, blocks, values)
    return not float(change) <= _UNSTEADY
