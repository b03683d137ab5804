"""Normal rows with missing cells against norm2 and lavaan: ML, MAP, and the posterior by Gibbs."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size

import bayesmix
from bayesmix import EM, ConjugateGibbs, Plan
from tests.checks import assert_never_falls
from tests.oracles.sbc import draw_chains
from tests.references import reference

pytestmark = pytest.mark.oracle
DATASETS = ["airquality4", "iris_mcar", "sleep_log"]


def program(x, prior):
    """norm2's prior: flat on the mean, |S|^-(dof + D + 1)/2 exp(-tr(scale S^-1)/2) on the covariance."""
    D = x.shape[1]
    positive = dist.ImproperUniform(dist.constraints.positive_definite, (), (D, D))
    covariance = numpyro.sample("covariance", positive)
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real_vector, (), (D,)))
    log_determinant = jnp.linalg.slogdet(covariance)[1]
    scale = jnp.trace(jnp.linalg.solve(covariance, prior["scale"]))
    numpyro.factor("prior", -((prior["dof"] + D + 1) * log_determinant + scale) / 2)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=x)


def rows_of(dataset: str) -> np.ndarray:
    return np.asarray(reference("missing_cells")[dataset]["data"], float)


def prior_of(dataset: str) -> dict[str, np.ndarray]:
    stored = reference("missing_cells")[dataset]["norm2_map_invwish"]
    dof, scale = float(stored["prior_df"]), np.asarray(stored["prior_sscp"])
    return {"dof": np.asarray(dof), "scale": scale}


def no_prior(dataset: str) -> dict[str, np.ndarray]:
    """norm2 calls it uniform: its density is 1."""
    D = rows_of(dataset).shape[1]
    return {"dof": np.asarray(-(D + 1.0)), "scale": np.zeros((D, D))}


@functools.cache
def plan_of(dataset: str) -> Plan:
    return bayesmix.plan(program, rows_of(dataset), prior_of(dataset))


@functools.cache
def em_of(dataset: str) -> EM:
    """EM, compiled once for a data set, with and without the prior."""
    return EM(plan_of(dataset), tolerance=1e-13, progress_bar=False)


def filled_in(dataset: str) -> dict[str, np.ndarray]:
    """Estimates from the data with the mean of each column in its missing cells."""
    x = rows_of(dataset)
    x = np.where(np.isnan(x), np.nanmean(x, axis=0), x)
    return {"mean": x.mean(axis=0), "covariance": np.cov(x.T, bias=True)}


def fit_of(dataset: str, prior: dict[str, np.ndarray]):
    # given initial values, the starts need not be compiled
    fit = em_of(dataset).run(0, rows_of(dataset), prior, init=filled_in(dataset))
    assert bool(fit.status), fit.status
    assert_never_falls(fit.objective)
    return fit


def log_prior(covariance: np.ndarray, prior: dict[str, np.ndarray]) -> float:
    power = float(prior["dof"]) + len(covariance) + 1
    scale = np.trace(np.linalg.solve(covariance, prior["scale"]))
    return -(power * np.linalg.slogdet(covariance)[1] + scale) / 2


def assert_parameters(fit, stored) -> None:
    size = np.sqrt(np.diagonal(fit.parameters["covariance"]))
    units = {"mean": size, "covariance": np.outer(size, size)}
    for name, theirs in (("mean", "mean"), ("covariance", "cov")):
        off = (fit.parameters[name] - np.asarray(stored[theirs])) / units[name]
        assert np.abs(off).max() < 1e-6, name


