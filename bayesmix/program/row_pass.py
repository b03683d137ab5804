"""One pass over the rows: the log likelihood with the latents summed out, and expected statistics.

Rows are visited in blocks under one `lax.scan`; nothing of size (N, K, D) exists, and responsibilities
are kept only where a factor has no statistics of its own. What the pass does with a row's posterior is a
part: :func:`expect` takes the responsibilities (EM), :func:`draw` one value of each latent (Gibbs),
:func:`harden` the most probable values (k-means), and so on.

Source of the identity used for gradients: the score of the marginal likelihood is the expected score of
the complete likelihood (Fisher's identity; Dempster, Laird & Rubin 1977, *JRSS B* 39, eq. 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.custom_derivatives import SymbolicZero

from ..families.augmented import RowFamily, Statistic
from ..families.likelihoods import Family
from . import elimination
from .blocks import Blocks
from .devices import over_blocks
from .elimination import Graph, Tables
from .evaluate import Evaluation
from .parts import Lots, Part, Weighed, draw, expect, lots
from .statistics import Statistics, expected_factors


class Pass(NamedTuple):
    """What one pass returns: log likelihood (), statistics, and what the part said of each row."""

    log_likelihood: Array
    statistics: Statistics
    rows: Any


class _Tables(NamedTuple):
    """What the tables of one block are made from: prepared families, the latents' own (K,) or by block
    (B, K, n), and tables by row, in blocks."""

    prepared: dict[str, Any]
    latent: dict[str, Array]
    by_row: dict[str, Array]


def _tables(families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks) -> _Tables:
    prepared, by_row = {}, {}
    for name, family in families.items():
        parameters = evaluation.components[name]
        if family is None:
            by_row[name] = blocks.distribute(parameters)
        elif isinstance(family, RowFamily):
            by_row[name] = blocks.distribute(parameters.log_prob)
        elif name in blocks.patterns:
            several = jax.vmap(family.prepare, (None, 0))
            prepared[name] = several(parameters, blocks.patterns[name])
        else:
            prepared[name] = family.prepare(parameters, None)
    latent = {}
    for name, table in evaluation.latent.items():
        if table.ndim == 1:
            latent[name] = table
        else:
            by_row[name] = blocks.distribute(table)
    return _Tables(prepared, latent, by_row)


class _Block(NamedTuple):
    """One block: its rows, tables of its rows, its pattern and known labels."""

    rows: dict[str, Any]
    by_row: dict[str, Array]
    pattern: Array | None
    labels: dict[str, Array] | None


def _every_block(tables: _Tables, blocks: Blocks) -> _Block:
    return _Block(blocks.rows, tables.by_row, blocks.pattern, blocks.labels)


def _at_pattern(tables: _Tables, block: _Block, blocks: Blocks) -> dict[str, Any]:
    """Prepared families for one block: those with patterns, at the block's own."""
    return {
        name: jax.tree.map(lambda x: x[block.pattern], value) if name in blocks.patterns else value
        for name, value in tables.prepared.items()
    }


def _each(
    families: dict[str, Statistic], prepared: dict[str, Any], tables: _Tables, block: _Block
) -> dict[str, Array]:
    """Every log factor of one block by its site, (K, n) or (K, 1)."""
    found = {name: table[:, None] for name, table in tables.latent.items()} | block.by_row
    for name, family in families.items():
        if isinstance(family, Family):
            found[name] = family.log_prob(prepared[name], block.rows[name])
    return found


def _of_block(
    graph: Graph,
    families: dict[str, Statistic],
    prepared: dict[str, Any],
    tables: _Tables,
    block: _Block,
) -> Tables:
    """The sum of the log factors of each clique for one block, (K, n) or (K, 1); -inf where a known
    label says no."""
    found: list[Any] = [jnp.zeros((size, 1)) for size in graph.table_sizes]
    for name, table in _each(families, prepared, tables, block).items():
        found[graph.clique_of[name]] += table
    for name, labels in (block.labels or {}).items():
        own = graph.own(name)
        other = (labels >= 0) & (jnp.arange(graph.size(own))[:, None] != labels)
        found[own] = jnp.where(other, -jnp.inf, found[own])
    return tuple(found)


