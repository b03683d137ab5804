"""One pass over the rows: the log likelihood with the latent summed out, and expected statistics.

Rows are visited in blocks under one `lax.scan`; nothing of size (N, K, D) exists, and responsibilities
are kept only where a site has no statistics of its own. What the pass does with a row's posterior is a
part: :func:`expect` takes the responsibilities (EM), :func:`draw` one label per row (Gibbs).

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
from ..families.likelihoods import Family
from .blocks import Blocks
from .evaluate import Evaluation


class Statistics(NamedTuple):
    """Expected sufficient statistics: component counts (K,), each family's sums, and, where some site
    needs the rows themselves, the responsibilities (K, N) and its row family's hidden values."""

    counts: Array
    moments: dict[str, Any]
    responsibilities: Array | None
    hidden: dict[str, Any]


class Pass(NamedTuple):
    """What one pass returns: log likelihood (), statistics, and what the part said of each row."""

    log_likelihood: Array
    statistics: Statistics
    rows: Any


class Weighed(NamedTuple):
    """What a part makes of a table: weights (K, n), what is to be kept of each row, and the key with
    which hidden parts of the rows are drawn (None: they are expected)."""

    weights: Array
    said: Any
    hidden_key: Array | None


Part = Callable[[Array, Array], Weighed]


def expect(table: Array, rng_key: Array) -> Weighed:
    """Responsibilities r_ik = p(z_i = k | x_i) from a log joint table (K, n)."""
    return Weighed(jax.nn.softmax(table, axis=0), None, None)


def draw(table: Array, rng_key: Array) -> Weighed:
    """One label per row from its posterior, as weights (K, n) of zeros and ones, and as labels (n,)."""
    label_key, hidden_key = random.split(rng_key)
    shifted = jnp.exp(table - jnp.max(table, axis=0))
    cumulative = jnp.cumsum(shifted, axis=0)
    uniform = random.uniform(label_key, table.shape[1:], table.dtype)
    labels = jnp.sum(cumulative < uniform * cumulative[-1], axis=0)
    weights = jnp.arange(table.shape[0])[:, None] == labels
    return Weighed(weights.astype(table.dtype), labels.astype(jnp.int32), hidden_key)


class _Tables(NamedTuple):
    """What the table of one block is made from: prepared families, and tables by row, in blocks."""

    prepared: dict[str, Any]
    latent: Array  # (K,), or (B, K, n)
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
    latent = evaluation.latent
    return _Tables(prepared, latent if latent.ndim == 1 else blocks.distribute(latent), by_row)


class _Block(NamedTuple):
    """One block: its rows, its own tables, its pattern and labels."""

    rows: dict[str, Any]
    latent: Array | None
    by_row: dict[str, Array]
    pattern: Array | None
    labels: Array | None


def _every_block(tables: _Tables, blocks: Blocks) -> _Block:
    latent = tables.latent if tables.latent.ndim > 1 else None
    return _Block(blocks.rows, latent, tables.by_row, blocks.pattern, blocks.labels)


def _at_pattern(tables: _Tables, block: _Block, blocks: Blocks) -> dict[str, Any]:
    """Prepared families for one block: those with patterns, at the block's own."""
    return {
        name: jax.tree.map(lambda x: x[block.pattern], value) if name in blocks.patterns else value
        for name, value in tables.prepared.items()
    }


def _table(
    families: dict[str, Statistic], prepared: dict[str, Any], tables: _Tables, block: _Block
) -> Array:
    """log p(z_i = k) + log p(x_i | z_i = k) for one block, (K, n); -inf where a known label says no."""
    table = tables.latent[:, None] if block.latent is None else block.latent
    for name, family in families.items():
        if isinstance(family, Family):
            table = table + family.log_prob(prepared[name], block.rows[name])
        else:
            table = table + block.by_row[name]
    if block.labels is None:
        return table
    other = (block.labels >= 0) & (jnp.arange(table.shape[0])[:, None] != block.labels)
    return jnp.where(other, -jnp.inf, table)


def log_joint_table(
    families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks
) -> Array:
    """log p(x_i, z_i = k) for every row, (K, N)."""
    tables = _tables(families, evaluation, blocks)

    def one(block: _Block) -> Array:
        return _table(families, _at_pattern(tables, block, blocks), tables, block)

    every = _every_block(tables, blocks)
    if blocks.weight.shape[0] == 1:
        return blocks.restore(one(jax.tree.map(lambda x: x[0], every))[None])
    return blocks.restore(jax.lax.map(one, every))


