r"""The predictive distribution function at rows of data, averaged over draws of the parameters.

With weights w_is of draws s = 1, ..., S for row i, the predictive distribution of its cells is the
mixture :math:`\sum_s w_{is} p(x_i | \theta_s)`, latents summed out. Two things are computed for every
cell: its marginal distribution function, and that given the cells before it (Rosenblatt's transform),

.. math:: u_{id} = \sum_s w_{is} p_s(x_{i,<d}) F_s(x_{id} | x_{i,<d}) / \sum_s w_{is} p_s(x_{i,<d}).

Latents are summed out by the program's own graph: after each cell its log density is added to the table
of its clique. One compiled function serves any number of draws, and any rows of one shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..families.peel import peel
from ..infer import predict
from ..infer.cells import by_cell, distribution_function
from ..infer.regression import as_site, cells_by_component, of_call
from ..program.blocks import Blocks
from ..program.elimination import Tables, marginals
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.row_pass import log_factors

MOST_DRAWS = 400
_LARGEST_VALUE = 10_000


class Ends(NamedTuple):
    """The predictive distribution function of each cell just below its value and at it, which are the
    same where values are continuous: `marginal` and `in_turn` (given the cells before it), (2, N, D);
    NaN where a cell is missing."""

    marginal: np.ndarray
    in_turn: np.ndarray


class NoDistributionFunction(Exception):
    """Some site has no distribution function that is known; the message says which."""


class _Cells(NamedTuple):
    """Cells of one site, (D, ...): log density by component given the cells before it in the site
    (D, K, N), and both distribution functions, (D, 2, K, N)."""

    log_density: Array
    alone: Array
    in_turn: Array


def cell_names(plan: Plan) -> tuple[str, ...]:
    """Names of the cells of a row in the order of :class:`Ends`: sites, then their entries."""
    names: list[str] = []
    for site in plan.reading.observed:
        size = int(np.prod(site.shape[1:], dtype=int))
        names += [site.name] if size == 1 else [f"{site.name}[{j}]" for j in range(size)]
    return tuple(names)


def predictive_cdf(
    problem: Problem,
    draws: Values,
    log_weights: np.ndarray | None = None,
    largest: int | None = None,
) -> Ends:
    """Predictive distribution functions at the rows of a call.

    Args:
        problem: the program with the rows.
        draws: parameters by site, (S, ...), with S at most 400.
        log_weights: (S, N), up to a constant for each row; None where all draws count alike.
        largest: the largest whole number among the rows, and others of the same shape (one function is
            compiled for each); by default that of these rows.

    Raises:
        NoDistributionFunction: where a site has none that is known.
    """
    plan = problem.plan
    if plan.reading.factors:
        raise NoDistributionFunction(f"site '{plan.reading.factors[0]}' (numpyro.factor)")
    observed = problem.observe()
    blank = observed._replace(
        present={name: np.zeros(np.shape(value), bool) for name, value in observed.values.items()}
    )
    blocks = plan.arrange(blank)
    count = len(next(iter(draws.values())))
    if log_weights is None:
        log_weights = np.zeros((count, observed.num_rows))
    if largest is None:
        largest = largest_value(observed)
    padded = {
        name: np.resize(value, (MOST_DRAWS, *value.shape[1:])) for name, value in draws.items()
    }
    weights = np.resize(log_weights, (MOST_DRAWS, observed.num_rows))
    values, usable = _cells_that_count(plan, observed)
    marginal, in_turn = problem.run(
        _averaged, blocks, values, usable, padded, weights, jnp.asarray(count), static=(largest,)
    )
    there, before = (
        np.concatenate([each[name].T for name in values], axis=1)
        for each in _present(observed, usable)
    )
    return Ends(
        np.where(there, np.moveaxis(np.asarray(marginal), 0, -1), np.nan),
        np.where(before, np.moveaxis(np.asarray(in_turn), 0, -1), np.nan),
    )


def largest_value(observed: Observed) -> int:
    """The largest whole number among the rows, rounded up to a power of two, within bounds."""
    top = max((np.max(value, initial=0.0) for value in observed.values.values()), default=0.0)
    return int(min(2 ** np.ceil(np.log2(max(top, 1.0))), _LARGEST_VALUE))


def _cells_that_count(
    plan: Plan, observed: Observed
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cells (N, D) by site, and which of them the others are conditioned on, (D, N): not those of a
    vector some of whose cells are missing."""
    cells, usable = {}, {}
    for site in plan.reading.observed:
        value = np.asarray(observed.values[site.name])
        cells[site.name] = value.reshape(observed.num_rows, -1)
        there = observed.present[site.name]
        there = np.ones(value.shape, bool) if there is None else np.asarray(there)
        if site.joint:
            events = tuple(range(there.ndim - site.event_ndim, there.ndim))
            there = np.broadcast_to(there.all(axis=events, keepdims=True), there.shape)
        usable[site.name] = there.reshape(observed.num_rows, -1).T
    return cells, usable


