"""Random label permutations: every copy of a mode as often as the others, and nothing else changed."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import bayesmix
from bayesmix import ConjugateGibbs, MixedGibbs


def classes(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def halves(x, K):
    """Two labels with a share, which turns into one minus itself; and a site that NUTS moves."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("component", 2):
        centre = numpyro.sample("centre", dist.Laplace(0.0, 10.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(centre[z], 1.0), obs=x)


def draws(kernel, x, K):
    mcmc = MCMC(kernel, num_warmup=100, num_samples=1200, progress_bar=False)
    mcmc.run(jax.random.key(0), x, K)
    return mcmc.get_samples(), np.asarray(mcmc.get_extra_fields()["latents"])


def test_labels_and_parameters_move_together():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [10, 20, 30])
    x = np.array([-20.0, 0.0, 20.0])[truth] + rng.normal(size=60)
    told, labels = draws(ConjugateGibbs(classes, permute_labels=True), x, 3)
    mean, weights = (np.asarray(told[name]) for name in ("mean", "weights"))
    assert np.abs(np.take_along_axis(mean, labels, axis=1) - x).max() < 6.0
    orders, counts = np.unique(np.argsort(mean, axis=1), axis=0, return_counts=True)
    assert len(orders) == 6
    np.testing.assert_allclose(counts / counts.sum(), 1 / 6, atol=0.05)
    by_place = np.take_along_axis(weights, np.argsort(mean, axis=1), axis=1)
    np.testing.assert_allclose(by_place.mean(0), [11 / 63, 21 / 63, 31 / 63], atol=0.02)


@pytest.mark.parametrize("marginal", [False, True])
def test_shares_and_sites_moved_by_nuts_follow(marginal):
    x = np.concatenate([np.full(10, -8.0), np.full(30, 8.0)]) + np.linspace(-1, 1, 40)
    kernel = MixedGibbs(halves, permute_labels=True, marginal=marginal)
    told, labels = draws(kernel, x, 2)
    share, centre = np.asarray(told["share"]), np.asarray(told["centre"])
    upper = centre[:, 1] > centre[:, 0]
    assert 0.4 < upper.mean() < 0.6
    large = np.where(upper, share, 1 - share)
    assert large.mean() == pytest.approx(32 / 44, abs=0.02)
    assert np.abs(np.take_along_axis(centre, labels, axis=1) - x).max() < 4.0


def test_labels_that_mean_something_stay():
    def known(x, K):
        mean = numpyro.sample("mean", dist.Normal(jnp.array([-5.0, 5.0]), 1.0).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    x = np.array([-5.0, -4.0, 5.0, 6.0])
    assert not bayesmix.plan(known, x, 2).labels.exchangeable
    one, other = (
        draws(ConjugateGibbs(known, permute_labels=asked), x, 2)[0]["mean"]
        for asked in (False, True)
    )
    np.testing.assert_array_equal(one, other)
