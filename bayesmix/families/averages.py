r"""Expectations under the density of a form, as plain means over a few points; its entropy and moments.

A form's density q(v) has sufficient statistics t(v) (:mod:`bayesmix.families.forms`), and a log density
that is linear in them has, whatever its coefficients, the expectation

    E_q[<c, t(v)>] = <c, E_q[t(v)]> = mean over points v_j of <c, t(v_j)>

for any points of equal weight with the same mean of t. So no coefficient needs to be known: a program is
evaluated at the points. Two points do for most forms, one on each side:

- powers: v^p = E[v^p] (1 +- d) with d^2 = 1 - exp(2 (E[log v^p] - log E[v^p])), positive by Jensen;
- Wishart, inverse Wishart: the same with the matrix that enters linearly, log|.| / D for log;
- Dirichlet, beta: log v = a +- (h u + s) with a = E[log v], u = 1 and -1 at the two largest entries, and
  h, s such that both sum to one: a quadratic equation in cosh h;
- normal: m +- sqrt(d) L e_j, where L L' is the covariance: 2 d points, shared by independent blocks.

What a form's value is made of (the simplexes of a table, the entries of a vector of variances) moves
together: a log density that is linear in t is a sum over them.

Source: the points are sigma points (Julier & Uhlmann 2004, *Proceedings of the IEEE* 92, 401-422) for
statistics other than v and v v'. Entropies: Bishop (2006), *Pattern Recognition and Machine Learning*,
Springer, appendix B; of a function of v by its Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import digamma, gammaln

from .forms import (
    BetaForm,
    DirichletForm,
    Form,
    NormalCoefficients,
    NormalForm,
    PowerCoefficients,
    PowerForm,
    WishartCoefficients,
    WishartForm,
)
from .triangles import inverse_lower, solve_lower


class Averages(NamedTuple):
    """What can be said of a form's density with given coefficients; functions of (form, coefficients).

    points: values (J, *shape) of equal weight with the density's mean of t; centre: a value in the
    middle; entropy: of the density in the value's own space, (); proper: is it a density, (); moments:
    mean and variance of each entry, infinite or NaN where they do not exist; distribution: NumPyro's,
    or None where it has none; inverse_centre: the value whose inverse (of v^p, or of the matrix) is the
    inverse's expectation, for forms that scale a normal's covariance.
    """

    points: Callable[[Any, Any], Array]
    centre: Callable[[Any, Any], Array]
    entropy: Callable[[Any, Any], Array]
    proper: Callable[[Any, Any], Array]
    moments: Callable[[Any, Any], tuple[Array, Array]]
    distribution: Callable[[Any, Any], Any]
    inverse_centre: Callable[[Any, Any], Array] | None = None


def averages_of(form: Form) -> Averages:
    """The expectations of a form.

    >>> form, coefficients = DirichletForm(), jnp.array([0.5, 1.0, 2.5])  # concentrations minus one
    >>> points = jax.jit(lambda c: averages_of(form).points(form, c))(coefficients)
    >>> jnp.log(points).mean(axis=0).round(2).tolist()  # digamma(concentration) - digamma(its sum)
    [-1.84, -1.45, -0.77]
    """
    return _AVERAGES[type(form)]


def _log_less_digamma(x: Array) -> Array:
    """log x - digamma(x), without the cancellation at large x."""
    inverse = 1 / x**2
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))
    return jnp.where(x > 30, 1 / (2 * x) + series, jnp.log(x) - digamma(x))


def _either_side(gap: Array) -> Array:
    """Two numbers (2, ...) of mean one, whose logs have the mean -gap."""
    larger = 1 + jnp.sqrt(-jnp.expm1(-2 * gap))
    return jnp.stack([larger, jnp.exp(-2 * gap) / larger])


# ------------------------------------------------------------------------------------------- normal
def _normal_lower(form: NormalForm, c: NormalCoefficients) -> Array:
    """L (B, d, d) with L L' the covariance of each block: the transposed inverse of the factor of P."""
    return inverse_lower(form.factor(c), transpose=True)


