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

from ..program.arguments import Arguments
from ..program.evaluate import Values
from ..program.plan import Plan

_CHUNK = 16


def _over_draws(
    function: Callable[[tuple[Array, ...], Any], Any], arguments: Arguments, draws: Any
) -> Any:
    count = jax.tree.leaves(draws)[0].shape[0]

    @jax.jit
    def run(arrays: tuple[Array, ...], draws: Any) -> Any:
        one = lambda draw: function(arrays, draw)
        return jax.lax.map(one, draws, batch_size=min(_CHUNK, count))

    return jax.tree.map(np.asarray, run(arguments.arrays, draws))


def row_log_likelihood(plan: Plan, arguments: Arguments, draws: Values) -> np.ndarray:
    """log p(x_i | theta_s) with the latent summed out, (S, N)."""

    def one(arrays: tuple[Array, ...], values: Values) -> Array:
        table = plan.log_joint_table(arguments._replace(arrays=arrays), values)
        return jax.nn.logsumexp(table, axis=0)

    return _over_draws(one, arguments, draws)


def label_probabilities(plan: Plan, arguments: Arguments, draws: Values) -> np.ndarray:
    """p(z_i = k | x_i, theta_s), (S, N, K)."""

    def one(arrays: tuple[Array, ...], values: Values) -> Array:
        table = plan.log_joint_table(arguments._replace(arrays=arrays), values)
        return jax.nn.softmax(table, axis=0).T

    return _over_draws(one, arguments, draws)


def prior_and_derived(
    plan: Plan, arguments: Arguments, draws: Values
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """log p(theta_s) (S,), deterministic sites, and mean and covariance of each component by site."""
    known = {name: family for name, family in plan.families.items() if family is not None}

    def one(arrays: tuple[Array, ...], values: Values) -> Any:
        evaluation = plan.evaluate(arguments._replace(arrays=arrays), values)
        moments = {n: f.moments(evaluation.components[n]) for n, f in known.items()}
        return plan.log_prior(evaluation), evaluation.deterministic, moments

    return _over_draws(one, arguments, draws)


def replicate(
    plan: Plan, arguments: Arguments, draws: Values, rng_key: Array
) -> dict[str, np.ndarray]:
    """Data drawn anew from the program at each draw, by observed site, (S, N, ...)."""
    names = tuple(site.name for site in plan.reading.observed)
    count = jax.tree.leaves(draws)[0].shape[0]

    def one(arrays: tuple[Array, ...], drawn: Any) -> Values:
        values, key = drawn
        args, kwargs = arguments.call(arrays)
        program = uncondition(substitute(plan.program, data=values))
        sites = trace(seed(program, key)).get_trace(*args, **kwargs)
        return {name: sites[name]["value"] for name in names}

    return _over_draws(one, arguments, (draws, random.split(rng_key, count)))


def average_log_density(log_likelihood: np.ndarray) -> np.ndarray:
    """log of the average over draws of p(x_i | theta_s), (N,), from (S, N)."""
    top = log_likelihood.max(axis=0)
    return top + np.log(np.mean(np.exp(log_likelihood - top), axis=0))


def flatten(draws: dict[str, Any]) -> Values:
    """(chain, draw, ...) to (S, ...)."""
    return {n: jnp.reshape(v, (-1, *np.shape(v)[2:])) for n, v in draws.items()}
