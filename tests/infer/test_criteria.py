"""AIC, BIC and ICL against scikit-learn and enumeration; and calls that give the rows alone."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

import bayesmix
from bayesmix import Posterior, ProgramError, zoo
from tests import fixed

X = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[-1.0, 0.0], [1.5, 1.0]], 30, axis=0)
NEW = np.array([[0.5, 0.1], [-3.0, 0.2], [4.0, 2.0]])


@pytest.fixture(scope="module")
def fit():
    program = bayesmix.without_priors(zoo.gaussian_mixture)
    return bayesmix.EM(program, progress_bar=False).run(0, X, K=2, restarts=3)


def test_criteria_are_those_of_scikit_learn(fit):
    values = fit.parameters
    sklearn = GaussianMixture(2)
    sklearn.weights_, sklearn.means_ = values["weights"], values["mean"]
    sklearn.covariances_ = values["covariance"]
    sklearn.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(values["covariance"]))
    assert fit.plan.num_parameters == 11
    assert fit.bic() == pytest.approx(sklearn.bic(X), rel=1e-10)
    assert fit.aic() == pytest.approx(sklearn.aic(X), rel=1e-10)
    r = fit.responsibilities()
    assert fit.icl() == pytest.approx(fit.bic() - 2 * np.sum(r * np.log(r)), rel=1e-10)
    assert fit.log_likelihood() == pytest.approx(fit.log_density().sum(), rel=1e-12)


def test_rows_count_by_weight(fit):
    em = bayesmix.EM(fit.plan, progress_bar=False)
    counts = np.random.default_rng(1).integers(0, 3, 60)
    (weighted,) = em.run_many(
        0, [em.problem(X, K=2).weighted(counts)], init=fit.parameters, restarts=1
    )
    written_out = fixed.at(fit.plan, weighted.parameters, np.repeat(X, counts, axis=0), K=2)
    for name in ("log_likelihood", "aic", "bic", "icl"):
        assert getattr(weighted, name)() == pytest.approx(getattr(written_out, name)(), rel=1e-9)


def test_draws_are_judged_by_the_best_of_them(fit):
    rng = np.random.default_rng(2)
    draws = {name: np.stack([value] * 3) for name, value in fit.parameters.items()}
    draws["mean"][1:] += rng.normal(size=(2, 2, 2))
    posterior = Posterior.of(draws, fit.plan, X, K=2, relabelled=False)
    for name in ("log_likelihood", "aic", "bic", "icl"):
        assert getattr(posterior, name)() == pytest.approx(getattr(fit, name)(), rel=1e-9)


def test_entropy_is_that_of_all_latents_of_a_row():
    def chain(x):
        turn = jnp.array([[0.8, 0.2], [0.3, 0.7]])
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            a = numpyro.sample("a", dist.Bernoulli(0.4))
            b = numpyro.sample("b", dist.Categorical(turn[a]))
            numpyro.sample("x", dist.Normal(mean[a], 1.0), obs=x[:, 0])
            numpyro.sample("y", dist.Normal(mean[b] + 0.5 * a, 1.0), obs=x[:, 1])

    mean, turn = np.array([-0.5, 1.0]), np.array([[0.8, 0.2], [0.3, 0.7]])
    fit = fixed.at(bayesmix.plan(chain, X), {"mean": mean}, X)
    joint = np.stack(
        [
            [0.6, 0.4][a]
            * turn[a, b]
            * norm.pdf(X[:, 0], mean[a])
            * norm.pdf(X[:, 1], mean[b] + a / 2)
            for a, b in itertools.product(range(2), repeat=2)
        ]
    )
    shares = joint / joint.sum(axis=0)
    entropy = -np.sum(shares * np.log(shares))
    assert fit.log_likelihood() == pytest.approx(np.log(joint.sum(axis=0)).sum(), rel=1e-10)
    assert fit.icl() - fit.bic() == pytest.approx(2 * entropy, rel=1e-8)
    assert fit.plan.num_parameters == 2


def test_one_row_has_no_sample_size():
    def series(y):
        rates = numpyro.sample("rates", dist.Gamma(2.0, 0.1).expand([2]).to_event(1))
        with numpyro.plate("series", 1):
            change = numpyro.sample("change", dist.DiscreteUniform(1, 18))
            with numpyro.plate("years", 19, dim=-2):
                later = jnp.arange(19)[:, None] >= change
                numpyro.sample("y", dist.Poisson(jnp.where(later, rates[1], rates[0])), obs=y)

    y = np.r_[np.full(9, 3), np.full(10, 12)][:, None]
    fit = bayesmix.EM(series, progress_bar=False).run(0, y)
    with pytest.raises(ProgramError, match="give num_observations"):
        fit.bic()
    two = 2 * np.log(19) - 2 * fit.log_likelihood()
    assert fit.bic(19) == pytest.approx(two, rel=1e-12)


def test_new_rows_need_the_rows_alone(fit):
    asked = fit.responsibilities(NEW, K=2)
    np.testing.assert_array_equal(fit.responsibilities(NEW), asked)
    np.testing.assert_array_equal(fit.responsibilities(x=NEW), asked)
    np.testing.assert_array_equal(fit.responsibilities(NEW, 2), asked)
    assert fit.sample(0, NEW)["x"].shape == (3, 2)


def test_what_has_rows_is_not_taken_from_the_fit():
    def lines(x, y, scale=1.0):
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(slope[z] * x, scale), obs=y)

    x, y = np.linspace(-1, 1, 20), np.linspace(-1, 1, 20) * np.where(np.arange(20) % 2, 2.0, -2.0)
    fit = bayesmix.EM(lines, progress_bar=False).run(0, x, y, 0.3)
    np.testing.assert_array_equal(fit.log_density(x[:3], y[:3]), fit.log_density(x[:3], y[:3], 0.3))
    np.testing.assert_allclose(fit.log_density(x[:3], y[:3]), fit.log_density()[:3], rtol=1e-12)
    with pytest.raises(ProgramError, match="lacks 'y', which belongs to the rows"):
        fit.log_density(x[:3])
