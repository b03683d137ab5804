"""Every program: what its plan finds, and every engine on it: finite, shapes, rising, and stationary
at the mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.contrib.funsor import log_density as funsor_log_density
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import EM, ConjugateGibbs, EMResult, ProgramError, Status
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.conjugacy import maximise
from bayesmix.program.problem import Problem
from bayesmix.program.row_pass import weighted_statistics
from tests.checks import assert_never_falls, random_values
from tests.programs import CASES, ENUMERATED, OPEN, components_of, make_data, plan_of

# maximum likelihood exists up to spikes; hyperparameters have none without their priors
MLE = ("tied_niw", "poisson")
CLOSED = [name for name, case in CASES.items() if case.closed]
# one program for each kind of draw: a sampler costs seconds to compile
DRAWN = ("tied_niw", "gamma_precision", "normal_wishart", "stick_breaking", "poisson")
STARTS = 4


# ------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize("name", CASES)
def test_blocks_and_labels(name):
    case, plan = CASES[name], plan_of(name)
    assert [(block.sites, block.name) for block in plan.blocks] == list(case.blocks.items())
    assert plan.labels.axes == case.labels
    assert plan.labels.exchangeable == case.exchangeable
    assert plan.by_row == (name == "laplace")
    for block in plan.blocks:
        for site in block.sites:
            assert (plan.certificates[site][0] < 1) == (block.name != OPEN)


@pytest.mark.parametrize("name", CASES)
def test_the_text_explains_every_site(name):
    case, text = CASES[name], str(plan_of(name))
    for sites, conditional in case.blocks.items():
        assert ", ".join(sites) in text
        assert conditional in text
        if conditional == OPEN:
            assert f"why not closed form: {sites[0]}" in text


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("niw", ["x.mean = mean[z]", "x.covariance = covariance[z]"]),
        ("nig", ["x.mean = mean[z]", "x.covariance = diag(variance[z])"]),
        ("tied_niw", ["x.covariance = covariance\n"]),
        ("spherical", ["x.covariance = variance[z] I"]),
        ("tied_spherical", ["x.covariance = variance I"]),
        ("normal_wishart", ["x.covariance = inverse(precision[z])"]),
        ("gamma_precision", ["x.covariance = diag(1 / tau[z])"]),
        ("half_normal", ["x.covariance = diag(scale[z]^2)"]),
        ("known_covariance", ["x.covariance = fixed"]),
        ("deterministic", ["x.covariance = inverse(precision[z])"]),
        ("laplace", ["every M step visits all rows"]),
    ],
)
def test_the_text_shows_the_links(name, links):
    text = str(plan_of(name)) + "\n"
    for link in links:
        assert link in text, text


def test_swapping_the_values_of_a_bernoulli_is_seen_as_two_copies_of_each_mode():
    """A symmetric prior on the share: the posterior has 2! copies of every mode all the same."""
    assert "labels have a meaning of their own" not in str(plan_of("bernoulli"))


# ---------------------------------------------------------------- the certificate, by other means
@pytest.mark.parametrize("name", ["niw", "tied_niw", "nig", "gamma_precision", "deterministic"])
def test_every_closed_mode_is_a_maximum_of_the_brute_force_expectation(name):
    plan, x = plan_of(name), make_data(name)
    arguments = split((x, components_of(name)), {})
    blocks = Problem(plan, arguments).with_rows().blocks
    weights = np.random.default_rng(0).dirichlet(np.ones(3), len(x)).T
    start = jax.tree.map(lambda v: v[0], random_values(plan, 1))

    def by_brute_force(values):
        """The expected log joint from the (K, N) table of every row: no statistics."""
        (table,) = Problem(plan, arguments, blocks).log_factors(values)
        return jnp.sum(weights * table) + plan.evaluate(arguments, values).log_prior

    @compile_lightly
    def maxima(start):
        evaluation = plan.evaluate(arguments, start)
        told = weighted_statistics(plan.graph, plan.families, evaluation, blocks, (weights,))
        log_joint = Problem(plan, arguments).expected_log_joint(told)
        out = []
        for block in plan.blocks:
            start, proper = maximise(block, log_joint, start)
            out.append((proper, start))
        return out, log_joint(start)

    slope = compile_lightly(jax.value_and_grad(by_brute_force))
    found, height = maxima(start)
    np.testing.assert_allclose(height, slope(found[-1][1])[0], rtol=1e-11)
    for block, (proper, values) in zip(plan.blocks, found, strict=True):
        assert proper
        for site in block.sites:
            gradient = np.asarray(slope(values)[1][site])
            if site == "weights":
                gradient = gradient - gradient.mean()
            np.testing.assert_allclose(gradient, 0.0, atol=1e-7, err_msg=site)


# ----------------------------------------------------------------------------------------- engines
@functools.cache
def fit_of(name: str) -> EMResult:
    em = EM(plan_of(name), max_steps=1000, tolerance=1e-12, progress_bar=False)
    return em.run(0, make_data(name), components_of(name), restarts=STARTS)


def bijections_of(name: str):
    return {site.name: biject_to(site.support) for site in plan_of(name).reading.parameters}


@functools.cache
def density_of(name: str):
    """Log density of the program with its latent summed out, and the gradient along unconstrained
    coordinates, as a function of these."""
    program, rows = bayesmix.marginalize(plan_of(name)), (make_data(name), components_of(name))

    def height(free):
        values = {site: b(free[site]) for site, b in bijections_of(name).items()}
        return log_density(program, rows, {}, values)[0]

    return compile_lightly(jax.value_and_grad(height))


def free_of(name: str, values):
    return {site: b.inv(jnp.asarray(values[site])) for site, b in bijections_of(name).items()}


def assert_shapes(plan, values, lead=()):
    for site in plan.reading.parameters:
        value = np.asarray(values[site.name])
        assert value.shape == (*lead, *site.shape), site.name
        assert np.isfinite(value).all(), site.name
        assert np.all(site.support(value)), site.name


@pytest.mark.parametrize("name", CASES)
def test_the_log_density_is_that_of_numpyros_enumeration(name):
    rows = make_data(name), components_of(name)
    theirs = compile_lightly(lambda v: funsor_log_density(ENUMERATED[name], rows, {}, v)[0])
    points = random_values(plan_of(name), 8)
    for i in range(2):
        values = {site: value[i] for site, value in points.items()}
        ours = density_of(name)(free_of(name, values))[0]
        np.testing.assert_allclose(ours, theirs(values), rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_map(name):
    fit = fit_of(name)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective, 60)
    assert_shapes(fit.plan, fit.parameters)
    r = fit.responsibilities()
    assert r.shape == (60, components_of(name))
    np.testing.assert_allclose(r.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_a_stationary_point_of_what_chains_climb(name):
    fit = fit_of(name)
    height, slopes = density_of(name)(free_of(name, fit.parameters))
    assert float(height) == pytest.approx(fit.objective[-1], rel=1e-9)
    for site, slope in slopes.items():
        if (name, site) != ("laplace", "location"):  # a corner: the mode may be on a row
            np.testing.assert_allclose(slope, 0.0, atol=5e-3, err_msg=site)


@pytest.mark.parametrize("name", MLE)
def test_maximum_likelihood(name):
    program = bayesmix.without_priors(CASES[name].program)
    em = EM(program, max_steps=300, progress_bar=False)
    fit = em.run(0, make_data(name), components_of(name), restarts=STARTS)
    assert_never_falls(fit.objective, 60)
    assert fit.status in (Status.CONVERGED, Status.OUT_OF_STEPS)
    assert fit.log_density().sum() == pytest.approx(fit.objective[-1], rel=1e-11)
    assert fit.log_density().sum() >= fit_of(name).log_density().sum() - 1e-6


@pytest.mark.parametrize("name", DRAWN)
def test_gibbs(name):
    kernel = ConjugateGibbs(plan_of(name))
    mcmc = MCMC(kernel, num_warmup=50, num_samples=100, progress_bar=False)
    mcmc.run(jax.random.key(0), make_data(name), components_of(name))
    draws = mcmc.get_samples()
    assert_shapes(plan_of(name), draws, (100,))
    assert all(np.ptp(value) > 0 for value in draws.values())
    labels = np.asarray(mcmc.get_extra_fields()["latents"])
    assert labels.shape == (100, 60)
    assert labels.min() >= 0 and labels.max() < components_of(name)


@pytest.mark.parametrize("name", [name for name in CASES if name not in CLOSED])
def test_gibbs_names_the_sites_that_it_cannot_draw(name):
    mcmc = MCMC(ConjugateGibbs(plan_of(name)), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ProgramError) as caught:
        mcmc.run(jax.random.key(0), make_data(name), components_of(name))
    for sites, conditional in CASES[name].blocks.items():
        assert (f"'{sites[0]}'" in str(caught.value)) == (conditional == "no closed form")


def test_nuts():
    """On a program that Gibbs refuses."""
    program = bayesmix.marginalize(plan_of("half_normal"))
    mcmc = MCMC(NUTS(program, max_tree_depth=5), num_warmup=40, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.key(0), make_data("half_normal"), 3)
    assert_shapes(plan_of("half_normal"), mcmc.get_samples(), (20,))
