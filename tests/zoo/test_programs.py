"""The zoo's other programs: conditionals as found, modes that are modes, and engines that agree.

Fits are those of the pages where there is a page, so that what was compiled there serves here.
"""

import functools
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import validation_enabled
from numpyro.handlers import seed, trace
from numpyro.infer import MCMC, NUTS
from scipy.optimize import minimize
from scipy.stats import nbinom, norm

import bayesmix
from bayesmix import datasets, zoo
from bayesmix.program.compiling import compile_lightly
from bayesmix.zoo import priors
from tests.checks import assert_never_falls, slopes

OPEN = "no closed form"
NIW = "normal-inverse Wishart"
PAGES = sorted((Path(__file__).parents[2] / "docs" / "zoo").glob("*.md"))


class Case(NamedTuple):
    """A program on some rows, and its blocks: sites to conditional."""

    program: Any
    rows: tuple
    static: dict
    blocks: dict
    restarts: int = 1
    init: dict | None = None


def table(name: str) -> np.ndarray:
    return datasets.load(name).values


IRIS, SPECIES = table("iris"), np.unique(datasets.load("iris").labels, return_inverse=True)[1]
TOLD = np.where(np.arange(150) % 10 == 0, SPECIES, -1)  # five of each species


WEIGHTS = {("weights",): "Dirichlet"}
BIRTHS, OXIDE, FIRMS = table("birthwt"), table("ethanol"), table("patents")
DEATHS = np.repeat(*table("deaths").T.astype(int)).astype(float)
COEFFICIENTS = ("coefficients",)

CASES: dict[str, Case] = {
    "bernoulli": Case(
        zoo.bernoulli_mixture,
        (table("carcinoma"),),
        {"K": 3},
        WEIGHTS | {("probability",): "beta"},
        10,
    ),
    "categorical": Case(
        zoo.categorical_mixture,
        (table("cheating"),),
        {"K": 2, "categories": (2, 2, 2, 2, 5)},
        WEIGHTS | {("probability_2",): "Dirichlet", ("probability_5",): "Dirichlet"},
        5,
    ),
    "multinomial": Case(
        zoo.multinomial_mixture,
        (np.array([[9, 1, 0], [18, 2, 1], [0, 2, 8], [1, 5, 14]]),),
        {"K": 2},
        WEIGHTS | {("probability",): "Dirichlet"},
    ),
    "poisson": Case(
        zoo.poisson_mixture, (DEATHS[:, None],), {"K": 2}, WEIGHTS | {("rate",): "gamma"}, 5
    ),
    "negative binomial": Case(
        zoo.negative_binomial, (DEATHS,), {}, {("concentration",): OPEN, ("mean",): OPEN}
    ),
    "exponential": Case(
        zoo.exponential_mixture,
        (table("failures")[:, :1],),
        {"K": 2},
        WEIGHTS | {("rate",): "gamma"},
        5,
    ),
    "mixed": Case(
        zoo.mixed_mixture,
        (BIRTHS[:, [1, 2]], BIRTHS[:, [4, 6, 7]], BIRTHS[:, [3]] - 1),
        {"K": 2, "C": 3},
        WEIGHTS
        | {("mean", "variance"): "normal-inverse gamma"}
        | {("probability",): "beta", ("share",): "Dirichlet"},
        10,
    ),
    "student mixture, free": Case(
        zoo.student_mixture,
        (table("bankruptcy"),),
        {"K": 2, "df": None},
        WEIGHTS | {("df",): OPEN, ("mean", "scatter"): NIW},
        20,
    ),
    "linear regressions": Case(
        zoo.linear_regression_mixture,
        (OXIDE[:, :1], OXIDE[:, 1]),
        {"K": 2},
        WEIGHTS | {("variance",): "inverse gamma", COEFFICIENTS: "normal"},
        5,
    ),
    "poisson regressions": Case(
        zoo.poisson_regression_mixture,
        (FIRMS[:, [1]], FIRMS[:, 0]),
        {"K": 3},
        WEIGHTS | {COEFFICIENTS: OPEN},
        10,
    ),
    "logistic regressions": Case(
        zoo.logistic_regression_mixture,
        (
            np.tile(np.arange(4.0), 2)[:, None],
            np.array([2, 5, 11, 17, 1, 1, 2, 2]),
            np.full(8, 20),
        ),
        {"K": 2},
        WEIGHTS | {COEFFICIENTS: OPEN},
    ),
    "probit, latent": Case(
        zoo.probit_regression_latent,
        (BIRTHS[:, [2, 4]], BIRTHS[:, 0]),
        {},
        {COEFFICIENTS: "normal"},
    ),
    "missing cells": Case(
        zoo.multivariate_normal, (table("airquality"),), {}, {("mean", "covariance"): NIW}
    ),
    "some labels": Case(
        zoo.gaussian_classifier,
        (IRIS, TOLD),
        {"K": 3, "location": IRIS.mean(0), "scale": np.cov(IRIS.T) / np.sqrt(3)},
        WEIGHTS | {("mean", "covariance"): NIW},
        init={"mean": np.array([IRIS[TOLD == k].mean(0) for k in range(3)])},
    ),
}


