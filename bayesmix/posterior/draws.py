"""What follows from draws of the parameters, row by row: densities, label probabilities, replications.

Draws lead with one axis of S; each function maps over them in chunks under one jit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.handlers import seed, substitute, uncondition

from ..families.likelihoods import Family
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.compiling import compile_fully
from ..program.evaluate import Values
from ..program.graph import marginals
from ..program.plan import Plan
from ..program.rows import log_factors
from ..program.tracing import sites_of

_CHUNK = 16


def _over_draws(function: Callable[..., Any], draws: Any, *given: Any) -> Any:
    """`function(draw, *given)` for every draw; `given` is passed to the compiled function."""
    count = jax.tree.leaves(draws)[0].shape[0]
    # a remainder would be compiled a second time
    divisor = max(size for size in range(1, _CHUNK + 1) if count % size == 0)
    size = divisor if divisor >= _CHUNK // 4 else min(_CHUNK, count)

    @compile_fully
    def run(draws: Any, *given: Any) -> Any:
        return jax.lax.map(lambda draw: function(draw, *given), draws, batch_size=size)

    return jax.tree.map(np.asarray, run(draws, *given))


class AtDraws(NamedTuple):
    """What S draws say: log p(theta_s) (S,), deterministic sites, log p(x_i | theta_s) with the latent
    summed out (S, N), and p(z_i = k | x_i, theta_s) (S, N, K) by latent, {} where not asked for."""

    log_prior: np.ndarray
    deterministic: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    probabilities: dict[str, np.ndarray]


def at_draws(
    plan: Plan, arguments: Arguments, draws: Values, probabilities: bool = False
) -> AtDraws:
    """Densities, deterministic sites and label probabilities at each draw, in one pass."""

    def one(values: Values, arrays: tuple[Array, ...], blocks: Blocks) -> AtDraws:
        evaluation = plan.evaluate(arguments._replace(arrays=arrays), values)
        tables = log_factors(plan.graph, plan.families, evaluation, blocks)
        evidence, shares = marginals(plan.graph, tables)
        own = {n: shares[plan.graph.own(n)].T for n in plan.graph.names} if probabilities else {}
        return AtDraws(plan.log_prior(evaluation), evaluation.deterministic, evidence, own)

    return _over_draws(one, draws, arguments.arrays, plan.blocks_of_rows(arguments))


def component_moments(
    plan: Plan, arguments: Arguments, draws: Values
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean (S, K, D) and covariance (S, K, D, D) of each component by observed site with a family."""
    known = {n: family for n, family in plan.families.items() if isinstance(family, Family)}

    def one(values: Values, arrays: tuple[Array, ...]) -> Any:
        components = plan.evaluate(arguments._replace(arrays=arrays), values).components
        return {n: family.moments(components[n]) for n, family in known.items()}

    return _over_draws(one, draws, arguments.arrays)


def replicate(
    plan: Plan, arguments: Arguments, draws: Values, rng_key: Array
) -> dict[str, np.ndarray]:
    """Data drawn anew from the program at each draw, by observed site, (S, N, ...)."""
    reading = plan.reading
    names = tuple(site.name for site in reading.data)
    count = jax.tree.leaves(draws)[0].shape[0]

    def one(drawn: Any, arrays: tuple[Array, ...]) -> Values:
        values, key = drawn
        args, kwargs = arguments.call(arrays)
        program = uncondition(substitute(plan.program, data=values))
        sites = sites_of(seed(program, key), args, kwargs)
        return {name: sites[name]["value"] for name in names}

    return _over_draws(one, (draws, random.split(rng_key, count)), arguments.arrays)


def average_log_density(log_likelihood: np.ndarray) -> np.ndarray:
    """log of the average over draws of p(x_i | theta_s), (N,), from (S, N)."""
    top = log_likelihood.max(axis=0)
    return top + np.log(np.mean(np.exp(log_likelihood - top), axis=0))


def flatten(draws: dict[str, Any]) -> Values:
    """(chain, draw, ...) to (S, ...)."""
    return {n: jnp.reshape(v, (-1, *np.shape(v)[2:])) for n, v in draws.items()}
