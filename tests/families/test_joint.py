"""A normal and its scale as one form, against densities that are written down."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from bayesmix.families.forms import JointForm, NormalForm, PowerForm, WishartForm
from bayesmix.program.compiling import compile_lightly

ROOT = np.array([[1.2, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.5, 1.5]])
MATRIX = ROOT @ ROOT.T
CENTRE = np.array([[1.0, -2.0, 0.5]])


def normal_inverse_wishart(mean, scale):
    prior = dist.InverseWishart(8.0, scale_matrix=MATRIX).log_prob(scale)
    return jnp.sum(dist.MultivariateNormal(CENTRE, scale / 2.5).log_prob(mean) + prior)


def normal_gamma(mean, precision):
    prior = dist.Gamma(4.5, 1.7).log_prob(precision)
    return jnp.sum(dist.Normal(CENTRE, (2.5 * precision) ** -0.5).log_prob(mean) + prior)


CASES = {
    "inverse Wishart": (
        JointForm(NormalForm(1), WishartForm(True), 0.5),
        normal_inverse_wishart,
        (np.array([[0.3, 0.1, -0.8]]), (MATRIX + 0.5 * np.eye(3))[None]),
    ),
    "gamma": (
        JointForm(NormalForm(0), PowerForm(1), -0.5),
        normal_gamma,
        (np.array([[0.3, 0.1, -0.8]]), np.array([[0.5, 2.0, 1.1]])),
    ),
}


def along(density):
    """The density of a pair along one of the two."""
    return lambda pair, place: lambda v: density(*(v if i == place else pair[i] for i in (0, 1)))


@pytest.mark.parametrize("name", CASES)
def test_the_form_is_the_density_it_was_read_from(name):
    form, density, value = CASES[name]

    @compile_lightly
    def look(value):
        found = form.read(along(density), value)
        spread = form.spread(found)
        mode, has_mode = form.mode(found, value)
        surprise = -jnp.mean(jax.vmap(density)(*spread.points))
        terms = form.terms(along(density), value, 1, along(density))
        same = form.with_added(terms, form.added(terms))
        height = form.at_anchor(jax.tree.map(lambda x: x[0], same))
        # the normal's mode is that of the whole; the scale's is given it
        slopes = jax.grad(density, (0, 1))(*mode)
        return spread, surprise, has_mode, slopes, height, density(*value), form.moments(found)

    spread, surprise, has_mode, slopes, height, actual, (means, variances) = look(value)
    assert has_mode and spread.proper
    assert float(spread.entropy) == pytest.approx(float(surprise), rel=1e-10)
    assert float(height) == pytest.approx(float(actual), rel=1e-10)
    assert all(np.max(np.abs(slope)) < 1e-8 for slope in slopes)
    np.testing.assert_allclose(means[0], CENTRE)
    if name == "gamma":
        expected = np.full((1, 3), 1.7 / 3.5 / 2.5)  # E[1 / precision] / 2.5
        np.testing.assert_allclose(means[1], 4.5 / 1.7)
    else:
        expected = np.diagonal(MATRIX)[None] / (8 - 3 - 1) / 2.5
        np.testing.assert_allclose(means[1][0], MATRIX / 4)
    np.testing.assert_allclose(variances[0], expected, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_kept_coefficients_are_arrays_that_look_again_when_they_can(name):
    form, density, value = CASES[name]
    keys = jax.random.split(jax.random.key(0))

    @jax.jit
    def kept(value):
        found = form.read(along(density), value)
        return form.looking_at(found, None), form.sample(keys, found)

    arrays, drawn = kept(value)
    again = form.sample(keys, form.looking_at(arrays, along(density)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), drawn, again)
