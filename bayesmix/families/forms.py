"""Conjugate forms: complete conditionals read off a log density by differentiation.

A prior is conjugate to whatever stands below it exactly when the log joint, as a function of that
one unknown ``v``, is linear in the sufficient statistics ``t(v)`` of an exponential family:

    log p(v, everything else) = <c, t(v)> + constant.

A *form* is one such ``t``. It reads the coefficients ``c`` from a few derivatives of the log joint at
the current value, in coordinates scaled by that value, so that tight and wide problems lose nothing to
rounding. Whether the density really is linear in ``t(v)`` is certified when the program is read
(:mod:`bayesmix.program.conjugacy`). The mode (for EM) and a draw (for Gibbs) come from the same ``c``.
Links (a scale whose square is the variance, a mean tied over components, a regression) need no case of
their own: they are differentiated through.

Every form offers the same five functions::

    read(log_density, value)        -> coefficients
    kernel(coefficients, value)     -> <c, t(value)>, a scalar
    mode(coefficients, value)       -> (value, proper)    `proper` is False where no mode exists
    sample(rng_key, coefficients)   -> a draw
    shift(coefficients, powers)     -> coefficients after v's density is multiplied by |v|^powers

Source: the definition of conjugacy for exponential families, Diaconis & Ylvisaker (1979), *Annals of
Statistics* 7, 269-281; the coordinates are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.distributions import constraints

from .triangles import solve_lower

LogDensity = Callable[[Array], Array]


class Form(Protocol):
    """What every form offers; see the module's text."""

    @property
    def name(self) -> str: ...
    def read(self, log_density: LogDensity, value: Array) -> Any: ...
    def kernel(self, coefficients: Any, value: Array) -> Array: ...
    def mode(self, coefficients: Any, value: Array) -> tuple[Array, Array]: ...
    def sample(self, rng_key: Array, coefficients: Any) -> Array: ...
    def shift(self, coefficients: Any, powers: Any) -> Any: ...


def _symmetric(matrix: Array) -> Array:
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def _transpose(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)


# ------------------------------------------------------------------------------------------- normal
class NormalCoefficients(NamedTuple):
    """``anchor`` has the value's shape; gradient (B, d) and precision (B, d, d) are taken there."""

    anchor: Array
    gradient: Array
    precision: Array


class NormalForm(NamedTuple):
    """t(v) = (v, v v'): independent normals over blocks of the trailing ``joint_axes`` axes."""

    joint_axes: int = 1

    @property
    def name(self) -> str:
        """Name shown in a plan."""
        return "normal"

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
        return NormalCoefficients(value, self._blocks(gradient), _symmetric(precision))

    def kernel(self, coefficients: NormalCoefficients, value: Array) -> Array:
        """g'(v - anchor) - (v - anchor)' P (v - anchor) / 2, summed over blocks."""
        step = self._blocks(value - coefficients.anchor)
        square = jnp.einsum("bi,bij,bj->", step, coefficients.precision, step)
        return jnp.sum(coefficients.gradient * step) - square / 2

    def factor(self, coefficients: NormalCoefficients) -> Array:
        """Cholesky factor of each block's precision, (B, d, d); NaN where it is not proper."""
        return jnp.linalg.cholesky(coefficients.precision)

    def mode(self, coefficients: NormalCoefficients, value: Array) -> tuple[Array, Array]:
        """anchor + P^{-1} g; blocks without a proper precision keep ``value``, which is as good as any
        where nothing depends on any block."""
        lower = self.factor(coefficients)
        step = solve_lower(
            lower, solve_lower(lower, coefficients.gradient[..., None]), transpose=True
        )[..., 0]
        proper = jnp.all(jnp.isfinite(step), axis=-1)
        anchor = self._blocks(coefficients.anchor)
        found = jnp.where(proper[:, None], anchor + step, self._blocks(value))
        flat = jnp.all(coefficients.precision == 0) & jnp.all(coefficients.gradient == 0)
        return jnp.reshape(found, jnp.shape(value)), jnp.all(proper) | flat

    def sample(self, rng_key: Array, coefficients: NormalCoefficients) -> Array:
        """One draw of every block."""
        lower = self.factor(coefficients)
        noise = random.normal(rng_key, coefficients.gradient.shape, coefficients.gradient.dtype)
        mean_part = solve_lower(lower, coefficients.gradient[..., None])[..., 0]
        step = solve_lower(lower, (mean_part + noise)[..., None], transpose=True)[..., 0]
        return coefficients.anchor + jnp.reshape(step, coefficients.anchor.shape)

    def half_log_precision(self, coefficients: NormalCoefficients) -> Array:
        """-log|P| / 2 summed over blocks: what integrating the normal out leaves behind."""
        diagonal = jnp.diagonal(self.factor(coefficients), axis1=-2, axis2=-1)
        return -jnp.sum(jnp.log(diagonal))

    def shift(self, coefficients: NormalCoefficients, powers: Any) -> NormalCoefficients:
        """A power of |v| has no place in a normal density."""
        raise TypeError("a normal form cannot be shifted by a power of its value")


