"""Labels drawn one row after another with parameters integrated out; the evidence of given labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from ..program import elimination, row_pass
from ..program.blocks import Blocks
from ..program.elimination import Graph, Tables
from ..program.evaluate import Values
from ..program.parts import Weighed
from ..program.problem import Problem
from .collapsed_blocks import (
    Addends,
    Unit,
    anchors_of,
    log_conditional,
    of_row,
    read,
)


class _Rows(NamedTuple):
    """Rows one after another: what each adds to the coefficients of every unit in each component
    (n, K, ...); its log density there (n, K); label, known label (-1: none) and weight (n,); Gumbel
    noise (n, K)."""

    additions: tuple[Addends, ...]
    table: Array
    label: Array
    known: Array
    weight: Array
    noise: Array


def told_labels(graph: Graph, tables: Tables, labels: Array) -> Weighed:
    """A part that takes each row's label as it is told."""
    found = elimination.sum_out(graph, tables)
    return Weighed(found, elimination.indicators(graph, labels[None], found.dtype), None, None)


def statistics_given(problem: Problem, values: Values, labels: Array) -> row_pass.Pass:
    """Statistics of labels (N,), and log p(x | theta) with the labels summed out."""
    evaluation = problem.evaluate(values)
    told = problem.blocks.distribute(labels)
    return row_pass.passes(
        problem.plan.graph, problem.plan.families, evaluation, problem.blocks, told_labels, told
    )


def candidate(
    problem: Problem, units: tuple[Unit, ...], values: Values, labels: Array
) -> tuple[Array, Array]:
    """log p(x, z, theta) at `values`, and the log conditional density of each unit there, (units,).

    The first less the sum of the second is log p(x, z | rest) whatever the values of the units (Besag
    1989, *Biometrika* 76, 183). All constants are there.
    """
    blocks = problem.blocks
    anchors = anchors_of(units, values)
    (table,) = problem.log_factors(anchors)
    own = jnp.take_along_axis(table, labels[None], axis=0)[0]
    weight = blocks.restore(blocks.weight)
    found = statistics_given(problem, anchors, labels)
    log_joint = problem.expected_log_joint(found.statistics)
    log_prior = jax.jit(problem.log_prior)
    conditionals = []
    for unit in units:
        base = read(unit, log_joint, anchors, log_prior)
        conditionals.append(jnp.sum(log_conditional(unit, base, unit.form.added(base))))
    # rows of no weight may hold anything
    rows = jnp.sum(jnp.where(weight > 0, weight * own, 0.0))
    return rows + log_prior(anchors), jnp.stack(conditionals)


class _Begun(NamedTuple):
    """Units at their anchors, the coefficients of all factors at the current labels, a function of one
    row's data giving its additions and its table (K,), and log p(x | theta)."""

    bases: tuple[Any, ...]
    totals: tuple[Addends, ...]
    look: Callable[[dict[str, Any]], tuple[tuple[Addends, ...], Array]]
    log_likelihood: Array


def _begin(problem: Problem, units: tuple[Unit, ...], values: Values, labels: Array) -> _Begun:
    plan, blocks = problem.plan, problem.blocks
    anchors = anchors_of(units, values)
    found = statistics_given(problem, values, labels)
    log_joint = problem.expected_log_joint(found.statistics)
    log_prior = jax.jit(problem.log_prior)
    bases = tuple(read(unit, log_joint, anchors, log_prior) for unit in units)
    totals = tuple(u.form.added(b) for u, b in zip(units, bases, strict=True))
    (latent,) = plan.reading.latents

    def look(rows: dict[str, Any]) -> tuple[tuple[Addends, ...], Array]:
        row = problem.at(_single(blocks, rows))

        def table(values: Values) -> Array:
            (found,) = row.log_factors(values)
            return found[:, 0]

        return tuple(of_row(unit, table, anchors, latent.size) for unit in units), table(anchors)

    return _Begun(bases, totals, look, found.log_likelihood)


