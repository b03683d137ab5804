"""What follows from draws of the parameters, row by row: densities, label probabilities, replications.

Draws lead with one axis of S; each function maps over them in chunks under one jit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.handlers import seed, substitute, trace, uncondition

from ..families.likelihoods import Family
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.evaluate import Values
from ..program.plan import Plan

_CHUNK = 16


def _over_draws(function: Callable[..., Any], draws: Any, *given: Any) -> Any:
    """`function(draw, *given)` for every draw; `given` is passed to the compiled function."""
    count = jax.tree.leaves(draws)[0].shape[0]

    @jax.jit
    def run(draws: Any, *given: Any) -> Any:
        return jax.lax.map(
            lambda draw: function(draw, *given), draws, batch_size=min(_CHUNK, count)
        )

    return jax.tree.map(np.asarray, run(draws, *given))


def row_log_likelihood(plan: Plan, arguments: Arguments, draws: Values) -> np.ndarray:
    """log p(x_i | theta_s) with the latent summed out, (S, N)."""

    def one(values: Values, arrays: tuple[Array, ...], blocks: Blocks) -> Array:
        table = plan.log_joint_table(arguments._replace(arrays=arrays), blocks, values)
        return jax.nn.logsumexp(table, axis=0)

    return _over_draws(one, draws, arguments.arrays, plan.blocks_of_rows(arguments))


def label_probabilities(plan: Plan, arguments: Arguments, draws: Values) -> np.ndarray:
    """p(z_i = k | x_i, theta_s), (S, N, K)."""

    def one(values: Values, arrays: tuple[Array, ...], blocks: Blocks) -> Array:
        table = plan.log_joint_table(arguments._replace(arrays=arrays), blocks, values)
        return jax.nn.softmax(table, axis=0).T

    return _over_draws(one, draws, arguments.arrays, plan.blocks_of_rows(arguments))


def prior_and_derived(
    plan: Plan, arguments: Arguments, draws: Values
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """log p(theta_s) (S,), deterministic sites, and mean and covariance of each component by site."""
    known = {name: family for name, family in plan.families.items() if isinstance(family, Family)}

    def one(values: Values, arrays: tuple[Array, ...]) -> Any:
        evaluation = plan.evaluate(arguments._replace(arrays=arrays), values)
        moments = {n: f.moments(evaluation.components[n]) for n, f in known.items()}
        return plan.log_prior(evaluation), evaluation.deterministic, moments

    return _over_draws(one, draws, arguments.arrays)


def replicate(
    plan: Plan, arguments: Arguments, draws: Values, rng_key: Array
) -> dict[str, np.ndarray]:
    """Data drawn anew from the program at each draw, by observed site, (S, N, ...)."""
    names = tuple(site.name for site in plan.reading.observed)
    count = jax.tree.leaves(draws)[0].shape[0]

    def one(drawn: Any, arrays: tuple[Array, ...]) -> Values:
        values, key = drawn
        args, kwargs = arguments.call(arrays)
        program = uncondition(substitute(plan.program, data=values))
        sites = trace(seed(program, key)).get_trace(*args, **kwargs)
        return {name: sites[name]["value"] for name in names}

    return _over_draws(one, (draws, random.split(rng_key, count)), arguments.arrays)


def average_log_density(log_likelihood: np.ndarray) -> np.ndarray:
    """log of the average over draws of p(x_i | theta_s), (N,), from (S, N)."""
    top = log_likelihood.max(axis=0)
    return top + np.log(np.mean(np.exp(log_likelihood - top), axis=0))


def flatten(draws: dict[str, Any]) -> Values:
    """(chain, draw, ...) to (S, ...)."""
    return {n: jnp.reshape(v, (-1, *np.shape(v)[2:])) for n, v in draws.items()}
