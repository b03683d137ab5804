"""The best of many starts, against the best of 60 to 100 starts of mclust's M steps (R)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import bayesmix
from bayesmix import EM
from tests.oracles.models import MODELS
from tests.references import reference

pytestmark = pytest.mark.oracle


def reference_of(key: str):
    fit = reference("multistart_map_gmm")["results"][key]
    x = np.asarray(reference(f"mclust_{key.split('_')[0]}")["data"], float)
    prior = fit["prior"]
    told = {
        "mean": np.asarray(prior["m0"]),
        "scale": np.asarray(prior["S0"]),
        "dof": np.asarray(float(prior["nu"])),
        "shrinkage": np.asarray(prior["kappa"]),
    }
    return fit, (x, told, fit["K"])


@pytest.mark.parametrize(
    "key",
    ["faithful_FR_K3", "faithful_FR_K4", "galaxies_FR_K5"],
)
def test_the_best_of_our_starts_is_the_best_of_theirs_or_better(key):
    fit, arguments = reference_of(key)
    K = fit["K"]
    em = EM(MODELS["VVV"], max_steps=1500, progress_bar=False)
    ours = em.run(jax.random.key(2), *arguments, restarts=100)
    assert bool(ours.status)
    # theirs leaves out the density of the flat Dirichlet, gamma(K)
    theirs = fit["best_logpost_incl_normalised_NIW"]
    best = ours.objective[-1] - gammaln(K)
    assert best >= theirs - 1e-6 * abs(theirs)
    if best <= theirs + 1e-6 * abs(theirs):
        axis = np.argsort(ours.parameters["mean"][:, 0])
        for name, value in (("weights", "pro"), ("mean", "mean"), ("covariance", "sigma")):
            found = ours.parameters[name][axis]
            np.testing.assert_allclose(found, fit[value], rtol=2e-4, atol=2e-4, err_msg=name)


def flat_on_means(x, prior, K):
    """Murphy's prior of section 11.4.2.8 with kappa0 = 0: nothing is said about the means."""
    import numpyro
    import numpyro.distributions as dist

    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(prior["dof"], prior["scale"]))
        mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    # a normal-inverse-Wishart with kappa0 = 0 still counts each mean as half a log determinant
    numpyro.factor("kappa", -0.5 * jnp.linalg.slogdet(covariance)[1].sum())
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


@pytest.mark.parametrize("with_factor", [False, True], ids=["plain", "factor"])
def test_a_prior_that_is_flat_on_the_means(with_factor):
    """The stored fit is a fixed point of one of two conventions: with or without the half power."""
    fit, (x, prior, K) = reference_of("faithful_Murphy_K2")
    program = flat_on_means if with_factor else without_factor(flat_on_means)
    ours = EM(program, progress_bar=False).run(0, x, prior, K, restarts=5)
    assert bool(ours.status)
    order = np.argsort(ours.parameters["mean"][:, 0])
    r = ours.responsibilities()[:, order]
    count, extra = r.sum(axis=0), 1.0 if with_factor else 0.0
    for k in range(K):
        centred = x - ours.parameters["mean"][order[k]]
        scatter = (centred.T * r[:, k]) @ centred + prior["scale"]
        expected = scatter / (count[k] + float(prior["dof"]) + 2 + 1 + extra)
        np.testing.assert_allclose(ours.parameters["covariance"][order[k]], expected, rtol=1e-4)
    if not with_factor:
        theirs = fit["best_logpost_incl_normalised_NIW"]
        gap = ours.objective[-1] - gammaln(K) - theirs
        assert gap >= -1e-6 * abs(theirs)


def without_factor(program):
    import numpyro

    def plain(*args):
        with numpyro.handlers.block(hide=["kappa"]):
            return program(*args)

    return plain


def test_maximum_likelihood_of_faithful():
    results = reference("multistart_map_gmm")["results"]
    _, arguments = reference_of("faithful_FR_K2")
    ours = EM(bayesmix.without_priors(MODELS["VVV"]), progress_bar=False).run(
        0, *arguments, restarts=20
    )
    theirs = results["faithful_MLE_K2"]["best_loglik"]
    assert ours.objective[-1] == pytest.approx(theirs, rel=1e-9)