def _normal_centre(form: NormalForm, c: NormalCoefficients) -> Array:
    return form.mode(c, c.anchor)[0]


def _normal_points(form: NormalForm, c: NormalCoefficients) -> Array:
    lower = _normal_lower(form, c)
    steps = jnp.sqrt(lower.shape[-1]) * jnp.moveaxis(lower, -1, 0)  # (d, B, d)
    steps = steps.reshape(-1, *c.anchor.shape)
    return _normal_centre(form, c) + jnp.concatenate([steps, -steps])


def _normal_entropy(form: NormalForm, c: NormalCoefficients) -> Array:
    return c.gradient.size * (1 + jnp.log(2 * jnp.pi)) / 2 + form.half_log_precision(c)


def _normal_moments(form: NormalForm, c: NormalCoefficients) -> tuple[Array, Array]:
    variance = jnp.sum(_normal_lower(form, c) ** 2, axis=-1)
    return _normal_centre(form, c), variance.reshape(c.anchor.shape)


def _normal_distribution(form: NormalForm, c: NormalCoefficients) -> Any:
    mean, variance = _normal_moments(form, c)
    if form.joint_axes == 0:
        return dist.Normal(mean, jnp.sqrt(variance))
    if form.joint_axes > 1:
        return None  # NumPyro has no normal arrays whose entries all depend on each other
    precision = c.precision.reshape(*mean.shape, mean.shape[-1])
    return dist.MultivariateNormal(mean, precision_matrix=precision)


# ----------------------------------------------------------------------------------- positive, by power
def _gamma(form: PowerForm, c: PowerCoefficients) -> tuple[Array, Array]:
    """Shape and rate of the gamma density of (v / anchor)^p."""
    return (c.log_power + 1) / form.power, c.rate


def _power_value(form: PowerForm, c: PowerCoefficients, power: Array) -> Array:
    return c.anchor * power ** (1 / form.power)


def _power_points(form: PowerForm, c: PowerCoefficients) -> Array:
    shape, rate = _gamma(form, c)
    return _power_value(form, c, shape / rate * _either_side(_log_less_digamma(shape)))


def _power_centre(form: PowerForm, c: PowerCoefficients) -> Array:
    shape, rate = _gamma(form, c)
    return _power_value(form, c, shape / rate)


def _power_inverse_centre(form: PowerForm, c: PowerCoefficients) -> Array:
    shape, rate = _gamma(form, c)
    return _power_value(form, c, (shape - 1) / rate)


def _power_entropy(form: PowerForm, c: PowerCoefficients) -> Array:
    shape, rate = _gamma(form, c)
    jacobian = jnp.log(c.anchor / abs(form.power))
    log_power = digamma(shape) - jnp.log(rate)
    own = dist.Gamma(shape, rate, validate_args=False).entropy()
    return jnp.sum(own + jacobian + (1 / form.power - 1) * log_power)


def _power_proper(form: PowerForm, c: PowerCoefficients) -> Array:
    shape, rate = _gamma(form, c)
    return jnp.all((shape > 0) & (rate > 0))


def _power_moments(form: PowerForm, c: PowerCoefficients) -> tuple[Array, Array]:
    shape, rate = _gamma(form, c)

    def moment(order: int) -> Array:
        moved = shape + order / form.power
        log_moment = gammaln(moved) - gammaln(shape) - order / form.power * jnp.log(rate)
        return jnp.where(moved > 0, jnp.exp(log_moment), jnp.inf)

    mean, square = moment(1), moment(2)
    variance = jnp.where(jnp.isfinite(square), square - mean**2, jnp.inf)
    return c.anchor * mean, c.anchor**2 * variance


def _power_distribution(form: PowerForm, c: PowerCoefficients) -> Any:
    shape, rate = _gamma(form, c)
    rate = rate * c.anchor**-form.power
    if form.power == 1:
        return dist.Gamma(shape, rate)
    if form.power == -1:
        return dist.InverseGamma(shape, rate)
    root = dist.transforms.PowerTransform(1 / form.power)
    return dist.TransformedDistribution(dist.Gamma(shape, rate), root)


