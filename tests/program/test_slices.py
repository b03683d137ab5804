"""A density along one value: the same but for a constant, and nothing else is in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.program.slices import along

AT = {"a": jnp.array([0.4, 1.3]), "b": jnp.array(0.7), "c": jnp.array([[2.0, 0.3], [0.3, 1.0]])}


def log_density(at):
    """Terms of one value, of two, of none; sums in sums; loops, branches and linear algebra."""
    lower = jnp.linalg.cholesky(at["c"])
    quadratic = jnp.sum(jax.scipy.linalg.solve_triangular(lower, at["a"], lower=True) ** 2)
    swept, _ = jax.lax.scan(lambda s, x: (s + x * at["b"], None), 0.0, at["a"])
    branch = jax.lax.cond(at["b"] > 0, jnp.sin, jnp.cos, at["b"])
    alone = jnp.sum(jnp.log(at["a"])) + jax.nn.softplus(at["b"])
    return (alone - 2 * quadratic) + (branch + swept * (1.0 + branch)) + jnp.sum(jnp.exp(at["c"]))


def primitives(function, value):
    """The names of all primitives, also inside calls and loops."""

    def inside(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(leaf):
                    yield from inside(getattr(leaf, "jaxpr", leaf))

    return set(inside(jax.make_jaxpr(function)(value).jaxpr))


def _is_jaxpr(leaf):
    return hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: jax.jit(lambda at: jax.jit(f)(at))]
)
@pytest.mark.parametrize("name", AT)
def test_it_is_the_density_but_for_a_constant(name, wrap):
    sliced, value = along(wrap(log_density), AT, name), AT[name]
    plain = lambda v: log_density({**AT, name: v})
    moved = value * 1.1 + 0.05 * (value.ndim < 2)
    np.testing.assert_allclose(
        sliced(moved) - sliced(value), plain(moved) - plain(value), rtol=1e-12
    )
    for order in (jax.grad, jax.hessian):
        np.testing.assert_allclose(
            order(sliced)(value), order(plain)(value), rtol=1e-10, atol=1e-12
        )


def test_what_does_not_move_is_left_out():
    sliced = along(jax.jit(log_density), AT, "b")
    assert not primitives(sliced, AT["b"]) & {"cholesky", "triangular_solve", "reduce_sum"}
    assert "cholesky" in primitives(along(log_density, AT, "c"), AT["c"])


def test_it_can_be_taken_under_other_transformations():
    """Inside jit and vmap, where the other values are traced, and the function closes over more."""

    def slope(a, b, scale):
        density = jax.jit(lambda at: scale * log_density(at))
        return jax.grad(along(density, {**AT, "a": a, "b": b}, "b"))(b)

    a, b, scale = jnp.array([[0.4, 1.3], [2.0, 0.1]]), jnp.array([0.7, -0.2]), jnp.array([1.0, 3.0])
    found = jax.jit(jax.vmap(slope))(a, b, scale)
    plain = jax.vmap(
        lambda u, w, s: s * jax.grad(lambda v: log_density({**AT, "a": u, "b": v}))(w)
    )(a, b, scale)
    np.testing.assert_allclose(found, plain, rtol=1e-12)


def test_a_density_that_does_not_depend_on_the_value_is_flat():
    sliced = along(lambda at: jnp.sum(at["a"]), AT, "b")
    assert float(jax.grad(sliced)(AT["b"])) == 0


def test_a_term_that_counts_twice_is_counted_twice():
    sliced = along(lambda at: at["b"] + at["b"], AT, "b")
    assert float(jax.grad(sliced)(AT["b"])) == 2


def test_what_prints_still_prints(capfd):
    def density(at):
        jax.debug.print("at {}", at["a"][0])
        return at["b"] * at["a"][0]

    sliced = along(density, AT, "b")
    assert float(jax.jit(sliced)(AT["b"])) == pytest.approx(0.28)
    jax.effects_barrier()
    assert "at 0.4" in capfd.readouterr().out
