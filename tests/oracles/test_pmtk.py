"""Murphy's own code (PMTK3): MAP and maximum likelihood EM from the same starts."""

import functools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import EM
from tests.references import reference

pytestmark = pytest.mark.oracle


def program(x, prior, K):
    weights = numpyro.sample("weights", dist.Dirichlet(prior["alpha"]))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(prior["dof"], prior["Sigma"]))
        centre = dist.MultivariateNormal(prior["mu"], covariance / prior["k"])
        mean = numpyro.sample("mean", centre)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


@functools.cache
def em_of(dataset: str, K: int, prior: bool) -> EM:
    chosen = program if prior else bayesmix.without_priors(program)
    return EM(chosen, max_steps=2000, tolerance=1e-12, progress_bar=False)


def stored(key: str):
    found = reference("pmtk3_octave")
    fit = found["results"][key]
    x = np.asarray(found["data"][f"{key.split('_')[0]}_standardised"])
    K, D = np.shape(fit["mu"])
    prior = fit.get("prior", {"mu": np.zeros(D), "Sigma": np.eye(D), "k": 1.0, "dof": D + 2.0})
    told = {name: np.asarray(value, float) for name, value in prior.items()}
    told["alpha"] = np.asarray(fit["mixPrior"], float)
    init = {
        "weights": np.asarray(fit["init_weight"]) / np.sum(fit["init_weight"]),
        "mean": np.asarray(fit["init_mu"]),
        "covariance": np.asarray(fit["init_Sigma"]),
    }
    return fit, (x, told, K), init


@pytest.mark.parametrize(
    "key",
    [f"faithful_K{K}_{kind}" for K in (2, 3) for kind in ("datadep", "defaultprior", "mle")],
)
def test_the_same_start_reaches_the_same_fit(key):
    fit, (x, prior, K), init = stored(key)
    em = em_of(key.split("_")[0], K, "prior" in fit)
    ours = em.run(0, x, prior, K, init=init)
    assert bool(ours.status), ours.status
    # PMTK stops when the relative gain is small
    for name, theirs in (("weights", "mixWeight"), ("mean", "mu"), ("covariance", "Sigma")):
        found = np.asarray(ours.parameters[name])
        assert found.shape == np.shape(fit[theirs])
        np.testing.assert_allclose(found, fit[theirs], atol=0.02, err_msg=name)
    assert ours.log_density().sum() == pytest.approx(fit["loglik"], abs=0.05)
