"""Gaussian likelihoods with full covariance; independent columns are in `columns.py`.

The scatter is accumulated in coordinates whitened by the component's current parameters,
y = W_k (x - m_k) with W_k = L_k^{-1}, and turned back afterwards (L S_y L'). Raw moments about a common
origin would cancel for tight or far-away clusters; these do not. Rows are last and components lead, so
that a block costs two batched products of (D, D) by (D, n) and (D, n) by (n, D).

Missing cells. Where some cells of a row are missing, W_k whitens those that are there. In the
coordinates of the whole component, L_k^{-1} (x - m_k) then has conditional mean U y with U = L' W', and
conditional covariance R = I - U U'; U has orthonormal columns, so that R is a projection and its own
square root. One W, U and R serves all rows with the same cells missing (Little & Rubin 2002,
*Statistical Analysis with Missing Data*, section 11.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random

from .likelihoods import Family, Lead, by_cell, linear, register
from .peel import Peeled
from .quadratic import (
    Quadratic,
    features,
    num_features,
    pack,
    quadratic,
    unpack,
    worth_features,
)
from .triangles import inverse_lower

_LOG_TWO_PI = math.log(2 * math.pi)
_UNROLLED_COLUMNS = 3
# half of it is how many components are enough, however many the columns: making features takes as long
# as what six save
_MANY_COLUMNS = 12


class Gaussian(NamedTuple):
    """Mean (K, D) and lower Cholesky factor of the covariance (K, D, D)."""

    mean: Array
    scale_tril: Array


class PreparedGaussian(NamedTuple):
    """Mean, factor, whitener W and log normaliser (K,); U and R where cells are missing; the densities
    as products with features where that may be cheaper."""

    mean: Array
    scale_tril: Array
    whitener: Array
    log_normaliser: Array
    completion: Array | None
    residual: Array | None
    quadratic: Quadratic | None = None


class GaussianStatistics(NamedTuple):
    """Total weight (K,), weighted sums of x - reference (K, D) and its outer product (K, D, D)."""

    reference: Array
    count: Array
    first: Array
    second: Array


def _parameters(peeled: Peeled, lead: Lead) -> Gaussian:
    return Gaussian(lead(peeled.base.loc, 1), lead(peeled.base.scale_tril, 2))


def prepare(parameters: Gaussian, pattern: Array | None) -> PreparedGaussian:
    """What the kernels need for every block of rows; `pattern` (D,) is True where a cell is there."""
    prepared = _whitening(parameters, pattern)
    if enough(*parameters.mean.shape):
        return prepared._replace(quadratic=quadratic(*prepared[:4]))
    return prepared


def enough(components: int, columns: int) -> bool:
    """Are there so many components that features of a row are cheaper than whitening it for each?"""
    return 2 * components >= min(columns, _MANY_COLUMNS)


def entries(components: int, columns: int, fits: int) -> int:
    """Numbers that a row takes while the kernels run; see :class:`Family`."""
    if enough(components, columns):
        return num_features(columns)
    return by_cell(components, columns, fits)


def _whitening(parameters: Gaussian, pattern: Array | None) -> PreparedGaussian:
    mean, lower = parameters
    dimension = mean.shape[-1]
    if pattern is None:
        whitener = inverse_lower(lower)
        normaliser = -half_log_determinant(lower) - dimension * _LOG_TWO_PI / 2
        return PreparedGaussian(mean, lower, whitener, normaliser, None, None)
    there = pattern.astype(lower.dtype)
    identity = jnp.eye(dimension, dtype=lower.dtype)
    covariance = lower @ jnp.swapaxes(lower, -1, -2)
    observed = covariance * (there[:, None] * there) + identity * (1 - there)
    observed_lower = jnp.linalg.cholesky(observed)
    whitener = inverse_lower(observed_lower) * there
    normaliser = -half_log_determinant(observed_lower) - jnp.sum(there) * _LOG_TWO_PI / 2
    completion = jnp.swapaxes(whitener @ lower, -1, -2)
    residual = identity - completion @ jnp.swapaxes(completion, -1, -2)
    return PreparedGaussian(mean, lower, whitener, normaliser, completion, residual)


def half_log_determinant(lower: Array) -> Array:
    """log|L| of lower triangular matrices (..., D, D)."""
    # a sum under a mask, whose derivative XLA compiles sooner than an index's
    return jnp.sum(jnp.log(jnp.einsum("...ii->...i", lower)), axis=-1)


def whiten(prepared: PreparedGaussian, rows: Array) -> list[Array] | Array:
    """y = W (x - m): a list of D arrays (K, n) for few columns, else (K, D, n)."""
    dimension = rows.shape[0]
    if dimension > _UNROLLED_COLUMNS:
        return prepared.whitener @ (rows[None] - prepared.mean[:, :, None])
    centred = [rows[j][None] - prepared.mean[:, j, None] for j in range(dimension)]
    return [
        sum(prepared.whitener[:, i, j, None] * centred[j] for j in range(i + 1))
        for i in range(dimension)
    ]


def squared_length(whitened: list[Array] | Array) -> Array:
    """y'y for every component and row, (K, n)."""
    if isinstance(whitened, list):
        return sum(y * y for y in whitened)
    return jnp.sum(whitened * whitened, axis=1)