def passes(
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    part: Part,
    rng_key: Array,
) -> Pass:
    """One pass over all rows with a part that turns each block's log joint table into weights.

    The log likelihood is exact whatever the part: sum_i w_i log sum_k p(x_i, z_i = k).
    """
    keys = random.split(rng_key, blocks.weight.shape[0])

    def weigh(table: Callable[[], Array], key: Array) -> tuple[Array, Weighed]:
        found = table()
        return jax.nn.logsumexp(found, axis=0), part(found, key)

    found = _accumulate(families, evaluation, blocks, weigh, keys)
    drawn_key = random.fold_in(rng_key, 1) if part is draw else None
    hidden = hidden_values(families, evaluation, drawn_key)
    return found._replace(statistics=found.statistics._replace(hidden=hidden))


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
    families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks, weights: Array
) -> Statistics:
    """Statistics under given responsibilities (K, N)."""

    def weigh(table: Callable[[], Array], given: Array) -> tuple[Array, Weighed]:
        return jnp.zeros(given.shape[1:], given.dtype), Weighed(given, None, None)

    given = blocks.distribute(weights)
    found = _accumulate(families, evaluation, blocks, weigh, given).statistics
    return found._replace(hidden=hidden_values(families, evaluation, None))


def _accumulate(
    families: dict[str, Statistic],
    evaluation: Evaluation,
    blocks: Blocks,
    weigh: Callable[[Callable[[], Array], Array], tuple[Array, Weighed]],
    given: Array,
) -> Pass:
    """Add up statistics over blocks; `weigh(table, given[block])` gives the log evidence of each row
    and the weights of its components."""
    by_row = any(not isinstance(family, Family) for family in families.values())
    keep_all = by_row or evaluation.latent.ndim > 1
    tables = _tables(families, evaluation, blocks)

    def visit(block: _Block, row_weight: Array, told: Array) -> Any:
        prepared = _at_pattern(tables, block, blocks)
        log_evidence, found = weigh(lambda: _table(families, prepared, tables, block), told)
        weights = found.weights * row_weight
        keys = _keys(found.hidden_key, len(families))
        moments = {
            name: family.accumulate(prepared[name], block.rows[name], weights, key)
            for (name, family), key in zip(families.items(), keys, strict=True)
            if isinstance(family, Family)
        }
        # padding and rows of no weight may hold anything
        evidence = jnp.sum(jnp.where(row_weight > 0, log_evidence, 0.0) * row_weight)
        sums = (evidence, jnp.sum(weights, axis=1), moments)
        return sums, (weights if keep_all else None, found.said)

    every = (_every_block(tables, blocks), blocks.weight, given)
    if blocks.weight.shape[0] == 1:
        sums, kept = visit(*jax.tree.map(lambda x: x[0], every))
        kept = jax.tree.map(lambda x: x[None], kept)
    else:

        def step(total: Any, block: Any) -> tuple[Any, Any]:
            sums, out = visit(*block)
            return jax.tree.map(jnp.add, total, sums), out

        shapes = jax.eval_shape(visit, *jax.tree.map(lambda x: x[0], every))[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, kept = jax.lax.scan(step, zeros, every)
    weights, said = jax.tree.map(blocks.restore, kept)
    log_likelihood, counts, raw = sums
    moments = {
        name: family.finish(_any_pattern(tables, name, blocks), raw[name])
        for name, family in families.items()
        if isinstance(family, Family)
    }
    return Pass(log_likelihood, Statistics(counts, moments, weights, {}), said)


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
    latent = evaluation.latent
    counts = statistics.counts if latent.ndim == 1 else statistics.responsibilities
    factors = {"": _weighted(counts, latent)}
    for name, family in families.items():
        parameters = evaluation.components[name]
        if family is None:
            factors[name] = _weighted(statistics.responsibilities, parameters)
        elif isinstance(family, RowFamily):
            hidden = statistics.hidden[name]
            expected = family.expected_log_prob(parameters.parameters, hidden, parameters.value)
            factors[name] = _weighted(statistics.responsibilities * parameters.present, expected)
        else:
            expected = family.expected_log_prob(parameters, statistics.moments[name])
            factors[name] = jnp.sum(expected)
    return factors


def log_likelihood(families: dict[str, Statistic], evaluation: Evaluation, blocks: Blocks) -> Array:
    """sum_i log p(x_i | theta), differentiable through statistics instead of through the rows.

    The tangent is Q's tangent at the current statistics (Fisher's identity), so a gradient costs what
    the value costs, in N and in memory.
    """

    # everything that may be traced is an argument, so that the function can be differentiated under jit

    @jax.custom_jvp
    def value(parts: _Parts, blocks: Blocks) -> Array:
        return passes(families, _at(parts), blocks, expect, random.key(0)).log_likelihood

    @value.defjvp
    def _tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (parts, blocks), (moved, _) = primals, tangents
        result = passes(families, _at(parts), blocks, expect, random.key(0))

        def expected(parts: _Parts) -> Array:
            return sum(expected_factors(families, _at(parts), result.statistics).values())

        return result.log_likelihood, jax.jvp(expected, (parts,), (moved,))[1]

    return value((evaluation.latent, evaluation.components), blocks)


_Parts = tuple[Array, dict[str, Any]]


def _at(parts: _Parts) -> Evaluation:
    """An evaluation as far as the rows are concerned."""
    latent, components = parts
    return Evaluation({}, latent, components, {})
