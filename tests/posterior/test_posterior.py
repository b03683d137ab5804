"""What draws say of rows is the average of what a fit says at each draw, whatever engine drew them."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy.special import logsumexp
from scipy.stats import norm

import bayesmix
from bayesmix import Posterior, ProgramError
from tests import fixed

X = np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[-3.0, 0.0], [3.0, 1.0]], 20, axis=0)
GAPS = np.where(np.arange(80).reshape(40, 2) % 7 == 0, np.nan, X)
NEW = np.array([[0.5, np.nan], [-3.0, 0.2], [4.0, 2.0]])


def mixture(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    matrix = jnp.array([[1.0, 0.5], [0.5, 1.5]])
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], matrix), obs=x)


def lines(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(logits=x))
        numpyro.sample("y", dist.Normal(slope[z] * x, scale), obs=y)


@pytest.fixture(scope="module")
def several():
    """Draws about a mode, the posterior of them, and a fit at each."""
    rng = np.random.default_rng(1)
    draws = {
        "weights": rng.dirichlet([5.0, 5.0], 5),
        "mean": np.array([[-3.0, 0.0], [3.0, 1.0]]) + 0.4 * rng.normal(size=(5, 2, 2)),
    }
    plan = bayesmix.plan(mixture, GAPS)
    each = [fixed.at(plan, {n: v[s] for n, v in draws.items()}, GAPS) for s in range(5)]
    return Posterior.of(draws, plan, GAPS, relabelled=False), each


@pytest.mark.parametrize("rows", [(), (NEW,)], ids=["fitted", "new"])
def test_answers_are_averages_of_those_of_each_draw(several, rows):
    posterior, each = several
    shares = np.mean([fit.responsibilities(*rows) for fit in each], axis=0)
    np.testing.assert_allclose(posterior.responsibilities(*rows), shares, rtol=1e-9)
    np.testing.assert_array_equal(posterior.labels(*rows), shares.argmax(axis=1))
    heights = np.stack([fit.log_density(*rows) for fit in each])
    np.testing.assert_allclose(
        posterior.log_density(*rows), logsumexp(heights, axis=0) - np.log(5), rtol=1e-9
    )
    filled = np.mean([fit.impute(*rows)["x"] for fit in each], axis=0)
    np.testing.assert_allclose(posterior.impute(*rows)["x"], filled, rtol=1e-9)
    known = posterior.conditional_log_density(*rows, of={"x": [0]})
    assert known.shape == (len(shares),)


def test_covariances_have_the_spread_between_draws(several):
    posterior, each = several
    for ask in (lambda f: f.moments()["x"], lambda f: f.conditional_moments(NEW)["x"]):
        means, within = zip(*map(ask, each), strict=True)
        away = np.stack(means) - np.mean(means, axis=0)
        whole = np.mean(within, axis=0) + np.mean(away[..., :, None] * away[..., None, :], axis=0)
        found = ask(posterior)
        np.testing.assert_allclose(found.mean, np.mean(means, axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.covariance, whole, rtol=1e-8, atol=1e-12)


def test_predictions_are_those_of_the_average_density():
    x, y = np.linspace(-2.0, 2.0, 12), np.full(12, np.nan)
    rng = np.random.default_rng(2)
    draws = {
        "slope": np.array([-1.0, 2.0]) + 0.3 * rng.normal(size=(4, 2)),
        "scale": np.full(4, 0.3),
    }
    posterior = Posterior.of(draws, lines, x, np.zeros(12), relabelled=False)
    gate = 1 / (1 + np.exp(-x))
    shares = np.stack([1 - gate, gate])
    means = draws["slope"][:, :, None] * x
    expected = np.mean(np.sum(shares * means, axis=1), axis=0)
    np.testing.assert_allclose(posterior.predict_mean(x, y), expected, rtol=1e-9)
    levels = np.array([0.1, 0.5, 0.9])
    found = posterior.predict_quantiles(x, y, levels=levels)
    below = norm.cdf(found[:, None, None], means, 0.3)  # (levels, draws, components, rows)
    np.testing.assert_allclose(
        (below * shares).sum(axis=2).mean(axis=1), levels[:, None] + 0 * x, rtol=1e-8
    )
    grid = np.linspace(-3.0, 3.0, 7)
    heights = norm.pdf(grid[:, None, None, None], means, 0.3)
    log_density = posterior.predict_log_density(x, y, grid=grid)
    np.testing.assert_allclose(
        np.exp(log_density).T, (heights * shares).sum(axis=2).mean(axis=1), rtol=1e-8
    )


def answers():
    key, quiet = jax.random.key(0), {"progress_bar": False}
    for kernel in (bayesmix.ConjugateGibbs(mixture), NUTS(bayesmix.marginalize(mixture))):
        mcmc = MCMC(kernel, num_warmup=200, num_samples=200, **quiet)
        mcmc.run(key, GAPS)
        yield Posterior.of(mcmc, num_draws=100)
    yield Posterior.of(bayesmix.to_arviz(mcmc), mixture, GAPS)
    yield Posterior.of(bayesmix.TemperedSMC(mixture, num_particles=300, **quiet).run(key, GAPS))


def test_every_engine_is_asked_the_same():
    fit = bayesmix.EM(mixture, progress_bar=False).run(0, GAPS, restarts=5)
    for posterior in answers():
        same = posterior.labels(NEW) == fit.labels(NEW)
        assert same.all() or not same.any()  # one order of the labels, in all draws
        assert posterior.uncertainty()[1:5].max() < 0.1
        np.testing.assert_allclose(posterior.log_density(NEW), fit.log_density(NEW), atol=0.7)
        np.testing.assert_allclose(posterior.impute(NEW)["x"], fit.impute(NEW)["x"], atol=0.5)
        filled = posterior.imputations(1)["x"]
        assert filled.shape[1:] == GAPS.shape and np.isfinite(filled).all()
        drawn = posterior.sample(2)["x"]
        np.testing.assert_allclose(drawn.mean(axis=(0, 1)), fit.moments()["x"].mean, atol=0.5)
        assert "draws of the posterior" in str(posterior)


def test_variational_bayes_predicts_and_imputes():
    complete = bayesmix.VariationalBayes(mixture, progress_bar=False).run(0, X, restarts=3)
    fit = bayesmix.EM(mixture, progress_bar=False).run(0, X, restarts=3)
    np.testing.assert_allclose(complete.log_density(NEW), fit.log_density(NEW), atol=0.5)
    np.testing.assert_allclose(complete.impute(NEW)["x"], fit.impute(NEW)["x"], atol=0.3)
    assert complete.labels().shape == (40,)
    assert complete.moments()["x"].covariance.shape == (2, 2)


def test_an_answer_is_kept_in_a_file(tmp_path):
    em = bayesmix.EM(mixture, progress_bar=False)
    fit = em.run(0, GAPS, restarts=3)
    rng = np.random.default_rng(3)
    mean = fit.parameters["mean"] + 0.1 * rng.normal(size=(6, 2, 2))
    draws = {"weights": rng.dirichlet([5.0, 5.0], 6), "mean": mean}
    for answer, count in ((fit, 1), (Posterior.of(draws, mixture, GAPS, relabelled=False), 6)):
        idata = bayesmix.to_arviz(answer)
        assert idata["log_likelihood"]["x"].shape == (1, count, 40)
        idata.to_netcdf(str(tmp_path / f"{count}.nc"))
        kept = az.from_netcdf(str(tmp_path / f"{count}.nc"))
        again = Posterior.of(kept, mixture, GAPS, relabelled=False)
        np.testing.assert_allclose(again.log_density(NEW), answer.log_density(NEW), rtol=1e-12)
        np.testing.assert_allclose(again.impute()["x"], answer.impute()["x"], rtol=1e-12)
    np.testing.assert_array_equal(Posterior.of(fit).labels(NEW), fit.labels(NEW))


def test_what_is_no_run_is_refused():
    with pytest.raises(ProgramError, match="draws lacks 'mean'"):
        Posterior.of({"weights": np.full((3, 2), 0.5)}, mixture, X)
    with pytest.raises(ProgramError, match="has not run yet"):
        Posterior.of(MCMC(bayesmix.ConjugateGibbs(mixture), num_warmup=1, num_samples=1))
