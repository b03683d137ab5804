"""Powers of positive numbers: t(v) = (log v, v^p)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from jax.scipy.special import digamma, gammaln

from .common import (
    STEPS,
    Design,
    LogDensity,
    ScaleForm,
    annihilator,
    either_side,
    halves,
    log_less_digamma,
    replaced,
    some,
)


class PowerCoefficients(NamedTuple):
    """log density = log_power log(v) - rate v^p, elementwise (rate in units of anchor^-p)."""

    anchor: Array
    log_power: Array
    rate: Array


@dataclass(frozen=True)
class PowerForm(ScaleForm):
    """t(v) = (log v, v^p), elementwise: p = 1 gamma, p = -1 inverse gamma, p = +-2 their roots."""

    addends = ("log_power", "rate")
    power: int

    @property
    def name(self) -> str:
        return {
            1: "gamma",
            -1: "inverse gamma",
            2: "square root of a gamma",
            -2: "square root of an inverse gamma",
        }[self.power]

    def read(self, log_density: LogDensity, value: Array) -> PowerCoefficients:
        """v d/dv at two points: two equations in the two coefficients.

        The second point is moved so far that neither coefficient drowns in the other, however far the
        value is from where the density has its mass.
        """
        slope = jax.grad(log_density)

        def look(ratio: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            moved = value * ratio ** (1.0 / self.power)
            height = moved * slope(moved)
            return 1 / (2 + jnp.abs(height)), (ratio, height)

        # ratio: of v^p to the value's. A loop, so that the density is compiled once
        _, (ratios, heights) = jax.lax.scan(look, jnp.ones_like(value), length=2)
        rate = (heights[0] - heights[1]) / (self.power * (ratios[1] - 1))
        return PowerCoefficients(value, heights[1] + self.power * rate * ratios[1], rate)

    def mode(self, c: PowerCoefficients, value: Array) -> tuple[Array, Array]:
        """(log_power / (p rate))^(1/p): the mode in v itself, no Jacobian; any value where nothing
        depends on it."""
        ratio = c.log_power / (self.power * c.rate)
        proper = (ratio > 0) & jnp.isfinite(ratio) & (c.rate > 0)
        found = c.anchor * jnp.where(proper, ratio, 1.0) ** (1.0 / self.power)
        flat = jnp.all(c.log_power == 0) & jnp.all(c.rate == 0)
        return jnp.where(proper, found, value), jnp.all(proper) | flat

    def sample(self, rng_key: Array, c: PowerCoefficients) -> Array:
        """v^p is gamma with shape (log_power + 1) / p and the rate."""
        shape = (c.log_power + 1) / self.power
        gamma = random.gamma(rng_key, shape, jnp.shape(shape), c.rate.dtype)
        return c.anchor * (gamma / c.rate) ** (1.0 / self.power)

    def log_size(self, value: Array) -> Array:
        return jnp.sum(jnp.log(value))

    def shift(self, c: PowerCoefficients, powers: Any) -> PowerCoefficients:
        return c._replace(log_power=c.log_power + powers)

    def _gamma(self, c: PowerCoefficients) -> tuple[Array, Array]:
        """Shape and rate of the gamma density of (v / anchor)^p."""
        return (c.log_power + 1) / self.power, c.rate

    def _value(self, c: PowerCoefficients, power: Array) -> Array:
        return c.anchor * power ** (1 / self.power)

    def points(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        return self._value(c, shape / rate * either_side(log_less_digamma(shape)))

    def centre(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        return self._value(c, shape / rate)

    def inverse_centre(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        return self._value(c, (shape - 1) / rate)

    def entropy(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        own = shape + gammaln(shape) - c.log_power / self.power * digamma(shape)
        return jnp.sum(own - jnp.log(rate) / self.power + jnp.log(c.anchor / abs(self.power)))

    def proper(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        return jnp.all((shape > 0) & (rate > 0))

    def moments(self, c: PowerCoefficients) -> tuple[Array, Array]:
        shape, rate = self._gamma(c)

        def moment(order: int) -> Array:
            moved = shape + order / self.power
            log_moment = gammaln(moved) - gammaln(shape) - order / self.power * jnp.log(rate)
            return jnp.where(moved > 0, jnp.exp(log_moment), jnp.inf)

        mean, square = moment(1), moment(2)
        variance = jnp.where(jnp.isfinite(square), square - mean**2, jnp.inf)
        return c.anchor * mean, c.anchor**2 * variance

    def distribution(self, c: PowerCoefficients) -> Any:
        shape, rate = self._gamma(c)
        rate = rate * c.anchor**-self.power
        if self.power == 1:
            return dist.Gamma(shape, rate)
        if self.power == -1:
            return dist.InverseGamma(shape, rate)
        root = dist.transforms.PowerTransform(1 / self.power)
        return dist.TransformedDistribution(dist.Gamma(shape, rate), root)

    def at_anchor(self, c: PowerCoefficients) -> Array:
        shape, rate = self._gamma(c)
        integral = gammaln(shape) - shape * jnp.log(rate)
        return -rate - integral - jnp.log(c.anchor / abs(self.power))

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        found = []
        for far in (1.0, 1.0 + np.log(reach)) if reach > 1 else (1.0,):
            logs = (far * STEPS).reshape(-1, *(1,) * value.ndim)
            columns = np.stack([far * STEPS, np.exp(self.power * far * STEPS)], axis=1)
            found.append(Design(value * np.exp(logs), annihilator(columns)))
        steps = np.exp(STEPS)
        combinations = annihilator(np.stack([STEPS, np.exp(self.power * STEPS)], axis=1))
        found += [
            Design(replaced(value, index, value[index] * steps), combinations)
            for index in some(value.shape, rng)
        ]
        return found + halves(value, value * np.exp(rng.normal(size=value.shape)), value.shape, rng)
