"""Variational Bayes on every program of closed forms: ascent, and expectations against draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesmix
from bayesmix import VariationalBayes
from bayesmix.infer.mean_field import averaged_evaluation, averaged_families
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.elimination import marginals
from bayesmix.program.problem import Problem
from bayesmix.program.row_pass import log_factors
from tests import programs
from tests.checks import assert_never_falls
from tests.zoo import test_graphs, test_programs

CASES: dict[str, tuple[Any, tuple, dict]] = {
    **{
        name: (case.program, (programs.make_data(name),), {"K": 3})
        for name, case in programs.CASES.items()
        if case.closed
    },
    **{
        f"zoo, {name}": (case.program, case.rows, case.static)
        for cases in (test_programs.CASES, test_graphs.CASES)
        for name, case in cases.items()
        if "no closed form" not in case.blocks.values()
        and not name.startswith(("student", "probit", "missing"))
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_bound_never_falls_and_expectations_are_those_of_draws(name):
    program, rows, static = CASES[name]
    plan = bayesmix.plan(program, *rows, **static)
    engine = VariationalBayes(plan, progress_bar=False)
    fit = engine.run(jax.random.key(0), *rows, restarts=3, **static)
    assert fit.status, fit.status
    assert_never_falls(fit.bound, plan.reading.rows.size)
    assert fit.modes[0].objective == max(fit.restart_bounds)
    draws = fit.sample(jax.random.key(1), 4000)
    expected, heights = log_joints(fit, draws)
    error = heights.std() / np.sqrt(len(heights))
    assert abs(heights.mean() - expected) < 5 * error, (expected, heights.mean(), error)
    for site, mean in fit.mean.items():
        error = np.sqrt(fit.variance[site] / 4000)
        away = np.abs(draws[site].mean(axis=0) - mean)
        assert np.all((away < 5 * error) | ~np.isfinite(error)), site


def log_joints(fit, draws) -> tuple[float, np.ndarray]:
    """E[log p(x, z, theta)] under q(z) and q(theta), and under q(z) at each draw of theta."""
    plan, layout = fit.plan, fit.problem.arguments

    def look(arrays, blocks, draws, q):
        arguments = layout.with_arrays(arrays)

        def height(families, evaluation, shares):
            tables = log_factors(plan.graph, families, evaluation, blocks)
            shares = marginals(plan.graph, tables)[1] if shares is None else shares
            sums = [jnp.sum(jnp.where(r > 0, r * t, 0.0)) for r, t in zip(shares, tables)]
            return sum(sums, evaluation.log_prior), shares

        averaged = averaged_evaluation(Problem(plan, arguments), fit.scopes, q)
        expected, shares = height(averaged_families(plan), averaged, None)

        def at(values):
            return height(plan.families, plan.evaluate(arguments, values), shares)[0]

        return expected, jax.lax.map(at, draws, batch_size=50)

    blocks = Problem(plan, fit.problem.arguments).with_rows().blocks
    expected, heights = compile_lightly(look)(fit.problem.arguments.arrays, blocks, draws, fit.q)
    return float(expected), np.asarray(heights)
