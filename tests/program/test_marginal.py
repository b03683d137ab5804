"""Programs with the latent summed out: NumPyro's own enumeration, and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.funsor import log_density as funsor_log_density
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

import bayesmix
from bayesmix.program.arguments import split
from tests.checks import random_values
from tests.programs import CASES, ENUMERATED, components_of, make_data, plan_of


def points_of(name: str):
    """Three random values of the parameters, leading with an axis of three."""
    return random_values(plan_of(name), 8)


def at(points, i: int):
    return jax.tree.map(lambda v: v[i], points)


@pytest.mark.parametrize("name", CASES)
def test_the_log_density_is_that_of_numpyros_enumeration(name):
    x, K = make_data(name), components_of(name)
    ours = jax.jit(lambda v: log_density(bayesmix.marginalize(plan_of(name)), (x, K), {}, v)[0])
    theirs = jax.jit(lambda v: funsor_log_density(ENUMERATED[name], (x, K), {}, v)[0])
    for i in range(2):
        values = at(points_of(name), i)
        np.testing.assert_allclose(ours(values), theirs(values), rtol=1e-9)


def brute_force(x, values):
    """log p(theta) + log p(x | theta) of `niw`, written out."""
    prior = dist.Dirichlet(jnp.full(3, 1.5)).log_prob(values["weights"])
    prior += dist.InverseWishart(6.0, jnp.eye(2)).log_prob(values["covariance"]).sum()
    centre = dist.MultivariateNormal(jnp.zeros(2), values["covariance"] / 0.1)
    prior += centre.log_prob(values["mean"]).sum()
    rows = dist.MultivariateNormal(values["mean"], values["covariance"]).log_prob(x[:, None])
    return prior + jax.nn.logsumexp(rows + jnp.log(values["weights"]), axis=1).sum()


def assert_close(ours, theirs, rtol):
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol * float(jnp.abs(two).max()))


@pytest.mark.parametrize("num_rows", [60, 6000])
def test_value_and_gradient_equal_brute_force_in_one_block_and_in_many(num_rows):
    x = make_data("niw", num_rows)
    program = bayesmix.marginalize(plan_of("niw"))
    values = at(points_of("niw"), 0)

    def ours(values):
        return log_density(program, (x, 3), {}, values)[0]

    one, slope = jax.jit(jax.value_and_grad(ours))(values)
    two, theirs = jax.jit(jax.value_and_grad(lambda v: brute_force(x, v)))(values)
    assert float(one) == pytest.approx(float(two), rel=1e-11)
    assert_close(slope, theirs, 1e-9)
    blocks = plan_of("niw").blocks_of_rows(split((x, 3), {}))
    assert (blocks.weight.shape[0] > 1) == (num_rows > 5461)


def test_the_second_derivative_equals_brute_force():
    """The tangent of log p(x) is Q's, which must not be mistaken for the function itself."""
    x = make_data("niw")
    program = bayesmix.marginalize(plan_of("niw"))
    values = at(points_of("niw"), 1)
    tangent = at(points_of("niw"), 2)

    def product(function):
        return jax.jit(lambda v, t: jax.jvp(jax.grad(function), (v,), (t,))[1])

    ours = product(lambda v: log_density(program, (x, 3), {}, v)[0])(values, tangent)
    assert_close(ours, product(lambda v: brute_force(x, v))(values, tangent), 1e-8)


def test_it_runs_under_vmap_and_jit():
    x = make_data("niw")
    program = bayesmix.marginalize(plan_of("niw"))
    points = points_of("niw")
    many = jax.jit(jax.vmap(lambda v: log_density(program, (x, 3), {}, v)[0]))(points)
    expected = [brute_force(x, at(points, i)) for i in range(3)]
    np.testing.assert_allclose(many, expected, rtol=1e-11)


def test_data_may_be_traced():
    values = at(points_of("niw"), 0)
    unread = bayesmix.marginalize(CASES["niw"].program)
    with pytest.raises(bayesmix.ProgramError, match="make the plan first"):
        jax.jit(lambda x: log_density(unread, (x, 3), {}, values)[0])(jnp.asarray(make_data("niw")))
    program = bayesmix.marginalize(plan_of("niw"))
    score = jax.jit(lambda x: log_density(program, (x, 3), {}, values)[0])
    x = jnp.asarray(make_data("niw"))
    np.testing.assert_allclose(score(x), brute_force(x, values), rtol=1e-11)
    np.testing.assert_allclose(score(x + 1.0), brute_force(x + 1.0, values), rtol=1e-11)


def test_only_parameters_and_the_factor_are_seen_from_outside():
    program = bayesmix.marginalize(plan_of("deterministic"))
    sites = numpyro.handlers.trace(numpyro.handlers.seed(program, jax.random.key(0))).get_trace(
        make_data("deterministic"), 3
    )
    kinds = {name: site["type"] for name, site in sites.items() if site["type"] != "plate"}
    assert kinds == {
        "weights": "sample",
        "precision": "sample",
        "covariance": "deterministic",
        "mean": "sample",
        "log_likelihood": "sample",
    }


def test_nuts_and_svi_run_on_it():
    x = make_data("known_covariance")
    program = bayesmix.marginalize(plan_of("known_covariance"))
    mcmc = MCMC(NUTS(program, max_tree_depth=4), num_warmup=10, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), x, 3)
    draws = mcmc.get_samples()
    assert draws["mean"].shape == (5, 3, 2)
    assert all(np.isfinite(value).all() for value in draws.values())
    svi = SVI(program, AutoNormal(program), optax.adam(1e-2), Trace_ELBO())
    losses = svi.run(jax.random.key(1), 20, x, 3, progress_bar=False).losses
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