@functools.cache
def fit_of(name: str) -> bayesmix.EMResult:
    case = CASES[name]
    em = bayesmix.EM(case.program, tolerance=1e-13, progress_bar=False)
    key = jax.random.key(0)
    return em.run(key, *case.rows, restarts=case.restarts, init=case.init, **case.static)


@pytest.mark.parametrize("name", CASES)
def test_the_plan_finds_the_closed_forms(name):
    plan = fit_of(name).plan
    assert {block.sites: block.name for block in plan.blocks} == CASES[name].blocks
    closed = [sites for sites, conditional in CASES[name].blocks.items() if conditional != OPEN]
    assert all(plan.certificates[site][0] < 1 for sites in closed for site in sites)
    assert plan.labels.exchangeable


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_a_mode(name):
    fit = fit_of(name)
    assert fit.status, fit.status
    assert_never_falls(fit.objective, len(CASES[name].rows[0]))
    for site, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-2, err_msg=site)


def test_the_latent_probit_has_the_mode_of_the_probit():
    """What the page on the other program prints, by another optimiser."""
    (x, y), fit = CASES["probit, latent"].rows, fit_of("probit, latent")
    design, sign = np.column_stack([np.ones(len(x)), x]), 2 * y - 1
    unit = np.r_[1.0, x.std(0)]
    wide = 2.5 * np.r_[np.sqrt(1 + np.sum((x.mean(0) / x.std(0)) ** 2)), np.ones(2)]

    def loss(w):
        return -norm.logcdf(sign * (design @ (w / unit))).sum() + np.sum((w / wide) ** 2) / 2

    found = minimize(loss, np.zeros(3), tol=1e-9).x / unit
    np.testing.assert_allclose(fit.parameters["coefficients"], found, rtol=1e-4)


def test_gibbs_is_where_the_map_is():
    fit, case = fit_of("linear regressions"), CASES["linear regressions"]
    kernel = bayesmix.ConjugateGibbs(fit.plan, keep_latents=False)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=150, progress_bar=False)
    start = {site: jnp.asarray(value) for site, value in fit.parameters.items()}
    mcmc.run(
        jax.random.key(1),
        *case.rows,
        init_params=start,
        extra_fields=("log_likelihood",),
        **case.static,
    )
    size = sum(value.size for value in fit.parameters.values())
    below = fit.log_density().sum() - np.asarray(mcmc.get_extra_fields()["log_likelihood"])
    assert 0 < below.mean() < 2 * size  # half the number of parameters, roughly


def test_nuts_is_where_the_map_is():
    fit, case = fit_of("poisson regressions"), CASES["poisson regressions"]
    kernel = NUTS(bayesmix.marginalize(fit.plan), max_tree_depth=5)
    mcmc = MCMC(kernel, num_warmup=100, num_samples=100, progress_bar=False)
    free = {  # in NUTS's coordinates
        site.name: biject_to(site.support).inv(fit.parameters[site.name])
        for site in fit.plan.reading.parameters
    }
    mcmc.run(jax.random.key(1), *case.rows, init_params=free, **case.static)
    draws = mcmc.get_samples()
    for site, value in fit.parameters.items():
        off = np.abs(np.mean(draws[site], axis=0) - value) / np.std(draws[site], axis=0)
        assert np.all(np.isfinite(off)) and np.all(off < 3), site


def test_maximum_likelihood_is_that_of_polca():
    case = CASES["bernoulli"]
    em = bayesmix.EM(bayesmix.without_priors(case.program), progress_bar=False)
    fit = em.run(jax.random.key(0), *case.rows, restarts=case.restarts, **case.static)
    assert_never_falls(fit.objective, len(case.rows[0]))
    # poLCA 1.6.0.2, the best of 12 starts
    assert fit.log_density().sum() == pytest.approx(-293.704979, abs=1e-4)


def test_free_degrees_of_freedom_find_the_bankrupt_firms():
    sound, fit = datasets.load("bankruptcy").labels == "sound", fit_of("student mixture, free")
    healthy = np.argmax(fit.parameters["mean"][:, 0])
    assert np.sum((fit.labels() == healthy) != sound) == 4  # as Murphy's figure 11.14
    assert fit.parameters["df"][healthy] > 10 > 2 > fit.parameters["df"][1 - healthy]


