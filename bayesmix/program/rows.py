"""One pass over the rows: the log likelihood with the latents summed out, and expected statistics.

Rows are visited in blocks under one `lax.scan`; nothing of size (N, K, D) exists, and responsibilities
are kept only where a factor has no statistics of its own. What the pass does with a row's posterior is a
part: :func:`expect` takes the responsibilities (EM), :func:`draw` one value of each latent (Gibbs),
:func:`harden` the most probable values (k-means), and so on.

Source of the identity used for gradients: the score of the marginal likelihood is the expected score of
the complete likelihood (Fisher's identity; Dempster, Laird & Rubin 1977, *JRSS B* 39, eq. 2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from ..families.augmented import RowFamily, Statistic
from ..families.likelihoods import Family, linear
from .blocks import Blocks
from .devices import over_blocks
from .errors import ProgramError
from .evaluate import Evaluation
from .graph import Graph, Tables
from .parts import Lots, Part, Weighed, draw, expect, lots


class Statistics(NamedTuple):
    """Expected sufficient statistics: how often each latent and its parents have each joint value, (K,);
    each family's sums; and, where a factor needs the rows themselves, the responsibilities of its joint
    values (K, N) by its site, and its row family's hidden values."""

    counts: dict[str, Array]
    moments: dict[str, Any]
    responsibilities: dict[str, Array]
    hidden: dict[str, Any]


def combine(
    families: dict[str, Statistic],
    one: Statistics,
    other: Statistics,
    first: Array | float = 1.0,
    second: Array | float = 1.0,
) -> Statistics:
    """first * one + second * other: statistics of the rows of both, each weighted so many times.

    The two may have been made at different parameter values: moments about a reference are brought to
    that of `other`. With `second` zero, `one` alone is scaled. Numbers (), scalars.

    Raises :class:`ProgramError` where a factor differs from row to row: its statistics are the rows'
    responsibilities, which belong to these rows alone.
    """
    if one.responsibilities or other.responsibilities:
        raise ProgramError(
            "statistics of parts of the rows cannot be added where factors differ from row to row "
            f"({', '.join(map(repr, sorted(one.responsibilities)))}); use bayesmix.EM, which keeps "
            "the responsibilities of all rows"
        )
    counts = linear(one.counts, other.counts, first, second)
    moments = {
        name: family.combine(one.moments[name], other.moments[name], first, second)
        for name, family in families.items()
        if isinstance(family, Family)
    }
    return Statistics(counts, moments, {}, {})


def scaled(
    families: dict[str, Statistic], statistics: Statistics, factor: Array | float
) -> Statistics:
    """Statistics of the same rows, each counted `factor` times."""
    counts, shares = (
        jax.tree.map(lambda x: factor * x, part)
        for part in (statistics.counts, statistics.responsibilities)
    )
    moments = {
        name: family.combine(statistics.moments[name], statistics.moments[name], factor, 0.0)
        for name, family in families.items()
        if isinstance(family, Family)
    }
    return Statistics(counts, moments, shares, statistics.hidden)


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

    def visit(block: _Block) -> tuple[tuple[()], Tables]:
        found = _of_block(graph, families, _at_pattern(tables, block, blocks), tables, block)
        size = blocks.weight.shape[1]
        return (), tuple(jnp.broadcast_to(x, (x.shape[0], size)) for x in found)

    _, kept = over_blocks(visit, (_every_block(tables, blocks),), blocks.mesh)
    return jax.tree.map(blocks.restore, kept)


def each_factor(
    families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks
) -> dict[str, Array]:
    """Every log factor by its site, (K, n) or (K, 1), over the rows of the first block."""
    tables = _tables(families, evaluation, blocks)
    block = jax.tree.map(lambda x: x[0], _every_block(tables, blocks))
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

    def visit(block: _Block, row_weight: Array, told: Any) -> Any:
        prepared = _at_pattern(tables, block, blocks)
        found = weigh(lambda: _of_block(graph, families, prepared, tables, block), told)
        weights = [each * row_weight for each in found.weights]
        keys = _keys(found.hidden_key, len(families))
        moments = {
            name: family.accumulate(
                prepared[name], block.rows[name], weights[graph.clique_of[name]], key
            )
            for (name, family), key in zip(families.items(), keys, strict=True)
            if isinstance(family, Family)
        }
        counts = {name: jnp.sum(weights[graph.clique_of[name]], axis=1) for name in tables.latent}
        # padding and rows of no weight may hold anything
        evidence = jnp.sum(jnp.where(row_weight > 0, found.log_evidence, 0.0) * row_weight)
        return (evidence, counts, moments), ({i: weights[i] for i in kept_cliques}, found.said)

    every = (_every_block(tables, blocks), blocks.weight, given)
    sums, kept = over_blocks(visit, every, blocks.mesh)
    weights, said = jax.tree.map(blocks.restore, kept)
    log_likelihood, counts, raw = sums
    moments = {
        name: family.finish(_any_pattern(tables, name, blocks), raw[name])
        for name, family in families.items()
        if isinstance(family, Family)
    }
    by_row = {name: weights[graph.clique_of[name]] for name in tables.by_row}
    return Pass(log_likelihood, Statistics(counts, moments, by_row, {}), said)


def _keys(rng_key: Array | None, count: int) -> list[Array | None]:
    return [None] * count if rng_key is None else list(random.split(rng_key, count))


def _any_pattern(tables: _Tables, name: str, blocks: Blocks) -> Any:
    """A prepared family as far as it is the same for all patterns."""
    prepared = tables.prepared[name]
    return jax.tree.map(lambda x: x[0], prepared) if name in blocks.patterns else prepared


def _weighted(counts: Array, log_density: Array) -> Array:
    """sum counts * log_density with 0 * (-inf) = 0."""
    return jnp.sum(jnp.where(counts > 0, counts * log_density, 0.0))


def expected_factors(
    families: dict[str, Statistic], evaluation: Evaluation, statistics: Statistics
) -> dict[str, Array]:
    """Every factor of the expected complete log likelihood, by site: the parts of Q(theta)."""
    factors = {
        name: _weighted(
            statistics.counts[name] if table.ndim == 1 else statistics.responsibilities[name], table
        )
        for name, table in evaluation.latent.items()
    }
    for name, family in families.items():
        parameters = evaluation.components[name]
        if family is None:
            factors[name] = _weighted(statistics.responsibilities[name], parameters)
        elif isinstance(family, RowFamily):
            hidden = statistics.hidden[name]
            expected = family.expected_log_prob(parameters.parameters, hidden, parameters.value)
            weights = statistics.responsibilities[name] * parameters.present
            factors[name] = _weighted(weights, expected)
        else:
            expected = family.expected_log_prob(parameters, statistics.moments[name])
            factors[name] = jnp.sum(expected)
    return factors


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

    @value.defjvp
    def _tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (parts, blocks), (moved, _) = primals, tangents
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

        return result.log_likelihood, jax.jvp(expected, (parts,), (moved,))[1]

    return value((evaluation.latent, evaluation.components), blocks)


_Parts = tuple[dict[str, Array], dict[str, Any]]


def _at(parts: _Parts) -> Evaluation:
    """An evaluation as far as the rows are concerned."""
    latent, components = parts
    return Evaluation({}, latent, components, {})