# ------------------------------------------------------------------------------------ positive definite
def _freedom(form: WishartForm, c: WishartCoefficients) -> Array:
    """Of the whitened M, which is Wishart(freedom, S^{-1}) for both signs."""
    return 2 * c.log_power + (-1 if form.inverse else 1) * (c.scatter.shape[-1] + 1)


def _wishart_value(form: WishartForm, c: WishartCoefficients, multiple: Array) -> Array:
    """The value where M is a multiple of S^{-1}."""
    root = jnp.linalg.cholesky(c.scatter)
    if form.inverse:
        half = c.lower @ root
        found = half @ jnp.swapaxes(half, -1, -2)
        return found / multiple[..., None, None]
    half = solve_lower(root, jnp.swapaxes(c.lower, -1, -2))
    return jnp.swapaxes(half, -1, -2) @ half * multiple[..., None, None]


def _wishart_points(form: WishartForm, c: WishartCoefficients) -> Array:
    freedom, size = _freedom(form, c), c.scatter.shape[-1]
    order = jnp.arange(size, dtype=freedom.dtype)
    each = freedom[..., None]
    gaps = _log_less_digamma((each - order) / 2) - jnp.log1p(-order / each)
    multiples = freedom * _either_side(jnp.mean(gaps, axis=-1))
    return jax.vmap(lambda multiple: _wishart_value(form, c, multiple))(multiples)


def _wishart_centre(form: WishartForm, c: WishartCoefficients) -> Array:
    return _wishart_value(form, c, _freedom(form, c))


def _wishart_inverse_centre(form: WishartForm, c: WishartCoefficients) -> Array:
    return _wishart_value(form, c, _freedom(form, c) - c.scatter.shape[-1] - 1)


def _half_log_determinant(lower: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)


def _wishart_entropy(form: WishartForm, c: WishartCoefficients) -> Array:
    freedom, size = _freedom(form, c), c.scatter.shape[-1]
    root = jnp.linalg.cholesky(c.scatter)
    halves = (freedom[..., None] - jnp.arange(size)) / 2
    log_scatter = 2 * _half_log_determinant(root)
    log_determinant = jnp.sum(digamma(halves), axis=-1) + size * jnp.log(2.0) - log_scatter
    log_gamma = jnp.sum(gammaln(halves), axis=-1) + size * (size - 1) / 4 * jnp.log(jnp.pi)
    own = (
        freedom / 2 * (size * jnp.log(2.0) - log_scatter)
        + log_gamma
        - (freedom - size - 1) / 2 * log_determinant
        + freedom * size / 2
    )
    jacobian = (size + 1) * _half_log_determinant(c.lower)
    if form.inverse:
        jacobian -= (size + 1) * log_determinant
    return jnp.sum(own + jacobian)


def _wishart_proper(form: WishartForm, c: WishartCoefficients) -> Array:
    root = jnp.linalg.cholesky(c.scatter)
    return jnp.all(jnp.isfinite(root)) & jnp.all(_freedom(form, c) > c.scatter.shape[-1] - 1)


def _wishart_moments(form: WishartForm, c: WishartCoefficients) -> tuple[Array, Array]:
    """Source of the inverse's variance: Press (1982), *Applied Multivariate Analysis*, section 5.2."""
    size = c.scatter.shape[-1]
    freedom = _freedom(form, c)[..., None, None]
    matrix = _wishart_value(form, c, jnp.ones_like(c.log_power))
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    products = diagonal[..., :, None] * diagonal[..., None, :]
    if not form.inverse:
        return freedom * matrix, freedom * (matrix**2 + products)
    left = freedom - size - 1
    mean = jnp.where(left > 0, matrix / left, jnp.nan)
    numerator = (left + 2) * matrix**2 + left * products
    variance = numerator / ((left + 1) * left**2 * (left - 2))
    return mean, jnp.where(left > 2, variance, jnp.inf)