# -------------------------------------------------------------------------------- positive, by power
class PowerCoefficients(NamedTuple):
    """log density = log_power log(v) - rate v^p, elementwise (rate in units of anchor^-p)."""

    anchor: Array
    log_power: Array
    rate: Array


class PowerForm(NamedTuple):
    """t(v) = (log v, v^p), elementwise: p = 1 gamma, p = -1 inverse gamma, p = +-2 their roots."""

    power: int

    @property
    def name(self) -> str:
        """Name shown in a plan."""
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

    def kernel(self, coefficients: PowerCoefficients, value: Array) -> Array:
        """<c, t(v)>, summed."""
        ratio = value / coefficients.anchor
        return jnp.sum(
            coefficients.log_power * jnp.log(ratio) - coefficients.rate * ratio**self.power
        )

    def mode(self, coefficients: PowerCoefficients, value: Array) -> tuple[Array, Array]:
        """(log_power / (p rate))^(1/p): the mode in v itself, no Jacobian; any value where nothing
        depends on it."""
        ratio = coefficients.log_power / (self.power * coefficients.rate)
        proper = (ratio > 0) & jnp.isfinite(ratio) & (coefficients.rate > 0)
        found = coefficients.anchor * jnp.where(proper, ratio, 1.0) ** (1.0 / self.power)
        flat = jnp.all(coefficients.log_power == 0) & jnp.all(coefficients.rate == 0)
        return jnp.where(proper, found, value), jnp.all(proper) | flat

    def sample(self, rng_key: Array, coefficients: PowerCoefficients) -> Array:
        """v^p is gamma with shape (log_power + 1) / p and the rate."""
        shape = (coefficients.log_power + 1) / self.power
        gamma = random.gamma(rng_key, shape, jnp.shape(shape), coefficients.rate.dtype)
        return coefficients.anchor * (gamma / coefficients.rate) ** (1.0 / self.power)

    def shift(self, coefficients: PowerCoefficients, powers: Any) -> PowerCoefficients:
        """Multiply the density by v^powers."""
        return coefficients._replace(log_power=coefficients.log_power + powers)


# ------------------------------------------------------------------------------- positive definite
class WishartCoefficients(NamedTuple):
    """``lower`` is the anchor's Cholesky factor; log density = a log|M| - tr(M S) / 2 in M."""

    lower: Array
    log_power: Array
    scatter: Array


