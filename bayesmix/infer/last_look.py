"""A last look at where fits ended, by which statuses are made more telling."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints

from ..families.forms import base_support
from ..families.likelihoods import Family
from ..program import elimination, row_pass
from ..program.evaluate import Evaluation, Values
from ..program.plan import Plan
from ..program.problem import Problem
from .outcome import EMPTY, Marks
from .starts import rough_values

_MOVED = 8  # roundings by which parameters are moved
_NARROW = 1e5  # roundings that are worth a closer look
_UNSTEADY = 0.5  # nats by which the density of a row may change then


class Look(NamedTuple):
    """What a last look says, by start: are all components alike since the start; might the density be
    one of rounding alone; and deterministic sites."""

    symmetric: Array
    unsteady: Array
    derived: Values


def last_look(problem: Problem, states: Any) -> Look:
    """A look at fits, which lead with starts: values, statistics, step. To be called under jit."""

    plan = problem.plan

    def one(values: Values, statistics: row_pass.Statistics) -> tuple[Array, Array, Values]:
        evaluation = problem.evaluate(values)
        spread = [
            jnp.max(jnp.max(factors[name], axis=0) - jnp.min(factors[name], axis=0))
            for factors in _telling(problem, evaluation)
            for name in plan.families
            if plan.graph.scope(name)
        ]
        apart = jnp.max(jnp.stack(spread)) if spread else jnp.asarray(jnp.inf)
        unsteady = _narrow(plan, evaluation)
        if plan.by_row:
            unsteady |= _unsteady(problem, statistics, values)
        return apart, unsteady, evaluation.deterministic

    apart, unsteady, derived = jax.vmap(one)(states.values, states.statistics)
    tiny = 1e3 * jnp.finfo(apart.dtype).eps
    symmetric = (plan.reading.num_components > 1) & (states.step <= 3) & (apart <= tiny)
    return Look(symmetric, unsteady, derived)


def _telling(problem: Problem, evaluation: Evaluation) -> list[dict[str, Array]]:
    """Every log factor by its site, over the rows of a few blocks."""
    families, blocks = problem.plan.families, problem.blocks
    return [row_pass.each_factor(families, evaluation, blocks, place) for place in blocks.telling()]


def marks_of(problem: Problem, states: Any, look: Look) -> Marks:
    """What a last look says, looked at closely where there is cause to: little is compiled otherwise."""
    narrow, coincide = np.array(look.unsteady), np.zeros(np.shape(look.unsteady), bool)
    host = {name: np.asarray(value) for name, value in states.values.items()}
    for start in range(narrow.size):
        values = {name: value[start] for name, value in host.items()}
        if narrow[start]:
            narrow[start] = unsteady_row(problem, values)
        if _alike(problem.plan, values):
            statistics = jax.tree.map(lambda x, start=start: x[start], states.statistics)
            coincide[start] = bool(problem.run(_coincide, statistics, values))
    return Marks(np.asarray(look.symmetric), coincide, narrow, np.zeros_like(narrow))


def _alike(plan: Plan, values: dict[str, np.ndarray]) -> bool:
    """Have two labels of a group nearly the same values at all sites but those of shares?"""
    shares = (constraints.simplex, constraints.unit_interval)
    support = {site.name: base_support(site.support) for site in plan.reading.parameters}
    for group in plan.labels.groups:
        told = [
            np.moveaxis(values[name], axes[0], 0).reshape(group.size, -1)
            for name, axes in group.axes.items()
            if name in values and not any(support[name] == share for share in shares)
        ]
        if told:
            table = np.concatenate(told, axis=1)
            order = np.lexsort(table.T)
            one, other = table[order[1:]], table[order[:-1]]
            if np.isclose(one, other, rtol=1e-5, atol=0).all(axis=1).any():
                return True
    return False


def _coincide(problem: Problem, statistics: row_pass.Statistics, values: Values) -> Array:
    """Have two components that explain rows become the same, and not by the program's own design?"""
    plan, distinct = problem.plan, _distinct(problem.plan)

    def same(at: Values) -> list[Array]:
        seen = _telling(problem, problem.evaluate(at))
        return [_same(plan, seen, i) for i in distinct]

    # components that are the same at ordinary values are so by design
    found = [jnp.asarray(False)]
    for i, here, usual in zip(distinct, same(values), same(rough_values(plan)), strict=True):
        there = _counts(plan, statistics, i) > EMPTY
        found.append(jnp.any(here & ~usual & there & there[:, None]))
    return jnp.any(jnp.stack(found))


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
    moved, rng = {}, np.random.default_rng(0)
    for site in plan.reading.parameters:
        value = values[site.name]
        own = (*value.shape[:-2], 1, 1) if site.event_ndim > 1 else value.shape
        step = _MOVED * jnp.finfo(value.dtype).eps * rng.uniform(0.25, 1.0, own)
        moved[site.name] = value * (1 - step).astype(value.dtype)
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


def _unsteady(problem: Problem, statistics: row_pass.Statistics, values: Values) -> Array:
    """Does rounding of the parameters change Q + log prior by more than it may change a single row?"""
    both = jax.tree.map(lambda *each: jnp.stack(each), values, _moved(problem.plan, values))
    # a loop, so that the density is compiled once
    heights = jax.lax.map(problem.expected_log_joint(statistics), both)
    return ~(jnp.abs(heights[1] - heights[0]) <= _UNSTEADY)


def unsteady_row(problem: Problem, values: Values) -> bool:
    """Is there a row whose density is one of rounding alone? A component so narrow that it is no wider
    than the roundings of its place leaves one."""
    return not float(problem.run(_change, values)) <= _UNSTEADY


def _change(problem: Problem, values: Values) -> Array:
    """By how much the density of a row changes at most where parameters move by roundings."""

    def density(at: Values) -> Array:
        return elimination.sum_out(problem.plan.graph, problem.log_factors(at))

    return jnp.max(jnp.abs(density(_moved(problem.plan, values)) - density(values)))
