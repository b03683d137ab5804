"""Sites climbed on the objective itself (ECME): the same mode in fewer steps, without a fall."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import scale

import bayesmix
from bayesmix import EM, datasets
from bayesmix.infer.m_steps import ClimbObjective
from tests.checks import assert_never_falls, slopes


def notices(x, days, K):
    """Two rates that overlap (Hasselblad 1969), from a table of frequencies."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    rate = numpyro.sample("rate", dist.Gamma(1.5, 0.7).expand([K]).to_event(1))
    with numpyro.plate("rows", x.shape[0]), scale(scale=days):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


def experts(u, y):
    """A gate, which has no closed form, and a shared scale, which has one."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 1.0))
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("y", dist.Normal(slope[z] * u, jnp.sqrt(variance)), obs=y)


_rng = np.random.default_rng(0)
U = _rng.uniform(-2, 2, 120)
Y = np.where(_rng.uniform(size=120) < 0.5, 0.8, -0.4) * U + 0.5 * _rng.normal(size=120)
DEATHS, DAYS = datasets.load("deaths").values.T
CASES = {
    "all sites": (notices, (DEATHS, DAYS, 2), ("rate", "weights"), 0.02),
    "gate and scale": (experts, (U, Y), ("gate", "variance"), 0.7),
}


@pytest.mark.parametrize("name", CASES)
def test_it_ends_in_the_same_mode_in_fewer_steps(name):
    program, rows, sites, share = CASES[name]
    plan = bayesmix.plan(program, *rows)
    settings = {"max_steps": 5000, "tolerance": 1e-12, "progress_bar": False}
    slow = EM(plan, **settings).run(0, *rows)
    quick = EM(plan, m_step=ClimbObjective(sites), **settings).run(0, *rows)
    assert slow.status and quick.status
    assert_never_falls(quick.objective, len(rows[0]))
    assert quick.objective[-1] == pytest.approx(slow.objective[-1], abs=1e-7)
    assert quick.restart_steps[0] < share * slow.restart_steps[0]
    for slope in slopes(quick).values():
        np.testing.assert_allclose(slope, 0.0, atol=1e-4)


@pytest.mark.parametrize("start", [-30.0, -12.0, 5.0])
def test_newton_leaves_where_the_curvature_is_next_to_nothing(start):
    """A log rate of a count of 20: at e^-12 a whole step is three million long, and overflows."""
    loss = lambda rate: jnp.sum(jnp.exp(rate) - 20.0 * rate)
    found = bayesmix.m_steps.Newton(steps=40)(loss, jnp.array([start]))
    np.testing.assert_allclose(found, np.log(20.0), rtol=1e-7)
    (batched,) = jax.vmap(lambda at: bayesmix.m_steps.Newton(steps=40)(loss, at))(found[None])
    np.testing.assert_allclose(batched, np.log(20.0), rtol=1e-7)
