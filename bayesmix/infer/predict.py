"""Densities and data that follow from parameter values, on the rows of a fit or on others.

Functions of `(problem, values, ...)` that return JAX arrays are pure and to be jitted; others
work on the host, on what a call says of its rows (:class:`Observed`). Moments are in `moments.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.handlers import seed, substitute
from numpyro.primitives import Messenger

from ..families.likelihoods import Family
from ..families.peel import peel
from ..program import elimination, row_pass
from ..program.blocks import Blocks
from ..program.elimination import Tables
from ..program.errors import ProgramError
from ..program.evaluate import Evaluation, RowFactor, Values, enumerated_trace
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.reading import Reading, Site
from ..program.tracing import sites_of, unchecked


class Rows(NamedTuple):
    """Observed rows as blocks; and for sites without a family that miss something, which rows count."""

    blocks: Blocks
    counted: dict[str, Any]


# ---------------------------------------------------------------------------------------- densities
def arrange(plan: Plan, observed: Observed) -> Rows:
    """Observed rows for any number of passes; on the host."""
    counted = {
        name: np.asarray(there).reshape(observed.num_rows, -1).any(axis=1)
        for name, there in observed.present.items()
        if there is not None and not isinstance(plan.families[name], Family)
    }
    return Rows(plan.arrange(observed), counted)


def log_factors(problem: Problem, values: Values, rows: Rows) -> Tables:
    """The log factors of each clique of latents over the cells that are there, (K, N)."""
    evaluation = problem.evaluate(values)
    components = dict(evaluation.components)
    for name, there in rows.counted.items():
        components[name] = _only_where(there, components[name])
    evaluation = evaluation._replace(components=components)
    return row_pass.log_factors(problem.plan.graph, problem.plan.families, evaluation, rows.blocks)


def log_density(problem: Problem, values: Values, rows: Rows) -> Array:
    """log p(x_i | theta) over the cells that are there, the latents summed out, (N,)."""
    return elimination.sum_out(problem.plan.graph, log_factors(problem, values, rows))


def posteriors(problem: Problem, values: Values, rows: Rows) -> Tables:
    """p(joint values of a clique | the cells that are there), (K, N), for each clique."""
    return elimination.marginals(problem.plan.graph, log_factors(problem, values, rows))[1]


def entropy(problem: Problem, values: Values, rows: Rows) -> Array:
    """-sum_z p(z | x_i) log p(z | x_i) over the joint values of all latents of a row, (N,)."""
    graph, tables = problem.plan.graph, log_factors(problem, values, rows)
    evidence, shares = elimination.marginals(graph, tables)
    # log p(z | x) = sum over cliques of tables - log p(x); what has no weight adds nothing
    expected = (jnp.sum(r * jnp.where(r > 0, t, 0.0), axis=0) for r, t in zip(shares, tables))
    return jnp.maximum(evidence - sum(expected), 0.0)


def log_likelihood(problem: Problem, values: Values, rows: Rows, weight: Array) -> Array:
    """sum_i w_i log p(x_i | theta) over the cells that are there."""
    density = log_density(problem, values, rows)
    return jnp.sum(weight * jnp.where(weight > 0, density, 0.0))


def priors(plan: Plan, evaluation: Evaluation) -> Tables:
    """p(joint values of a clique), (K,), or (K, N) where it differs from row to row."""
    graph = plan.graph
    tables: list[Any] = [jnp.zeros((size, 1)) for size in graph.table_sizes]
    for name, table in evaluation.latent.items():
        tables[graph.clique_of[name]] += table.reshape(table.shape[0], -1)
    found = elimination.marginals(graph, tuple(tables))[1]
    return tuple(each if each.shape[1] > 1 else each[:, 0] for each in found)


def explain(problem: Problem, values: Values, rows: Rows) -> tuple[Array, Array]:
    """The most probable joint values of the latents, (latents, N) from 0, and log p(x_i, z_i), (N,)."""
    return elimination.explain(problem.plan.graph, log_factors(problem, values, rows))


def _only_where(there: Array, factor: Any) -> Any:
    if isinstance(factor, RowFactor):
        return factor._replace(log_prob=jnp.where(there, factor.log_prob, 0.0))
    return jnp.where(there, factor, 0.0)


def columns(observed: Observed, of: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Named columns, as anything that indexes an axis, as masks (D,) by site.

    Raises :class:`ProgramError` where a site is not observed or has no such column.
    """
    masks = {}
    for name, chosen in of.items():
        if name not in observed.values:
            names = ", ".join(f"'{each}'" for each in observed.values)
            raise ProgramError(f"'{name}' is not an observed site; name columns of {names}")
        mask = np.zeros(math.prod(np.shape(observed.values[name])[1:]), bool)
        try:
            mask[chosen] = True
        except IndexError as error:
            raise ProgramError(
                f"{chosen} does not select columns of site '{name}'; give a list of numbers from 0 to "
                f"{mask.size - 1}, or slice(None) for all"
            ) from error
        masks[name] = mask
    return masks


