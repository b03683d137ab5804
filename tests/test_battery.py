"""Every engine on every program: finite, shapes, rising, and stationary at the mode."""

import functools

import jax
import numpy as np
import pytest
from numpyro.distributions import biject_to
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

import bayesmix
from bayesmix import EM, ConjugateGibbs, EMResult, ProgramError, Status
from tests.checks import assert_never_falls, slopes
from tests.programs import CASES, components_of, make_data, plan_of

# programs on which chains are run; the others have the density that chains climb evaluated
SAMPLED = ("scalar", "half_normal")
# maximum likelihood exists up to spikes; hyperparameters have none without their priors
MLE = ("tied_niw", "scalar", "poisson")
CLOSED = [name for name, case in CASES.items() if case.closed]
# one program for each kind of draw: a sampler costs seconds to compile
DRAWN = ("tied_niw", "scalar", "normal_wishart", "stick_breaking", "poisson")
STARTS = 4


@functools.cache
def fit_of(name: str) -> EMResult:
    em = EM(plan_of(name), max_steps=1000, tolerance=1e-12, progress_bar=False)
    return em.run(0, make_data(name), components_of(name), restarts=STARTS)


def assert_shapes(plan, values, lead=()):
    for site in plan.reading.parameters:
        value = np.asarray(values[site.name])
        assert value.shape == (*lead, *site.shape), site.name
        assert np.isfinite(value).all(), site.name
        assert np.all(site.support(value)), site.name


@pytest.mark.parametrize("name", CASES)
def test_map(name):
    fit = fit_of(name)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective, 60)
    assert_shapes(fit.plan, fit.parameters)
    r = fit.responsibilities()
    assert r.shape == (60, components_of(name))
    np.testing.assert_allclose(r.sum(axis=1), 1.0, rtol=1e-12)
    assert np.isfinite(fit.log_density()).all()


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_stationary(name):
    fit = fit_of(name)
    if name == "laplace":  # a Laplace density has corners: the mode of a location may be on a row
        found = {n: s for n, s in slopes(fit).items() if n != "location"}
    else:
        found = slopes(fit)
    for site, slope in found.items():
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


@pytest.mark.parametrize("name", CASES)
def test_what_chains_climb_is_finite_and_lowest_near_the_map(name):
    plan, fit = plan_of(name), fit_of(name)
    arguments = (make_data(name), components_of(name))
    program = bayesmix.marginalize(plan)
    bijections = {site.name: biject_to(site.support) for site in plan.reading.parameters}
    free = {n: b.inv(jax.numpy.asarray(fit.parameters[n])) for n, b in bijections.items()}

    @jax.jit
    def height(free):
        jacobian = sum(
            b.log_abs_det_jacobian(free[n], b(free[n])).sum() for n, b in bijections.items()
        )
        return potential_energy(program, arguments, {}, free), jacobian

    value, jacobian = height(free)
    assert float(value + jacobian) == pytest.approx(-fit.objective[-1], rel=1e-9)


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


@pytest.mark.parametrize("name", SAMPLED)
def test_nuts(name):
    program = bayesmix.marginalize(plan_of(name))
    mcmc = MCMC(NUTS(program, max_tree_depth=5), num_warmup=40, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.key(0), make_data(name), components_of(name))
    assert_shapes(plan_of(name), mcmc.get_samples(), (20,))
