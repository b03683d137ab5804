"""Data that are being traced: the marginal density is that of the same numbers outside."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import ProgramError

ROWS = 12
RNG = np.random.default_rng(5)
X = RNG.normal(size=ROWS) + 3.0 * (np.arange(ROWS) % 2)
SOME = np.arange(ROWS) % 3 > 0
ALL = np.ones(ROWS, bool)
LABELS = np.where(SOME, -1, np.arange(ROWS) % 2)
AT = {"mean": jnp.array([-0.5, 2.0])}


def pairs(x, there=True, counts=1.0, labels=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]), handlers.scale(scale=counts):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])), obs=labels)
        with handlers.mask(mask=there):
            numpyro.sample("x", dist.Normal(mean[z], 1.5), obs=x)


def vectors(x, there=True):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        with handlers.mask(mask=there):
            centre = jnp.stack([mean[z], -mean[z]], axis=-1)
            covariance = jnp.array([[2.0, 0.8], [0.8, 1.0]])
            numpyro.sample("x", dist.MultivariateNormal(centre, covariance), obs=x)


def lines(u, x, labels):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.4), obs=labels)
        numpyro.sample("x", dist.Normal(mean[z] * u, 1.5), obs=x)


WIDE = np.stack([X, RNG.normal(size=ROWS)], axis=1)
GAPS = np.where(RNG.random(WIDE.shape) < 0.3, np.nan, WIDE)
CASES = {
    "masked": (pairs, (X, SOME)),
    "missing cells": (pairs, (np.where(SOME, X, np.nan),)),
    "counts": (pairs, (X, ALL, 1.0 + np.arange(ROWS))),
    "labels": (pairs, (X, SOME, 1.0, LABELS)),
    "labels with gaps": (pairs, (X, ALL, 1.0, np.where(SOME, np.nan, LABELS))),
    "vectors with gaps": (vectors, (GAPS,)),
    "vectors masked": (vectors, (WIDE, SOME)),
    "by row": (lines, (WIDE[:, 1], np.where(SOME, X, np.nan), LABELS)),
}


def density(program):
    return lambda *args: log_density(program, args, {}, AT)[0]


@pytest.mark.parametrize("case", CASES)
def test_the_density_is_that_of_the_same_numbers_outside(case):
    program, args = CASES[case]
    args = tuple(map(jnp.asarray, args))
    marginal = density(bayesmix.marginalize(program))
    outside = marginal(*args)
    assert np.isfinite(outside)
    np.testing.assert_allclose(jax.jit(marginal)(*args), outside, rtol=1e-12)


def test_data_sets_of_one_shape_are_a_batch():
    several = np.stack([np.where(SOME, X, np.nan), np.where(SOME, np.nan, X)])
    marginal = density(bayesmix.marginalize(bayesmix.plan(pairs, X)))
    np.testing.assert_allclose(
        jax.vmap(marginal)(several), [marginal(x) for x in several], rtol=1e-12
    )


@pytest.mark.parametrize("case", ["masked", "by row"])
def test_it_is_differentiated_by_the_data(case):
    program, args = CASES[case]
    args = tuple(map(jnp.asarray, args))
    marginal = density(bayesmix.marginalize(program))
    place = 1 if case == "by row" else 0
    step = 1e-5 * np.eye(ROWS)[4]  # a value that is there
    ends = [
        marginal(*(a + s if i == place else a for i, a in enumerate(args))) for s in (step, -step)
    ]
    slope = jax.grad(marginal, argnums=place)(*args)
    assert np.all(np.isfinite(slope))
    np.testing.assert_allclose(slope[4], (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_what_cannot_be_told_is_refused():
    def masked_labels(x, there):
        with handlers.mask(mask=there):
            pairs(x)

    plan = bayesmix.plan(pairs, X)
    with pytest.raises(ProgramError, match="fit outside"):
        jax.jit(lambda x: bayesmix.EM(plan).run(0, x).objective)(X)
    with pytest.raises(ProgramError, match="make the plan first"):
        jax.jit(density(bayesmix.marginalize(pairs)))(X)