def log_factors(
    graph: Graph, families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks
) -> Tables:
    """The sum of the log factors of each clique for every row, (K, N)."""
    tables = _tables(families, evaluation, blocks)

    def visit(sums: tuple[()], block: _Block) -> tuple[tuple[()], Tables]:
        found = _of_block(graph, families, _at_pattern(tables, block, blocks), tables, block)
        size = blocks.weight.shape[1]
        return sums, tuple(jnp.broadcast_to(x, (x.shape[0], size)) for x in found)

    _, kept = over_blocks(visit, tuple, (_every_block(tables, blocks),), blocks.mesh)
    return jax.tree.map(blocks.restore, kept)


def log_evidence(
    graph: Graph, families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks
) -> Array:
    """log p(x_i | theta) of every row with the latents summed out, (N,)."""
    tables = _tables(families, evaluation, blocks)

    def visit(sums: tuple[()], block: _Block) -> tuple[tuple[()], Array]:
        found = _of_block(graph, families, _at_pattern(tables, block, blocks), tables, block)
        return sums, jnp.broadcast_to(elimination.sum_out(graph, found), blocks.weight.shape[1:])

    _, kept = over_blocks(visit, tuple, (_every_block(tables, blocks),), blocks.mesh)
    return blocks.restore(kept)


def each_factor(
    families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks, place: Any = 0
) -> dict[str, Array]:
    """Every log factor by its site, (K, n) or (K, 1), over the rows of the block at this place."""
    tables = _tables(families, evaluation, blocks)
    block = jax.tree.map(lambda x: x[place], _every_block(tables, blocks))
    return _each(families, _at_pattern(tables, block, blocks), tables, block)


def passes(
    graph: Graph,
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    part: Part,
    told: Any = None,
    hidden_key: Array | None = None,
) -> Pass:
    """One pass over all rows with a part that turns each block's tables into weights.

    `told` leads with blocks: what the part is told of each. `log_likelihood` is the sum of what the part
    gives as log evidence. Row families' hidden values are expected, or drawn with `hidden_key`.
    """

    def weigh(tables: Callable[[], Tables], told: Any) -> Weighed:
        return part(graph, tables(), told)

    found = _accumulate(graph, families, evaluation, blocks, weigh, told)
    hidden = hidden_values(families, evaluation, hidden_key)
    return found._replace(statistics=found.statistics._replace(hidden=hidden))


def drawn_pass(
    graph: Graph,
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    rng_key: Array,
    part: Part = draw,
) -> Pass:
    """One pass with :func:`draw`, or a part that is told the same: all hidden values of the rows drawn
    jointly."""
    count, rows = blocks.weight.shape

    def of_block(key: Array) -> Lots:
        return lots(graph, key, rows, blocks.weight.dtype)

    # splitting is folding in 0, 1, ...: a number that no block has
    hidden_key = random.fold_in(rng_key, count)
    told = jax.vmap(of_block)(random.split(rng_key, count))
    return passes(graph, families, evaluation, blocks, part, told, hidden_key)


def hidden_values(
    families: dict[str, Statistic], evaluation: Evaluation, rng_key: Array | None
) -> dict[str, Any]:
    """Each row family's hidden values given the data, expected or drawn."""
    found = {}
    for i, (name, family) in enumerate(families.items()):
        if isinstance(family, RowFamily):
            factor = evaluation.components[name]
            key = None if rng_key is None else random.fold_in(rng_key, i)
            found[name] = family.expect(factor.parameters, factor.value, key)
    return found


def clear(families: dict[str, Statistic], evaluation: Evaluation) -> Array:
    """Can every row family's parameters be told from its distribution?"""
    told = [
        family.clear(evaluation.components[name].parameters)
        for name, family in families.items()
        if isinstance(family, RowFamily)
    ]
    return jnp.all(jnp.stack(told)) if told else jnp.asarray(True)


