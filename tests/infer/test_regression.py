"""Prediction given covariates, or given other cells: means, modes, densities, quantiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import softmax
from scipy.stats import norm, poisson

import bayesmix
from bayesmix import EM, ProgramError, datasets, zoo

OXIDE, RICHNESS = datasets.load("ethanol").values.T
UNKNOWN = np.full(7, np.nan)


@functools.cache
def lines() -> bayesmix.EMResult:
    return EM(zoo.linear_experts, progress_bar=False).run(
        0, OXIDE[:, None], RICHNESS, 2, restarts=2
    )


def by_hand(fit, x):
    """Weights (N, K), means (N, K) and standard deviations (K,)."""
    design = np.column_stack([np.ones(len(x)), x])
    weights = softmax(design @ fit.parameters["gate"].T, axis=1)
    return weights, design @ fit.parameters["coefficients"].T, np.sqrt(fit.parameters["variance"])


X_NEW = np.linspace(0.2, 4.0, 7)
CALL = (X_NEW[:, None], UNKNOWN, 2)


def test_weights_means_and_modes_are_those_of_the_formulas():
    fit = lines()
    weights, means, _ = by_hand(fit, X_NEW)
    np.testing.assert_allclose(fit.predict_weights(*CALL), weights, rtol=1e-10)
    np.testing.assert_allclose(fit.predict_mean(*CALL), np.sum(weights * means, axis=1), rtol=1e-10)
    np.testing.assert_allclose(fit.predict_mean(*CALL), fit.moments(*CALL)["y"].mean[:, 0])
    best = means[np.arange(7), np.argmax(weights, axis=1)]
    np.testing.assert_allclose(fit.predict_mode(*CALL), best, rtol=1e-10)


def test_what_is_predicted_is_not_looked_at():
    fit = lines()
    told = (OXIDE[:, None], RICHNESS, 2)
    untold = (OXIDE[:, None], np.full(88, np.nan), 2)
    for method in (fit.predict_mean, fit.predict_mode, fit.predict_weights):
        np.testing.assert_allclose(method(*told), method(*untold), rtol=1e-12)
    np.testing.assert_allclose(fit.predict_mean(), fit.predict_mean(*told), rtol=1e-12)


def test_the_density_on_a_grid_is_the_mixtures():
    fit, grid = lines(), np.linspace(0.0, 2.0, 401)
    weights, means, sigma = by_hand(fit, X_NEW)
    expected = np.einsum("nk,nkg->ng", weights, norm.pdf(grid, means[:, :, None], sigma[:, None]))
    found = fit.predict_log_density(*CALL, grid=grid)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)
    np.testing.assert_allclose(np.trapezoid(np.exp(found), grid), 1.0, atol=1e-6)
    own = fit.predict_log_density(OXIDE[:, None], RICHNESS, 2, grid=RICHNESS[:3])
    np.testing.assert_allclose(np.diag(own), fit.log_density()[:3], rtol=1e-10)


def test_quantiles_are_where_the_distribution_function_says():
    fit, levels = lines(), np.array([0.001, 0.25, 0.5, 0.999])
    weights, means, sigma = by_hand(fit, X_NEW)
    found = fit.predict_quantiles(*CALL, levels=levels)
    assert found.shape == (4, 7)
    reached = np.einsum("nk,lnk->ln", weights, norm.cdf(found[:, :, None], means, sigma))
    np.testing.assert_allclose(reached, np.broadcast_to(levels[:, None], (4, 7)), atol=1e-12)
    low, high = fit.predict_interval(*CALL, mass=0.5)
    np.testing.assert_allclose(low, found[1])
    assert np.all(low < high)


def counts(x, y, K):
    """Poisson rates by row, and a second site of two cells that tells components apart."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([K]).to_event(1))
    centre = numpyro.sample("centre", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.full(K, 1 / K)))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)
        numpyro.sample(
            "x", dist.Normal(centre[z][..., None], jnp.array([1.0, 3.0])).to_event(1), obs=x
        )


@functools.cache
def two_sites() -> bayesmix.EMResult:
    x = np.r_[np.full(20, -3.0), np.full(20, 3.0)][:, None] + np.array([[0.0, 0.5]])
    y = np.r_[np.arange(20) % 3, 20.0 + np.arange(20) % 5]
    init = {"rate": np.array([1.0, 20.0]), "centre": np.array([-3.0, 3.0])}
    return EM(counts, progress_bar=False).run(0, x, y, 2, init=init)


def test_one_site_is_predicted_from_the_others():
    fit = two_sites()
    x = np.array([[-3.0, np.nan], [0.1, 0.4], [3.0, 2.0]])
    call = (x, np.full(3, np.nan), 2)
    weights = fit.responsibilities(*call)  # of x alone, as y is missing
    rate = fit.parameters["rate"]
    np.testing.assert_allclose(fit.predict_weights(*call, of="y"), weights, rtol=1e-9)
    np.testing.assert_allclose(fit.predict_mean(*call, of="y"), weights @ rate, rtol=1e-9)
    np.testing.assert_allclose(fit.predict_mean(*call, of="y"), fit.impute(*call)["y"], rtol=1e-9)
    assert fit.predict_mode(*call, of="x").shape == (3, 2)
    found = fit.predict_quantiles(*call, levels=[0.05, 0.5, 0.95], of="y")
    reach = lambda y: np.sum(weights * poisson.cdf(y[..., None], rate), axis=-1)
    level = np.array([[0.05], [0.5], [0.95]])
    assert np.all(found == np.round(found))
    assert np.all(reach(found) >= level) and np.all(reach(found - 1) < level)


def test_a_density_of_several_cells_is_that_of_the_row():
    fit = two_sites()
    x, y = np.array([[-2.0, 1.0], [2.5, 0.0]]), np.array([1.0, 22.0])
    found = fit.predict_log_density(x, y, 2, grid=x, of="x")
    expected = fit.conditional_log_density(x, y, 2, of={"x": slice(None)})
    np.testing.assert_allclose(np.diag(found), expected, rtol=1e-9)


def test_a_second_call_compiles_nothing(monkeypatch):
    fit = lines()
    fit.predict_quantiles(*CALL, levels=[0.3])
    monkeypatch.setattr(jax, "jit", None)
    fit.predict_quantiles(X_NEW[::-1, None], UNKNOWN, 2, levels=[0.3])


def yes_and_no(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Binomial(3, logits=slope * x), obs=y)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: two_sites().predict_mean(), "'y', 'x'; say which to predict, with of="),
        (lambda: lines().predict_mean(of="x"), "'x' is not one of them"),
        (lambda: lines().predict_quantiles(levels=[0.5, 1.5]), "between 0 and 1"),
        (lambda: lines().predict_log_density(grid=np.zeros((3, 2))), r"\(G, 1\) or \(G,\)"),
        (
            lambda: (
                EM(yes_and_no, progress_bar=False)
                .run(0, np.arange(4.0), np.arange(4.0))
                .predict_quantiles(levels=0.5)
            ),
            "distribution function of site 'y' .* is not known",
        ),
    ],
)
def test_what_cannot_be_predicted_is_said_in_a_sentence(ask, message):
    with pytest.raises(ProgramError, match=message):
        ask()
