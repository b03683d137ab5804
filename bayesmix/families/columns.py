"""Gaussian likelihoods of independent columns.

Moments are accumulated of y = (x - m) / s with the component's current mean m and standard deviation s,
and turned back afterwards: raw moments about a common origin would cancel for tight or far clusters.
Where they do not, densities and moments are products of matrices with the features 1, z and z^2 of a
cell, z = x - c about one centre for all components (as in :mod:`bayesmix.families.quadratic`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from .likelihoods import Family, Lead, linear, register
from .peel import Peeled
from .quadratic import Quadratic, centre_of, few_lost, worth_features

_LOG_TWO_PI = math.log(2 * math.pi)
_UNROLLED_COLUMNS = 3


class Columns(NamedTuple):
    """Mean and standard deviation of independent columns, each (K, D)."""

    mean: Array
    scale: Array


class PreparedColumns(NamedTuple):
    """The columns, and their form in features: coefficients (K, 3 D)."""

    mean: Array
    scale: Array
    quadratic: Quadratic


class ColumnRows(NamedTuple):
    """Values (D, N), and where they are there (D, N); None where none is missing."""

    values: Array
    present: Array | None


class ColumnStatistics(NamedTuple):
    """Total weight, and weighted sums of x - reference and of its square, each (K, D)."""

    reference: Array
    count: Array
    first: Array
    second: Array


def columns_arrange(value: Array, present: Array | None) -> ColumnRows:
    """Cells by column and row, (D, N), from (N, *event)."""

    def turn(array: Array) -> Array:
        return array.reshape(array.shape[0], -1).T

    return ColumnRows(turn(value), None if present is None else turn(present))


def _columns_prepare(parameters: Columns, pattern: None) -> PreparedColumns:
    mean, scale = parameters
    centre, precision = centre_of(mean), scale**-2
    shift = mean - centre
    constant = -jnp.log(scale) - _LOG_TWO_PI / 2 - shift**2 * precision / 2
    coefficients = jnp.concatenate([constant, shift * precision, -precision / 2], axis=1)
    accurate = few_lost((jnp.abs(shift) + scale) / scale)
    return PreparedColumns(mean, scale, Quadratic(centre, coefficients, accurate))


def _features(centre: Array, rows: ColumnRows) -> Array:
    """1, z and z^2 of each cell, (3 D, n), zeros where it is missing; without the ones where none is."""
    z = rows.values - centre[:, None]
    if rows.present is None:
        return jnp.concatenate([z, z * z])
    there = rows.present.astype(z.dtype)
    return jnp.concatenate([there, z * there, z * z * there])


def _columns_log_prob(prepared: PreparedColumns, rows: ColumnRows) -> Array:
    if not worth_features(prepared.mean, rows.values):
        return _by_whitening(prepared, rows)
    form = prepared.quadratic

    def by_features(rows: ColumnRows, phi: Array) -> Array:
        if rows.present is not None:
            return form.coefficients @ phi
        constant, rest = jnp.split(form.coefficients, (rows.values.shape[0],), axis=1)
        return jnp.sum(constant, axis=1, keepdims=True) + rest @ phi

    return jax.lax.cond(
        form.accurate,
        by_features,
        lambda rows, phi: _by_whitening(prepared, rows),
        rows,
        _features(form.centre, rows),
    )


def _by_whitening(prepared: PreparedColumns, rows: ColumnRows) -> Array:
    mean, scale, _ = prepared
    inverse = 1 / scale
    values, present = rows
    if values.shape[0] <= _UNROLLED_COLUMNS:
        squares = jnp.zeros((mean.shape[0], values.shape[-1]), values.dtype)
        for column in range(values.shape[0]):
            y = (values[column][None] - mean[:, column, None]) * inverse[:, column, None]
            squares = squares + (y * y if present is None else y * y * present[column])
    else:
        y = (values[None] - mean[:, :, None]) * inverse[:, :, None]
        squares = jnp.sum(y * y if present is None else y * y * present, axis=1)
    normalisers = jnp.log(scale) + _LOG_TWO_PI / 2
    if present is None:
        return -jnp.sum(normalisers, axis=-1)[:, None] - squares / 2
    return -normalisers @ present.astype(scale.dtype) - squares / 2


def _columns_accumulate(
    prepared: PreparedColumns, rows: ColumnRows, weights: Array, rng_key: Array | None
) -> tuple[Array, ...]:
    # missing cells of independent columns say nothing: they are left out, also of draws
    if not worth_features(prepared.mean, rows.values):
        return _sums_by_whitening(prepared, rows, weights)
    form = prepared.quadratic

    def by_features(rows: ColumnRows, weights: Array, phi: Array) -> tuple[Array, ...]:
        sums = weights @ phi.T
        if rows.present is None:
            ones = jnp.broadcast_to(jnp.sum(weights, axis=1)[:, None], prepared.mean.shape)
            sums = jnp.concatenate([ones, sums], axis=1)
        centre = jnp.broadcast_to(form.centre, prepared.mean.shape)
        about_centre = ColumnStatistics(centre, *jnp.split(sums, 3, axis=1))
        _, count, first, second = columns_about(prepared.mean, about_centre)
        return count, first / prepared.scale, second / prepared.scale**2

    return jax.lax.cond(
        form.accurate,
        by_features,
        lambda rows, weights, phi: _sums_by_whitening(prepared, rows, weights),
        rows,
        weights,
        _features(form.centre, rows),  # as for the densities, so that a block's are computed once
    )


def _sums_by_whitening(
    prepared: PreparedColumns, rows: ColumnRows, weights: Array
) -> tuple[Array, ...]:
    values, present = rows
    y = (values[None] - prepared.mean[:, :, None]) / prepared.scale[:, :, None]
    each = weights[:, None, :] if present is None else weights[:, None, :] * present
    weighted = y * each
    count = jnp.broadcast_to(jnp.sum(each, -1), prepared.mean.shape)
    return count, jnp.sum(weighted, -1), jnp.sum(weighted * y, -1)


def _columns_finish(prepared: PreparedColumns, sums: tuple[Array, ...]) -> ColumnStatistics:
    count, first, second = sums
    scale = prepared.scale
    return ColumnStatistics(prepared.mean, count, first * scale, second * scale**2)


def squares_about(mean: Array, statistics: ColumnStatistics) -> Array:
    """Weighted sum of (x - mean)^2 by column, (K, D), from sums about the reference."""
    reference, count, first, second = statistics
    shift = mean - reference
    return second - 2 * shift * first + count * shift**2


def columns_about(reference: Array, statistics: ColumnStatistics) -> ColumnStatistics:
    """The same sums about another reference."""
    _, count, first, _ = statistics
    first = first - count * (reference - statistics.reference)
    return ColumnStatistics(reference, count, first, squares_about(reference, statistics))


def _columns_expected(parameters: Columns, statistics: ColumnStatistics) -> Array:
    mean, scale = parameters
    scatter = squares_about(mean, statistics)
    log_scale = jnp.log(scale) + _LOG_TWO_PI / 2
    return -jnp.sum(statistics.count * log_scale + scatter / (2 * scale**2), axis=-1)


def _columns_combine(
    one: ColumnStatistics, other: ColumnStatistics, first: Array, second: Array
) -> ColumnStatistics:
    moved = columns_about(other.reference, one)
    return linear(moved, other, first, second)._replace(reference=other.reference)


def _columns_moments(parameters: Columns) -> tuple[Array, Array]:
    identity = jnp.eye(parameters.mean.shape[-1], dtype=parameters.mean.dtype)
    return parameters.mean, parameters.scale[:, :, None] ** 2 * identity


def flat_columns(peeled: Peeled, lead: Lead, *names: str) -> list[Array]:
    """Parameters of independent cells, each broadcast to the event and flattened to (K, D)."""
    found = [lead(getattr(peeled.base, name), peeled.reinterpreted) for name in names]
    shape = (found[0].shape[0], *peeled.event_shape)
    return [jnp.broadcast_to(array, shape).reshape(shape[0], -1) for array in found]


def _columns_parameters(peeled: Peeled, lead: Lead) -> Columns:
    return Columns(*flat_columns(peeled, lead, "loc", "scale"))


COLUMNS = Family(
    name="independent normal columns",
    parameters=_columns_parameters,
    arrange=columns_arrange,
    prepare=_columns_prepare,
    log_prob=_columns_log_prob,
    accumulate=_columns_accumulate,
    finish=_columns_finish,
    expected_log_prob=_columns_expected,
    moments=_columns_moments,
    entries=lambda components, cells, fits: 2 * cells,
    combine=_columns_combine,
)


register(dist.Normal, lambda peeled: COLUMNS)
