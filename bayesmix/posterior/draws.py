"""What follows from draws of the parameters, row by row: densities, label probabilities, replications.

Draws lead with one axis of S; each function maps over them in chunks under one jit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.handlers import seed, substitute, uncondition

from ..families.likelihoods import Family
from ..infer.draws import over_draws
from ..program.elimination import marginals
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.row_pass import log_factors
from ..program.tracing import sites_of


class AtDraws(NamedTuple):
    """What S draws say: log p(theta_s) (S,), deterministic sites, log p(x_i | theta_s) with the latent
    summed out (S, N), and p(z_i = k | x_i, theta_s) (S, N, K) by latent, {} where not asked for."""

    log_prior: np.ndarray
    deterministic: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    probabilities: dict[str, np.ndarray]


def at_draws(problem: Problem, draws: Values, probabilities: bool = False) -> AtDraws:
    """Densities, deterministic sites and label probabilities at each draw, in one pass."""
    return over_draws(_at_one, problem.with_rows(), draws, static=(probabilities,))


def _at_one(problem: Problem, probabilities: bool, values: Values) -> AtDraws:
    graph, evaluation = problem.plan.graph, problem.evaluate(values)
    tables = log_factors(graph, problem.plan.families, evaluation, problem.blocks)
    evidence, shares = marginals(graph, tables)
    own = {n: shares[graph.own(n)].T for n in graph.names} if probabilities else {}
    return AtDraws(evaluation.log_prior, evaluation.deterministic, evidence, own)


def component_moments(problem: Problem, draws: Values) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean (S, K, D) and covariance (S, K, D, D) of each component by observed site with a family."""
    return over_draws(_moments, problem, draws)


def _moments(problem: Problem, values: Values) -> dict[str, tuple[Array, Array]]:
    components, families = problem.evaluate(values).components, problem.plan.families
    return {n: f.moments(components[n]) for n, f in families.items() if isinstance(f, Family)}


def replicate(problem: Problem, draws: Values, rng_key: Array) -> dict[str, np.ndarray]:
    """Data drawn anew from the program at each draw, by observed site, (S, N, ...)."""
    keys = random.split(rng_key, jax.tree.leaves(draws)[0].shape[0])
    return over_draws(_drawn_anew, problem, (draws, keys))


def _drawn_anew(problem: Problem, drawn: tuple[Values, Array]) -> Values:
    values, key = drawn
    args, kwargs = problem.arguments.call()
    program = uncondition(substitute(problem.plan.program, data=values))
    sites = sites_of(seed(program, key), args, kwargs)
    return {site.name: sites[site.name]["value"] for site in problem.plan.reading.data}


def average_log_density(log_likelihood: np.ndarray) -> np.ndarray:
    """log of the average over draws of p(x_i | theta_s), (N,), from (S, N)."""
    top = log_likelihood.max(axis=0)
    return top + np.log(np.mean(np.exp(log_likelihood - top), axis=0))


def flatten(draws: dict[str, Any]) -> Values:
    """(chain, draw, ...) to (S, ...)."""
    return {n: jnp.reshape(v, (-1, *np.shape(v)[2:])) for n, v in draws.items()}