def _present(observed: Observed, usable: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """Which cells are there, and which of these come in turn, (D, N) by site."""
    there = {}
    for name, own in usable.items():
        known = observed.present[name]
        there[name] = (
            np.ones(own.shape, bool) if known is None else np.asarray(known).reshape(own.T.shape).T
        )
    return there, usable


def _averaged(
    problem: Problem,
    largest: int,
    blocks: Blocks,
    values: dict[str, Array],
    usable: dict[str, Array],
    draws: Values,
    log_weights: Array,
    count: Array,
) -> tuple[Array, Array]:
    """Marginal distribution functions and those in turn, (D, 2, N), averaged over `count` draws."""

    def one(s: Array) -> tuple[Array, Array, Array]:
        drawn = {name: value[s] for name, value in draws.items()}
        return _at_one_draw(problem, largest, blocks, values, usable, drawn)

    def add(s: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        weight = log_weights[s]
        evidence, alone, in_turn = one(s)
        first = weight + evidence[0]
        there = weight + evidence  # (D, N)
        terms = (first, first + jnp.log(alone), there, there[:, None] + jnp.log(in_turn))
        return tuple(jnp.logaddexp(total, term) for total, term in zip(sums, terms, strict=True))

    shapes = jax.eval_shape(one, jnp.asarray(0))
    nothing = [(shapes[0].shape[1:]), shapes[1].shape, shapes[0].shape, shapes[2].shape]
    start = tuple(jnp.full(shape, -jnp.inf) for shape in nothing)
    whole, alone, before, in_turn = jax.lax.fori_loop(0, count, add, start)
    return jnp.exp(alone - whole), jnp.exp(in_turn - before[:, None])


def _at_one_draw(
    problem: Problem,
    largest: int,
    blocks: Blocks,
    values: dict[str, Array],
    usable: dict[str, Array],
    draw: Values,
) -> tuple[Array, Array, Array]:
    """log p(cells before each), (D, N), and the distribution functions of each, (D, 2, N)."""
    plan = problem.plan
    graph = plan.graph
    evaluation = problem.evaluate(draw)
    # with nothing observed the tables are those of the latents, known labels included
    tables = log_factors(graph, plan.families, evaluation, blocks)
    rows = blocks.num_rows
    tables = tuple(jnp.broadcast_to(table, (table.shape[0], rows)) for table in tables)
    sites = predict.sites_by_component(problem, draw)
    found = []
    prior = marginals(graph, tables)[1]
    for name in values:
        cells = _cells_of(plan, name, sites[name], values[name], largest)
        clique = graph.clique_of[name]

        def step(tables: Tables, cell: Any, clique: int = clique) -> tuple[Tables, Any]:
            log_density, in_turn, counted = cell
            evidence, shares = marginals(graph, tables)
            added = tables[clique] + jnp.where(counted, log_density, 0.0)
            function = jnp.sum(shares[clique] * in_turn, axis=1)
            return (*tables[:clique], added, *tables[clique + 1 :]), (evidence, function)

        given = (cells.log_density, cells.in_turn, usable[name])
        tables, (evidence, in_turn) = jax.lax.scan(step, tables, given)
        found.append((evidence, jnp.sum(prior[clique] * cells.alone, axis=2), in_turn))
    return tuple(jnp.concatenate(part) for part in zip(*found, strict=True))


def _cells_of(plan: Plan, name: str, traced: dict[str, Any], value: Array, largest: int) -> _Cells:
    site = next(site for site in plan.reading.observed if site.name == name)
    whole, base = of_call(site, traced), peel(traced["fn"]).base
    at = as_site(value, whole, plan.reading).astype(jnp.result_type(traced["value"]))
    cells = by_cell(base, at)
    if cells is None:
        raise NoDistributionFunction(f"site '{name}' ({site.family})")

    def lead(array: Array) -> Array:
        """(K, N, D) as (D, K, N)."""
        return jnp.moveaxis(cells_by_component(array, whole, plan.reading), 2, 0)

    def ends(cell: Any) -> Array:
        try:
            top = distribution_function(cell, at, largest)
            low = distribution_function(cell, at - 1, largest) if base.is_discrete else top
        except NotImplementedError:
            raise NoDistributionFunction(f"site '{name}' ({site.family})") from None
        return jnp.stack([lead(low), lead(top)], axis=1)

    return _Cells(lead(cells.in_turn.log_prob(at)), ends(cells.alone), ends(cells.in_turn))
