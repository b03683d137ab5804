"""Marginal mixtures are read as the same programs with their latents spelled out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import EM, ConjugateGibbs
from bayesmix.program.arguments import split
from tests.checks import random_values

N, K = 30, 3
RNG = np.random.default_rng(5)
X = np.array([-4.0, 0.0, 5.0])[RNG.integers(0, K, N)] + RNG.normal(size=N)
WITH_HOLES = np.where(np.arange(N) % 7 == 3, np.nan, X)
PAIRS = np.stack([X, RNG.normal(size=N) - X], axis=1)
COUNTS = RNG.poisson(4.0, N) * (RNG.uniform(size=N) > 0.4)
SEEN = np.arange(N) % 5 > 0


def parameters():
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    return weights, mean, jnp.sqrt(variance)


def spelled(x, seen=True):
    weights, mean, scale = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.mask(mask=seen):
            numpyro.sample("x", dist.Normal(mean[z], scale[z]), obs=x)


def one_family(x, seen=True):
    weights, mean, scale = parameters()
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mean, scale))
    with numpyro.plate("rows", len(x)), handlers.mask(mask=seen):
        numpyro.sample("x", mixture, obs=x)


def a_list(x, seen=True):
    weights, mean, scale = parameters()
    each = [dist.Normal(mean[k], scale[k]) for k in range(K)]
    mixture = dist.Mixture(dist.Categorical(logits=jnp.log(weights)), each)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture.mask(seen), obs=x)


@pytest.mark.parametrize("program", [one_family, a_list])
@pytest.mark.parametrize("arguments", [(WITH_HOLES,), (X, SEEN)], ids=["missing", "masked"])
def test_the_plan_is_that_of_the_spelled_out_program(program, arguments):
    twin, plan = bayesmix.plan(spelled, *arguments), bayesmix.plan(program, *arguments)
    assert [(b.sites, b.name) for b in plan.blocks] == [(b.sites, b.name) for b in twin.blocks]
    assert plan.families == twin.families and plan.by_row == twin.by_row
    assert plan.labels.axes == twin.labels.axes and plan.labels.exchangeable
    assert [latent.name for latent in plan.reading.latents] == ["x_component"]
    assert "opened: its component is latent 'x_component'" in str(plan)
    values = random_values(plan, 1)
    own, other = (
        p.log_likelihood(split(arguments, {}), p.blocks_of_rows(split(arguments, {})), values)
        for p in (plan, twin)
    )
    np.testing.assert_allclose(own, other, rtol=1e-12)


def test_engines_give_what_they_give_of_the_spelled_out_program():
    start = {"mean": np.array([-3.0, 1.0, 4.0]), "variance": np.ones(K), "weights": np.ones(K) / K}
    fits, draws, slopes = [], [], []
    for program in (spelled, one_family):
        plan = bayesmix.plan(program, X)
        fits.append(EM(plan, progress_bar=False).run(0, X, init=start))
        kernel = ConjugateGibbs(plan)
        mcmc = numpyro.infer.MCMC(kernel, num_warmup=2, num_samples=5, progress_bar=False)
        mcmc.run(jax.random.key(1), X)
        draws.append(mcmc.get_samples()["mean"])
        marginal = bayesmix.marginalize(plan)
        at = lambda values, marginal=marginal: log_density(marginal, (X,), {}, values)[0]
        slopes.append(jax.grad(at)({name: jnp.asarray(v) for name, v in start.items()}))
    np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-10)
    np.testing.assert_allclose(
        fits[0].responsibilities(), fits[1].responsibilities(), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-8)
    for site, slope in slopes[0].items():
        np.testing.assert_allclose(slope, slopes[1][site], rtol=1e-8)


def rates(count):
    return numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([count]).to_event(1))


def two_families(x):
    weights, mean, scale = parameters()
    parts = [dist.Normal(mean[0], scale[0]), dist.Normal(mean[1], scale[1])]
    parts.append(dist.Gamma(2.0, 1 / scale[2]))
    mixture = dist.Mixture(dist.Categorical(weights), parts[:2] + parts[2:])
    del mixture  # supports differ: NumPyro asks for one
    whole = dist.MixtureGeneral(dist.Categorical(weights), parts, support=dist.constraints.real)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", whole, obs=x)