class WishartForm(NamedTuple):
    """t(V) = (log|V|, V^{+-1}) for positive definite V: Wishart, or inverse Wishart.

    With V = L L' the anchor, the whitened argument is M = L^{-1} V L^{-T} (Wishart) or
    M = L' V^{-1} L (inverse), so that M = I at the anchor whatever the units of the data.
    """

    inverse: bool

    @property
    def name(self) -> str:
        """Name shown in a plan."""
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
            found = _symmetric(_transpose(lower) @ gradient @ lower)
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

    def _whiten(self, coefficients: WishartCoefficients, value: Array) -> Array:
        if self.inverse:
            half = solve_lower(jnp.linalg.cholesky(value), coefficients.lower)
            return _transpose(half) @ half
        half = solve_lower(coefficients.lower, jnp.linalg.cholesky(value))
        return half @ _transpose(half)

    def kernel(self, coefficients: WishartCoefficients, value: Array) -> Array:
        """<c, t(V)>, summed over the leading axes."""
        whitened = self._whiten(coefficients, value)
        log_determinant = jnp.linalg.slogdet(whitened)[1]
        trace = jnp.sum(whitened * coefficients.scatter, axis=(-2, -1))
        return jnp.sum(coefficients.log_power * log_determinant - trace / 2)

    def mode(self, coefficients: WishartCoefficients, value: Array) -> tuple[Array, Array]:
        """M = 2 a S^{-1}: V = L S L' / (2 a) for the inverse, 2 a L S^{-1} L' otherwise."""
        root = jnp.linalg.cholesky(coefficients.scatter)
        twice = (2 * coefficients.log_power)[..., None, None]
        lower = coefficients.lower
        if self.inverse:
            half = lower @ root
            found = half @ _transpose(half) / twice
        else:
            half = solve_lower(root, _transpose(lower))
            found = _transpose(half) @ half * twice
        proper = jnp.all(jnp.isfinite(root), axis=(-2, -1)) & (coefficients.log_power > 0)
        return jnp.where(proper[..., None, None], found, value), jnp.all(proper)

    def sample(self, rng_key: Array, coefficients: WishartCoefficients) -> Array:
        """Bartlett's decomposition in the whitened coordinates."""
        dimension = coefficients.scatter.shape[-1]
        sign = -1 if self.inverse else 1
        freedom = 2 * coefficients.log_power + sign * (dimension + 1)
        root = jnp.linalg.cholesky(coefficients.scatter)
        bartlett = _bartlett(rng_key, freedom, dimension)
        # M = root^{-T} B B' root^{-1} is Wishart(freedom, S^{-1})
        if self.inverse:
            half = solve_lower(bartlett, _transpose(root))  # M^{-1} = half' half
            half = half @ _transpose(coefficients.lower)
            return _transpose(half) @ half
        half = coefficients.lower @ solve_lower(root, bartlett, transpose=True)
        return half @ _transpose(half)

    def shift(self, coefficients: WishartCoefficients, powers: Any) -> WishartCoefficients:
        """Multiply the density by |V|^powers."""
        change = -powers if self.inverse else powers
        return coefficients._replace(log_power=coefficients.log_power + change)


def _bartlett(rng_key: Array, freedom: Array, dimension: int) -> Array:
    """Lower factor B with B B' ~ Wishart(freedom, I): chi on the diagonal, normals below."""
    chi_key, normal_key = random.split(rng_key)
    order = jnp.arange(dimension)
    shape = (freedom[..., None] - order) / 2
    chi = jnp.sqrt(2 * random.gamma(chi_key, shape, shape.shape, freedom.dtype))
    below = random.normal(normal_key, (*freedom.shape, dimension, dimension), freedom.dtype)
    return jnp.tril(below, -1) + chi[..., None] * jnp.eye(dimension, dtype=freedom.dtype)


