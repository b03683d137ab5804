"""Gaussian likelihoods: full covariance, and independent columns.

The scatter is accumulated in coordinates whitened by the component's current parameters,
y = W_k (x - m_k) with W_k = L_k^{-1}, and turned back afterwards (L S_y L'). Raw moments about a common
origin would cancel for tight or far-away clusters; these do not. Rows are last and components lead, so
that a block costs two batched products of (D, D) by (D, n) and (D, n) by (n, D).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from .likelihoods import Family, Lead, register
from .peel import Peeled

_LOG_TWO_PI = math.log(2 * math.pi)
_UNROLLED_COLUMNS = 3


class Gaussian(NamedTuple):
    """Mean (K, D) and lower Cholesky factor of the covariance (K, D, D)."""

    mean: Array
    scale_tril: Array


class PreparedGaussian(NamedTuple):
    """A component's mean, factor, inverse factor and log normaliser (K,)."""

    mean: Array
    scale_tril: Array
    whitener: Array
    log_normaliser: Array


class GaussianStatistics(NamedTuple):
    """Weighted count (K,), and sums of x - reference (K, D) and of its outer product (K, D, D)."""

    reference: Array
    count: Array
    first: Array
    second: Array


def _parameters(peeled: Peeled, lead: Lead) -> Gaussian:
    return Gaussian(lead(peeled.base.loc, 1), lead(peeled.base.scale_tril, 2))


def _prepare(parameters: Gaussian) -> PreparedGaussian:
    mean, lower = parameters
    dimension = mean.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(dimension, dtype=lower.dtype), lower.shape)
    whitener = jax.lax.linalg.triangular_solve(lower, identity, left_side=True, lower=True)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)
    return PreparedGaussian(mean, lower, whitener, -log_determinant - dimension * _LOG_TWO_PI / 2)


def _whiten(prepared: PreparedGaussian, rows: Array) -> list[Array] | Array:
    """y = W (x - m): a list of D arrays (K, n) for few columns, else (K, D, n)."""
    dimension = rows.shape[0]
    if dimension > _UNROLLED_COLUMNS:
        return prepared.whitener @ (rows[None] - prepared.mean[:, :, None])
    centred = [rows[j][None] - prepared.mean[:, j, None] for j in range(dimension)]
    return [
        sum(prepared.whitener[:, i, j, None] * centred[j] for j in range(i + 1))
        for i in range(dimension)
    ]


def _log_prob(prepared: PreparedGaussian, rows: Array) -> Array:
    whitened = _whiten(prepared, rows)
    if isinstance(whitened, list):
        squares = sum(y * y for y in whitened)
    else:
        squares = jnp.sum(whitened * whitened, axis=1)
    return prepared.log_normaliser[:, None] - squares / 2


def _accumulate(prepared: PreparedGaussian, rows: Array, weights: Array) -> tuple[Array, ...]:
    whitened = _whiten(prepared, rows)
    count = jnp.sum(weights, axis=-1)
    if not isinstance(whitened, list):
        weighted = whitened * weights[:, None, :]
        first = jnp.sum(weighted, axis=-1)
        return count, first, jnp.einsum("kin,kjn->kij", weighted, whitened)
    weighted = [weights * y for y in whitened]
    first = jnp.stack([jnp.sum(w, axis=-1) for w in weighted], axis=-1)
    size = len(whitened)
    upper = {
        (i, j): jnp.sum(weighted[i] * whitened[j], axis=-1)
        for i in range(size)
        for j in range(i, size)
    }
    second = jnp.stack(
        [
            jnp.stack([upper[min(i, j), max(i, j)] for j in range(size)], axis=-1)
            for i in range(size)
        ],
        axis=-2,
    )
    return count, first, second


def _finish(prepared: PreparedGaussian, sums: tuple[Array, ...]) -> GaussianStatistics:
    count, first, second = sums
    lower = prepared.scale_tril
    first = jnp.einsum("kij,kj->ki", lower, first)
    second = lower @ second @ jnp.swapaxes(lower, -1, -2)
    return GaussianStatistics(prepared.mean, count, first, second)


def _expected_log_prob(parameters: Gaussian, statistics: GaussianStatistics) -> Array:
    mean, lower = parameters
    reference, count, first, second = statistics
    shift = mean - reference
    cross = first[:, :, None] * shift[:, None, :]
    scatter = (
        second
        - cross
        - jnp.swapaxes(cross, -1, -2)
        + count[:, None, None] * shift[:, :, None] * shift[:, None, :]
    )
    half = jax.lax.linalg.triangular_solve(lower, scatter, left_side=True, lower=True)
    whitened = jax.lax.linalg.triangular_solve(
        lower, jnp.swapaxes(half, -1, -2), left_side=True, lower=True
    )
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)
    dimension = mean.shape[-1]
    normaliser = count * (dimension * _LOG_TWO_PI / 2 + log_determinant)
    return -normaliser - jnp.trace(whitened, axis1=-2, axis2=-1) / 2


