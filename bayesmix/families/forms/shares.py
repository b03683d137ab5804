"""Shares: t(v) = log v on the simplex, and (log v, log(1 - v)) on the unit interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from jax.scipy.special import gammaln

from .common import (
    Design,
    LogDensity,
    SiteForm,
    annihilator,
    halves,
    log_less_digamma,
    replaced,
    some,
)


class _SharesForm(SiteForm, Protocol):
    """What shares of two, or of many, do alike."""

    def _shares(self, c: Any) -> Array: ...

    def centre(self, c: Array) -> Array:
        return self.distribution(c).mean

    def entropy(self, c: Array) -> Array:
        # of a share, not NumPyro's own: it takes JAX's betaln, which errs in the seventh digit
        return jnp.sum(dist.Dirichlet(self._shares(c) + 1, validate_args=False).entropy())

    def proper(self, c: Array) -> Array:
        return jnp.all(c > -1)

    def moments(self, c: Array) -> tuple[Array, Array]:
        own = self.distribution(c)
        return own.mean, own.variance

    def at_anchor(self, c: Array) -> Array:
        shares = self._shares(c)
        total, size = jnp.sum(shares, axis=-1), shares.shape[-1]
        constant = gammaln(total + size) - jnp.sum(gammaln(shares + 1), axis=-1)
        return constant - total * jnp.log(size)


@dataclass(frozen=True)
class DirichletForm(_SharesForm):
    """t(v) = log v on the simplex; the coefficients are the concentrations minus one."""

    event_axes = 1
    name = "Dirichlet"

    def read(self, log_density: LogDensity, value: Array) -> Array:
        """From the slopes in the softmax coordinate, c_j - v_j sum_i c_i, at the centre and where one
        share is large: both in one batch, so that the density is traced once."""
        size = value.shape[-1]
        if size == 1:
            return jnp.zeros_like(value)
        shares = np.full((2, size), 1 / size)
        shares[1] = np.where(np.arange(size) == 0, 0.5 + 0.5 / size, 0.5 / size)
        points = shares.astype(value.dtype).reshape(2, *[1] * (value.ndim - 1), size)
        points = np.broadcast_to(points, (2, *value.shape))
        moments = points * jax.vmap(jax.grad(log_density))(points)
        slopes = moments - points * jnp.sum(moments, axis=-1, keepdims=True)
        total = (slopes[0] - slopes[1])[..., :1] / (shares[1, 0] - shares[0, 0])
        return slopes[0] + total / size

    def mode(self, c: Array, value: Array) -> tuple[Array, Array]:
        """v proportional to c. A negative c has no interior mode: its weight is put at the boundary."""
        if value.shape[-1] == 1:
            return value, jnp.asarray(True)
        count = jnp.sum(jnp.abs(c), axis=-1, keepdims=True)
        tiny = jnp.finfo(value.dtype).tiny ** 0.5
        floored = jnp.maximum(c, tiny * count)
        found = floored / jnp.sum(floored, axis=-1, keepdims=True)
        # rounding of a zero count is not a negative count
        rounding = 64 * jnp.finfo(value.dtype).eps * jnp.maximum(count, 1.0)
        interior = jnp.all(c >= -rounding, axis=-1)
        usable = jnp.all(jnp.isfinite(found), axis=-1, keepdims=True)
        return jnp.where(usable, found, value), jnp.all(interior & usable[..., 0])

    def sample(self, rng_key: Array, c: Array) -> Array:
        """Normalised gammas, through logs so that small concentrations do not underflow."""
        logs = random.loggamma(rng_key, c + 1, c.shape, c.dtype)
        return jax.nn.softmax(logs, axis=-1)

    def _shares(self, c: Array) -> Array:
        """Coefficients along the last axis."""
        return c

    def points(self, c: Array) -> Array:
        return _simplex_points(c + 1)

    def distribution(self, c: Array) -> Any:
        return dist.Dirichlet(c + 1, validate_args=False)

    def anchor(self, value: Array) -> Array:
        """The centre, on which no coefficient depends."""
        return jnp.full_like(value, 1 / value.shape[-1])

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        batch, size = value.shape[:-1], value.shape[-1]
        found = []
        for index in some(batch, rng):
            points = rng.dirichlet(np.full(size, 2.0), size=size + 5)
            points = np.maximum(points, 1e-6)
            points /= points.sum(axis=1, keepdims=True)
            combinations = annihilator(np.log(points))
            found.append(Design(replaced(value, index, points), combinations))
        moved = rng.dirichlet(np.full(size, 2.0), size=batch)
        return found + halves(value, moved.reshape(value.shape), batch, rng)


@dataclass(frozen=True)
class BetaForm(_SharesForm):
    """t(v) = (log v, log(1 - v)), elementwise; coefficients (2, ...) are the shapes minus one."""

    name = "beta"

    def read(self, log_density: LogDensity, value: Array) -> Array:
        """Slope and curvature at one half, in the logit coordinate."""
        centre, ones = jnp.zeros_like(value), jnp.ones_like(value)
        slope, curvature = jax.jvp(
            jax.grad(lambda logits: log_density(jax.nn.sigmoid(logits))), (centre,), (ones,)
        )
        total = -4 * curvature
        return jnp.stack([total / 2 + slope, total / 2 - slope])

    def mode(self, c: Array, value: Array) -> tuple[Array, Array]:
        """c_1 / (c_1 + c_2), kept off the ends by rounding alone. Where one is negative there is no
        interior mode: it is put at that end."""
        floored = jnp.maximum(c, 0.0)
        total = floored[0] + floored[1]
        proper = jnp.all(c >= 0, axis=0) & (total > 0)
        eps = jnp.finfo(value.dtype).eps
        found = jnp.clip(floored[0] / jnp.where(total > 0, total, 1.0), eps, 1 - eps)
        return jnp.where(total > 0, found, value), jnp.all(proper)

    def sample(self, rng_key: Array, c: Array) -> Array:
        return random.beta(rng_key, c[0] + 1, c[1] + 1)

    def _shares(self, c: Array) -> Array:
        """Coefficients along the last axis."""
        return jnp.moveaxis(c, 0, -1)

    def points(self, c: Array) -> Array:
        return _simplex_points(self._shares(c) + 1)[..., 0]

    def distribution(self, c: Array) -> Any:
        return dist.Beta(c[0] + 1, c[1] + 1, validate_args=False)

    def anchor(self, value: Array) -> Array:
        """The centre, on which no coefficient depends."""
        return jnp.full_like(value, 0.5)

    def lead(self, c: Array, groups: int) -> Array:
        return jnp.moveaxis(c, 0, 1)

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        found = []
        for index in some(value.shape, rng):
            points = rng.uniform(0.1, 0.9, size=8)
            combinations = annihilator(np.stack([np.log(points), np.log1p(-points)], axis=1))
            found.append(Design(replaced(value, index, points), combinations))
        return found + halves(value, rng.uniform(0.1, 0.9, size=value.shape), value.shape, rng)


def _simplex_points(concentration: Array) -> Array:
    """Two points of the simplex (2, ..., K) whose logs have the mean E[log v]."""
    if concentration.shape[-1] == 1:
        return jnp.ones((2, *concentration.shape), concentration.dtype)
    total = jnp.sum(concentration, axis=-1, keepdims=True)
    mean = concentration / total
    change = log_less_digamma(total) - log_less_digamma(concentration)
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