def weighted_statistics(
    graph: Graph,
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    weights: Tables,
) -> Statistics:
    """Statistics under given responsibilities (K, N) of each clique."""

    def weigh(tables: Callable[[], Tables], given: Tables) -> Weighed:
        nothing = jnp.zeros(blocks.weight.shape[1], given[0].dtype)
        return Weighed(nothing, given, None, None)

    given = tuple(blocks.distribute(each) for each in weights)
    found = _accumulate(graph, families, evaluation, blocks, weigh, given).statistics
    return found._replace(hidden=hidden_values(families, evaluation, None))


def _accumulate(
    graph: Graph,
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    weigh: Callable[[Callable[[], Tables], Any], Weighed],
    given: Any,
) -> Pass:
    """Add up statistics over blocks; `weigh(tables, given[block])` gives the log evidence of each row
    and the weights of each clique's joint values."""
    tables = _tables(families, evaluation, blocks)
    kept_cliques = sorted({graph.clique_of[name] for name in tables.by_row})

    def of_block(block: _Block, row_weight: Array, told: Any) -> tuple[_Sums, Any]:
        prepared = _at_pattern(tables, block, blocks)
        found = weigh(lambda: _of_block(graph, families, prepared, tables, block), told)
        # padding and rows of no weight may hold anything
        counted = row_weight > 0
        weights = [jnp.where(counted, each, 0.0) * row_weight for each in found.weights]
        keys = _keys(found.hidden_key, len(families))
        moments: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for (name, family), key in zip(families.items(), keys, strict=True):
            if isinstance(family, Family):
                own = weights[graph.clique_of[name]]
                sums = family.accumulate(prepared[name], block.rows[name], own, key)
                moments[_apart(family, name, blocks)][name] = sums
        counts = {name: jnp.sum(weights[graph.clique_of[name]], axis=1) for name in tables.latent}
        evidence = _summed(jnp.where(counted, found.log_evidence, 0.0) * row_weight)
        kept = {i: weights[i] for i in kept_cliques}
        return _Sums(evidence, jnp.zeros_like(evidence), counts, *moments), (kept, found.said)

    def visit(sums: _Sums, block: _Block, *rest: Any) -> tuple[_Sums, Any]:
        found, kept = of_block(block, *rest)
        apart = jax.tree.map(
            lambda total, new: total.at[block.pattern].add(new), sums.by_pattern, found.by_pattern
        )
        total = jax.tree.map(jnp.add, sums._replace(by_pattern={}), found._replace(by_pattern={}))
        lost = _rounded_off(sums.log_likelihood, found.log_likelihood, total.log_likelihood)
        return total._replace(by_pattern=apart, lost=sums.lost + lost), kept

    every = (_every_block(tables, blocks), blocks.weight, given)

    def nothing() -> _Sums:
        found = jax.eval_shape(of_block, *jax.tree.map(lambda x: x[0], every))[0]
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
        apart = {
            name: jax.tree.map(partial(_for_each, blocks.patterns[name].shape[0]), zeros)
            for name, zeros in total.by_pattern.items()
        }
        return total._replace(by_pattern=apart)

    sums, kept = over_blocks(visit, nothing, every, blocks.mesh)
    weights, said = jax.tree.map(blocks.restore, kept)
    moments = _finished(families, tables, sums, blocks)
    by_row = {name: weights[graph.clique_of[name]] for name in tables.by_row}
    return Pass(sums.log_likelihood + sums.lost, Statistics(sums.counts, moments, by_row, {}), said)


def _for_each(count: int, array: Array) -> Array:
    return jnp.broadcast_to(array, (count, *array.shape))


def _summed(values: Array) -> Array:
    """The sum (), in single precision on two levels: in one long row later terms would be rounded."""
    if values.dtype != jnp.float32:
        return jnp.sum(values)
    width = max(1, math.isqrt(values.size))
    padded = jnp.pad(values, (0, -values.size % width))
    return jnp.sum(jnp.sum(padded.reshape(-1, width), axis=1))


def _rounded_off(total: Array, term: Array, found: Array) -> Array:
    """What adding a term to a total lost to rounding (Neumaier 1974, *ZAMM* 54, 39-51)."""
    return jnp.where(
        jnp.abs(total) >= jnp.abs(term), (total - found) + term, (term - found) + total
    )


