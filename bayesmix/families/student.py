"""Student-t likelihoods as Gaussian scale mixtures: x given u is N(m, Sigma / u), u ~ Gamma(nu/2, nu/2).

The scale u of a row is hidden: given x it is Gamma((nu + d)/2, (nu + delta)/2), with delta the squared
Mahalanobis distance over the d cells that are there, so that E[u] = (nu + d) / (nu + delta) and
E[log u] = digamma((nu + d)/2) - log((nu + delta)/2). Expected (EM) or drawn (Gibbs), it weights the
Gaussian's statistics; Q is then a Gaussian's in m and Sigma, and one-dimensional in nu.

Source: Liu & Rubin (1995), *Statistica Sinica* 5, 19-39; missing cells: Liu (1995), *JMVA* 53, 139-158.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from jax.scipy.special import digamma, gammaln

from .columns import (
    ColumnRows,
    Columns,
    ColumnStatistics,
    columns_about,
    columns_arrange,
    flat_columns,
    squares_about,
)
from .gaussian import (
    Completed,
    Gaussian,
    GaussianStatistics,
    PreparedGaussian,
    Sums,
    about,
    completed,
    drawn_sums,
    entries,
    expected_square,
    finish,
    half_log_determinant,
    hidden_noise,
    prepare,
    score,
    squared_distance,
    weighted_sums,
    whitened_sums,
)
from .likelihoods import Family, Lead, linear, register
from .peel import Peeled

_LOG_TWO_PI = math.log(2 * math.pi)


class Scales(NamedTuple):
    """The hidden scale of each component and row: u and log u, expected or drawn."""

    scale: Array
    log_scale: Array


def _scales(
    freedom: Array, cells: Array | int, delta: Array, weights: Array, rng_key: Array | None
) -> Scales:
    """Moments of Gamma((nu + d)/2, (nu + delta)/2), with `freedom` as `delta` but for rows, (K, ..., 1);
    or one draw a row, for the component that has the row."""
    shape, rate = (freedom + cells) / 2, (freedom + delta) / 2
    if rng_key is None:
        # the logarithm is the one in the density; what is left is the same for all rows
        log_rate = jnp.log(freedom / 2) + jnp.log1p(delta / freedom)
        return Scales(shape / rate, digamma(shape) - log_rate)
    taken = weights > 0
    shape = jnp.sum(jnp.where(taken, shape, 0.0), axis=0)
    rate = jnp.sum(jnp.where(taken, rate, 0.0), axis=0)
    some = shape > 0  # rows of no weight belong to nobody
    log_gamma = random.loggamma(rng_key, jnp.where(some, shape, 1.0))
    log_scale = log_gamma - jnp.log(jnp.where(some, rate, 1.0))
    return Scales(jnp.exp(log_scale)[None], log_scale[None])


def _log_gamma_density(freedom: Array, count: Array, total: Array, total_log: Array) -> Array:
    """Sum of log Gamma(u | nu/2, nu/2), from the sums of u and log u."""
    half = freedom / 2
    return count * (half * jnp.log(half) - gammaln(half)) + (half - 1) * total_log - half * total


# ------------------------------------------------------------------------------------ full covariance
class Student(NamedTuple):
    """Location (K, D), lower factor of the scatter matrix (K, D, D), degrees of freedom (K,)."""

    mean: Array
    scale_tril: Array
    freedom: Array


class PreparedStudent(NamedTuple):
    """The Gaussian of u = 1, degrees of freedom (K,), number of cells that are there, and the log
    normaliser of the t density (K,)."""

    gaussian: PreparedGaussian
    freedom: Array
    cells: Array
    log_normaliser: Array


class StudentStatistics(NamedTuple):
    """Total weight, sums of u and log u (K,); sums of u (x - reference) and of u times its square."""

    reference: Array
    count: Array
    scale: Array
    log_scale: Array
    first: Array
    second: Array


def _parameters(peeled: Peeled, lead: Lead) -> Student:
    base = peeled.base
    return Student(lead(base.loc, 1), lead(base.scale_tril, 2), lead(base.df, 0))


def _prepare(parameters: Student, pattern: Array | None) -> PreparedStudent:
    gaussian = prepare(Gaussian(parameters.mean, parameters.scale_tril), pattern)
    freedom = parameters.freedom
    cells = jnp.asarray(parameters.mean.shape[-1], freedom.dtype)
    if pattern is not None:
        cells = jnp.sum(pattern.astype(freedom.dtype))
    normaliser = (
        gaussian.log_normaliser
        + gammaln((freedom + cells) / 2)
        - gammaln(freedom / 2)
        - cells / 2 * jnp.log(freedom / 2)
    )
    return PreparedStudent(gaussian, freedom, cells, normaliser)


def _log_prob(prepared: PreparedStudent, rows: Array) -> Array:
    delta = squared_distance(prepared.gaussian, rows)
    freedom = prepared.freedom[:, None]
    power = (freedom + prepared.cells) / 2
    return prepared.log_normaliser[:, None] - power * jnp.log1p(delta / freedom)


class StudentSums(NamedTuple):
    """Total weight, sums of log u (K,), and a Gaussian's sums by weights times u."""

    count: Array
    log_scale: Array
    scaled: Sums


