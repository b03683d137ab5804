"""Many data sets of one shape in one compiled call: each fit is the one that is made alone."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import ProgramError, accelerators, e_steps, zoo
from bayesmix.program import compiling

X = np.random.default_rng(0).normal(size=(90, 2)) + np.repeat([[-3.0, 0.0], [3.0, 0.0]], 45, axis=0)


def heavy(x, y):
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.StudentT(df, slope[z] * x, 0.3), obs=y)


def same(one, other, digits=9):
    assert one.status is other.status
    np.testing.assert_allclose(one.objective[-1], other.objective[-1], rtol=10.0**-digits)
    # of starts that reach one mode any may be the best, and labels are its own
    values, told = (
        {
            name: np.sort(value, axis=0) if value.ndim else value
            for name, value in fit.parameters.items()
        }
        for fit in (one, other)
    )
    for name, value in values.items():
        np.testing.assert_allclose(value, told[name], rtol=1e-5, atol=1e-6)


PARTS = {
    "plain": {},
    "hard": {"e_step": e_steps.Hard()},
    "annealed": {"e_step": e_steps.Tempered(e_steps.Geometric(0.5))},
    "accelerated": {"accelerator": accelerators.Squarem()},
}


@pytest.mark.parametrize("name", PARTS)
def test_each_fit_is_the_one_that_is_made_alone(name):
    em = bayesmix.EM(zoo.gaussian_mixture, progress_bar=False, **PARTS[name])
    problems = [em.problem(X + 5 * shift, K=2) for shift in range(3)]
    fits = em.run_many(0, problems, restarts=3)
    keys = jax.random.split(jax.random.key(0), 3)
    for problem, key, fit in zip(problems, keys, fits, strict=True):
        same(fit, em.run_problem(key, problem, restarts=3))
    moved = fits[1].parameters["mean"].mean() - fits[0].parameters["mean"].mean()
    assert moved == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("engine", [bayesmix.EM, bayesmix.VariationalBayes])
def test_a_problem_is_taken_in_the_place_of_arguments(engine):
    fits = engine(zoo.gaussian_mixture, progress_bar=False, max_steps=5)
    problem = fits.problem(X, K=2)
    one, other = fits.run(0, problem), fits.run(0, X, K=2)
    assert one.restart_steps.tolist() == other.restart_steps.tolist()
    np.testing.assert_array_equal(one.log_density(), other.log_density())


def test_rows_of_weight_zero_are_rows_left_out():
    x = np.linspace(-2.0, 2.0, 60)
    y = np.where(np.arange(60) % 2, 1.5, -1.0) * x + 0.1 * np.sin(9 * x)
    em = bayesmix.EM(heavy, progress_bar=False)
    problem, folds = em.problem(x, y), np.arange(60) % 3
    init = {"slope": np.array([-1.0, 1.5]), "df": 5.0}
    fits = em.run_many(1, [problem.weighted(folds != i) for i in range(3)], init=init)
    for i, fit in enumerate(fits):
        kept = folds != i
        same(fit, em.run(jax.random.key(0), x[kept], y[kept], init=init), digits=7)
        assert fit.labels().shape == (60,)  # those that were left out get labels too


def test_bootstrap_replicates_share_their_data_and_their_compiled_program(monkeypatch):
    em = bayesmix.EM(zoo.gaussian_mixture, progress_bar=False, max_steps=50)
    problem, rng = em.problem(X, K=2), np.random.default_rng(1)
    init = em.run_problem(0, problem, restarts=3).parameters

    def replicates(count):
        return [problem.weighted(rng.multinomial(90, np.full(90, 1 / 90))) for _ in range(count)]

    first = em.run_many(0, replicates(8), init=init)
    traced = []
    real = compiling.compile_fully
    monkeypatch.setattr(compiling, "compile_fully", lambda f: traced.append(f) or real(f))
    again = em.run_many(1, replicates(8), init=init)
    assert traced == []
    means = np.stack([fit.parameters["mean"] for fit in (*first, *again)])
    error = means.std(axis=0)
    assert np.all((error > 0.05) & (error < 0.4))  # about 1 / sqrt(45)


def test_problems_that_do_not_go_together_are_refused():
    em = bayesmix.EM(zoo.gaussian_mixture, progress_bar=False)
    problem = em.problem(X, K=2)
    with pytest.raises(ProgramError, match="several plans"):
        em.run_many(0, [problem, em.problem(X, K=3)])
    with pytest.raises(ProgramError, match="give 90 finite weights"):
        problem.weighted(np.ones(3))
    with pytest.raises(ProgramError, match="give 90 finite weights"):
        problem.weighted(jnp.full(90, -1.0))
    with pytest.raises(ProgramError, match="every row has weight 0"):
        problem.weighted(np.zeros(90))


def test_variational_fits_of_many_problems_are_those_that_are_made_alone():
    vb = bayesmix.VariationalBayes(zoo.gaussian_mixture, progress_bar=False)
    problem, folds = vb.problem(X, K=2), np.arange(90) % 3
    problems = [problem.weighted(folds != i) for i in range(3)]
    fits = vb.run_many(0, problems, restarts=3)
    keys = jax.random.split(jax.random.key(0), 3)
    for own, key, fit in zip(problems, keys, fits, strict=True):
        alone = vb.run_problem(key, own, restarts=3)
        assert fit.status is alone.status and bool(fit.status)
        assert fit.log_evidence_bound == pytest.approx(alone.log_evidence_bound, rel=1e-9)
        np.testing.assert_allclose(
            np.sort(fit.mean["weights"]), np.sort(alone.mean["weights"]), rtol=1e-5
        )
        assert fit.labels().shape == (90,)


def test_variational_rows_of_weight_zero_are_rows_left_out():
    def program(x):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Poisson(rate[z]), obs=x)

    x = np.r_[np.random.default_rng(2).poisson(2.0, 30), np.random.default_rng(3).poisson(15.0, 30)]
    vb = bayesmix.VariationalBayes(program, progress_bar=False)
    problem, kept, init = vb.problem(x), np.arange(60) % 4 > 0, {"rate": np.array([2.0, 15.0])}
    (fit,) = vb.run_many(0, [problem.weighted(kept)], init=init)
    alone = vb.run(0, x[kept], init=init)
    assert fit.log_evidence_bound == pytest.approx(alone.log_evidence_bound, rel=1e-9)
    np.testing.assert_allclose(fit.mean["rate"], alone.mean["rate"], rtol=1e-7)
