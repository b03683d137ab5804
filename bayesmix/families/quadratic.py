"""The Gaussian log density as a product of coefficients with quadratic features of the rows.

With z = x - c about one centre c for all components, phi(x) = (1, z_i, z_i z_j for i <= j) is computed
once for a block, and

    log p(x | k) = a_k + b_k' z - z' P_k z / 2 = C_k phi(x),   sum_i r_ik phi(x_i) = moments about c

are two products of matrices, (K, F) with (F, n) and (K, n) with (n, F), of half the arithmetic that
whitening each component's residuals takes. The price is cancellation: both lose as many digits as

    kappa^2 = max_k || |W_k| (|m_k - c| + s_k) ||^2 / D

has, with W_k = L_k^{-1} and s_k the standard deviations (the componentwise bound of a product's rounding
error; Higham 2002, *Accuracy and Stability of Numerical Algorithms*, section 3.5). `Quadratic.accurate`
says whether that is few enough; it does not depend on the scale or the origin of the columns.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# error of a column that is accepted, in square roots of the machine's precision: means may be 800
# standard deviations from the centre in double precision, 5 in single
_MOST_LOST = 0.01
# entries (K, D, n) of a block below which a second form is not worth compiling
_SMALL_BLOCK = 1200


class Quadratic(NamedTuple):
    """Centre c (D,), coefficients C (K, F), and whether they are accurate, ()."""

    centre: Array
    coefficients: Array
    accurate: Array


def quadratic(mean: Array, scale_tril: Array, whitener: Array, log_normaliser: Array) -> Quadratic:
    """Coefficients of Gaussians by mean (K, D), Cholesky factor and its inverse (K, D, D), and log
    normaliser (K,); the centre is the mean of the means, also of those that are batched, so that a
    batch has the same features.

    >>> one = jnp.ones((1, 1, 1))
    >>> form = quadratic(jnp.ones((1, 1)), one, one, jnp.zeros(1))
    >>> (form.coefficients @ features(form.centre, jnp.array([[1.0, 3.0]]))).tolist()
    [[0.0, -2.0]]
    """
    centre = centre_of(mean)
    shift = mean - centre
    whitened = jnp.einsum("kij,kj->ki", whitener, shift)
    linear = jnp.einsum("kij,ki->kj", whitener, whitened)
    constant = log_normaliser - jnp.sum(whitened**2, axis=-1) / 2
    precision = jnp.swapaxes(whitener, -1, -2) @ whitener
    twice = np.where(np.eye(mean.shape[-1]), 0.5, 1.0)
    coefficients = pack(constant, linear, -precision * twice)
    size = jnp.abs(shift) + jnp.sqrt(jnp.sum(scale_tril**2, axis=-1))
    lost = jnp.einsum("kij,kj->ki", jnp.abs(whitener), size)
    return Quadratic(centre, coefficients, few_lost(lost))


def worth_features(mean: Array, rows: Array) -> bool:
    """Are components with means (K, D) and rows (D, n) so many that features are worth compiling?

    >>> worth_features(jnp.zeros((2, 2)), jnp.zeros((2, 250)))
    False
    """
    return mean.shape[0] * rows.size >= _SMALL_BLOCK


def centre_of(mean: Array) -> Array:
    """The centre for components with these means (K, D), the same for all of a batch."""
    return mean_of_batch(jax.lax.stop_gradient(jnp.mean(mean, axis=0)))


def few_lost(lost: Array) -> Array:
    """Are the digits few that features lose of whitened residuals of these lengths, (K, D)? The same
    for all that are batched, starts or patterns of missing cells, so that a batch takes one branch."""
    square = jax.lax.stop_gradient(jnp.mean(lost**2, axis=-1))
    epsilon = float(jnp.finfo(lost.dtype).eps)
    return all_of_batch(jnp.all(square * epsilon < _MOST_LOST * epsilon**0.5))


@jax.custom_batching.custom_vmap
def all_of_batch(condition: Array) -> Array:
    """A condition (), the same for all that is batched by `jax.vmap`, so that a batch takes one branch.

    >>> jax.vmap(all_of_batch)(jnp.array([True, False])).tolist()
    [False, False]
    """
    return condition


@all_of_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], condition: Array) -> tuple[Array, bool]:
    return all_of_batch(jnp.all(condition, axis=0)), False


@jax.custom_batching.custom_vmap
def mean_of_batch(value: Array) -> Array:
    """A value, or where it is batched by `jax.vmap` its mean, the same for all.

    >>> jax.vmap(mean_of_batch)(jnp.array([1.0, 3.0])).tolist()
    [2.0, 2.0]
    """
    return value


@mean_of_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], value: Array) -> tuple[Array, bool]:
    return mean_of_batch(jnp.mean(value, axis=0)), False


def features(centre: Array, rows: Array) -> Array:
    """phi, (F, n), of rows (D, n): the upper triangle of (1, z) (1, z)', row after row.

    >>> features(jnp.zeros(2), jnp.array([[2.0], [3.0]]))[:, 0].tolist()
    [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]
    """
    z = rows - centre[:, None]
    padded = jnp.concatenate([jnp.ones_like(z[:1]), z])
    # one operation: of more than eight that could run at a time, XLA hands some to threads that wait
    first, second = np.triu_indices(padded.shape[0])
    return padded[first] * padded[second]


def num_features(columns: int) -> int:
    """F = 1 + D + D (D + 1) / 2."""
    return (columns + 1) * (columns + 2) // 2


def pack(zeroth: Array, first: Array, second: Array) -> Array:
    """(K,), (K, D) and the upper triangle of (K, D, D) as (K, F), in the order of features."""
    rows, columns = np.triu_indices(first.shape[-1])
    return jnp.concatenate([zeroth[:, None], first, second[:, rows, columns]], axis=-1)


def unpack(packed: Array, dimension: int) -> tuple[Array, Array, Array]:
    """(K, F) as (K,), (K, D) and symmetric (K, D, D).

    >>> unpack(jnp.arange(6.0)[None], 2)[2].tolist()
    [[[3.0, 4.0], [4.0, 5.0]]]
    """
    place = np.zeros((dimension, dimension), int)
    place[np.triu_indices(dimension)] = np.arange(dimension * (dimension + 1) // 2)
    place = np.maximum(place, place.T)
    return packed[:, 0], packed[:, 1 : dimension + 1], packed[:, 1 + dimension :][:, place]