class _Sums(NamedTuple):
    """What a pass adds up: log likelihood and what rounding took from it, counts of latents, and
    families' sums over all rows, or apart for each pattern of missing cells."""

    log_likelihood: Array
    lost: Array
    counts: dict[str, Array]
    moments: dict[str, Any]
    by_pattern: dict[str, Any]


def _apart(family: Family, name: str, blocks: Blocks) -> bool:
    """Are sums of rows with different cells missing to be kept apart until they are completed?"""
    return family.complete is not None and name in blocks.patterns


def _finished(
    families: dict[str, Statistic], tables: _Tables, sums: _Sums, blocks: Blocks
) -> dict[str, Any]:
    """Statistics of each family from its sums."""
    found = {}
    for name, family in families.items():
        if isinstance(family, Family):
            if family.complete is not None and name in sums.by_pattern:
                several = jax.vmap(family.complete)(tables.prepared[name], sums.by_pattern[name])
                total = jax.tree.map(lambda x: jnp.sum(x, axis=0), several)
            else:
                total = sums.moments[name]
            found[name] = family.finish(_any_pattern(tables, name, blocks), total)
    return found


def _keys(rng_key: Array | None, count: int) -> list[Array | None]:
    return [None] * count if rng_key is None else list(random.split(rng_key, count))


def _any_pattern(tables: _Tables, name: str, blocks: Blocks) -> Any:
    """A prepared family as far as it is the same for all patterns."""
    prepared = tables.prepared[name]
    return jax.tree.map(lambda x: x[0], prepared) if name in blocks.patterns else prepared


def log_likelihood(
    graph: Graph, families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks
) -> Array:
    """sum_i log p(x_i | theta), differentiable through statistics instead of through the rows.

    The tangent is Q's tangent at the current statistics (Fisher's identity), so a gradient costs what
    the value costs, in N and in memory.
    """

    # everything that may be traced is an argument, so that the function can be differentiated under jit

    @jax.custom_jvp
    def value(parts: _Parts, blocks: Blocks) -> Array:
        return passes(graph, families, _at(parts), blocks, expect).log_likelihood

    @partial(value.defjvp, symbolic_zeros=True)
    def _tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (parts, blocks), (moved, rows_moved) = primals, tangents
        moved = jax.tree.map(_numbers, moved, is_leaf=_is_zero)
        # a family that offers the gradient of Q gives it in place of statistics
        scored: dict[str, Statistic] = {
            name: family._replace(finish=family.score)
            for name, family in families.items()
            if isinstance(family, Family) and family.score
        }
        others = {name: family for name, family in families.items() if name not in scored}
        result = passes(graph, others | scored, _at(parts), blocks, expect)

        def expected(parts: _Parts) -> Array:
            factors = expected_factors(others, _at(parts), result.statistics)
            slopes = {name: result.statistics.moments[name] for name in scored}
            scores = jax.tree.map(jnp.vdot, slopes, {name: parts[1][name] for name in scored})
            return sum((*factors.values(), *jax.tree.leaves(scores)), jnp.zeros(()))

        slope = jax.jvp(expected, (parts,), (moved,))[1]
        if not all(map(_is_zero, jax.tree.leaves(rows_moved, is_leaf=_is_zero))):
            # nobody fits data, so that Fisher's identity is not worth its lines for them
            rows_moved = jax.tree.map(_numbers, rows_moved, is_leaf=_is_zero)

            def of_rows(blocks: Blocks) -> Array:
                return passes(graph, families, _at(parts), blocks, expect).log_likelihood

            slope += jax.jvp(of_rows, (blocks,), (rows_moved,))[1]
        return result.log_likelihood, slope

    return value((evaluation.latent, evaluation.components), blocks)


def _is_zero(tangent: Any) -> bool:
    """Is it a tangent of what does not move?"""
    return isinstance(tangent, SymbolicZero)


def _numbers(tangent: Any) -> Any:
    """A tangent as an array."""
    if not _is_zero(tangent):
        return tangent
    return np.zeros(tangent.shape, tangent.dtype)  # float0 where the primal is not real


_Parts = tuple[dict[str, Array], dict[str, Any]]


def _at(parts: _Parts) -> Evaluation:
    """An evaluation as far as the rows are concerned."""
    latent, components = parts
    return Evaluation({}, latent, components, {})
