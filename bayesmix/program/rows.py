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

from ..families.likelihoods import Family
from .evaluate import Evaluation

# entries of one block's (K, D, n) temporary; a block should stay in a core's cache
_BLOCK_ENTRIES = 1 << 15
_SMALLEST_BLOCK = 128
_UNBLOCKED_ROWS = 1024


class Statistics(NamedTuple):
    """Expected sufficient statistics: component counts (K,), each family's sums, and, where some site
    needs the rows themselves, the responsibilities (K, N)."""

    counts: Array
    moments: dict[str, Any]
    responsibilities: Array | None


class Blocks(NamedTuple):
    """Observed rows of each site with a family, arranged (blocks, ..., n); the mask is 0 on padding."""

    rows: dict[str, Array]
    mask: Array
    num_rows: int


class Pass(NamedTuple):
    """What one pass returns: log likelihood (), statistics, and what the part said of each row."""

    log_likelihood: Array
    statistics: Statistics
    rows: Any


Part = Callable[[Array, Array], tuple[Array, Any]]


def expect(table: Array, rng_key: Array) -> tuple[Array, Any]:
    """Responsibilities r_ik = p(z_i = k | x_i) from a log joint table (K, n)."""
    return jax.nn.softmax(table, axis=0), None


def draw(table: Array, rng_key: Array) -> tuple[Array, Array]:
    """One label per row from its posterior, as weights (K, n) of zeros and ones, and as labels (n,)."""
    shifted = jnp.exp(table - jnp.max(table, axis=0))
    cumulative = jnp.cumsum(shifted, axis=0)
    uniform = random.uniform(rng_key, table.shape[1:], table.dtype)
    labels = jnp.sum(cumulative < uniform * cumulative[-1], axis=0)
    weights = jnp.arange(table.shape[0])[:, None] == labels
    return weights.astype(table.dtype), labels.astype(jnp.int32)


def arrange(
    families: dict[str, Family | None],
    observed: dict[str, Array],
    num_components: int,
    whole: bool = False,
) -> Blocks:
    """Store the observed rows as blocks, once per fit; as one block where `whole`."""
    arranged = {name: family.arrange(observed[name]) for name, family in families.items() if family}
    sizes = [jnp.shape(value) for value in arranged.values()]
    num_rows = next(iter(observed.values())).shape[0]
    if whole or any(family is None for family in families.values()):
        block = num_rows  # a factor that needs all its rows at once: no blocks
    else:
        width = max((shape[0] for shape in sizes), default=1)
        block = max(_SMALLEST_BLOCK, _BLOCK_ENTRIES // (width * num_components))
    if num_rows <= max(block, _UNBLOCKED_ROWS):
        block = num_rows
    count = -(-num_rows // block)
    padding = count * block - num_rows

    def cut(value: Array) -> Array:
        padded = jnp.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, padding)], mode="edge")
        return jnp.moveaxis(padded.reshape(*value.shape[:-1], count, block), -2, 0)

    dtype = jnp.result_type(float)
    mask = jnp.arange(count * block).reshape(count, block) < num_rows
    return Blocks({n: cut(v) for n, v in arranged.items()}, mask.astype(dtype), num_rows)


def _table(
    families: dict[str, Family | None],
    evaluation: Evaluation,
    prepared: dict[str, Any],
    rows: dict[str, Array],
) -> Array:
    """log p(z_i = k) + log p(x_i | z_i = k) for one block, (K, n)."""
    latent = evaluation.latent
    table = latent[:, None] if latent.ndim == 1 else latent
    for name, family in families.items():
        if family is None:
            table = table + evaluation.components[name]
        else:
            table = table + family.log_prob(prepared[name], rows[name])
    return table


def _prepare(families: dict[str, Family | None], evaluation: Evaluation) -> dict[str, Any]:
    return {n: f.prepare(evaluation.components[n]) for n, f in families.items() if f}


def log_joint_table(
    families: dict[str, Family | None], evaluation: Evaluation, blocks: Blocks
) -> Array:
    """log p(x_i, z_i = k) for every row, (K, N)."""
    prepared = _prepare(families, evaluation)
    tables = (
        jax.lax.map(lambda rows: _table(families, evaluation, prepared, rows), blocks.rows)
        if blocks.rows
        else _table(families, evaluation, prepared, {})[None]
    )
    full = jnp.moveaxis(tables, 0, 1)
    return full.reshape(full.shape[0], -1)[:, : blocks.num_rows]


def passes(
    families: dict[str, Family | None],
    evaluation: Evaluation,
    blocks: Blocks,
    part: Part,
    rng_key: Array,
) -> Pass:
    """One pass over all rows with a part that turns each block's log joint table into weights.

    The log likelihood is exact whatever the part: sum_i log sum_k p(x_i, z_i = k).
    """
    keys = random.split(rng_key, blocks.mask.shape[0])
    prepared = _prepare(families, evaluation)

    def weigh(rows: dict[str, Array], key: Array) -> tuple[Array, Array, Any]:
        table = _table(families, evaluation, prepared, rows)
        weights, said = part(table, key)
        return jax.nn.logsumexp(table, axis=0), weights, said

    return _accumulate(families, evaluation, prepared, blocks, weigh, keys)