def hide(
    problem: Problem,
    values: Values,
    observed: Observed,
    hidden: Mapping[str, np.ndarray],
) -> Observed:
    """The same rows with some columns, masks (D,) by site, integrated out as if they were missing.

    Raises :class:`ProgramError` where a site's density does not come apart into these columns.
    """
    present = dict(observed.present)
    for name, mask in hidden.items():
        if not mask.any():
            continue
        if not isinstance(problem.plan.families[name], Family) and not mask.all():
            raise ProgramError(
                f"single columns of site '{name}' cannot be integrated out, as its distribution has no "
                "family or differs from row to row; name all of its columns (slice(None)), or none"
            )
        value = observed.values[name]
        there = np.ones(value.shape, bool) if present[name] is None else np.asarray(present[name])
        kept = np.broadcast_to(~mask.reshape(value.shape[1:]), value.shape)
        if not mask.all():
            _check_cells(problem, values, name, kept)
        present[name] = there & kept
    return observed._replace(present=present)


def _check_cells(problem: Problem, values: Values, name: str, there: np.ndarray) -> None:
    """Where a cell has several entries (a multinomial's counts), they are all there or all missing."""
    family = problem.plan.families[name]
    if isinstance(family, Family) and family.grouped:
        return
    own = cell_axes(problem, values)[name]
    flat = there.reshape(*there.shape[: there.ndim - own], -1)
    if not np.all(flat.all(axis=-1) | ~flat.any(axis=-1)):
        site = next(site for site in problem.plan.reading.observed if site.name == name)
        raise ProgramError(
            f"some entries of site '{name}' are taken as missing without the others, which its "
            f"{site.family} cannot be conditioned on; leave out all entries of such a cell, or none"
        )


def check_missing(problem: Problem, values: Values, observed: Observed) -> tuple[str, ...]:
    """Names of sites that miss something; raises :class:`ProgramError` where a cell is partly there."""
    names = tuple(name for name, there in observed.present.items() if there is not None)
    for name in names:
        _check_cells(problem, values, name, np.asarray(observed.present[name]))
    return names


def cell_axes(problem: Problem, values: Values) -> dict[str, int]:
    """How many axes of each observed site belong to one cell: 0 where cells are independent numbers."""
    found = {}

    def run(problem: Problem, values: Values) -> None:
        sites = sites_by_component(problem, values)
        for site in problem.plan.reading.observed:
            found[site.name] = peel(sites[site.name]["fn"]).base.event_dim

    jax.eval_shape(run, problem, values)
    return found


def sites_by_component(problem: Problem, values: Values) -> dict[str, Any]:
    """NumPyro's sites at parameter values, with the latent's K values left of all plates."""
    with unchecked():
        return enumerated_trace(
            problem.plan.program, problem.plan.reading, problem.arguments, values
        )


def share_above(scores: np.ndarray, reference: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted share of `reference` that is at least as large as each score, to within rounding.

    >>> share_above(np.array([0.0, 2.0, 9.0]), np.array([3.0, 1.0, 2.0]), np.ones(3)).round(3)
    array([1.   , 0.667, 0.   ])
    """
    if not weight.sum() > 0:
        return np.full(scores.shape, np.nan)
    order = np.argsort(reference)
    above = np.append(np.cumsum(weight[order][::-1])[::-1], 0.0) / weight.sum()
    slack = 64 * np.finfo(scores.dtype).eps * (1 + np.abs(scores))
    return above[np.searchsorted(reference[order], scores - slack)]


# ------------------------------------------------------------------------------------ data drawn anew
class _Redraw(Messenger):
    """Let named sites be drawn although they are observed, and give others their values."""

    def __init__(self, fn: Any, names: tuple[str, ...], given: Values) -> None:
        self.names, self.given = names, given
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample":
            return
        if msg["name"] in self.given:
            msg["value"], msg["is_observed"] = self.given[msg["name"]], False
        elif msg["name"] in self.names:
            msg["value"], msg["is_observed"] = None, False


def draw_rows(
    problem: Problem,
    values: Values,
    rng_key: Array,
    labels: Array | None = None,
) -> Values:
    """Observed sites and the latent drawn from the program at `values`, each as the program has it.

    labels: the latents' values counted from 0, (latents, N); drawn too where None. Sites outside the
    rows keep the values that the program tells them.

    Raises :class:`ProgramError` where a factor has a say in the density of the rows.
    """
    reading = problem.plan.reading
    check_drawable(reading)
    names = tuple(site.name for site in reading.observed)
    given = {}
    names = (*names, *(latent.name for latent in reading.latents))
    if labels is not None:
        for latent, drawn in zip(reading.latents, labels, strict=True):
            shape = [1] * len(latent.site.shape)
            shape[reading.rows.dim] = -1
            given[latent.name] = jnp.reshape(drawn + latent.lowest, shape)
    args, kwargs = problem.arguments.call()
    redrawn = _Redraw(substitute(problem.plan.program, data=values), names, given)
    with unchecked():
        sites = sites_of(seed(redrawn, rng_key), args, kwargs)
    return {name: sites[name]["value"] for name in names}


def check_drawable(reading: Reading) -> None:
    """Raise :class:`ProgramError` where the rows' density has a factor, from which nothing is drawn."""
    if reading.factors:
        raise ProgramError(
            f"'{reading.factors[0]}' is a numpyro.factor, and rows drawn without it would have another "
            "density; to draw data, give it as a distribution with obs="
        )


def rows_first(site: Site, reading: Reading, value: Any) -> Any:
    """A site's value (..., N, ..., *event) with the axis of rows first."""
    return jnp.moveaxis(value, len(site.shape) - site.event_ndim + reading.rows.dim, 0)


def as_program(site: Site, reading: Reading, value: np.ndarray) -> np.ndarray:
    """A value that leads with rows in the shape that the program gives the site."""
    return np.moveaxis(value, 0, len(site.shape) - site.event_ndim + reading.rows.dim)