def _moments(parameters: Gaussian) -> tuple[Array, Array]:
    lower = parameters.scale_tril
    return parameters.mean, lower @ jnp.swapaxes(lower, -1, -2)


FULL = Family(
    name="multivariate normal",
    parameter_names=("mean", "scale_tril"),
    parameters=_parameters,
    arrange=jnp.transpose,
    prepare=_prepare,
    log_prob=_log_prob,
    accumulate=_accumulate,
    finish=_finish,
    expected_log_prob=_expected_log_prob,
    moments=_moments,
)


# ------------------------------------------------------------------------------ independent columns
class Columns(NamedTuple):
    """Mean and standard deviation of independent columns, each (K, D)."""

    mean: Array
    scale: Array


class ColumnStatistics(NamedTuple):
    """Weighted count (K,), and sums of x - reference and of its square, each (K, D)."""

    reference: Array
    count: Array
    first: Array
    second: Array


def _columns_log_prob(parameters: Columns, rows: Array) -> Array:
    mean, scale = parameters
    inverse = 1 / scale
    squares = jnp.zeros((mean.shape[0], rows.shape[-1]), rows.dtype)
    for column in range(rows.shape[0]) if rows.shape[0] <= _UNROLLED_COLUMNS else ():
        y = (rows[column][None] - mean[:, column, None]) * inverse[:, column, None]
        squares = squares + y * y
    if rows.shape[0] > _UNROLLED_COLUMNS:
        y = (rows[None] - mean[:, :, None]) * inverse[:, :, None]
        squares = jnp.sum(y * y, axis=1)
    normaliser = jnp.sum(jnp.log(scale), axis=-1) + mean.shape[-1] * _LOG_TWO_PI / 2
    return -normaliser[:, None] - squares / 2


def _columns_accumulate(parameters: Columns, rows: Array, weights: Array) -> tuple[Array, ...]:
    y = (rows[None] - parameters.mean[:, :, None]) / parameters.scale[:, :, None]
    weighted = y * weights[:, None, :]
    return jnp.sum(weights, -1), jnp.sum(weighted, -1), jnp.sum(weighted * y, -1)


def _columns_finish(parameters: Columns, sums: tuple[Array, ...]) -> ColumnStatistics:
    count, first, second = sums
    scale = parameters.scale
    return ColumnStatistics(parameters.mean, count, first * scale, second * scale**2)


def _columns_expected(parameters: Columns, statistics: ColumnStatistics) -> Array:
    mean, scale = parameters
    reference, count, first, second = statistics
    shift = mean - reference
    scatter = second - 2 * shift * first + count[:, None] * shift**2
    log_scale = jnp.log(scale) + _LOG_TWO_PI / 2
    return -jnp.sum(count[:, None] * log_scale + scatter / (2 * scale**2), axis=-1)


def _columns_moments(parameters: Columns) -> tuple[Array, Array]:
    identity = jnp.eye(parameters.mean.shape[-1], dtype=parameters.mean.dtype)
    return parameters.mean, parameters.scale[:, :, None] ** 2 * identity


def _columns_arrange(value: Array) -> Array:
    return jnp.transpose(value) if jnp.ndim(value) == 2 else jnp.asarray(value)[None]


def _columns_parameters(peeled: Peeled, lead: Lead) -> Columns:
    columns = peeled.reinterpreted
    both = [lead(array, columns) for array in (peeled.base.loc, peeled.base.scale)]
    if columns == 0:
        both = [array[:, None] for array in both]
    return Columns(*jnp.broadcast_arrays(*both))


COLUMNS = Family(
    name="independent normal columns",
    parameter_names=("mean", "scale"),
    parameters=_columns_parameters,
    arrange=_columns_arrange,
    prepare=lambda parameters: parameters,
    log_prob=_columns_log_prob,
    accumulate=_columns_accumulate,
    finish=_columns_finish,
    expected_log_prob=_columns_expected,
    moments=_columns_moments,
)


def _choose_full(peeled: Peeled) -> Family | None:
    return FULL if peeled.reinterpreted == 0 else None


def _choose_columns(peeled: Peeled) -> Family | None:
    return COLUMNS if peeled.reinterpreted <= 1 else None


register(dist.MultivariateNormal, _choose_full)
register(dist.Normal, _choose_columns)