# ------------------------------------------------------------------------------------------ simplex
class DirichletForm(NamedTuple):
    """t(v) = log v on the simplex; the coefficients are the concentrations minus one."""

    @property
    def name(self) -> str:
        """Name shown in a plan."""
        return "Dirichlet"

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

    def kernel(self, coefficients: Array, value: Array) -> Array:
        """sum_j c_j log v_j."""
        return jnp.sum(coefficients * jnp.log(value))

    def mode(self, coefficients: Array, value: Array) -> tuple[Array, Array]:
        """v proportional to c. A negative c has no interior mode: its weight is put at the boundary."""
        if value.shape[-1] == 1:
            return value, jnp.asarray(True)
        count = jnp.sum(jnp.abs(coefficients), axis=-1, keepdims=True)
        tiny = jnp.finfo(value.dtype).tiny ** 0.5
        floored = jnp.maximum(coefficients, tiny * count)
        found = floored / jnp.sum(floored, axis=-1, keepdims=True)
        # rounding of a zero count is not a negative count
        rounding = 64 * jnp.finfo(value.dtype).eps * jnp.maximum(count, 1.0)
        interior = jnp.all(coefficients >= -rounding, axis=-1)
        usable = jnp.all(jnp.isfinite(found), axis=-1, keepdims=True)
        return jnp.where(usable, found, value), jnp.all(interior & usable[..., 0])

    def sample(self, rng_key: Array, coefficients: Array) -> Array:
        """Normalised gammas, through logs so that small concentrations do not underflow."""
        logs = random.loggamma(rng_key, coefficients + 1, coefficients.shape, coefficients.dtype)
        return jax.nn.softmax(logs, axis=-1)

    def shift(self, coefficients: Array, powers: Any) -> Array:
        """Multiply the density by prod_j v_j^powers."""
        return coefficients + powers


class BetaForm(NamedTuple):
    """t(v) = (log v, log(1 - v)), elementwise; coefficients (2, ...) are the shapes minus one."""

    @property
    def name(self) -> str:
        """Name shown in a plan."""
        return "beta"

    def read(self, log_density: LogDensity, value: Array) -> Array:
        """Slope and curvature at one half, in the logit coordinate."""
        centre, ones = jnp.zeros_like(value), jnp.ones_like(value)
        slope, curvature = jax.jvp(
            jax.grad(lambda logits: log_density(jax.nn.sigmoid(logits))), (centre,), (ones,)
        )
        total = -4 * curvature
        return jnp.stack([total / 2 + slope, total / 2 - slope])

    def kernel(self, coefficients: Array, value: Array) -> Array:
        """<c, t(v)>, summed."""
        return jnp.sum(coefficients[0] * jnp.log(value) + coefficients[1] * jnp.log1p(-value))

    def mode(self, coefficients: Array, value: Array) -> tuple[Array, Array]:
        """c_1 / (c_1 + c_2), kept off the ends by rounding alone. Where one is negative there is no
        interior mode: it is put at that end."""
        floored = jnp.maximum(coefficients, 0.0)
        total = floored[0] + floored[1]
        proper = jnp.all(coefficients >= 0, axis=0) & (total > 0)
        eps = jnp.finfo(value.dtype).eps
        found = jnp.clip(floored[0] / jnp.where(total > 0, total, 1.0), eps, 1 - eps)
        return jnp.where(total > 0, found, value), jnp.all(proper)

    def sample(self, rng_key: Array, coefficients: Array) -> Array:
        """A draw of each element."""
        return random.beta(rng_key, coefficients[0] + 1, coefficients[1] + 1)

    def shift(self, coefficients: Array, powers: Any) -> Array:
        """Multiply the density by v^powers."""
        return coefficients.at[0].add(powers)


# ----------------------------------------------------------------------------------------- registry
def base_support(support: Any) -> Any:
    """The constraint below any `independent` wrappers."""
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def candidates(support: Any, ndim: int) -> tuple[Form, ...]:
    """Forms a value of this support could have, simplest first.

    `support` is a NumPyro constraint and `ndim` the number of axes of the value. Empty where no closed
    form is known for the support (the site is then climbed, or sampled by NUTS).

    >>> from numpyro.distributions import constraints
    >>> [form.name for form in candidates(constraints.positive_definite, 3)]
    ['inverse Wishart', 'Wishart']
    """
    base = base_support(support)
    if base == constraints.real or isinstance(base, type(constraints.real_vector)):
        return tuple(NormalForm(joint) for joint in range(ndim + 1))
    if base == constraints.positive:
        return tuple(PowerForm(power) for power in (-1, 1, -2, 2))
    if base == constraints.positive_definite:
        return (WishartForm(True), WishartForm(False))
    if base == constraints.simplex:
        return (DirichletForm(),)
    if base == constraints.unit_interval:
        return (BetaForm(),)
    return ()
