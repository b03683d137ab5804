"""Normals: t(v) = (v, v v')."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random

from ..triangles import inverse_lower, solve_lower
from .common import (
    STEPS,
    Design,
    LogDensity,
    SiteForm,
    annihilator,
    half_log_determinant,
    halves,
    symmetric,
)

_LOG_TWO_PI = math.log(2 * math.pi)


class NormalCoefficients(NamedTuple):
    """``anchor`` has the value's shape; gradient (B, d) and precision (B, d, d) are taken there."""

    anchor: Array
    gradient: Array
    precision: Array


@dataclass(frozen=True)
class NormalForm(SiteForm):
    """t(v) = (v, v v'): independent normals over blocks of the trailing ``joint_axes`` axes."""

    addends = ("gradient", "precision")
    name = "normal"
    joint_axes: int = 1

    @property
    def event_axes(self) -> int:
        return self.joint_axes

    def _blocks(self, value: Array) -> Array:
        split = jnp.ndim(value) - self.joint_axes
        size = 1
        for length in jnp.shape(value)[split:]:
            size *= length
        return jnp.reshape(value, (-1, size))

    def read(self, log_density: LogDensity, value: Array) -> NormalCoefficients:
        """Gradient and negative Hessian blocks at ``value``; exact, since the density is quadratic."""
        gradient, hessian_product = jax.linearize(jax.grad(log_density), value)
        size = self._blocks(value).shape[1]

        def column(unit: Array) -> Array:
            tangent = jnp.broadcast_to(unit, self._blocks(value).shape)
            return self._blocks(hessian_product(jnp.reshape(tangent, jnp.shape(value))))

        columns = jax.vmap(column)(jnp.eye(size, dtype=value.dtype))  # (d, B, d)
        precision = -jnp.moveaxis(columns, 0, -1)
        return NormalCoefficients(value, self._blocks(gradient), symmetric(precision))

    def factor(self, c: NormalCoefficients) -> Array:
        """Cholesky factor of each block's precision, (B, d, d); NaN where it is not proper."""
        return jnp.linalg.cholesky(c.precision)

    def mode(self, c: NormalCoefficients, value: Array) -> tuple[Array, Array]:
        """anchor + P^{-1} g; blocks without a proper precision keep ``value``, which is as good as any
        where nothing depends on any block."""
        lower = self.factor(c)
        step = solve_lower(lower, solve_lower(lower, c.gradient[..., None]), transpose=True)[..., 0]
        proper = jnp.all(jnp.isfinite(step), axis=-1)
        anchor = self._blocks(c.anchor)
        found = jnp.where(proper[:, None], anchor + step, self._blocks(value))
        flat = jnp.all(c.precision == 0) & jnp.all(c.gradient == 0)
        return jnp.reshape(found, jnp.shape(value)), jnp.all(proper) | flat

    def sample(self, rng_key: Array, c: NormalCoefficients) -> Array:
        lower = self.factor(c)
        noise = random.normal(rng_key, c.gradient.shape, c.gradient.dtype)
        mean_part = solve_lower(lower, c.gradient[..., None])[..., 0]
        step = solve_lower(lower, (mean_part + noise)[..., None], transpose=True)[..., 0]
        return c.anchor + jnp.reshape(step, c.anchor.shape)

    def half_log_precision(self, c: NormalCoefficients) -> Array:
        """-log|P| / 2 summed over blocks: what integrating the normal out leaves behind."""
        return -jnp.sum(half_log_determinant(self.factor(c)))

    def _lower(self, c: NormalCoefficients) -> Array:
        """L (B, d, d) with L L' each block's covariance: the transposed inverse of the factor of P."""
        return inverse_lower(self.factor(c), transpose=True)

    def centre(self, c: NormalCoefficients) -> Array:
        return self.mode(c, c.anchor)[0]

    def points(self, c: NormalCoefficients) -> Array:
        lower = self._lower(c)
        steps = jnp.sqrt(lower.shape[-1]) * jnp.moveaxis(lower, -1, 0)  # (d, B, d)
        steps = steps.reshape(-1, *c.anchor.shape)
        return self.centre(c) + jnp.concatenate([steps, -steps])

    def entropy(self, c: NormalCoefficients) -> Array:
        return c.gradient.size * (1 + jnp.log(2 * jnp.pi)) / 2 + self.half_log_precision(c)

    def proper(self, c: NormalCoefficients) -> Array:
        return jnp.all(jnp.isfinite(self.factor(c)))

    def moments(self, c: NormalCoefficients) -> tuple[Array, Array]:
        variance = jnp.sum(self._lower(c) ** 2, axis=-1)
        return self.centre(c), variance.reshape(c.anchor.shape)

    def distribution(self, c: NormalCoefficients) -> Any:
        mean, variance = self.moments(c)
        if self.joint_axes == 0:
            return dist.Normal(mean, jnp.sqrt(variance))
        if self.joint_axes > 1:
            return None  # NumPyro has no normal arrays whose entries all depend on each other
        precision = c.precision.reshape(*mean.shape, mean.shape[-1])
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def at_anchor(self, c: NormalCoefficients) -> Array:
        lower = self.factor(c)
        half = solve_lower(lower, c.gradient[..., None])[..., 0]
        log_determinant = half_log_determinant(lower)
        size = c.gradient.shape[-1]
        return log_determinant - jnp.sum(half**2, axis=-1) / 2 - size * _LOG_TWO_PI / 2

    def lead(self, c: NormalCoefficients, groups: int) -> NormalCoefficients:
        """Coefficients that lead with the first axis of the value, not with all blocks."""
        parts = (c.gradient, c.precision)
        return self.with_added(c, tuple(jnp.reshape(x, (groups, -1, *x.shape[1:])) for x in parts))

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        columns = np.stack([STEPS, STEPS**2], axis=1)
        found = []
        for size in (step, step, reach) if reach > step else (step, step):
            direction = size * rng.normal(size=value.shape)
            steps = STEPS.reshape(-1, *(1,) * value.ndim)
            found.append(Design(value + steps * direction, annihilator(columns)))
        batch = value.shape[: value.ndim - self.joint_axes]
        return found + halves(value, value + step * rng.normal(size=value.shape), batch, rng)
