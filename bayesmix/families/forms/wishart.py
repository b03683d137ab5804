"""Positive definite matrices: t(V) = (log|V|, V^{+-1})."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from jax.scipy.special import digamma, gammaln

from ..triangles import solve_lower
from .common import (
    STEPS,
    Design,
    LogDensity,
    ScaleForm,
    annihilator,
    either_side,
    half_log_determinant,
    halves,
    log_less_digamma,
    replaced,
    some,
    symmetric,
    transpose,
)


class WishartCoefficients(NamedTuple):
    """``lower`` is the anchor's Cholesky factor; log density = a log|M| - tr(M S) / 2 in M."""

    lower: Array
    log_power: Array
    scatter: Array


@dataclass(frozen=True)
class WishartForm(ScaleForm):
    """t(V) = (log|V|, V^{+-1}) for positive definite V: Wishart, or inverse Wishart.

    With V = L L' the anchor, the whitened argument is M = L^{-1} V L^{-T} (Wishart) or
    M = L' V^{-1} L (inverse), so that M = I at the anchor whatever the units of the data.
    """

    addends = ("log_power", "scatter")
    event_axes = 2
    inverse: bool

    @property
    def name(self) -> str:
        return "inverse Wishart" if self.inverse else "Wishart"

    def read(self, log_density: LogDensity, value: Array) -> WishartCoefficients:
        """The gradient in M at two multiples t I of the identity: a I / t - S / 2 at each.

        The second multiple is chosen so that neither term drowns in the other, however far the value is
        from where the density has its mass.
        """
        lower = jnp.linalg.cholesky(value)
        slope = jax.grad(log_density)
        dimension = value.shape[-1]

        def look(multiple: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            scale = multiple[..., None, None]
            if self.inverse:
                gradient = slope(value / scale) * (-1.0 / scale**2)
            else:
                gradient = slope(value * scale)
            found = symmetric(transpose(lower) @ gradient @ lower)
            size = jnp.abs(jnp.trace(found, axis1=-2, axis2=-1)) / dimension
            return 1 / (2 + size), (multiple, found)

        # a loop, so that the density is compiled once
        ones = jnp.ones_like(value[..., 0, 0])
        _, (multiples, found) = jax.lax.scan(look, ones, length=2)
        difference = found[0] - found[1]
        log_power = jnp.trace(difference, axis1=-2, axis2=-1) / dimension / (1 - 1 / multiples[1])
        identity = jnp.eye(dimension, dtype=value.dtype)
        scatter = 2 * (log_power[..., None, None] * identity - found[0])
        return WishartCoefficients(lower, log_power, scatter)

    def mode(self, c: WishartCoefficients, value: Array) -> tuple[Array, Array]:
        """M = 2 a S^{-1}: V = L S L' / (2 a) for the inverse, 2 a L S^{-1} L' otherwise."""
        root = jnp.linalg.cholesky(c.scatter)
        found = self._value(c, root, 2 * c.log_power)
        proper = jnp.all(jnp.isfinite(root), axis=(-2, -1)) & (c.log_power > 0)
        return jnp.where(proper[..., None, None], found, value), jnp.all(proper)

    def sample(self, rng_key: Array, c: WishartCoefficients) -> Array:
        """Bartlett's decomposition in the whitened coordinates."""
        dimension = c.scatter.shape[-1]
        freedom = self._freedom(c)
        root = jnp.linalg.cholesky(c.scatter)
        bartlett = _bartlett(rng_key, freedom, dimension)
        # M = root^{-T} B B' root^{-1} is Wishart(freedom, S^{-1})
        if self.inverse:
            half = solve_lower(bartlett, transpose(root))  # M^{-1} = half' half
            half = half @ transpose(c.lower)
            return transpose(half) @ half
        half = c.lower @ solve_lower(root, bartlett, transpose=True)
        return half @ transpose(half)

    def log_size(self, value: Array) -> Array:
        return jnp.sum(jnp.linalg.slogdet(value)[1])

    def shift(self, c: WishartCoefficients, powers: Any) -> WishartCoefficients:
        change = -powers if self.inverse else powers
        return c._replace(log_power=c.log_power + change)

    def _freedom(self, c: WishartCoefficients) -> Array:
        """Of the whitened M, which is Wishart(freedom, S^{-1}) for both signs."""
        return 2 * c.log_power + (-1 if self.inverse else 1) * (c.scatter.shape[-1] + 1)

    def _value(self, c: WishartCoefficients, root: Array, multiple: Array) -> Array:
        """The value where M is a multiple of S^{-1}, with `root` the Cholesky factor of S."""
        if self.inverse:
            half = c.lower @ root
            return half @ transpose(half) / multiple[..., None, None]
        half = solve_lower(root, transpose(c.lower))
        return transpose(half) @ half * multiple[..., None, None]

    def points(self, c: WishartCoefficients) -> Array:
        freedom, size = self._freedom(c), c.scatter.shape[-1]
        order = jnp.arange(size, dtype=freedom.dtype)
        each = freedom[..., None]
        gaps = log_less_digamma((each - order) / 2) - jnp.log1p(-order / each)
        multiples = freedom * either_side(jnp.mean(gaps, axis=-1))
        root = jnp.linalg.cholesky(c.scatter)
        return jax.vmap(partial(self._value, c, root))(multiples)

    def centre(self, c: WishartCoefficients) -> Array:
        return self._value(c, jnp.linalg.cholesky(c.scatter), self._freedom(c))

    def inverse_centre(self, c: WishartCoefficients) -> Array:
        return self._value(
            c, jnp.linalg.cholesky(c.scatter), self._freedom(c) - c.scatter.shape[-1] - 1
        )

    def _log_constant(self, c: WishartCoefficients, log_scatter: Array) -> Array:
        """log q less <c, t(V)>, given log|S|: M is Wishart(nu, S^-1); its Jacobian by V is |L|^-(D+1),
        for the inverse times |M|^(D+1), which `log_power` has."""
        size, freedom = c.scatter.shape[-1], self._freedom(c)
        halves = (freedom[..., None] - jnp.arange(size)) / 2
        log_gamma = jnp.sum(gammaln(halves), axis=-1) + size * (size - 1) / 4 * jnp.log(jnp.pi)
        own = freedom / 2 * (log_scatter - size * jnp.log(2.0)) - log_gamma
        return own - (size + 1) * half_log_determinant(c.lower)

    def entropy(self, c: WishartCoefficients) -> Array:
        size, freedom = c.scatter.shape[-1], self._freedom(c)
        digammas = jnp.sum(digamma((freedom[..., None] - jnp.arange(size)) / 2), axis=-1)
        log_scatter = 2 * half_log_determinant(jnp.linalg.cholesky(c.scatter))
        log_determinant = digammas + size * jnp.log(2.0) - log_scatter  # E[log|M|]
        height = self._log_constant(c, log_scatter) + c.log_power * log_determinant
        return jnp.sum(freedom * size / 2 - height)

    def proper(self, c: WishartCoefficients) -> Array:
        root = jnp.linalg.cholesky(c.scatter)
        return jnp.all(jnp.isfinite(root)) & jnp.all(self._freedom(c) > c.scatter.shape[-1] - 1)

    def moments(self, c: WishartCoefficients) -> tuple[Array, Array]:
        """Mean and variance of each entry; NaN or infinite where they do not exist.

        Source of the inverse's variance: Press (1982), *Applied Multivariate Analysis*, section 5.2.
        """
        size = c.scatter.shape[-1]
        freedom = self._freedom(c)[..., None, None]
        matrix = self._value(c, jnp.linalg.cholesky(c.scatter), jnp.ones_like(c.log_power))
        diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
        products = diagonal[..., :, None] * diagonal[..., None, :]
        if not self.inverse:
            return freedom * matrix, freedom * (matrix**2 + products)
        left = freedom - size - 1
        mean = jnp.where(left > 0, matrix / left, jnp.nan)
        numerator = (left + 2) * matrix**2 + left * products
        variance = numerator / ((left + 1) * left**2 * (left - 2))
        return mean, jnp.where(left > 2, variance, jnp.inf)

    def distribution(self, c: WishartCoefficients) -> Any:
        matrix = self._value(c, jnp.linalg.cholesky(c.scatter), jnp.ones_like(c.log_power))
        named = dist.InverseWishart if self.inverse else dist.Wishart
        return named(self._freedom(c), scale_matrix=matrix)

    def at_anchor(self, c: WishartCoefficients) -> Array:
        log_scatter = 2 * half_log_determinant(jnp.linalg.cholesky(c.scatter))
        return self._log_constant(c, log_scatter) - jnp.trace(c.scatter, axis1=-2, axis2=-1) / 2

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        batch, dimension = value.shape[:-2], value.shape[-1]
        sign = -1 if self.inverse else 1
        radial = np.stack([STEPS, np.exp(sign * STEPS)], axis=1)
        found = [Design(value * np.exp(STEPS).reshape(-1, *(1,) * value.ndim), annihilator(radial))]
        for index in some(batch, rng):
            block = np.linalg.inv(value[index]) if self.inverse else value[index]
            root = np.linalg.cholesky(block)
            noise = rng.normal(size=(dimension, dimension))
            noise = noise + noise.T
            noise /= 1.5 * np.abs(np.linalg.eigvalsh(noise)).max()
            path = block + STEPS[:, None, None] * (root @ noise @ root.T)
            columns = np.stack([STEPS, np.linalg.slogdet(path)[1]], axis=1)
            blocks = np.linalg.inv(path) if self.inverse else path
            found.append(Design(replaced(value, index, blocks), annihilator(columns)))
        root = np.linalg.cholesky(value)
        noise = rng.normal(size=value.shape) * 0.5 + np.eye(dimension)
        moved = root @ noise @ np.swapaxes(noise, -1, -2) @ np.swapaxes(root, -1, -2)
        return found + halves(value, moved, batch, rng)


def _bartlett(rng_key: Array, freedom: Array, dimension: int) -> Array:
    """Lower factor B with B B' ~ Wishart(freedom, I): chi on the diagonal, normals below."""
    chi_key, normal_key = random.split(rng_key)
    order = jnp.arange(dimension)
    shape = (freedom[..., None] - order) / 2
    chi = jnp.sqrt(2 * random.gamma(chi_key, shape, shape.shape, freedom.dtype))
    below = random.normal(normal_key, (*freedom.shape, dimension, dimension), freedom.dtype)
    return jnp.tril(below, -1) + chi[..., None] * jnp.eye(dimension, dtype=freedom.dtype)
