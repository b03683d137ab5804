"""What one pass over the rows does with each row's posterior: expect, harden, temper, draw.

A *part* is a function of a block's tables of log factors, and of what it is told of the block. It gives
weights for the joint values of the latents, from which statistics are made, and what stands for the log
evidence in the objective that these weights raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from . import elimination
from .elimination import Graph, Tables, uniforms


class Weighed(NamedTuple):
    """What a part makes of the tables of rows: log evidence (n,), or what stands in its place in the
    objective; weights (K, n) for each clique; what is to be kept of each row; and the key with which
    hidden parts are drawn (None: expected)."""

    log_evidence: Array
    weights: Tables
    said: Any
    hidden_key: Array | None


Part = Callable[
    [Graph, Tables, Any], Weighed
]  # of a block's tables, and what it is told of the block


def expect(graph: Graph, tables: Tables, told: None = None) -> Weighed:
    """Responsibilities: posterior probabilities of each clique's joint values."""
    evidence, weights = elimination.marginals(graph, tables)
    return Weighed(evidence, weights, None, None)


def harden(graph: Graph, tables: Tables, told: None = None) -> Weighed:
    """The most probable joint values of a row's latents, as weights of zeros and ones; max_z log p(x, z)
    in place of the log evidence."""
    values, height = elimination.explain(graph, tables)
    return Weighed(height, elimination.indicators(graph, values, height.dtype), None, None)


def temper(inverse_temperature: Array) -> Part:
    """Posterior probabilities in proportion to p(x, z)^beta; log sum_z p(x, z)^beta / beta in place of
    the log evidence. At beta = 1 it is :func:`expect`."""

    def tempered(graph: Graph, tables: Tables, told: None = None) -> Weighed:
        evidence, weights = elimination.marginals(
            graph, tuple(inverse_temperature * table for table in tables)
        )
        return Weighed(evidence / inverse_temperature, weights, None, None)

    return tempered


def mean_field(sweeps: int) -> Part:
    """Probabilities of a product form, q(z) = prod_j q_j(z_j), each factor improved in turn.

    What it is told, and says, of each row are the factors q_j, (values, n) each. The bound
    E_q[log p(x, z)] + H(q) stands in place of the log evidence.
    """

    def improved(graph: Graph, tables: Tables, told: Tables) -> Weighed:
        bound, factors = elimination.product_form(graph, tables, told, sweeps)
        weights = elimination.independent(graph, list(factors), factors[0].shape[-1])
        return Weighed(bound, weights, factors, None)

    return improved


def draw_often(num_draws: Array) -> Part:
    """Shares of `num_draws` joint draws of a row's latents; it is told a key. The evidence is exact."""

    def drawn(graph: Graph, tables: Tables, rng_key: Array) -> Weighed:
        evidence = elimination.sum_out(graph, tables)
        like = jax.eval_shape(lambda: elimination.marginals(graph, tables)[1])

        def once_more(i: Array, total: Tables) -> Tables:
            uniform = uniforms(graph, random.fold_in(rng_key, i), evidence.size, evidence.dtype)
            values = elimination.draw(graph, tables, uniform)[1]
            found = elimination.indicators(graph, values, evidence.dtype)
            return tuple(jnp.add(*each) for each in zip(total, found, strict=True))

        nothing = tuple(jnp.zeros(each.shape, each.dtype) for each in like)
        total = jax.lax.fori_loop(0, num_draws, once_more, nothing)
        return Weighed(evidence, tuple(each / num_draws for each in total), None, None)

    return drawn


class Lots(NamedTuple):
    """What :func:`draw` is told: random numbers for the latents, (steps, n), and a key for the rest."""

    uniform: Array
    hidden_key: Array


def lots(graph: Graph, rng_key: Array, rows: int, dtype: Any = float) -> Lots:
    """Lots for so many rows. They are made before a pass rather than in it: XLA runs what a block's
    tables do not depend on at the same time, and waiting for its threads costs more than the pass."""
    label_key, hidden_key = random.split(rng_key)
    return Lots(uniforms(graph, label_key, rows, dtype), hidden_key)


def draw(graph: Graph, tables: Tables, told: Lots) -> Weighed:
    """One draw of all latents of a row from their posterior, as weights of zeros and ones, and as values
    (latents, n), counted from 0."""
    evidence, values = elimination.draw(graph, tables, told.uniform)
    weights = elimination.indicators(graph, values, evidence.dtype)
    return Weighed(evidence, weights, values, told.hidden_key)