# -------------------------------------------------------------------------------- defaults, and NaN
WITH_GAPS = np.where(np.random.default_rng(0).random((40, 3)) < 0.2, np.nan, 1.0) * (
    np.random.default_rng(1).normal(2.0, [3.0, 0.5, 1.0], (40, 3))
)


def test_the_default_covariance_keeps_variances_and_stays_positive_definite():
    found = np.asarray(priors.sample_covariance(jnp.asarray(WITH_GAPS)))
    np.testing.assert_allclose(np.diag(found), np.nanvar(WITH_GAPS, axis=0, ddof=1))
    assert np.linalg.eigvalsh(found).min() > 0
    whole = np.random.default_rng(1).normal(size=(20, 3))
    np.testing.assert_allclose(priors.sample_covariance(jnp.asarray(whole)), np.cov(whole.T))


def test_the_robust_default_is_that_of_a_normal_and_outliers_leave_it_alone():
    x = np.random.default_rng(0).normal(5.0, 2.0, (4000, 1))
    x[:40] = 1e6
    m0, _, S0 = priors.robust_prior(jnp.asarray(x), 2, None, None, None)
    assert float(m0[0]) == pytest.approx(5.0, abs=0.2)
    assert float(S0[0, 0]) == pytest.approx(4.0 / 4, rel=0.15)
    assert np.all(np.isfinite(priors.robust_prior(jnp.asarray(WITH_GAPS), 2, None, None, None)[2]))
    tied = jnp.asarray(np.r_[np.zeros(30), np.ones(5)][:, None])  # no interquartile range
    assert float(priors.robust_prior(tied, 1, None, None, None)[2][0, 0]) > 0


YES_WITH_GAPS = np.where(np.isnan(WITH_GAPS), np.nan, np.arange(120).reshape(40, 3) % 2)
AGE = np.arange(40.0)[:, None]
GAPPED = {
    zoo.gaussian_mixture_spherical: ((WITH_GAPS,), {"K": 2}),
    zoo.mixed_mixture: ((WITH_GAPS, YES_WITH_GAPS, YES_WITH_GAPS), {"K": 2, "C": 2}),
    zoo.linear_regression_mixture: ((AGE, WITH_GAPS[:, 0]), {"K": 2}),
}


def prior_heights(programs):
    """log p of every parameter of every program, at a draw from its prior; compiled as one."""

    def run(rows):
        found = {}
        for program, (_, static) in programs.items():
            with validation_enabled(False):  # of NaN, which is for bayesmix to read
                sites = trace(seed(program, random.key(0))).get_trace(*rows[program], **static)
            for name, site in sites.items():
                if site["type"] == "sample" and not site["is_observed"]:
                    height = site["fn"].log_prob(site["value"]).sum()
                    found[f"{program.__name__}, {name}"] = height
        return found

    names = {program.__name__: program for program in programs}
    rows = {name: programs[program][0] for name, program in names.items()}
    by_name = lambda rows: run({names[name]: value for name, value in rows.items()})
    return compile_lightly(by_name)(rows)


def test_defaults_survive_missing_cells():
    heights = prior_heights(GAPPED)
    assert len(heights) == 4 + 4 + 6
    assert {name: height for name, height in heights.items() if not np.isfinite(height)} == {}


def test_a_column_of_zeros_has_a_scale():
    zeros = jnp.array([[0.0, 3.0, jnp.nan], [0.0, 5.0, 0.0]])
    assert priors.typical(zeros).tolist() == [1.0, 4.0, 1.0]


# --------------------------------------------------------------------------------------- documents
def excerpts(page: Path) -> list[str]:
    return re.findall(r"^```py\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_show_the_programs_as_they_are(page):
    sources = [inspect.getsource(getattr(zoo, name)) for name in zoo.__all__ if name != "PROGRAMS"]
    found = excerpts(page)
    assert found or page.stem == "index"
    for excerpt in found:
        assert any(excerpt in source for source in sources), excerpt


def test_every_program_has_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in zoo.__all__ if name != "PROGRAMS" and f"`zoo.{name}" not in text] == []


def test_hidden_rates_keep_their_density_where_priors_are_left_out():
    """The negative binomial as a gamma rate of every row: a rate is no parameter."""
    em = bayesmix.EM(bayesmix.without_priors(zoo.negative_binomial), progress_bar=False)
    fit = em.run(0, DEATHS)
    assert fit.status

    def loss(logs: np.ndarray) -> float:
        concentration, mean = np.exp(logs)
        return -nbinom(concentration, concentration / (concentration + mean)).logpmf(DEATHS).sum()

    best = minimize(loss, [2.0, 0.5], tol=1e-12, method="Nelder-Mead").fun
    found = np.log([fit.parameters["concentration"], fit.parameters["mean"]])
    assert loss(found) == pytest.approx(best, rel=1e-8)