@pytest.mark.parametrize("dataset", DATASETS)
def test_maximum_likelihood_is_that_of_norm2_and_lavaan(dataset):
    fit = fit_of(dataset, no_prior(dataset))
    for program_ in ("norm2_em", "lavaan"):
        stored = reference("missing_cells")[dataset][program_]
        assert fit.objective[-1] == pytest.approx(stored["loglik_observed"], rel=1e-10)
        assert_parameters(fit, stored)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_mode_under_an_inverse_wishart_prior_is_that_of_norm2(dataset):
    stored, prior = reference("missing_cells")[dataset]["norm2_map_invwish"], prior_of(dataset)
    fit = fit_of(dataset, prior)
    found = fit.objective[-1] - log_prior(fit.parameters["covariance"], prior)
    assert found == pytest.approx(stored["loglik_observed"], rel=1e-7)
    assert_parameters(fit, stored)


def test_the_expected_scatter_shows_which_density_norm2_maximises():
    """The mode of a plain density: expected scatter plus scale, over N + dof + D + 1."""
    dataset = "airquality4"
    prior, x = prior_of(dataset), rows_of(dataset)
    stored = reference("missing_cells")[dataset]["norm2_map_invwish"]
    mean, covariance = np.asarray(stored["mean"]), np.asarray(stored["cov"])
    total = prior["scale"].copy()
    for row in x - mean:
        hidden = np.isnan(row)
        slope = covariance[:, ~hidden] @ np.linalg.inv(covariance[np.ix_(~hidden, ~hidden)])
        expected = slope @ row[~hidden]
        total += np.outer(expected, expected) + covariance - slope @ covariance[~hidden]
    N, D = x.shape
    np.testing.assert_allclose(total / (N + prior["dof"] + D + 1), covariance, rtol=1e-9)


@pytest.mark.parametrize("dataset", ["airquality4", "iris_mcar"])
def test_filling_in_means_shrinks_variances_and_em_does_not(dataset):
    x, filled = rows_of(dataset), filled_in(dataset)
    share = 1 - np.isnan(x).mean(axis=0)
    assert share.min() < 0.85
    # exactly: a filled-in variance is the observed one, times the share of cells observed
    variance = np.diagonal(filled["covariance"])
    np.testing.assert_allclose(variance, share * np.nanvar(x, axis=0), rtol=1e-12)
    fit = fit_of(dataset, no_prior(dataset))
    ratio = np.diagonal(fit.parameters["covariance"]) / np.nanvar(x, axis=0)
    assert (np.abs(ratio - 1) < 0.05).all(), ratio
    # the trace starts at the filled-in estimates
    assert fit.objective[-1] > fit.objective[0] + 1


@functools.cache
def posterior_draws() -> dict[str, np.ndarray]:
    dataset = "airquality4"
    kernel = ConjugateGibbs(plan_of(dataset), keep_latents=False)
    start = {name: np.stack([value] * 4) for name, value in filled_in(dataset).items()}
    return draw_chains(kernel, (rows_of(dataset), prior_of(dataset)), start, 100, 1500)


@pytest.mark.parametrize(
    ("site", "theirs"), [("mean", ("mu", "mu")), ("covariance", ("sigma_vech", "sigma"))]
)
def test_gibbs_has_the_posterior_of_norm2s_data_augmentation(site, theirs):
    stored = reference("missing_cells")["airquality4"]["posterior"]
    prior = prior_of("airquality4")
    assert stored["prior_df"] == prior["dof"]
    np.testing.assert_allclose(stored["prior_sscp"], prior["scale"], rtol=1e-12)
    draws = posterior_draws()[site]
    if site == "covariance":
        rows, columns = np.triu_indices(draws.shape[-1])  # the lower triangle by columns
        draws = draws[..., rows, columns]
    mean, deviation = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1))
    mine = deviation / np.sqrt(np.minimum(effective_sample_size(draws), draws.shape[1] * 4))
    error = np.hypot(mine, stored[f"mcse_{theirs[1]}"])
    off = np.abs(mean - np.asarray(stored[f"post_mean_{theirs[0]}"]))
    assert (off < 4 * error).all(), off / error
    np.testing.assert_allclose(deviation, stored[f"post_sd_{theirs[0]}"], rtol=0.05)
