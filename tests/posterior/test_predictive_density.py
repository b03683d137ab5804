"""The predictive density against scipy, and under renamings of the components of every draw."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayesmix
from bayesmix import ProgramError
from bayesmix.posterior import arviz_compat

DRAWS, K = 8, 3


def program(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_it_is_the_average_of_densities_whatever_the_labels_and_the_container():
    random = np.random.default_rng(0)
    grid = np.linspace(-60.0, 60.0, 41)  # densities far below the smallest number
    draws = {
        "weights": random.dirichlet(np.ones(K), DRAWS),
        "mean": 3.0 * random.normal(size=(DRAWS, K)),
    }
    plan = bayesmix.plan(program, grid)
    found = bayesmix.predictive_log_density(plan, draws, grid)
    joint = np.log(draws["weights"])[:, :, None] + stats.norm.logpdf(grid, draws["mean"][..., None])
    expected = np.logaddexp.reduce(joint.reshape(-1, grid.size), axis=0) - np.log(DRAWS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    orders = random.permuted(np.tile(np.arange(K), (DRAWS, 1)), axis=1)
    renamed = {name: np.take_along_axis(value, orders, axis=1) for name, value in draws.items()}
    np.testing.assert_allclose(
        bayesmix.predictive_log_density(plan, renamed, grid), found, rtol=1e-12
    )
    chains = {name: value.reshape(2, DRAWS // 2, K) for name, value in draws.items()}
    container = arviz_compat.make({"posterior": chains})
    np.testing.assert_array_equal(bayesmix.predictive_log_density(plan, container, grid), found)
    with pytest.raises(ProgramError, match=r"lacks 'mean'; give draws of every parameter"):
        bayesmix.predictive_log_density(plan, {"weights": draws["weights"]}, grid)
