"""Mixtures of experts against flexmix and mixtools: maximum likelihood from random starts."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln

import bayesmix
from bayesmix import EM, Status, datasets, zoo
from tests.checks import assert_never_falls
from tests.references import reference

pytestmark = pytest.mark.oracle

OXIDE, RICHNESS = datasets.load("ethanol").values.T
PATENTS, LOG_SPENDING, SHARE = datasets.load("patents").values.T
WAYS = {
    "oxide_on_richness": (RICHNESS[:, None], OXIDE),
    "richness_on_oxide": (OXIDE[:, None], RICHNESS),
}


@functools.cache
def em_of(program) -> EM:
    program = bayesmix.without_priors(program)
    return EM(program, tolerance=1e-12, max_steps=500, progress_bar=False)


@pytest.mark.parametrize("K", [2, 3, 4])
def test_poisson_experts_are_those_of_flexmix(K):
    theirs = reference("experts")["patents"][f"k{K}"]
    call = {"gate_covariates": SHARE[:, None], "reference": True, "restarts": 10}
    fit = em_of(zoo.poisson_experts).run(0, LOG_SPENDING[:, None], PATENTS, K, **call)
    assert fit.status, fit.status
    assert_never_falls(fit.objective, 70)
    assert fit.log_density().sum() == pytest.approx(theirs["loglik"], rel=1e-7)
    gate = np.vstack([np.zeros(2), fit.parameters["gate"]])
    order = np.argsort(fit.parameters["coefficients"][:, 0])
    there = np.argsort(np.asarray(theirs["coefficients"])[:, 0])
    found = fit.parameters["coefficients"][order]
    np.testing.assert_allclose(found, np.asarray(theirs["coefficients"])[there], atol=1e-3)
    expected = np.asarray(theirs["gate"])[there]
    # slopes of 40 that a few firms determine: flexmix stops at a tolerance of its own
    tolerance = {"rtol": 1e-2, "atol": 1e-3}
    np.testing.assert_allclose(gate[order] - gate[order[0]], expected - expected[0], **tolerance)


def test_two_lines_behind_a_gate_are_those_of_mixtools():
    theirs = reference("experts")["ethanol"]["richness_on_oxide"]
    x, y = WAYS["richness_on_oxide"]
    fit = em_of(zoo.linear_experts).run(0, x, y, 2, reference=True, restarts=5)
    assert fit.status, fit.status
    assert fit.log_density().sum() == pytest.approx(theirs["loglik"], rel=1e-8)
    order = np.argsort(fit.parameters["coefficients"][:, 0])
    there = np.argsort(np.asarray(theirs["coefficients"])[:, 0])
    found = fit.parameters["coefficients"][order]
    np.testing.assert_allclose(found, np.asarray(theirs["coefficients"])[there], rtol=1e-4)
    sigma = np.sqrt(fit.parameters["variance"][order])
    np.testing.assert_allclose(sigma, np.asarray(theirs["sigma"])[there], rtol=1e-4)


def test_where_mixtools_stops_on_the_way_the_gate_has_no_bound():
    theirs = reference("experts")["ethanol"]["oxide_on_richness"]
    x, y = WAYS["oxide_on_richness"]
    fit = em_of(zoo.linear_experts).run(0, x, y, 2, reference=True, restarts=5)
    assert fit.status is Status.GATE_WITHOUT_BOUND
    assert fit.log_density().sum() > theirs["loglik"] + 5


def equal_variances(x, y, K):
    """A mixture of lines of one variance, flat priors."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (2,))
    variance = numpyro.sample("variance", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("component", K):
        line = numpyro.sample("line", flat)
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        mean = line[z, 0] + line[z, 1] * x[:, 0]
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance)), obs=y)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_lines_of_equal_variance_are_at_least_as_good_as_those_of_mixtools(way, K):
    theirs = reference("experts")["equal_variances"][way][f"k{K}"]
    em = EM(equal_variances, tolerance=1e-12, progress_bar=False)
    fit = em.run(0, *WAYS[way], K, restarts=20)
    assert fit.status, fit.status
    found = fit.log_density().sum()
    # the objective differs by the density of the flat Dirichlet
    assert found == pytest.approx(fit.objective[-1] - gammaln(K), rel=1e-10)
    assert found >= theirs["loglik"] - 1e-8 * abs(theirs["loglik"])
    if found < theirs["loglik"] + 1e-3:
        variance = float(fit.parameters["variance"])
        assert variance == pytest.approx(theirs["sigma"] ** 2, rel=1e-4)
