"""Normalised densities of forms against NumPyro's, and coefficients that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.families.forms import (
    BetaForm,
    DirichletForm,
    NormalCoefficients,
    NormalForm,
    PowerCoefficients,
    PowerForm,
    WishartCoefficients,
    WishartForm,
)
from bayesmix.program.compiling import compile_lightly

_rng = np.random.default_rng(0)
_root = _rng.normal(size=(2, 3, 3)) + 2 * np.eye(3)
MATRICES = _root @ np.swapaxes(_root, -1, -2)
LOWER = np.linalg.cholesky(MATRICES[::-1])
NORMAL = NormalCoefficients(_rng.normal(size=(2, 3)), _rng.normal(size=(2, 3)), MATRICES)
POWER = PowerCoefficients(np.array([0.7, 2.0]), np.array([1.5, 2.5]), np.array([3.0, 0.4]))

CASES = {
    "normal": (NormalForm(1), NORMAL, NORMAL.anchor),
    "gamma": (PowerForm(1), POWER, POWER.anchor),
    "inverse gamma": (PowerForm(-1), POWER._replace(log_power=-POWER.log_power), POWER.anchor),
    "root of a gamma": (PowerForm(2), POWER, POWER.anchor),
    "root of an inverse gamma": (
        PowerForm(-2),
        POWER._replace(log_power=-POWER.log_power),
        POWER.anchor,
    ),
    "Wishart": (
        WishartForm(False),
        WishartCoefficients(LOWER, np.array([0.5, 3.0]), MATRICES),
        LOWER @ np.swapaxes(LOWER, -1, -2),
    ),
    "inverse Wishart": (
        WishartForm(True),
        WishartCoefficients(LOWER, np.array([4.5, 7.0]), MATRICES),
        LOWER @ np.swapaxes(LOWER, -1, -2),
    ),
    "Dirichlet": (
        DirichletForm(),
        np.array([[0.5, 2.0, -0.3], [4.0, 0, 1]]),
        np.full((2, 3), 1 / 3),
    ),
    "beta": (BetaForm(), np.array([[0.5, 2.0], [-0.3, 4.0]]), np.full(2, 0.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_density_at_the_anchor_is_numpyros(name):
    form, coefficients, value = CASES[name]

    @compile_lightly
    def both(coefficients, value):
        theirs = form.distribution(coefficients).log_prob(value)
        return form.at_anchor(coefficients), theirs

    ours, theirs = both(coefficients, value)
    assert ours.shape == (2,)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    np.testing.assert_allclose(form.anchor(value), value)


@pytest.mark.parametrize("name", ["normal", "inverse Wishart", "beta"])
def test_coefficients_of_a_sum_are_sums_of_coefficients(name):
    form, coefficients, value = CASES[name]
    density = lambda x: jnp.sum(form.distribution(coefficients).log_prob(x))

    @compile_lightly
    def read(value):
        one, both = (form.read(lambda x, n=n: n * density(x), value) for n in (1, 3))
        total = tuple(x + 2 * x for x in form.added(form.lead(one, 2)))
        return (
            total,
            form.added(form.lead(both, 2)),
            form.with_added(one, form.added(one)),
        )

    total, told, same = read(jnp.asarray(value))
    assert all(array.shape[0] == 2 for array in total)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), total, told)
    assert jax.tree.structure(same) == jax.tree.structure(coefficients)
