"""Programs taken apart: the two parts together are the program, and the first needs no parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import bayesmix
from bayesmix.program.arguments import split
from bayesmix.program.specialise import specialise


def twice(x, v):
    """Loops, branches, calls, custom derivatives and linear algebra, on either side."""
    spread = jnp.cov(x.T) + jnp.eye(2)
    lower = jnp.linalg.cholesky(spread)
    total = jax.lax.fori_loop(0, 3, lambda i, t: t + jnp.sum(x) * i, 0.0)
    scanned, _ = jax.lax.scan(lambda c, row: (c + jax.nn.relu(row), None), jnp.zeros(2), x)
    branch = jax.lax.cond(total > 0, jnp.sin, jnp.cos, v["a"])
    noise = random.normal(random.key(0), (2,))
    inner = jax.jit(lambda a: jnp.logaddexp(a, jax.scipy.special.gammaln(a + 3.0)))(v["a"])
    solved = jax.scipy.linalg.solve_triangular(lower, v["b"], lower=True)
    return {"one": (branch + inner, scanned * v["b"]), "two": solved + noise, "three": total}


VALUES = {"a": jnp.array(0.3), "b": jnp.array([1.0, -2.0])}


def rows(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(5, 2)))


def test_the_parts_together_are_the_function():
    parts = specialise(twice, rows(), VALUES)
    for seed in range(3):  # other arrays of the same shapes
        known = parts.known(rows(seed))
        found, plain = parts.rest(rows(seed), known, VALUES), twice(rows(seed), VALUES)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), found, plain)


def test_they_can_be_batched_and_differentiated():
    x, parts = rows(), specialise(twice, rows(), VALUES)
    known = parts.known(x)

    def total(function):
        return lambda v: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(v)))

    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), VALUES)
    one, other = (
        jax.vmap(jax.value_and_grad(total(f)))(batch)
        for f in (lambda v: parts.rest(x, known, v), lambda v: twice(x, v))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, other)


def test_what_needs_no_parameter_is_not_computed_again():
    parts = specialise(twice, rows(), VALUES)
    left = str(jax.make_jaxpr(parts.rest)(rows(), parts.known(rows()), VALUES))
    for done in ("cholesky", "scan", "while", "random_bits", "threefry"):
        assert done not in left, done
    assert "triangular_solve" in left and "cond" in left


def test_what_is_large_and_costs_nothing_is_made_again_and_not_kept():
    def function(x, v):
        return jnp.sum(jnp.broadcast_to(x[:1], (100_000, 2)) * v["a"] + jnp.exp(x[0, 0]))

    parts = specialise(function, rows(), VALUES)
    assert max(leaf.size for leaf in parts.known(rows())) < 10
    known = parts.known(rows())
    assert parts.rest(rows(), known, VALUES) == pytest.approx(float(function(rows(), VALUES)))


def test_it_fits_values_of_the_same_names_shapes_and_types_only():
    parts = specialise(twice, rows(), VALUES)
    assert parts.fits(VALUES)
    assert not parts.fits({"a": VALUES["a"]})
    assert not parts.fits({**VALUES, "b": jnp.ones(3)})
    assert not parts.fits({**VALUES, "a": jnp.array(0.3, jnp.float32)})


def scaled_to_the_data(x, K):
    """A prior whose scale matrix is a covariance of the data."""
    spread = jnp.cov(x.T) / K
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        tril = numpyro.sample("tril", dist.LKJCholesky(2, 1.0))
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.mean(x, 0), spread))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        scale = jnp.linalg.cholesky(spread) @ tril[z]
        numpyro.sample("x", dist.MultivariateNormal(mean[z], scale_tril=scale), obs=x)


@pytest.mark.parametrize("double", [True, False])
def test_a_plan_evaluates_a_call_taken_apart_as_it_does_the_call(double):
    with jax.enable_x64(double):
        x = np.random.default_rng(1).normal(size=(40, 2)).astype(float if double else np.float32)
        plan = bayesmix.plan(scaled_to_the_data, x, 2)
        arguments = split((x, 2), {})
        at_data = plan.specialise(arguments)
        assert plan.specialise(at_data) is at_data
        assert len(at_data.arrays) > len(arguments.arrays)
        values = {
            "weights": jnp.array([0.3, 0.7]),
            "mean": jnp.array([[0.0, 1.0], [1.0, -1.0]]),
            "tril": jnp.array([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]]),
        }
        one, other = (plan.evaluate(each, values) for each in (at_data, arguments))
        close = dict.fromkeys(("rtol", "atol"), 1e-12 if double else 1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), one, other)
        left = jax.make_jaxpr(lambda v: plan.evaluate(at_data, v).prior)(values)
        assert "cholesky" not in str(left)


INDEXED = {
    "all in turn": (lambda v: v["c"][jnp.arange(3)[:, None]], False),
    "diagonals": (lambda v: jnp.diagonal(v["c"].T[:, None] * v["a"][:, None], 0, 1, 2), False),
    "along an axis": (
        lambda v: jnp.take_along_axis(
            v["a"] * jnp.ones((3, 1, 3)), jnp.arange(3)[:, None, None], -1
        ),
        False,
    ),
    "one of each row": (
        lambda v: jnp.take_along_axis(v["c"], jnp.array([[1], [0], [1]]), axis=1, mode="clip"),
        False,
    ),
    "turned round": (lambda v: v["c"][jnp.array([2, 0, 1])], True),
    "some twice": (lambda v: v["a"][jnp.array([0, 0, 2])], True),
    "what is not there": (lambda v: v["a"].at[jnp.arange(1, 4)].get(mode="fill"), True),
    "data": (lambda v: v["a"][v["i"]], True),
}


@pytest.mark.parametrize("name", INDEXED)
def test_indexing_that_takes_every_entry_or_one_of_each_row_is_not_left(name):
    taking, left = INDEXED[name]

    def function(x, v):
        return jnp.sin(taking({**v, "i": x}))

    noise = np.random.default_rng(0).normal(size=(3, 5))
    x, v = jnp.array([1, 0, 2]), {"a": jnp.asarray(noise[:, 0]), "c": jnp.asarray(noise[:, 1:3])}
    parts = specialise(function, x, v)
    known = parts.known(x)
    assert ("gather" in str(jax.make_jaxpr(parts.rest)(x, known, v))) == left
    found, slopes = jax.value_and_grad(lambda v: jnp.sum(parts.rest(x, known, v)))(v)
    wanted, right = jax.value_and_grad(lambda v: jnp.sum(function(x, v)))(v)
    np.testing.assert_array_equal(parts.rest(x, known, v), function(x, v))
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), slopes, right)


def test_what_a_program_prints_is_printed_in_the_rest(capfd):
    def function(x, v):
        jax.debug.print("place {}", v[0])
        return jnp.sum(v[jnp.arange(3)] - x)

    x, v = jnp.ones(3), jnp.arange(3.0)
    parts = specialise(function, x, v)
    known = parts.known(x)
    assert "place" not in capfd.readouterr().out
    assert float(parts.rest(x, known, v)) == 0.0
    jax.effects_barrier()
    assert capfd.readouterr().out == "place 0.0\n"
