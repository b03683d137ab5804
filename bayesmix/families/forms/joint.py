"""A normal and what scales it, as one block: normal-inverse Wishart, normal-gamma, and their like.

Where the mode of a normal m does not move with a scale V, and |precision of m|^(-1/2) = |V|^p but for a
constant, both of which are certified (:mod:`bayesmix.program.conjugacy`), the two have one density

    q(m, V) = q(V) q(m | V),    q(V) proportional to |V|^p exp(log density at the mode of m).

No structure of the precision needs to be known: the normal is read again where V is known.

Where coefficients of many log densities are added (rows, with and without their labels), they are those
of V at the anchor of m, and the gradient g and precision P of m at the anchor of V. The mode of m is
d = P^-1 g away, so that the precision at another V is R(V) P with the same R for all rows, and for the
prior. The density of V has m at its mode, which adds d' R(V) g / 2: its coefficients are linear in d g',
and are read once, from the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from .common import LogDensity, ScaleForm, SiteForm, Spread
from .normal import NormalCoefficients, NormalForm

Pair = tuple[Array, Array]
Along = Callable[[Pair, int], LogDensity]


class JointCoefficients(NamedTuple):
    """own: those of the scale, with the normal at its mode; mode: that of the normal, whatever the
    scale; has_mode: is it one; along: the log density that they were read from, along one of a pair of
    values, or None where only arrays are kept."""

    own: Any
    mode: Array
    has_mode: Array
    along: Along | None


class JointTerms(NamedTuple):
    """Coefficients that add up, of the normal and of the scale, each at the other's anchor; and, of the
    whole, what each entry of d g' adds to those of the scale, arrays (groups, entries, ...)."""

    normal: NormalCoefficients
    own: Any
    turned: tuple[Array, ...] = ()


@dataclass(frozen=True)
class JointForm:
    """A normal and its scale, in this order; `power` is p. Log densities are taken along one of the
    two: `log_density(values, place)` is that of the value at this place, given the other."""

    normal: NormalForm
    scale: ScaleForm
    power: float

    @property
    def name(self) -> str:
        return f"normal-{self.scale.name}"

    @property
    def parts(self) -> tuple[SiteForm, ...]:
        return (self.normal, self.scale)

    def read(self, log_density: Along, value: Pair) -> JointCoefficients:
        """The normal's mode, and there the coefficients of the scale."""
        found = self.normal.read(log_density(value, 0), value[0])
        mode, has_mode = self.normal.mode(found, value[0])
        own = self.scale.read(log_density((mode, value[1]), 1), value[1])
        return JointCoefficients(own, mode, has_mode, log_density)

    def looking_at(self, c: JointCoefficients, log_density: Along | None) -> JointCoefficients:
        return c._replace(along=log_density)

    def mode(self, c: JointCoefficients, value: Pair) -> tuple[Pair, Array]:
        """Of both; False where there is none."""
        found, proper = self.scale.mode(c.own, value[1])
        return (c.mode, found), c.has_mode & proper

    def _marginal(self, c: JointCoefficients) -> Any:
        """Coefficients of q(V)."""
        return self.scale.shift(c.own, self.power)

    def _given(self, c: JointCoefficients, scale: Array) -> NormalCoefficients:
        """Coefficients of q(m | V)."""
        assert c.along is not None
        return self.normal.read(c.along((c.mode, scale), 0), c.mode)

    def sample(self, rng_key: Pair, c: JointCoefficients) -> Pair:
        """A draw of the scale, and of the normal given it; a key for each."""
        scale = self.scale.sample(rng_key[1], self._marginal(c))
        return self.normal.sample(rng_key[0], self._given(c, scale)), scale

    def spread(self, c: JointCoefficients) -> Spread:
        """Points of the normal for each point of the scale. The entropy is that of the scale, plus the
        mean of the normal's given it."""
        own, normal = self.scale.spread(self._marginal(c)), self.normal
        given = jax.vmap(partial(self._given, c))(own.points)
        values = jax.vmap(normal.points)(given)  # (J, 2d, ...)
        points = (
            values.reshape(-1, *values.shape[2:]),
            jnp.repeat(own.points, values.shape[1], axis=0),
        )
        entropy = own.entropy + jnp.mean(jax.vmap(normal.entropy)(given))
        proper = own.proper & jnp.all(jax.vmap(normal.proper)(given))
        return Spread(points, (c.mode, own.centre), entropy, proper)

    def moments(self, c: JointCoefficients) -> tuple[Pair, Pair]:
        """Means and variances.

        The normal has a precision that is linear in a power of the scale and whose determinant is a
        power of it: its covariance is linear in the inverse, and its expectation is the covariance
        where the inverse is at its own.
        """
        own = self._marginal(c)
        mean, variance = self.scale.moments(own)
        given = self._given(c, self.scale.inverse_centre(own))
        normal = self.normal.moments(given)[1]
        return (c.mode, mean), (jnp.where(jnp.isfinite(normal), normal, jnp.inf), variance)

    def distribution(self, c: JointCoefficients) -> tuple[None, Any]:
        """NumPyro's, of the scale; the normal has one given the scale alone."""
        return None, self.scale.distribution(self._marginal(c))

    def terms(
        self, log_density: Along, anchor: Pair, groups: int, log_prior: Along | None = None
    ) -> JointTerms:
        own = self.scale.terms(log_density(anchor, 1), anchor[1], groups)
        normal = self.normal.terms(log_density(anchor, 0), anchor[0], groups)
        turned = () if log_prior is None else self._turned(log_prior, anchor, groups)
        return JointTerms(normal, own, turned)

    def _turned(self, log_prior: Along, anchor: Pair, groups: int) -> tuple[Array, ...]:
        """Coefficients of the scale in d' R(V) g / 2 for each entry of d g'."""

        def precision(scale: Array) -> Array:
            return self.normal.terms(log_prior((anchor[0], scale), 0), anchor[0], groups).precision

        there = precision(anchor[1])  # (groups, blocks, d, d)

        def at(entry: Array) -> tuple[Array, ...]:
            def half_square(scale: Array) -> Array:
                ratio = jnp.linalg.solve(there, precision(scale))  # R(V)'
                return jnp.sum(entry * jnp.swapaxes(ratio, -1, -2)) / 2

            return self.scale.added(self.scale.terms(half_square, anchor[1], groups))

        shape = there.shape[1:]
        size = shape[0] * shape[1] * shape[2]
        entries = jnp.eye(size, dtype=there.dtype).reshape(size, *shape)
        return tuple(jnp.moveaxis(array, 0, 1) for array in jax.vmap(at)(entries))

    def added(self, c: JointTerms) -> tuple[Any, ...]:
        return self.scale.added(c.own), self.normal.added(c.normal)

    def with_added(self, c: JointTerms, arrays: tuple[Any, ...]) -> JointTerms:
        own = self.scale.with_added(c.own, arrays[0])
        return JointTerms(self.normal.with_added(c.normal, arrays[1]), own, c.turned)

    def at_anchor(self, c: JointTerms) -> Array:
        """log q at the anchors, of one group."""
        gradient = c.normal.gradient[..., None]
        away = cho_solve((self.normal.factor(c.normal), True), gradient)
        square = jnp.ravel(away * jnp.swapaxes(gradient, -1, -2))
        each = zip(self.scale.added(c.own), c.turned, strict=True)
        moved = tuple(x + jnp.tensordot(square, turned, 1) for x, turned in each)
        own = self.scale.shift(self.scale.with_added(c.own, moved), self.power)
        return jnp.sum(self.scale.at_anchor(own)) + jnp.sum(self.normal.at_anchor(c.normal))
