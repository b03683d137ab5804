"""Functions of a problem at draws of its parameters, (S, ...) by site: at each, or averaged over all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..program.problem import Problem
from .moments import Moments

_CHUNK = 16


def num_draws(draws: Any) -> int:
    """S."""
    return len(jax.tree.leaves(draws)[0])


def over_draws(
    function: Callable[..., Any], problem: Problem, draws: Any, *rest: Any, static: Any = ()
) -> Any:
    """`function(problem, *static, draw, *rest)` at each draw, one after another, as NumPy's arrays;
    compiled once for a plan."""
    found = problem.run(_in_turn, draws, *rest, static=(function, static), fully=True)
    return jax.tree.map(np.asarray, found)


def _in_turn(
    problem: Problem, function: Callable[..., Any], static: Any, draws: Any, *rest: Any
) -> Any:
    count = num_draws(draws)
    # a remainder would be compiled a second time
    divisor = max(size for size in range(1, _CHUNK + 1) if count % size == 0)
    size = divisor if divisor >= _CHUNK // 4 else min(_CHUNK, count)
    return jax.lax.map(lambda draw: function(problem, *static, draw, *rest), draws, batch_size=size)


def mean_over_draws(function: Callable[..., Any], problem: Problem, draws: Any, *rest: Any) -> Any:
    """The average of `function(problem, draw, *rest)`, as NumPy's arrays; results are added up as they
    come, and none is kept."""
    static = (function, jnp.add, 0.0)
    total = problem.run(_added, draws, *rest, static=static, fully=True)
    count = num_draws(draws)
    return jax.tree.map(lambda x: np.asarray(x) if count == 1 else np.asarray(x) / count, total)


def log_mean_over_draws(
    function: Callable[..., Array], problem: Problem, draws: Any, *rest: Any
) -> np.ndarray:
    """log of the average of exp(function(problem, draw, *rest))."""
    static = (function, jnp.logaddexp, -jnp.inf)
    total = problem.run(_added, draws, *rest, static=static, fully=True)
    return np.asarray(total) - np.log(num_draws(draws))


def _added(
    problem: Problem,
    function: Callable[..., Any],
    add: Callable[[Array, Array], Array],
    nothing: float,
    draws: Any,
    *rest: Any,
) -> Any:
    def at(i: Any) -> Any:
        return function(problem, jax.tree.map(lambda x: x[i], draws), *rest)

    count = num_draws(draws)
    if count == 1:
        return at(0)
    start = jax.tree.map(
        lambda like: jnp.full(like.shape, nothing, jnp.result_type(float)), jax.eval_shape(at, 0)
    )
    return jax.lax.fori_loop(0, count, lambda i, total: jax.tree.map(add, total, at(i)), start)


def moments_over_draws(
    function: Callable[..., dict[str, Moments]], problem: Problem, draws: Any, *rest: Any
) -> dict[str, Moments]:
    """The mean and the covariance of what has moments `function(problem, draw, *rest)` by site at each
    draw: E[Cov] + Cov[E] over draws."""
    if num_draws(draws) == 1:
        return mean_over_draws(function, problem, draws, *rest)
    first = jax.tree.map(lambda x: x[:1], draws)
    centres = {n: m.mean for n, m in mean_over_draws(function, problem, first, *rest).items()}
    found = mean_over_draws(_about(function), problem, draws, centres, *rest)

    def less_the_way(moments: Moments, centre: np.ndarray) -> Moments:
        away = moments.mean - centre
        return moments._replace(
            covariance=moments.covariance - away[..., :, None] * away[..., None, :]
        )

    return {name: less_the_way(moments, centres[name]) for name, moments in found.items()}


@cache
def _about(function: Callable[..., dict[str, Moments]]) -> Callable[..., dict[str, Moments]]:
    """Means, and covariances about given centres."""

    def run(problem: Problem, draw: Any, centres: Any, *rest: Any) -> dict[str, Moments]:
        found = {}
        for name, (mean, covariance) in function(problem, draw, *rest).items():
            away = mean - centres[name]
            found[name] = Moments(mean, covariance + away[..., :, None] * away[..., None, :])
        return found

    return run
