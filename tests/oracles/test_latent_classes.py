"""Latent classes of categorical answers against poLCA, Rmixmod, BayesLCA and PMTK, also with missing
items."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln
from scipy.stats import beta, dirichlet

from bayesmix import EM, datasets
from tests.checks import assert_never_falls
from tests.references import reference

pytestmark = pytest.mark.oracle
# one shape for all tables: rows, items, categories
SHAPE = (48, 7, 4)


def program(x, weight, prior, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, prior["weights"])))
    with numpyro.plate("class", K):
        items = numpyro.sample("items", dist.Dirichlet(prior["items"]).to_event(1))
    with numpyro.plate("rows", x.shape[0]), numpyro.handlers.scale(scale=weight):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Categorical(items[z]).to_event(1), obs=x)


@functools.cache
def em() -> EM:
    """Compiled for each shape and number of classes."""
    return EM(program, tolerance=1e-10, max_steps=5000, progress_bar=False)


def answers(key: str) -> np.ndarray:
    rows = reference("latent_classes")[key]["rows"]
    return np.array([[np.nan if cell == "." else float(cell) for cell in row] for row in rows])


def table_of(key: str) -> tuple[np.ndarray, np.ndarray]:
    """Different rows and how often each occurs. To fill up the shape, items that all answer alike, which
    say nothing, and rows repeated at no weight (as near as `scale` takes)."""
    x, counts = answers(key), np.asarray(reference("latent_classes")[key]["counts"], float)
    x = np.pad(x, ((0, 0), (0, SHAPE[1] - x.shape[1])))
    weight = np.concatenate([counts, np.full(SHAPE[0] - len(x), 1e-100)])
    return np.resize(x, SHAPE[:2]), weight


def prior_of(shape, weights=1.0, items=1.0, binary=0) -> dict[str, np.ndarray]:
    """Flat; or concentrations of the weights and of the first items, which are binary."""
    concentration = np.ones(shape[1:])
    concentration[:binary, :2] = items
    return {"weights": np.asarray(weights), "items": concentration}


def run(x, weight, prior, K, restarts=10):
    """The best of a few starts, and its log likelihood."""
    fit = em().run(0, x, weight, prior, K, restarts=restarts)
    assert bool(fit.status), fit.status
    assert_never_falls(fit.objective, int(weight.sum()))
    return fit, float(fit.log_density() @ weight)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("key", ["carcinoma", "gss82"])
def test_latent_classes_are_those_of_polca(key, K):
    x, weight = table_of(key)
    theirs = reference("latent_classes")[key][f"k{K}"]
    fit, found = run(x, weight, prior_of(SHAPE), K)
    assert found == pytest.approx(theirs["loglik"], rel=1e-8)
    order, there = np.argsort(fit.parameters["weights"]), np.argsort(theirs["P"])
    found_weights = fit.parameters["weights"][order]
    np.testing.assert_allclose(found_weights, np.asarray(theirs["P"])[there], atol=1e-3)
    for item, probs in enumerate(theirs["probs"]):
        expected = np.asarray(probs)[there]
        ours = fit.parameters["items"][order, item]
        # what a class of few rows answers is known to fewer digits
        off = np.abs(ours[:, : expected.shape[1]] - expected) * found_weights[:, None]
        assert off.max() < 1e-3, item


@pytest.mark.parametrize("K", [2, 3])
def test_birds_are_fitted_better_than_by_rmixmod(K):
    """Rmixmod smooths its frequencies, so that its fit is not the most likely one even for one class:
    -237.463, where the frequencies themselves give -236.594."""
    x, weight = table_of("birds")
    one = 0.0
    for item in x.T:
        counts = np.bincount(item.astype(int), weight)
        counts = counts[counts > 0.5]
        one += np.sum(counts * np.log(counts / counts.sum()))
    theirs = reference("latent_classes")["birds"]
    assert one == pytest.approx(-236.5941, abs=1e-3) and one > theirs["k1"]["loglik"] + 0.8
    assert run(x, weight, prior_of(SHAPE), K)[1] >= theirs[f"k{K}"]["loglik"]


@pytest.mark.parametrize("K", [2, 3])
def test_modes_under_beta_priors_are_those_of_bayeslca(K):
    x, weight = table_of("alzheimer")
    theirs = reference("latent_classes")["alzheimer"]["BayesLCA_alpha2"][f"k{K}"]
    fit, found = run(x, weight, prior_of(SHAPE, 2.0, 2.0, binary=6), K)
    weights, items = fit.parameters["weights"], fit.parameters["items"][:, :6, 1]
    log_prior = dirichlet.logpdf(weights / weights.sum(), np.full(K, 2.0))
    log_prior += beta.logpdf(items, 2.0, 2.0).sum()
    assert found + log_prior == pytest.approx(theirs["logpost"], rel=1e-8)
    order, there = np.argsort(weights), np.argsort(theirs["classprob"])
    expected = np.asarray(theirs["itemprob"])[there]
    np.testing.assert_allclose(weights[order], np.asarray(theirs["classprob"])[there], atol=1e-4)
    np.testing.assert_allclose(items[order], expected, atol=1e-4)


@pytest.mark.parametrize("K", [2, 3])
def test_modes_under_dirichlet_priors_are_those_of_pmtk(K):
    x, weight = table_of("carcinoma")
    theirs = reference("latent_classes")["carcinoma"]["pmtk3"][f"k{K}"]
    assert set(theirs["mixPrior"]) == {2}
    fit, found = run(x, weight, prior_of(SHAPE, 2.0, theirs["alpha"], binary=7), K)
    weights, items = fit.parameters["weights"], fit.parameters["items"][..., :2]
    # their log prior is not normalised
    log_prior = np.log(weights).sum() + (theirs["alpha"] - 1) * np.log(items).sum()
    assert found + log_prior == pytest.approx(theirs["objective"], rel=1e-8)
    order, there = np.argsort(weights), np.argsort(theirs["mixWeight"])
    np.testing.assert_allclose(items[order, :, 1], np.asarray(theirs["p2"])[there], atol=1e-4)


@pytest.mark.parametrize("key", ["election_missing_k3", "election_k3"])
def test_missing_items_are_integrated_out_as_by_polca(key):
    """All 1785 rows, 474 of which miss some items; and the 1311 others alone."""
    x = answers("election")
    missing = np.isnan(x).any(axis=1)
    assert (len(x), missing.sum()) == (1785, 474)
    weight = np.ones(len(x)) if "missing" in key else np.where(missing, 1e-100, 1.0)
    theirs = reference("latent_classes")["election"][key]
    fit, found = run(x, weight, prior_of((*x.shape, 4)), 3, restarts=3)
    # flat priors have a density of their own
    densities = gammaln(3) + 3 * x.shape[1] * gammaln(4)
    assert found == pytest.approx(fit.objective[-1] - densities, rel=1e-10)
    assert found >= theirs["loglik"] - 1e-8 * abs(theirs["loglik"])
    assert found < theirs["loglik"] + 0.02


def by_grades(x, grade):
    """Two classes of students; how likely each is follows from the grades."""
    gate = numpyro.sample("gate", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    with numpyro.plate("class", 2):
        prior = dist.Uniform(0.0, 1.0).expand([x.shape[1]]).to_event(1)
        share = numpyro.sample("share", prior)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * grade))
        numpyro.sample("x", dist.Bernoulli(share[z]).to_event(1), obs=x)


def test_classes_that_follow_a_covariate_are_those_of_polca():
    answers = datasets.load("cheating").values
    answers = answers[~np.isnan(answers[:, 4])]
    fit = EM(by_grades, max_steps=5000, progress_bar=False).run(
        0, answers[:, :4], answers[:, 4] + 1, restarts=5
    )
    theirs = reference("latent_classes")["cheating_by_grades"]
    assert fit.status
    assert fit.log_density().sum() >= theirs["log_likelihood"] - 1e-5 * abs(
        theirs["log_likelihood"]
    )
    # labels are free: the smaller class has the coefficients, or the larger minus them
    found = fit.parameters["gate"]
    sign = 1.0 if fit.parameters["share"][1, 0] > fit.parameters["share"][0, 0] else -1.0
    np.testing.assert_allclose(sign * found, theirs["coefficients"], atol=1e-3)
    cheats = fit.parameters["share"][int(sign > 0)]
    np.testing.assert_allclose(cheats, theirs["share_of_cheats"], atol=1e-3)