def _accumulate(
    prepared: PreparedStudent, rows: Array, weights: Array, rng_key: Array | None
) -> StudentSums:
    scale_key, noise_key = (None, None) if rng_key is None else random.split(rng_key)
    gaussian, freedom = prepared.gaussian, prepared.freedom[:, None]
    delta = squared_distance(gaussian, rows)
    scale, log_scale = _scales(freedom, prepared.cells, delta, weights, scale_key)
    noise = hidden_noise(gaussian, rows, weights, noise_key)
    if noise is None:
        scaled = weighted_sums(gaussian, rows, weights * scale)
    else:
        scaled = drawn_sums(gaussian, rows, weights * scale, noise / jnp.sqrt(scale))
    return StudentSums(jnp.sum(weights, axis=-1), jnp.sum(weights * log_scale, axis=-1), scaled)


def _complete(prepared: PreparedStudent, sums: StudentSums) -> StudentSums:
    if isinstance(sums.scaled, Completed):
        return sums
    scale, first, second = whitened_sums(prepared.gaussian, sums.scaled)
    # the variance of a missing cell is u's inverse: rows count, not their scales
    whole = completed(prepared.gaussian, sums.count, first, second)
    return sums._replace(scaled=Completed(scale, *whole))


def _finish(prepared: PreparedStudent, sums: StudentSums) -> StudentStatistics:
    reference, scale, first, second = finish(prepared.gaussian, sums.scaled)
    return StudentStatistics(reference, sums.count, scale, sums.log_scale, first, second)


def _expected_log_prob(parameters: Student, statistics: StudentStatistics) -> Array:
    mean, lower, freedom = parameters
    reference, count, scale, log_scale, first, second = statistics
    square = expected_square(mean, lower, GaussianStatistics(reference, scale, first, second))
    dimension = mean.shape[-1]
    normaliser = count * (dimension * _LOG_TWO_PI / 2 + half_log_determinant(lower))
    gaussian = dimension / 2 * log_scale - normaliser - square / 2
    return gaussian + _log_gamma_density(freedom, count, scale, log_scale)


def _score(prepared: PreparedStudent, sums: StudentSums) -> Student:
    count, log_scale, _ = sums
    scale, first, second = whitened_sums(prepared.gaussian, sums.scaled)
    half = prepared.freedom / 2
    slope = count * (jnp.log(half) + 1 - digamma(half)) + log_scale - scale
    return Student(*score(prepared.gaussian, (count, first, second)), slope / 2)


def _combine(
    one: StudentStatistics, other: StudentStatistics, first: Array, second: Array
) -> StudentStatistics:
    scaled = GaussianStatistics(one.reference, one.scale, one.first, one.second)
    moved = about(other.reference, scaled)
    one = one._replace(reference=moved.reference, first=moved.first, second=moved.second)
    return linear(one, other, first, second)._replace(reference=other.reference)


def _moments(parameters: Student) -> tuple[Array, Array]:
    mean, lower, freedom = parameters
    some = freedom > 2
    inflation = jnp.where(some, freedom / jnp.where(some, freedom - 2, 1.0), jnp.inf)
    covariance = lower @ jnp.swapaxes(lower, -1, -2)
    return jnp.where((freedom > 1)[:, None], mean, jnp.nan), inflation[:, None, None] * covariance


FULL = Family(
    name="multivariate Student-t",
    parameters=_parameters,
    arrange=lambda value, present: np.swapaxes(value, 0, 1),
    prepare=_prepare,
    log_prob=_log_prob,
    accumulate=_accumulate,
    finish=_finish,
    expected_log_prob=_expected_log_prob,
    moments=_moments,
    grouped=True,
    entries=entries,
    combine=_combine,
    score=_score,
    complete=_complete,
)


# -------------------------------------------------------------------------------- independent columns
class StudentColumns(NamedTuple):
    """Location, scale and degrees of freedom of independent columns, each (K, D)."""

    mean: Array
    scale: Array
    freedom: Array