def _wishart_distribution(form: WishartForm, c: WishartCoefficients) -> Any:
    matrix = _wishart_value(form, c, jnp.ones_like(c.log_power))
    named = dist.InverseWishart if form.inverse else dist.Wishart
    return named(_freedom(form, c), scale_matrix=matrix)


# ---------------------------------------------------------------------------------------------- simplex
def _simplex_points(concentration: Array) -> Array:
    """Two points of the simplex (2, ..., K) whose logs have the mean E[log v]."""
    if concentration.shape[-1] == 1:
        return jnp.ones((2, *concentration.shape), concentration.dtype)
    total = jnp.sum(concentration, axis=-1, keepdims=True)
    mean = concentration / total
    change = _log_less_digamma(total) - _log_less_digamma(concentration)
    log_mean = jnp.log(mean) + change  # E[log v]
    lacking = -jnp.sum(mean * jnp.expm1(change), axis=-1)  # 1 - sum exp E[log v]
    (first, second), places = (jnp.moveaxis(x, -1, 0) for x in jax.lax.top_k(log_mean, 2))
    size = concentration.shape[-1]
    one, other = jax.nn.one_hot(places, size, dtype=concentration.dtype)
    rest = jnp.sum(jnp.where(one + other > 0, 0.0, jnp.exp(log_mean)), axis=-1)
    # with x = 2 cosh h - 2, both sums are one where AB x^2 + b x = 1 - (A + B + R)^2
    product = jnp.exp(first + second)
    slope = 4 * product + rest * (jnp.exp(first) + jnp.exp(second))
    right = lacking * (2 - lacking)
    x = 2 * right / (slope + jnp.sqrt(slope**2 + 4 * product * right))
    step = 2 * jnp.arcsinh(jnp.sqrt(x) / 2)[..., None] * (one - other)
    return jax.nn.softmax(jnp.stack([log_mean + step, log_mean - step]), axis=-1)


def _dirichlet(form: DirichletForm, c: Array) -> Any:
    return dist.Dirichlet(c + 1, validate_args=False)


def _dirichlet_moments(form: DirichletForm, c: Array) -> tuple[Array, Array]:
    found = _dirichlet(form, c)
    return found.mean, found.variance


def _beta(form: BetaForm, c: Array) -> Any:
    return dist.Beta(c[0] + 1, c[1] + 1, validate_args=False)


def _beta_entropy(form: BetaForm, c: Array) -> Array:
    # not NumPyro's own, by JAX's betaln, which errs in the seventh digit
    return jnp.sum(_dirichlet(DirichletForm(), jnp.moveaxis(c, 0, -1)).entropy())


def _beta_moments(form: BetaForm, c: Array) -> tuple[Array, Array]:
    found = _beta(form, c)
    return found.mean, found.variance


_AVERAGES: dict[type, Averages] = {
    NormalForm: Averages(
        _normal_points,
        _normal_centre,
        _normal_entropy,
        lambda form, c: jnp.all(jnp.isfinite(form.factor(c))),
        _normal_moments,
        _normal_distribution,
    ),
    PowerForm: Averages(
        _power_points,
        _power_centre,
        _power_entropy,
        _power_proper,
        _power_moments,
        _power_distribution,
        _power_inverse_centre,
    ),
    WishartForm: Averages(
        _wishart_points,
        _wishart_centre,
        _wishart_entropy,
        _wishart_proper,
        _wishart_moments,
        _wishart_distribution,
        _wishart_inverse_centre,
    ),
    DirichletForm: Averages(
        lambda form, c: _simplex_points(c + 1),
        lambda form, c: _dirichlet(form, c).mean,
        lambda form, c: jnp.sum(_dirichlet(form, c).entropy()),
        lambda form, c: jnp.all(c > -1),
        _dirichlet_moments,
        _dirichlet,
    ),
    BetaForm: Averages(
        lambda form, c: _simplex_points(jnp.moveaxis(c + 1, 0, -1))[..., 0],
        lambda form, c: _beta(form, c).mean,
        _beta_entropy,
        lambda form, c: jnp.all(c > -1),
        _beta_moments,
        _beta,
    ),
}