class FeatureSums(NamedTuple):
    """Weighted sums of quadratic features or, where these are not accurate, of whitened residuals and
    their outer product, in the order of features; (K, F)."""

    packed: Array


class Completed(NamedTuple):
    """Weighted sums (K,), (K, D), (K, D, D) of whole whitened residuals, missing cells drawn."""

    count: Array
    first: Array
    second: Array


# sums of a block, or of all rows; of whitened residuals of the cells that are there, if nothing else
Sums = FeatureSums | Completed | tuple[Array, ...]


def _feature_form(prepared: PreparedGaussian, rows: Array) -> Quadratic | None:
    """The form in features, where it is there and rows are so many that it is worth compiling."""
    return prepared.quadratic if worth_features(prepared.mean, rows) else None


def squared_distance(prepared: PreparedGaussian, rows: Array) -> Array:
    """Squared Mahalanobis distance of the cells that are there, (K, n)."""
    normaliser = prepared.log_normaliser[:, None]
    return _one_of_two(
        prepared,
        rows,
        lambda form, phi: jnp.maximum(2 * (normaliser - form.coefficients @ phi), 0.0),
        lambda rows: squared_length(whiten(prepared, rows)),
    )


def _log_prob(prepared: PreparedGaussian, rows: Array) -> Array:
    normaliser = prepared.log_normaliser[:, None]
    return _one_of_two(
        prepared,
        rows,
        lambda form, phi: form.coefficients @ phi,
        lambda rows: normaliser - squared_length(whiten(prepared, rows)) / 2,
    )


def _one_of_two(
    prepared: PreparedGaussian,
    rows: Array,
    by_features: Callable[[Quadratic, Array], Array],
    by_whitening: Callable[[Array], Array],
) -> Array:
    """What is computed from features of the rows, or from the rows where features are not accurate."""
    form = _feature_form(prepared, rows)
    if form is None:
        return by_whitening(rows)
    return jax.lax.cond(
        form.accurate,
        lambda rows, phi: by_features(form, phi),
        lambda rows, phi: by_whitening(rows),
        rows,
        features(form.centre, rows),  # of a block they are computed once, for densities and sums
    )


def weighted_sums(prepared: PreparedGaussian, rows: Array, weights: Array) -> Sums:
    """Sums of rows by weights (K, n), as far as cells are there."""

    def by_whitening(rows: Array) -> tuple[Array, ...]:
        return jnp.sum(weights, axis=-1), *_moments_complete(whiten(prepared, rows), weights)

    if _feature_form(prepared, rows) is None:
        return by_whitening(rows)
    packed = _one_of_two(
        prepared, rows, lambda form, phi: weights @ phi.T, lambda rows: pack(*by_whitening(rows))
    )
    return FeatureSums(packed)


