"""The galaxies: posteriors of three components against JAGS, and of their number against Nmix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS
from scipy.special import gammaln

import bayesmix
from bayesmix import CollapsedGibbs, ConjugateGibbs, TemperedSMC
from bayesmix.posterior import arviz_compat
from tests.references import reference

pytestmark = pytest.mark.oracle
JAGS = reference("label_switching_galaxy_K3")
X = np.array(JAGS["data"])
CHAINS = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}


def three(x):
    """The program of the reference."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("component", 3):
        mean = numpyro.sample("mean", dist.Normal(20.0, 10.0))
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 20.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


@functools.cache
def plan():
    return bayesmix.plan(three, X)


SAMPLERS = {
    "ConjugateGibbs": lambda: (ConjugateGibbs(plan()), 5000),
    "CollapsedGibbs": lambda: (CollapsedGibbs(plan()), 3000),
    "NUTS": lambda: (NUTS(bayesmix.marginalize(plan())), 1500),
}


def whatever_the_labels(mean, variance, weights):
    """Of draws (chains, draws, 3): parameters in order of the means, the log likelihood, and the
    density of a new galaxy on a grid."""
    order = np.argsort(mean, -1)
    found = {}
    for name, value in {"mean": mean, "log variance": np.log(variance), "weight": weights}.items():
        for place, each in zip(
            ("lowest", "middle", "highest"),
            np.moveaxis(np.take_along_axis(value, order, -1), -1, 0),
            strict=True,
        ):
            found[f"{name}, {place}"] = each

    def log_density(x):
        square = (x[:, None] - mean[..., None, :]) ** 2 / variance[..., None, :]
        scale = np.log(weights / np.sqrt(2 * np.pi * variance))[..., None, :]
        return np.logaddexp.reduce(scale - square / 2, -1)

    found["log likelihood"] = log_density(X).sum(-1)
    grid = np.array([10.0, 14.0, 18.0, 22.0, 26.0, 33.0])
    for x, each in zip(grid, np.moveaxis(np.exp(log_density(grid)), -1, 0), strict=True):
        found[f"density at {x:.0f}"] = each
    return found


def mean_and_error(draws):
    """Of draws (chains, draws), from their effective sample size."""
    size = min(effective_sample_size(draws), draws.size)
    return draws.mean(), draws.std() / np.sqrt(size)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_posterior_of_three_components_is_that_of_jags(name):
    """Means, and means of squares about the middle."""
    kernel, draws = SAMPLERS[name]()
    mcmc = MCMC(kernel, num_warmup=500, num_samples=draws, **CHAINS)
    mcmc.run(jax.random.key(0), X)
    ours = {n: np.asarray(v) for n, v in mcmc.get_samples(group_by_chain=True).items()}
    found = whatever_the_labels(ours["mean"], ours["variance"], ours["weights"])
    told = whatever_the_labels(*(np.array(JAGS[n])[None] for n in ("mu", "sigma2", "weights")))
    np.testing.assert_allclose(told["log likelihood"][0], JAGS["loglik"], atol=1e-4)
    scores = {}
    for what, theirs in told.items():
        middle = theirs.mean()
        for power, away in enumerate((0.0, middle), start=1):
            one, two = (mean_and_error((x - away) ** power) for x in (found[what], theirs))
            scores[what, power] = (one[0] - two[0]) / np.hypot(one[1], two[1])
    assert max(map(abs, scores.values())) < 4, scores


def test_chains_that_name_components_differently_agree_once_relabelled():
    """R-hat of labelled parameters, of four chains that start with their names in different orders."""
    orders = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]])
    start = {"mean": [10.0, 21.0, 33.0], "variance": [4.0, 5.0, 8.0], "weights": [0.1, 0.8, 0.1]}
    mcmc = MCMC(ConjugateGibbs(plan()), num_warmup=500, num_samples=5000, **CHAINS)
    named = {name: jnp.asarray(value)[orders] for name, value in start.items()}
    mcmc.run(jax.random.key(0), X, init_params=named)
    idata = bayesmix.to_arviz(mcmc, posterior_predictive=False)
    before, after = (
        arviz_compat.rhat(arviz_compat.dataset(each, "posterior"))
        for each in (idata, bayesmix.relabel(idata))
    )
    for name in start:
        assert (before[name] > 1.1).all() and (after[name] < 1.01).all(), (before, after)


def any_number(x, K):
    """Richardson and Green's (1997) priors."""
    middle, width = (jnp.max(x) + jnp.min(x)) / 2, jnp.max(x) - jnp.min(x)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    scale = numpyro.sample("scale", dist.Gamma(0.2, 10 / width**2))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(middle, width))
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, scale))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def log_ways(K, occupied):
    """log p(z | K) of all labellings that make one partition with so many components occupied, weights
    integrated out, but for a term of the partition alone."""
    return gammaln(K + 1) - gammaln(K - occupied + 1) + gammaln(K) - gammaln(K + X.size)


@pytest.mark.parametrize("K", [4, 5])
def test_the_number_of_components_is_that_of_reversible_jumps(K):
    """p(x | K - 1) / p(x | K) is the mean over the posterior at K of the ratio of both priors of the
    partition, and all K have the same prior probability. Source: Nobile (2004), *Annals of Statistics*
    32, 2044-2073, section 2."""
    mcmc = MCMC(ConjugateGibbs(any_number), num_warmup=500, num_samples=10000, **CHAINS)
    mcmc.run(jax.random.key(0), X, K)
    labels = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["latents"])
    occupied = sum((labels == k).any(-1).astype(int) for k in range(K))
    fewer = np.minimum(occupied, K - 1)
    ratio = np.exp(log_ways(K - 1, fewer) - log_ways(K, fewer)) * (occupied < K)
    found, error = mean_and_error(ratio)
    probability, relative = number_of_components([K - 1, K])
    told = probability[0] / probability[1]
    assert error < 0.2 * told
    both = np.hypot(error, told * np.linalg.norm(relative))
    assert abs(found - told) < 4 * both, (found, told, both)


def test_evidences_by_particles_are_in_that_ratio_up_to_the_error_that_they_tell():
    """Under this vague prior a thousand particles are 0.9 nats in error; they have to say so."""
    told, error = number_of_components([4, 5])
    smc = TemperedSMC(any_number, num_particles=1000, num_runs=4, progress_bar=False)
    four, five = (smc.run(0, X, K) for K in (4, 5))
    errors = [four.standard_error, five.standard_error, *error]
    gain = five.mean_log_evidence - four.mean_log_evidence
    assert gain == pytest.approx(np.log(told[1] / told[0]), abs=4 * np.linalg.norm(errors))


def number_of_components(sizes):
    """Posterior probabilities by reversible jumps, and their relative errors."""
    stored = reference("nmix")["results"]
    places = [stored["k"].index(K) for K in sizes]
    told = np.array(stored["posterior_mean"])[places]
    return told, np.array(stored["between_run_sd"])[places] / told / np.sqrt(3)
