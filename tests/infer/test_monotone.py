"""The objective never falls: a thousand random problems, many of them nasty."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import EM, Status
from tests.checks import assert_never_falls

# what follows from a program with no interior mode is said, not hidden; a fall never is
ENDS = {Status.CONVERGED, Status.OUT_OF_STEPS}
ENDS_OF_MLE = ENDS | {
    Status.COVARIANCE_SINGULAR,
    Status.COMPONENT_EMPTY,
    Status.NOT_FINITE,
    Status.ROUNDING,  # nearly collinear columns
}
STARTS, DATA_SETS = 10, 17


def mixture(x, prior, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 1.1)))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(4.0, prior["scale"]))
        mean = numpyro.sample("mean", dist.MultivariateNormal(prior["mean"], covariance / 0.01))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def climbed(x, prior, K):
    """No closed form for the scales, and a tied mean: conditional and climbed steps."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 1.1)))
    width = jnp.sqrt(jnp.diagonal(prior["scale"]))
    with numpyro.plate("component", K):
        scale = numpyro.sample("scale", dist.LogNormal(jnp.log(width), 1.0).to_event(1))
        mean = numpyro.sample("mean", dist.Normal(prior["mean"], 10 * width).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], scale[z]).to_event(1), obs=x)


def data_set(seed: int, N: int):
    """Random clusters, at random scales and offsets, with duplicated rows or far outliers."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 7)
    centres = rng.normal(size=(3, 2)) * rng.choice([0.0, 1.0, 5.0, 50.0])
    x = centres[rng.integers(0, 3, N)] + rng.normal(size=(N, 2)) * rng.choice([1.0, 0.01], size=2)
    kind = seed % 5
    if kind == 1:
        x[: N // 2] = x[0]
    elif kind == 2:
        x[0] = 1e4
    elif kind == 3:
        x[:, 1] = x[:, 0] + 1e-4 * x[:, 1]
    elif kind == 4:
        x += 1e4
    x = scale * x
    spread = np.cov(x.T, bias=True) + 1e-3 * np.var(x, axis=0).max() * np.eye(2)
    return x, {"mean": x.mean(axis=0), "scale": spread / 3}


def problems(program, N: int, K: int, count: int, ends, max_steps: int = 150):
    plan = bayesmix.plan(program, *data_set(0, N), K)
    em = EM(plan, max_steps=max_steps, progress_bar=False)
    done = 0
    for seed in range(count):
        fit = em.run(seed, *data_set(seed, N), K, restarts=STARTS)
        assert Status.OBJECTIVE_FELL not in fit.restart_statuses, seed
        assert set(fit.restart_statuses) <= ends, (seed, fit.restart_statuses)
        assert np.isfinite(fit.restart_objectives).all(), seed
        assert_never_falls(fit.objective, N)
        done += STARTS
    return done


@pytest.mark.parametrize(("N", "K"), [(40, 3), (6, 5), (150, 2)])
def test_map_never_falls(N, K):
    assert problems(mixture, N, K, DATA_SETS, ENDS) == 170


def test_maximum_likelihood_never_falls_before_it_is_called_singular():
    program = bayesmix.without_priors(mixture)
    assert problems(program, 40, 3, 35, ENDS_OF_MLE) == 350


def test_climbed_steps_never_fall():
    assert problems(climbed, 40, 3, 15, ENDS, max_steps=60) == 150


def test_single_precision_never_falls_by_more_than_its_rounding():
    with jax.enable_x64(False):
        x, prior = data_set(0, 40)
        x, prior = x.astype(np.float32), jax.tree.map(np.float32, prior)
        em = EM(bayesmix.plan(mixture, x, prior, 3), max_steps=150, progress_bar=False)
        for seed in range(10):
            x, prior = data_set(5 * seed, 40)
            told = jax.tree.map(np.float32, prior)
            fit = em.run(seed, x.astype(np.float32), told, 3, restarts=STARTS)
            assert Status.OBJECTIVE_FELL not in fit.restart_statuses, seed
            assert_never_falls(fit.objective, 40)