class StudentColumnStatistics(NamedTuple):
    """As :class:`StudentStatistics`, by column: each (K, D)."""

    reference: Array
    count: Array
    scale: Array
    log_scale: Array
    first: Array
    second: Array


def _columns_parameters(peeled: Peeled, lead: Lead) -> StudentColumns:
    return StudentColumns(*flat_columns(peeled, lead, "loc", "scale", "df"))


def _cauchy_parameters(peeled: Peeled, lead: Lead) -> StudentColumns:
    mean, scale = Columns(*flat_columns(peeled, lead, "loc", "scale"))
    return StudentColumns(mean, scale, jnp.ones_like(mean))


def _residuals(parameters: StudentColumns, rows: ColumnRows) -> Array:
    return (rows.values[None] - parameters.mean[:, :, None]) / parameters.scale[:, :, None]


def _columns_log_prob(parameters: StudentColumns, rows: ColumnRows) -> Array:
    _, scale, freedom = parameters
    y = _residuals(parameters, rows)
    half = freedom / 2
    normaliser = gammaln(half + 0.5) - gammaln(half) - jnp.log(freedom * math.pi) / 2
    normaliser = (normaliser - jnp.log(scale))[:, :, None]
    cells = normaliser - (half + 0.5)[:, :, None] * jnp.log1p(y * y / freedom[:, :, None])
    return jnp.sum(cells if rows.present is None else cells * rows.present, axis=1)


def _columns_accumulate(
    parameters: StudentColumns, rows: ColumnRows, weights: Array, rng_key: Array | None
) -> tuple[Array, ...]:
    y = _residuals(parameters, rows)
    freedom = parameters.freedom[:, :, None]
    each = weights[:, None, :] * (1.0 if rows.present is None else rows.present)
    each = jnp.broadcast_to(each, y.shape)
    scale, log_scale = _scales(freedom, 1, y * y, each, rng_key)
    scaled = each * scale
    parts = (each, scaled, each * log_scale, scaled * y, scaled * y * y)
    return tuple(jnp.sum(part, axis=-1) for part in parts)


def _columns_finish(parameters: StudentColumns, sums: tuple[Array, ...]) -> StudentColumnStatistics:
    count, scale, log_scale, first, second = sums
    unit = parameters.scale
    return StudentColumnStatistics(
        parameters.mean, count, scale, log_scale, first * unit, second * unit**2
    )


def _columns_expected(parameters: StudentColumns, statistics: StudentColumnStatistics) -> Array:
    mean, unit, freedom = parameters
    reference, count, scale, log_scale, first, second = statistics
    scatter = squares_about(mean, ColumnStatistics(reference, scale, first, second))
    gaussian = log_scale / 2 - count * (jnp.log(unit) + _LOG_TWO_PI / 2) - scatter / (2 * unit**2)
    return jnp.sum(gaussian + _log_gamma_density(freedom, count, scale, log_scale), axis=-1)


def _columns_combine(
    one: StudentColumnStatistics, other: StudentColumnStatistics, first: Array, second: Array
) -> StudentColumnStatistics:
    scaled = ColumnStatistics(one.reference, one.scale, one.first, one.second)
    moved = columns_about(other.reference, scaled)
    one = one._replace(reference=moved.reference, first=moved.first, second=moved.second)
    return linear(one, other, first, second)._replace(reference=other.reference)


def _columns_moments(parameters: StudentColumns) -> tuple[Array, Array]:
    mean, scale, freedom = parameters
    some = freedom > 2
    variance = jnp.where(some, freedom / jnp.where(some, freedom - 2, 1.0), jnp.inf) * scale**2
    diagonal = jnp.where(jnp.eye(mean.shape[-1], dtype=bool), variance[:, :, None], 0.0)
    return jnp.where(freedom > 1, mean, jnp.nan), diagonal


COLUMNS = Family(
    name="independent Student-t columns",
    parameters=_columns_parameters,
    arrange=columns_arrange,
    prepare=lambda parameters, pattern: parameters,
    log_prob=_columns_log_prob,
    accumulate=_columns_accumulate,
    finish=_columns_finish,
    expected_log_prob=_columns_expected,
    moments=_columns_moments,
    combine=_columns_combine,
)
CAUCHY = COLUMNS._replace(name="independent Cauchy columns", parameters=_cauchy_parameters)

register(dist.MultivariateStudentT, lambda peeled: FULL if peeled.reinterpreted == 0 else None)
register(dist.StudentT, lambda peeled: COLUMNS)
register(dist.Cauchy, lambda peeled: CAUCHY)
