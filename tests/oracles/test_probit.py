"""Probit regression against R's glm and PMTK: ML, grouped rows, MAP; Gibbs against NUTS."""

import functools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import NUTS
from scipy.special import gammaln

import bayesmix
from bayesmix import EM, ConjugateGibbs
from tests.checks import assert_never_falls
from tests.oracles.models import one_step
from tests.oracles.sbc import draw_chains
from tests.references import reference

pytestmark = pytest.mark.oracle
# a prior this wide moves no digit of an estimate; columns of zeros get an ordinary one
FLAT, NUM_ROWS, NUM_COLUMNS = 1e8, 532, 9


def coefficients(deviation):
    return numpyro.sample("w", dist.Normal(0.0, deviation).to_event(1))


def probit(X, y, weight, deviation):
    w = coefficients(deviation)
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.scale(scale=weight):
        numpyro.sample("y", dist.Bernoulli(probs=norm.cdf(X @ w)), obs=y)


def hidden(X, y, weight, deviation):
    """As `probit`, with the normal behind each answer."""
    w = coefficients(deviation)
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.scale(scale=weight):
        t = numpyro.sample("t", dist.Normal(X @ w, 1.0))
        numpyro.sample("y", dist.Bernoulli(probs=(t > 0).astype(float)), obs=y)


def rows_of(dataset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y and weight; groups of trials are two rows, of successes and of failures."""
    stored = reference("binary_regression")[dataset]
    X, y = np.asarray(stored["X"], float), np.asarray(stored["y"], float)
    if dataset != "menarche":
        return X, y.astype(int), np.ones(len(y))
    trials = np.asarray(stored["n_trials"])
    answers, weight = np.repeat([1, 0], len(y)), np.concatenate([trials * y, trials * (1 - y)])
    there = weight > 0
    return np.concatenate([X, X])[there], answers[there], weight[there]


def arguments_of(dataset: str, deviation: float = FLAT, standardise: bool = False):
    """The program's arguments, in one shape for all data sets: columns of zeros, and rows repeated at no
    weight (as near as `scale` takes)."""
    X, y, weight = rows_of(dataset)
    if standardise:
        X[:, 1:] = (X[:, 1:] - X[:, 1:].mean(axis=0)) / X[:, 1:].std(axis=0, ddof=1)
    size, width = X.shape
    deviations = np.where(np.arange(NUM_COLUMNS) < width, deviation, 1.0)
    X = np.resize(np.pad(X, ((0, 0), (0, NUM_COLUMNS - width))), (NUM_ROWS, NUM_COLUMNS))
    weight = np.where(np.arange(NUM_ROWS) < size, np.resize(weight, NUM_ROWS), 1e-100)
    return X, np.resize(y, NUM_ROWS), weight, deviations


@functools.cache
def em() -> EM:
    plan = bayesmix.plan(probit, *arguments_of("pima"))
    # slow where the answers say little of the normals behind them
    return EM(plan, tolerance=1e-13, max_steps=5000, progress_bar=False)


def fit_of(arguments):
    fit = em().run(0, *arguments, init={"w": np.zeros(NUM_COLUMNS)})
    assert bool(fit.status), fit.status
    assert_never_falls(fit.objective)
    return fit


def log_prior(w, deviation) -> float:
    return float(np.sum(np.asarray(norm.logpdf(w, 0.0, deviation))))


@pytest.mark.parametrize("dataset", ["birthwt", "mtcars", "vaso", "menarche"])
def test_maximum_likelihood_is_that_of_glm(dataset):
    theirs = reference("binary_regression")[dataset]["probit"]
    arguments = arguments_of(dataset)
    ours = fit_of(arguments)
    width = len(theirs["coef"])
    w = ours.parameters["w"]
    off = (w[:width] - theirs["coef"]) / theirs["se"]
    assert np.abs(off).max() < 1e-4, off
    np.testing.assert_allclose(w[width:], 0.0, atol=1e-12)
    log_likelihood = ours.objective[-1] - log_prior(w, arguments[3])
    expected = theirs["loglik"] - log_ways(dataset)
    assert log_likelihood == pytest.approx(expected, rel=1e-9)


def log_ways(dataset: str) -> float:
    """glm counts the ways to choose the successes of a group."""
    if dataset != "menarche":
        return 0.0
    stored = reference("binary_regression")[dataset]
    trials = np.asarray(stored["n_trials"], float)
    successes = trials * np.asarray(stored["y"])
    return float(
        np.sum(gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1))
    )


@pytest.mark.parametrize("key", ["probit_lambda0p5", "probit_lambda5"])
def test_the_mode_under_a_normal_prior_is_that_of_pmtk(key):
    theirs = reference("binary_regression")["pima"][key]
    arguments = arguments_of("pima", theirs["lambda"] ** -0.5, standardise=True)
    w = fit_of(arguments).parameters["w"][: len(theirs["w"])]
    np.testing.assert_allclose(w, theirs["w"], atol=1e-6)


def test_normals_behind_the_answers_are_the_same_model():
    arguments = arguments_of("birthwt")
    fit = fit_of(arguments)
    plan = bayesmix.plan(hidden, *arguments)
    objective, moved = one_step(plan, arguments, fit.parameters)
    assert float(objective) == pytest.approx(fit.objective[-1], rel=1e-10)
    np.testing.assert_allclose(moved["w"], fit.parameters["w"], atol=1e-6)


# ------------------------------------------------------------------------------------------ posterior
def test_gibbs_and_nuts_agree():
    X, y, weight = rows_of("vaso")
    few = (X, y, weight, np.full(3, 1.5))
    plan = bayesmix.plan(probit, *few)
    start = {"w": np.zeros((4, 3))}
    gibbs = draw_chains(ConjugateGibbs(plan, keep_latents=False), few, start, 200, 2500)["w"]
    nuts = draw_chains(NUTS(bayesmix.marginalize(plan)), few, start, 300, 700)["w"]
    for function in (lambda w: w, np.square):
        found = [function(w) for w in (gibbs, nuts)]
        sizes = [np.minimum(effective_sample_size(v), v[..., 0].size) for v in found]
        error = np.sqrt(sum(v.var(axis=(0, 1)) / n for v, n in zip(found, sizes)))
        off = found[0].mean(axis=(0, 1)) - found[1].mean(axis=(0, 1))
        assert (np.abs(off) < 4 * error).all(), off / error
        assert (error < 0.1 * found[1].std(axis=(0, 1))).all()
