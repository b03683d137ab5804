"""Programs with the latent summed out, against brute force; under JAX's transformations, and in SVI."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

import bayesmix
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.checks import random_values
from tests.programs import CASES, make_data, plan_of


def points_of(name: str):
    """Three random values of the parameters, leading with an axis of three."""
    return random_values(plan_of(name), 8)


def at(points, i: int):
    return jax.tree.map(lambda v: v[i], points)


def brute_force(x, values):
    """log p(theta) + log p(x | theta) of `niw`, written out."""
    prior = dist.Dirichlet(jnp.full(3, 1.5)).log_prob(values["weights"])
    prior += dist.InverseWishart(6.0, jnp.eye(2)).log_prob(values["covariance"]).sum()
    centre = dist.MultivariateNormal(jnp.zeros(2), values["covariance"] / 0.1)
    prior += centre.log_prob(values["mean"]).sum()
    rows = dist.MultivariateNormal(values["mean"], values["covariance"]).log_prob(x[:, None])
    return prior + jax.nn.logsumexp(rows + jnp.log(values["weights"]), axis=1).sum()


# both with rows as an argument: value and gradient, compiled once for each number of rows
by_hand = compile_lightly(jax.value_and_grad(brute_force, argnums=1))


def ours(x, values):
    return log_density(bayesmix.marginalize(plan_of("niw")), (x, 3), {}, values)[0]


def assert_close(ours, theirs, rtol):
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol * float(jnp.abs(two).max()))


@pytest.mark.parametrize("num_rows", [60, 6000])
def test_value_and_gradient_equal_brute_force_in_one_block_and_in_many(num_rows):
    x = make_data("niw", num_rows)
    values = at(points_of("niw"), 0)
    one, slope = jax.jit(jax.value_and_grad(lambda v: ours(x, v)))(values)
    two, theirs = by_hand(x, values)
    assert float(one) == pytest.approx(float(two), rel=1e-11)
    assert_close(slope, theirs, 1e-9)
    blocks = Problem(plan_of("niw"), split((x, 3), {})).with_rows().blocks
    assert (blocks.weight.shape[0] > 1) == (num_rows > 5461)


def test_the_second_derivative_equals_brute_force():
    """The tangent of log p(x) is Q's, which must not be mistaken for the function itself."""
    x = make_data("niw")
    values, tangent = at(points_of("niw"), 1), at(points_of("niw"), 2)

    def product(function):
        push = lambda v, t: jax.jvp(jax.grad(lambda v: function(x, v)), (v,), (t,))[1]
        return compile_lightly(push)(values, tangent)

    assert_close(product(ours), product(brute_force), 1e-8)


def test_it_runs_under_vmap_and_jit():
    x = make_data("niw")
    points = points_of("niw")
    many = jax.jit(jax.vmap(lambda v: ours(x, v)))(points)
    expected = [by_hand(x, at(points, i))[0] for i in range(3)]
    np.testing.assert_allclose(many, expected, rtol=1e-11)


def test_data_may_be_traced():
    x, values = make_data("niw"), at(points_of("niw"), 0)
    unread = bayesmix.marginalize(CASES["niw"].program)
    with pytest.raises(bayesmix.ProgramError, match="make the plan first"):
        jax.jit(lambda x: log_density(unread, (x, 3), {}, values)[0])(jnp.asarray(x))
    # compiled first and differentiated then: the rule for the tangent must not hold on to the rows
    score = jax.jit(jax.value_and_grad(jax.jit(ours), argnums=1))
    for moved in (x, x + 1.0):
        value, slope = score(moved, values)
        expected, theirs = by_hand(moved, values)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        assert_close(slope, theirs, 1e-9)


def test_only_parameters_and_the_rows_are_seen_from_outside():
    program = numpyro.handlers.seed(
        bayesmix.marginalize(plan_of("deterministic")), jax.random.key(0)
    )
    kinds = {}

    def look():
        sites = numpyro.handlers.trace(program).get_trace(make_data("deterministic"), 3)
        kinds.update({n: site["type"] for n, site in sites.items() if site["type"] != "plate"})

    jax.eval_shape(look)
    assert kinds == {
        "weights": "sample",
        "precision": "sample",
        "covariance": "deterministic",
        "mean": "sample",
        "x": "sample",
    }


def counted(y, count, table):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]), numpyro.handlers.scale(scale=count * 1.0):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Poisson(rate[z] * table[z]), obs=y)


def test_rows_of_weight_zero_count_nothing_and_tables_are_indexed_by_the_latent():
    """The same call as EM's, in NumPy's arrays, outside jit and inside."""
    y, count, table = np.arange(5), np.array([3.0, 0.0, 2.0, 0.0, 1.0]), np.array([1.0, 2.0])
    written = np.repeat(y, count.astype(int))
    values = {"rate": jnp.array([1.0, 3.0])}
    ours, theirs = bayesmix.marginalize(counted), bayesmix.marginalize(counted)

    def density(program, *args):
        return lambda values: log_density(program, args, {}, values)[0]

    with_weights = density(ours, y, count, table)
    without = density(theirs, written, np.ones(written.size), table)
    assert float(with_weights(values)) == pytest.approx(float(without(values)), rel=1e-12)
    found = jax.jit(jax.grad(with_weights))(values)["rate"]
    np.testing.assert_allclose(found, jax.jit(jax.grad(without))(values)["rate"], rtol=1e-9)
    many = jax.tree.map(lambda v: v[None], values)
    by_row = log_likelihood(theirs, many, written, np.ones(written.size), table)
    assert by_row["y"].shape == (1, written.size)
    assert float(by_row["y"].sum() + dist.Gamma(2.0, 0.5).log_prob(values["rate"]).sum()) == (
        pytest.approx(float(without(values)), rel=1e-12)
    )
    with pytest.raises(bayesmix.ProgramError, match=r"use bayesmix\.to_arviz"):
        log_likelihood(ours, many, y, count, table)
    with pytest.raises(ValueError, match="should be positive"):  # of NumPyro, as before
        numpyro.handlers.scale(counted, scale=0.0)


def test_svi_runs_on_it():
    x = make_data("known_covariance")
    program = bayesmix.marginalize(plan_of("known_covariance"))
    svi = SVI(program, AutoNormal(program), optax.adam(1e-2), Trace_ELBO())
    losses = svi.run(jax.random.key(1), 20, x, 3, progress_bar=False).losses
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