def draw_labels(
    problem: Problem, units: tuple[Unit, ...], values: Values, labels: Array, rng_key: Array
) -> tuple[Array, Array]:
    """One sweep over the rows in order: each label drawn from p(z_i | z_-i, x, rest).

    Returns the labels (N,), and log p(x | theta) at `values` with the labels summed out.
    """
    begun = _begin(problem, units, values, labels)

    def redraw(totals: tuple[Addends, ...], row: _Rows) -> tuple[tuple[Addends, ...], Array]:
        without, height = _taken_out(units, begun.bases, totals, row)
        label = jnp.argmax(height + row.noise)
        return _put(units, without, row, label, row.weight), label

    def visit(totals: Any, block: _Told) -> tuple[Any, Array]:
        return jax.lax.scan(redraw, totals, _rows_of(begun, block))

    told = _told(problem, labels, rng_key)
    _, drawn = jax.lax.scan(visit, begun.totals, told)
    return problem.blocks.restore(drawn), begun.log_likelihood


def log_conditionals(
    problem: Problem, units: tuple[Unit, ...], values: Values, labels: Array
) -> Array:
    """log p(z_i = k | z_-i, x, rest) for every row (K, N), all other labels being as told."""
    begun = _begin(problem, units, values, labels)

    def visit(block: _Told) -> Array:
        rows = _rows_of(begun, block)
        heights = jax.vmap(lambda row: _taken_out(units, begun.bases, begun.totals, row)[1])(rows)
        return jax.nn.log_softmax(heights, axis=-1).T

    return problem.blocks.restore(jax.lax.map(visit, _told(problem, labels, random.key(0))))


class _Told(NamedTuple):
    """Rows by site, their labels, known labels (-1: none) and weights, and a key; of all blocks, or of
    one."""

    rows: dict[str, Any]
    label: Array
    known: Array
    weight: Array
    key: Array


def _told(problem: Problem, labels: Array, rng_key: Array) -> _Told:
    (latent,), blocks = problem.plan.reading.latents, problem.blocks
    known = blocks.labels[latent.name] if blocks.labels else jnp.full(blocks.weight.shape, -1)
    keys = random.split(rng_key, blocks.weight.shape[0])
    return _Told(blocks.rows, blocks.distribute(labels), known, blocks.weight, keys)


def _rows_of(begun: _Begun, block: _Told) -> _Rows:
    """The rows of a block, each with what it adds."""
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), block.rows)
    additions, table = jax.vmap(begun.look)(rows)
    noise = random.gumbel(block.key, table.shape, table.dtype)
    return _Rows(additions, table, block.label, block.known, block.weight, noise)


def _single(blocks: Blocks, rows: dict[str, Any]) -> Blocks:
    """One row, without its label or weight, as blocks."""
    alone = jax.tree.map(lambda x: x[None, ..., None], rows)
    return Blocks(alone, jnp.ones((1, 1), blocks.weight.dtype), None, None, {}, None, 1)


def _taken_out(
    units: tuple[Unit, ...], bases: tuple[Any, ...], totals: tuple[Addends, ...], row: _Rows
) -> tuple[tuple[Addends, ...], Array]:
    """The coefficients without a row, and log p(z_i = k | z_-i, x, rest) (K,) up to a constant."""
    without = _put(units, totals, row, row.label, -row.weight)
    height = row.table
    for unit, base, total, added in zip(units, bases, without, row.additions, strict=True):
        height += _gain(unit, base, total, added)
    other = (row.known >= 0) & (jnp.arange(height.size) != row.known)
    return without, jnp.where(other, -jnp.inf, height)


def _gain(unit: Unit, base: Any, total: Addends, added: Addends) -> Array:
    """-log q at the anchor with the row in each component, (K,), less that without it where that differs
    between components."""
    together = jax.tree.map(jnp.add, total, added)
    if unit.groups == 1:
        return -log_conditional(unit, base, together)
    both = jax.tree.map(lambda *pair: jnp.stack(pair), total, together)
    without, within = jax.vmap(lambda each: log_conditional(unit, base, each))(both)
    return without - within


def _put(
    units: tuple[Unit, ...],
    totals: tuple[Addends, ...],
    row: _Rows,
    label: Array,
    weight: Array,
) -> tuple[Addends, ...]:
    """The coefficients with a row's own added `weight` times in the component of its label."""

    def put(unit: Unit, total: Addends, added: Addends) -> Addends:
        group = label if unit.groups > 1 else 0
        return jax.tree.map(lambda x, y: x.at[group].add(weight * y[label]), total, added)

    each = zip(units, totals, row.additions, strict=True)
    return tuple(put(unit, total, added) for unit, total, added in each)
