"""Kernels as blocks of numpyro.infer.Gibbs: labels and closed sites by one block, the rest by NUTS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, Gibbs

from bayesmix import CollapsedGibbs, ConjugateGibbs, MixedGibbs, ProgramError

RNG = np.random.default_rng(3)
X = np.concatenate([RNG.normal(0.0, 1.0, 12), RNG.normal(3.0, 1.0, 8)])
SEEN = np.arange(20) != 5


def program(x, seen):
    """A scale without a closed form, and a row that is masked."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([0.0, 4.0]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(mean[z], scale).mask(seen), obs=x)


def draws_with(kernel):
    mcmc = MCMC(kernel, num_warmup=300, num_samples=3000, progress_bar=False)
    mcmc.run(jax.random.key(0), X, SEEN)
    found = mcmc.get_samples()
    return {
        "scale": np.asarray(found["scale"]),
        "first weight": np.asarray(found["weights"][:, 0]),
        "first mean": np.asarray(found["mean"][:, 0]),
        "second mean": np.asarray(found["mean"][:, 1]),
    }


@functools.cache
def reference():
    return draws_with(MixedGibbs(program, marginal=True))


@pytest.mark.parametrize("kind", [ConjugateGibbs, CollapsedGibbs])
def test_blocks_have_the_posterior_of_the_mixed_sampler(kind):
    blocks = Gibbs([(kind(program), ["weights", "mean"]), (NUTS(program), ["scale"])])
    ours = draws_with(blocks)
    for name, theirs in reference().items():
        error = [
            x.var() / min(effective_sample_size(x[None]), x.size) for x in (ours[name], theirs)
        ]
        assert abs(ours[name].mean() - theirs.mean()) < 4 * np.sqrt(sum(error)), name
        assert 0.8 < ours[name].std() / theirs.std() < 1.25, name


def test_labels_are_no_site_of_a_block():
    own = ["weights", "mean", "z"]
    blocks = Gibbs([(ConjugateGibbs(unmarked), own), (NUTS(unmarked), ["scale"])])
    with pytest.raises(ProgramError, match=r"'z' are drawn with the parameters.*'enumerate'"):
        blocks.init(jax.random.key(0), 1, None, (X,), {})


def unmarked(x):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([0.0, 4.0]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], scale), obs=x)
