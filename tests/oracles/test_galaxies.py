"""The galaxies under priors for which other software has the posterior: JAGS with three components,
and reversible jump with any number of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC

import bayesmix
from bayesmix import TemperedSMC
from bayesmix.infer.tempering import GibbsMoves
from bayesmix.posterior.labels import label_switching, relabel
from tests.references import reference

pytestmark = pytest.mark.oracle


def program(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(20.0, 10.0))
        precision = numpyro.sample("precision", dist.Gamma(3.0, 20.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1 / jnp.sqrt(precision[z])), obs=x)


@functools.cache
def jags():
    """The draws of JAGS, (300, 3), with its data and log likelihoods."""
    found = reference("label_switching_galaxy_K3")
    assert found["source"]["prior"] == "mu~N(20,100), 1/sigma2~Gamma(3,rate 20), q~Dirichlet(1)"
    return {name: np.asarray(found[name]) for name in ("data", "mu", "sigma2", "weights", "loglik")}


@functools.cache
def drawn():
    """Four chains of Gibbs in ArviZ's container."""
    mcmc = MCMC(
        bayesmix.ConjugateGibbs(program),
        num_warmup=1000,
        num_samples=5000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), jags()["data"], 3)
    return bayesmix.to_arviz(mcmc)


def invariants(weights, mean, variance, x):
    """Functions of the parameters (..., K) that no renaming of components changes."""
    square = (x[:, None] - mean[..., None, :]) ** 2 / variance[..., None, :]
    density = (
        weights[..., None, :] * np.exp(-square / 2) / np.sqrt(2 * np.pi * variance)[..., None, :]
    )
    log_density = np.log(density.sum(axis=-1))
    ordered = np.sort(mean, axis=-1)
    return {
        "log likelihood": log_density.sum(axis=-1),
        **{f"log density of row {i}": log_density[..., i] for i in (0, 40, 78)},
        "smallest mean": ordered[..., 0],
        "middle mean": ordered[..., 1],
        "largest mean": ordered[..., 2],
        "largest weight": weights.max(axis=-1),
        "log variance": np.log(variance).sum(axis=-1),
    }


def test_gibbs_has_the_posterior_of_jags():
    case, posterior = jags(), drawn()["posterior"]
    x = case["data"]
    theirs = invariants(case["weights"], case["mu"], case["sigma2"], x)
    np.testing.assert_allclose(theirs["log likelihood"], case["loglik"], rtol=1e-5)
    own = {name: np.asarray(posterior[name]) for name in ("weights", "mean", "precision")}
    ours = invariants(own["weights"], own["mean"], 1 / own["precision"], x)
    for name, draws in ours.items():
        (a, sa), (b, sb) = average(draws), average(theirs[name][None])
        assert abs(a - b) < 4 * np.hypot(sa, sb), name


def average(draws):
    """Mean of (chain, draw) and its standard error."""
    size = min(effective_sample_size(draws), draws.size)
    return draws.mean(), draws.std() / np.sqrt(size)


def test_relabelled_draws_of_four_chains_have_a_labelled_r_hat_below_1_01():
    before, after = label_switching(drawn()), label_switching(relabel(drawn()))
    assert before.labelled["r_hat"].max() > 1.1  # chains number the components differently
    assert after.labelled["r_hat"].max() < 1.01
    assert after.invariant["r_hat"].max() < 1.01
    assert len(after.labelled) == 9


def richardson_green(x, K):
    """The prior of Richardson & Green (1997), section 2.4."""
    low, high = x.min(), x.max()
    spread = high - low
    rate = numpyro.sample("rate", dist.Gamma(0.2, 10 / spread**2))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal((low + high) / 2, spread))
        precision = numpyro.sample("precision", dist.Gamma(2.0, rate))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1 / jnp.sqrt(precision[z])), obs=x)


@pytest.mark.timeout(1800)
def test_evidences_weigh_numbers_of_components_as_reversible_jump_does():
    """All numbers up to 30 are as probable beforehand, so that p(K | x) goes by p(x | K)."""
    case = reference("nmix_galaxies")["galaxies"]
    x, sizes = np.asarray(case["data"]), np.array([3, 4])
    share, spread = (
        np.asarray(case[name])[sizes - 1] for name in ("posterior_mean", "between_run_sd")
    )
    smc = TemperedSMC(
        richardson_green,
        num_particles=1000,
        num_runs=4,
        target_ess=0.8,
        moves=GibbsMoves(sweeps=30),
        progress_bar=False,
    )
    runs = [smc.run(0, x, K) for K in sizes.tolist()]
    errors = [*(run.standard_error for run in runs), *(spread / share)]
    assert max(errors) < 0.2
    gain = runs[1].mean_log_evidence - runs[0].mean_log_evidence
    assert gain == pytest.approx(np.log(share[1] / share[0]), abs=4 * np.linalg.norm(errors))
