"""Expectations under the density of a form: points, entropies and moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

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


def looked_at(form, coefficients):
    """Points, entropy and moments, compiled as one."""

    @compile_lightly
    def look(coefficients):
        found = (form.points, form.entropy, form.moments)
        return tuple(each(coefficients) for each in found)

    points, entropy, moments = jax.tree.map(np.asarray, look(coefficients))
    return points, float(entropy), moments


POWERS = (1, -1, 2, -2)


def power_coefficients(power: int, shape: np.ndarray, rate: np.ndarray) -> PowerCoefficients:
    """v^p ~ Gamma(shape, rate), told about an anchor of no importance."""
    anchor = np.full(shape.shape, 1.7)
    return PowerCoefficients(anchor, power * shape - 1, rate * anchor**power)


@functools.cache
def a_matrix(seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(3, 3))
    return root @ root.T + np.eye(3)


def wishart_coefficients(inverse: bool, freedom: float, matrix: np.ndarray) -> WishartCoefficients:
    """Wishart or inverse Wishart with this scale matrix, told about an anchor of no importance."""
    lower = np.linalg.cholesky(a_matrix(5))
    whitener = np.linalg.inv(lower)
    if inverse:
        scatter = whitener @ matrix @ whitener.T
    else:
        scatter = lower.T @ np.linalg.inv(matrix) @ lower
    log_power = (freedom + (4 if inverse else -4)) / 2
    return WishartCoefficients(lower[None], np.array([log_power]), scatter[None])


@pytest.mark.parametrize("concentration", [[1.5, 2.0, 3.5], [0.05, 20, 30, 0.02], [1e7, 3e7]])
def test_points_of_a_simplex(concentration):
    concentration = np.array(concentration)
    points, entropy, _ = looked_at(DirichletForm(), concentration - 1)
    np.testing.assert_allclose(points.sum(axis=-1), 1.0, rtol=1e-14)
    exact = special.digamma(concentration) - special.digamma(concentration.sum())
    np.testing.assert_allclose(np.log(points).mean(axis=0), exact, rtol=1e-8)
    assert entropy == pytest.approx(stats.dirichlet(concentration).entropy(), rel=1e-8)


def test_points_of_a_share():
    shapes = np.array([[0.7, 8.7, 300.0], [2.0, 6.0, 700.0]])
    points, entropy, _ = looked_at(BetaForm(), shapes - 1)
    total = special.digamma(shapes.sum(axis=0))
    np.testing.assert_allclose(
        np.log(points).mean(0), special.digamma(shapes[0]) - total, rtol=1e-9
    )
    np.testing.assert_allclose(
        np.log1p(-points).mean(0), special.digamma(shapes[1]) - total, rtol=1e-9
    )
    assert entropy == pytest.approx(stats.beta(*shapes).entropy().sum(), rel=1e-9)


@pytest.mark.parametrize("power", POWERS)
def test_points_entropy_and_moments_of_a_power(power):
    shape, rate = np.array([4.6, 5.0, 40.0]), np.array([0.3, 5.0, 2.0])
    coefficients = power_coefficients(power, shape, rate)
    points, entropy, (mean, variance) = looked_at(PowerForm(power), coefficients)
    np.testing.assert_allclose((points**power).mean(axis=0), shape / rate, rtol=1e-12)
    exact = (special.digamma(shape) - np.log(rate)) / power
    np.testing.assert_allclose(np.log(points).mean(axis=0), exact, rtol=1e-10)

    def integral(function, i):  # over u = log v
        gamma = stats.gamma(shape[i], scale=1 / rate[i])

        def inside(u):
            log_density = gamma.logpdf(np.exp(power * u)) + np.log(abs(power)) + (power - 1) * u
            return np.exp(log_density + u) * function(np.exp(u), log_density)

        centre = exact[i]
        return integrate.quad(inside, centre - 12, centre + 12, points=[centre], limit=400)[0]

    entropies = [integral(lambda v, log_density: -log_density, i) for i in range(3)]
    assert entropy == pytest.approx(sum(entropies), rel=1e-7)
    means = [integral(lambda v, _: v, i) for i in range(3)]
    np.testing.assert_allclose(mean, means, rtol=1e-7)
    squares = [integral(lambda v, _, i=i: (v - means[i]) ** 2, i) for i in range(3)]
    np.testing.assert_allclose(variance, squares, rtol=1e-5)


@pytest.mark.parametrize("inverse", [True, False])
def test_points_entropy_and_moments_of_a_matrix(inverse):
    freedom, matrix = 9.5, a_matrix(1)
    coefficients = wishart_coefficients(inverse, freedom, matrix)
    points, entropy, moments = looked_at(WishartForm(inverse), coefficients)
    points, (mean, variance) = points[:, 0], (each[0] for each in moments)
    linear = np.linalg.inv(points) if inverse else points
    expected = freedom * (np.linalg.inv(matrix) if inverse else matrix)
    np.testing.assert_allclose(linear.mean(axis=0), expected, rtol=1e-10)
    digammas = special.digamma((freedom - np.arange(3)) / 2).sum() + 3 * np.log(2)
    _, log_determinant = np.linalg.slogdet(matrix)
    exact = log_determinant + (-digammas if inverse else digammas)
    np.testing.assert_allclose(np.linalg.slogdet(points)[1].mean(), exact, rtol=1e-12)
    named = (stats.invwishart if inverse else stats.wishart)(freedom, matrix)
    np.testing.assert_allclose(mean, named.mean(), rtol=1e-9)
    draws = named.rvs(20_000, random_state=0)
    # SciPy's entropy of the inverse is not the mean of its own log density
    surprise = -named.logpdf(np.moveaxis(draws, 0, -1))
    error = surprise.std() / np.sqrt(len(draws))
    assert abs(entropy - surprise.mean()) < 5 * error
    np.testing.assert_allclose(variance, draws.var(axis=0), rtol=0.2)


def test_points_of_a_normal():
    precision = np.stack([a_matrix(2), a_matrix(3)])
    anchor, gradient = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    coefficients = NormalCoefficients(anchor, gradient, precision)
    points, entropy, moments = looked_at(NormalForm(1), coefficients)
    assert points.shape == (6, 2, 3)
    covariance = np.linalg.inv(precision)
    mean = anchor + covariance.sum(axis=-1)
    np.testing.assert_allclose(points.mean(axis=0), mean, rtol=1e-12)
    away = points - mean
    np.testing.assert_allclose(np.einsum("jbi,jbk->bik", away, away) / 6, covariance, atol=1e-12)
    entropies = [stats.multivariate_normal(m, c).entropy() for m, c in zip(mean, covariance)]
    assert entropy == pytest.approx(sum(entropies))
    np.testing.assert_allclose(moments[0], mean)
    np.testing.assert_allclose(moments[1], np.diagonal(covariance, axis1=1, axis2=2))


def each_form():
    rng = np.random.default_rng(0)
    normal = NormalCoefficients(np.zeros((2, 3)), np.ones((2, 3)), np.stack([a_matrix(2)] * 2))
    yield NormalForm(1), normal
    yield NormalForm(0), NormalCoefficients(np.zeros(2), np.ones((2, 1)), np.ones((2, 1, 1)))
    for power in POWERS:
        yield (
            PowerForm(power),
            power_coefficients(power, np.array([3.1, 8.0]), np.array([2.0, 0.1])),
        )
    for inverse in (True, False):
        yield WishartForm(inverse), wishart_coefficients(inverse, 12.0, a_matrix(1))
    yield DirichletForm(), rng.uniform(-0.5, 3.0, (2, 4))
    yield BetaForm(), rng.uniform(-0.5, 3.0, (2, 3))


@pytest.mark.parametrize(("form", "coefficients"), list(each_form()), ids=lambda x: str(x)[:30])
def test_draws_agree(form, coefficients):
    """The same functions of draws of the form's own: of t by any coefficients, of -log q, of v."""
    other = jax.tree.map(lambda x: 0.5 * x, coefficients)
    if isinstance(form, WishartForm):
        other = coefficients._replace(scatter=2 * coefficients.scatter)

    def height(v):
        return jnp.sum(form.distribution(other).log_prob(v))

    @compile_lightly
    def look(keys):
        draws = jax.vmap(lambda key: form.sample(key, coefficients))(keys)
        named = form.distribution(coefficients)
        of_draws = jax.vmap(height)(draws)
        points = form.points(coefficients)
        of_points = jax.vmap(height)(points)
        surprise = -jnp.sum(named.log_prob(draws).reshape(len(keys), -1), axis=1)
        moments = form.moments(coefficients)
        entropy = form.entropy(coefficients)
        return draws, of_draws, of_points.mean(), surprise, moments, entropy

    draws, of_draws, expected, surprise, (mean, variance), entropy = look(
        jax.random.split(jax.random.key(0), 50_000)
    )
    error = float(jnp.std(of_draws)) / np.sqrt(len(draws))
    assert abs(float(of_draws.mean() - expected)) < 5 * error
    assert abs(float(surprise.mean()) - entropy) < 5 * float(surprise.std()) / np.sqrt(len(draws))
    errors = np.sqrt(np.asarray(variance) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * errors)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.2)


def test_what_is_no_density_is_said():
    for form, good, bad in (
        (DirichletForm(), np.array([0.0, 1.0]), np.array([-1.0, 1.0])),
        (PowerForm(1), *(power_coefficients(1, np.array(a), np.array(1.0)) for a in (0.5, -0.5))),
        (WishartForm(False), *(wishart_coefficients(False, f, a_matrix(1)) for f in (2.5, 1.5))),
    ):
        assert form.proper(good) and not form.proper(bad)