def weighted_statistics(
    families: dict[str, Family | None], evaluation: Evaluation, blocks: Blocks, weights: Array
) -> Statistics:
    """Statistics under given responsibilities, (blocks, K, n) as the rows are arranged."""
    prepared = _prepare(families, evaluation)

    def weigh(rows: dict[str, Array], given: Array) -> tuple[Array, Array, Any]:
        return jnp.zeros(given.shape[1:], given.dtype), given, None

    return _accumulate(families, evaluation, prepared, blocks, weigh, weights).statistics


def _accumulate(
    families: dict[str, Family | None],
    evaluation: Evaluation,
    prepared: dict[str, Any],
    blocks: Blocks,
    weigh: Callable[[dict[str, Array], Array], tuple[Array, Array, Any]],
    given: Array,
) -> Pass:
    """Add up statistics over blocks; `weigh(rows, given[block])` gives the log evidence of each row,
    the weights (K, n), and whatever is to be kept of each row."""
    keep_all = any(family is None for family in families.values()) or evaluation.latent.ndim > 1

    def visit(rows: dict[str, Array], mask: Array, told: Array) -> Any:
        log_evidence, weights, said = weigh(rows, told)
        weights = weights * mask
        moments = {
            name: family.accumulate(prepared[name], rows[name], weights)
            for name, family in families.items()
            if family
        }
        sums = (jnp.sum(log_evidence * mask), jnp.sum(weights, axis=1), moments)
        return sums, (weights if keep_all else None, said)

    if blocks.mask.shape[0] == 1:
        only = {name: value[0] for name, value in blocks.rows.items()}
        sums, (weights, said) = visit(only, blocks.mask[0], given[0])
    else:

        def step(total: Any, block: Any) -> tuple[Any, Any]:
            sums, out = visit(*block)
            return jax.tree.map(jnp.add, total, sums), out

        every = (blocks.rows, blocks.mask, given)
        first = jax.tree.map(lambda x: x[0], every)
        shapes = jax.eval_shape(visit, *first)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, (weights, said) = jax.lax.scan(step, zeros, every)
        if keep_all:
            weights = jnp.moveaxis(weights, 0, 1).reshape(weights.shape[1], -1)
            weights = weights[:, : blocks.num_rows]
        said = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: blocks.num_rows], said)
    log_likelihood, counts, raw = sums
    moments = {
        name: family.finish(prepared[name], raw[name])
        for name, family in families.items()
        if family
    }
    return Pass(log_likelihood, Statistics(counts, moments, weights), said)


def _weighted(counts: Array, log_density: Array) -> Array:
    """sum counts * log_density with 0 * (-inf) = 0."""
    return jnp.sum(jnp.where(counts > 0, counts * log_density, 0.0))


def expected_factors(
    families: dict[str, Family | None], evaluation: Evaluation, statistics: Statistics
) -> dict[str, Array]:
    """Every factor of the expected complete log likelihood, by site: the parts of Q(theta)."""
    latent = evaluation.latent
    counts = statistics.counts if latent.ndim == 1 else statistics.responsibilities
    factors = {"": _weighted(counts, latent)}
    for name, family in families.items():
        parameters = evaluation.components[name]
        if family is None:
            factors[name] = _weighted(statistics.responsibilities, parameters)
        else:
            expected = family.expected_log_prob(parameters, statistics.moments[name])
            factors[name] = jnp.sum(expected)
    return factors


def log_likelihood(
    families: dict[str, Family | None], evaluation: Evaluation, blocks: Blocks
) -> Array:
    """sum_i log p(x_i | theta), differentiable through statistics instead of through the rows.

    The tangent is Q's tangent at the current statistics (Fisher's identity), so a gradient costs what
    the value costs, in N and in memory.
    """

    @jax.custom_jvp
    def value(parts: tuple[Array, dict[str, Any]]) -> Array:
        latent, components = parts
        at = evaluation._replace(latent=latent, components=components)
        return passes(families, at, blocks, expect, random.key(0)).log_likelihood

    @value.defjvp
    def _tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (parts,), (moved,) = primals, tangents
        at = evaluation._replace(latent=parts[0], components=parts[1])
        result = passes(families, at, blocks, expect, random.key(0))

        def expected(parts: tuple[Array, dict[str, Any]]) -> Array:
            there = evaluation._replace(latent=parts[0], components=parts[1])
            return sum(expected_factors(families, there, result.statistics).values())

        return result.log_likelihood, jax.jvp(expected, (parts,), (moved,))[1]

    return value((evaluation.latent, evaluation.components))