def _accumulate(
    prepared: PreparedGaussian, rows: Array, weights: Array, rng_key: Array | None
) -> Sums:
    noise = hidden_noise(prepared, rows, weights, rng_key)
    if noise is not None:
        return drawn_sums(prepared, rows, weights, noise)
    return weighted_sums(prepared, rows, weights)


def hidden_noise(
    prepared: PreparedGaussian, rows: Array, weights: Array, rng_key: Array | None
) -> Array | None:
    """Standard normal noise (D, n) for the missing cells; None where they are expected, or none is."""
    if rng_key is None or prepared.completion is None:
        return None
    return random.normal(rng_key, rows.shape, weights.dtype)


def drawn_sums(prepared: PreparedGaussian, rows: Array, weights: Array, noise: Array) -> Completed:
    """Sums of whole rows by weights (K, n), missing cells drawn with noise, (D, n) or (K, D, n)."""
    whitened = whiten(prepared, rows)
    whitened = jnp.stack(whitened, axis=1) if isinstance(whitened, list) else whitened
    assert prepared.completion is not None and prepared.residual is not None
    whole = prepared.completion @ whitened + prepared.residual @ noise
    return Completed(jnp.sum(weights, axis=-1), *_moments_complete(whole, weights))


def completed(
    prepared: PreparedGaussian, count: Array, first: Array, second: Array
) -> tuple[Array, Array]:
    """Sums of whole whitened residuals, missing cells expected, from those of the others; of so many
    rows (K,)."""
    completion, residual = prepared.completion, prepared.residual
    assert completion is not None and residual is not None
    second = completion @ second @ jnp.swapaxes(completion, -1, -2)
    second = second + count[:, None, None] * residual
    return jnp.einsum("kij,kj->ki", completion, first), second


def _complete(prepared: PreparedGaussian, sums: Sums) -> tuple[Array, ...]:
    if isinstance(sums, Completed):
        return tuple(sums)
    count, first, second = whitened_sums(prepared, sums)
    return count, *completed(prepared, count, first, second)


def _moments_complete(whitened: list[Array] | Array, weights: Array) -> tuple[Array, Array]:
    if not isinstance(whitened, list):
        weighted = whitened * weights[:, None, :]
        first = jnp.sum(weighted, axis=-1)
        return first, jnp.einsum("kin,kjn->kij", weighted, whitened)
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
    return first, second


def finish(prepared: PreparedGaussian, sums: Sums) -> GaussianStatistics:
    """Statistics about the mean."""
    form = prepared.quadratic
    if form is None or not isinstance(sums, FeatureSums):
        return _turned_back(prepared, *sums)
    found = unpack(sums.packed, prepared.mean.shape[-1])
    by_features, by_whitening = _about_mean(prepared, form, found), _turned_back(prepared, *found)
    return jax.tree.map(partial(jnp.where, form.accurate), by_features, by_whitening)


def _about_mean(
    prepared: PreparedGaussian, form: Quadratic, found: tuple[Array, Array, Array]
) -> GaussianStatistics:
    """Statistics about the mean from those about the centre of features."""
    centre = jnp.broadcast_to(form.centre, prepared.mean.shape)
    return about(prepared.mean, GaussianStatistics(centre, *found))


def _turned_back(
    prepared: PreparedGaussian, count: Array, first: Array, second: Array
) -> GaussianStatistics:
    """Statistics about the mean from those of whitened residuals."""
    lower = prepared.scale_tril
    first = jnp.einsum("kij,kj->ki", lower, first)
    second = lower @ second @ jnp.swapaxes(lower, -1, -2)
    return GaussianStatistics(prepared.mean, count, first, second)


