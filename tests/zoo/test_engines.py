"""Every program of the zoo through every engine: EM without priors and with them, Gibbs and NUTS.

Gibbs and NUTS start at the MAP and are held to the same average log likelihood of the data, which no
renaming of labels changes, within Monte Carlo error.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS

import bayesmix
from bayesmix import EM, MixedGibbs, datasets, zoo
from bayesmix.posterior.draws import at_draws
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.checks import assert_never_falls
from tests.zoo import test_experts, test_graphs, test_programs

IRIS = datasets.load("iris").values
GEYSER = datasets.load("faithful").values

CASES: dict[str, tuple[Any, tuple, dict]] = {
    **{
        f"Gaussian, {name}": (program, (GEYSER,), {"K": 2})
        for name, program in zoo.PROGRAMS.items()
    },
    **{
        name: (case.program, case.rows, case.static)
        for cases in (test_programs.CASES, test_graphs.CASES)
        for name, case in cases.items()
    },
    **{f"{name} experts": case for name, case in test_experts.CASES.items()},
    "probit": (zoo.probit_regression, test_programs.CASES["probit, latent"].rows, {}),
    "one Student-t": (zoo.multivariate_student, (IRIS[:50],), {}),
    "student mixture": (zoo.student_mixture, (datasets.load("bankruptcy").values,), {"K": 2}),
}


@functools.cache
def plan_of(name: str) -> bayesmix.Plan:
    program, rows, static = CASES[name]
    return bayesmix.plan(program, *rows, **static)


@pytest.mark.parametrize("name", CASES)
def test_every_engine_runs_and_samplers_agree(name):
    program, rows, static = CASES[name]
    plan = plan_of(name)
    size = plan.reading.rows.size
    fit = EM(plan, progress_bar=False).run(0, *rows, restarts=5, **static)
    assert_never_falls(fit.objective, size)
    free = EM(bayesmix.without_priors(program), progress_bar=False, max_steps=200)
    assert_never_falls(free.run(0, *rows, restarts=2, **static).objective, size)
    values = {n: jnp.asarray(v) for n, v in fit.parameters.items()}
    unconstrained = {
        site.name: biject_to(site.support).inv(values[site.name])
        for site in plan.reading.parameters
    }
    gibbs = heights(name, MixedGibbs(plan, marginal=True), values, 2000)
    nuts = heights(name, NUTS(bayesmix.marginalize(plan)), unconstrained, 1000)
    error = np.hypot(error_of(gibbs), error_of(nuts))
    assert abs(gibbs.mean() - nuts.mean()) < 4.5 * error, (gibbs.mean(), nuts.mean(), error)


def heights(name: str, kernel: Any, start: dict, count: int) -> np.ndarray:
    """Log likelihood of the data at each draw."""
    _, rows, static = CASES[name]
    plan, arguments = plan_of(name), split(rows, static)
    mcmc = MCMC(kernel, num_warmup=300, num_samples=count, progress_bar=False)
    mcmc.run(jax.random.key(3), *rows, init_params=start, **static)
    draws = {n: np.asarray(mcmc.get_samples()[n]) for n in plan.reading.parameter_names}
    return at_draws(Problem(plan, arguments), draws).log_likelihood.sum(axis=1)


def error_of(draws: np.ndarray) -> float:
    """Monte Carlo error of the mean, from batches."""
    batches = draws[: len(draws) // 20 * 20].reshape(20, -1).mean(axis=1)
    return float(batches.std(ddof=1) / np.sqrt(20))
