"""Matrices that differ by a factor or by their shape are factorised once; all else stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.program.specialise import specialise

chol = jnp.linalg.cholesky
SPREAD = jnp.asarray(
    [[[2.0, 0.3], [0.3, 1.0]], [[1.0, -0.2], [-0.2, 0.5]], [[4.0, 1.0], [1.0, 3.0]]]
)

# a function of matrices V (3, 2, 2), and how many factorisations it should have
ONE = {
    "multiples": (lambda V: (chol(V), chol(V / 0.01), chol(2.0 * V), chol(V * 3)), 1),
    "shapes": (lambda V: (chol(V), chol(V[:, None]), chol(jnp.reshape(V, (3, 1, 1, 2, 2)))), 1),
    "repeated": (lambda V: chol(jnp.broadcast_to(V, (4, 3, 2, 2))), 1),
    "both": (lambda V: (chol((V[:, None] / 0.5)[:, 0] * 0.1), chol(V)), 1),
    "all in turn": (lambda V: (chol(V), chol(V[jnp.arange(3)])), 1),
    "some": (lambda V: (chol(V), chol(V[jnp.array([0, 2])])), 2),
    "others": (lambda V: (chol(V), chol(V + jnp.eye(2))), 2),
    "each its own": (lambda V: (chol(V), chol(V * jnp.arange(1.0, 4.0)[:, None, None])), 2),
    "transposed": (lambda V: (chol(V), chol(jnp.swapaxes(V, 0, 1)[:, :2].swapaxes(0, 1))), 2),
    "negative": (lambda V: (chol(V), chol(-2.0 * V), chol(V * 0.0)), 3),
    "not symmetrised": (lambda V: (chol(V), jax.lax.linalg.cholesky(V, symmetrize_input=False)), 2),
}


def factorisations(jaxpr):
    """How often a function's equations factorise, those of functions that it calls included."""
    inner = [e.params["jaxpr"].jaxpr for e in jaxpr.eqns if "jaxpr" in e.params]
    own = sum(e.primitive.name == "cholesky" for e in jaxpr.eqns)
    return own + sum(map(factorisations, inner))


def taken_apart(function):
    """The function through its two parts, all of it in the second."""
    parts = specialise(lambda _, V: function(V), (), SPREAD)
    known = parts.known(())
    return lambda V: parts.rest((), known, V)


@pytest.mark.parametrize("name", ONE)
def test_values_and_derivatives_are_the_same_and_factors_are_taken_once(name):
    function, count = ONE[name]
    found = taken_apart(function)

    def total(function):
        return lambda V: sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(function(V)))

    for one, other in zip(*map(jax.tree.leaves, (found(SPREAD), function(SPREAD))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    for derivative in (jax.grad, jax.hessian):
        one, other = (derivative(total(f))(SPREAD) for f in (found, function))
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    assert factorisations(jax.make_jaxpr(found)(SPREAD).jaxpr) == count


def test_a_function_of_the_same_name_is_another():
    @jax.jit
    def cholesky(V):
        return 7 * V

    found = taken_apart(lambda V: cholesky(V / 4))
    np.testing.assert_allclose(found(SPREAD), 7 * SPREAD / 4)