def about(reference: Array, statistics: GaussianStatistics) -> GaussianStatistics:
    """The same sums about another reference."""
    _, count, first, second = statistics
    shift = reference - statistics.reference
    cross = first[:, :, None] * shift[:, None, :]
    square = count[:, None, None] * shift[:, :, None] * shift[:, None, :]
    second = second - cross - jnp.swapaxes(cross, -1, -2) + square
    return GaussianStatistics(reference, count, first - count[:, None] * shift, second)


def _combine(
    one: GaussianStatistics, other: GaussianStatistics, first: Array, second: Array
) -> GaussianStatistics:
    moved = about(other.reference, one)
    return linear(moved, other, first, second)._replace(reference=other.reference)


def expected_square(mean: Array, lower: Array, statistics: GaussianStatistics) -> Array:
    """tr(Sigma^{-1} S) with Sigma = L L' and the scatter S about the mean, (K,).

    S is not formed: by vectors, a derivative by the mean takes no products of matrices; and no solves,
    each of which takes several times as long as a product where matrices are small.
    """
    reference, count, first, second = statistics
    whitener = inverse_lower(lower)
    about_reference = jnp.sum((whitener @ second) * whitener, axis=(-2, -1))
    whitened = jnp.einsum("kij,kjr->kir", whitener, jnp.stack([mean - reference, first], axis=-1))
    shift, total = whitened[..., 0], whitened[..., 1]
    return about_reference + jnp.sum((count[:, None] * shift - 2 * total) * shift, axis=-1)


def _expected_log_prob(parameters: Gaussian, statistics: GaussianStatistics) -> Array:
    mean, lower = parameters
    half_log_two_pi = mean.shape[-1] * _LOG_TWO_PI / 2
    normaliser = statistics.count * (half_log_two_pi + half_log_determinant(lower))
    return -normaliser - expected_square(mean, lower, statistics) / 2


def score(prepared: PreparedGaussian, sums: Sums) -> Gaussian:
    """Derivatives of Q by mean and L: W's, and the lower part of W'(S - n I), with W = L^{-1} and sums
    n, s and S of weights, whitened residuals and their outer products."""
    count, first, second = whitened_sums(prepared, sums)
    turned = jnp.swapaxes(inverse_lower(prepared.scale_tril), -1, -2)
    excess = second - count[:, None, None] * jnp.eye(second.shape[-1], dtype=second.dtype)
    return Gaussian(jnp.einsum("kij,kj->ki", turned, first), jnp.tril(turned @ excess))


def whitened_sums(prepared: PreparedGaussian, sums: Sums) -> tuple[Array, ...]:
    """Sums of weights, whitened residuals and their outer product, (K,), (K, D) and (K, D, D)."""
    form = prepared.quadratic
    if form is None or not isinstance(sums, FeatureSums):
        return sums
    found = unpack(sums.packed, prepared.mean.shape[-1])
    _, count, first, second = _about_mean(prepared, form, found)
    whitener = prepared.whitener
    first = jnp.einsum("kij,kj->ki", whitener, first)
    second = whitener @ second @ jnp.swapaxes(whitener, -1, -2)
    return jax.tree.map(partial(jnp.where, form.accurate), (count, first, second), found)


def _moments(parameters: Gaussian) -> tuple[Array, Array]:
    lower = parameters.scale_tril
    return parameters.mean, lower @ jnp.swapaxes(lower, -1, -2)


FULL = Family(
    name="multivariate normal",
    parameters=_parameters,
    arrange=lambda value, present: np.swapaxes(value, 0, 1),
    prepare=prepare,
    log_prob=_log_prob,
    accumulate=_accumulate,
    finish=finish,
    expected_log_prob=_expected_log_prob,
    moments=_moments,
    grouped=True,
    entries=entries,
    combine=_combine,
    score=score,
    complete=_complete,
)


def _choose_full(peeled: Peeled) -> Family | None:
    return FULL if peeled.reinterpreted == 0 else None


register(dist.MultivariateNormal, _choose_full)
