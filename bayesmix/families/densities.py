"""Normalised densities of forms, by independent element; coefficients as numbers that add up.

A form's coefficients are read at an anchor (:mod:`bayesmix.families.forms`). Those of a sum of log
densities are the sums of their coefficients, as long as all are read at the same anchor. Here is the log
of the normalised density at the anchor,

    log q(v | c) = <c, t(v)> - log of the integral of exp <c, t(v)>,

of every element of a value that is independent of the others. The simplex and the unit interval are
looked at in their centre, which no coefficient depends on.

Source: Bishop (2006), *Pattern Recognition and Machine Learning*, Springer, appendix B; of a function of
a value by its Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from .forms import (
    BetaForm,
    DirichletForm,
    Form,
    NormalCoefficients,
    NormalForm,
    PowerCoefficients,
    PowerForm,
    WishartCoefficients,
    WishartForm,
)
from .triangles import solve_lower

_LOG_TWO_PI = math.log(2 * math.pi)


class Density(NamedTuple):
    """What adding up and normalising need to know of a form.

    at_anchor: log q at the anchor by element, of (form, coefficients); anchor: where to read, of a
    value; event_axes: how many trailing axes of a value are one element, of the form; addends: the
    coefficients that add up, all but the anchor; none where the coefficients are one array, along whose
    axis `stacked` there are several to an element.
    """

    at_anchor: Callable[[Any, Any], Array]
    anchor: Callable[[Array], Array]
    event_axes: Callable[[Any], int]
    addends: tuple[str, ...] = ()
    stacked: int | None = None


def density_of(form: Form) -> Density:
    """The density of a form.

    >>> form, shapes = BetaForm(), jnp.array([2.0, 3.0])  # coefficients are the shapes minus one
    >>> jnp.exp(density_of(form).at_anchor(form, shapes - 1)).round(3).item()  # 12 v (1 - v)^2
    1.5
    """
    return _DENSITIES[type(form)]


def addends(form: Form, coefficients: Any) -> tuple[Array, ...]:
    """The arrays of coefficients that add up."""
    names = density_of(form).addends
    return tuple(getattr(coefficients, name) for name in names) or (coefficients,)


def with_addends(form: Form, coefficients: Any, arrays: tuple[Array, ...]) -> Any:
    """The same coefficients with other addends."""
    names = density_of(form).addends
    if not names:
        return arrays[0]
    return coefficients._replace(**dict(zip(names, arrays, strict=True)))


def lead(form: Form, coefficients: Any, groups: int) -> Any:
    """Coefficients whose arrays all lead with the first axis of the value, of so many entries."""
    if isinstance(coefficients, NormalCoefficients):
        # blocks are counted over all leading axes of the value
        parts = (coefficients.gradient, coefficients.precision)
        split = tuple(jnp.reshape(x, (groups, -1, *x.shape[1:])) for x in parts)
        return with_addends(form, coefficients, split)
    stacked = density_of(form).stacked
    return coefficients if stacked is None else jnp.moveaxis(coefficients, stacked, 1)


# ------------------------------------------------------------------------------------ forms, one by one
def _normal(form: NormalForm, c: NormalCoefficients) -> Array:
    lower = form.factor(c)
    half = solve_lower(lower, c.gradient[..., None])[..., 0]
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)
    size = c.gradient.shape[-1]
    return log_determinant - jnp.sum(half**2, axis=-1) / 2 - size * _LOG_TWO_PI / 2


def _power(form: PowerForm, c: PowerCoefficients) -> Array:
    shape = (c.log_power + 1) / form.power
    integral = gammaln(shape) - shape * jnp.log(c.rate)
    return -c.rate - integral - jnp.log(c.anchor / abs(form.power))


def _wishart(form: WishartForm, c: WishartCoefficients) -> Array:
    """M is Wishart(nu, S^-1); its Jacobian by V is |L|^-(D+1) at the anchor, for the inverse too."""
    size = c.scatter.shape[-1]
    freedom = 2 * c.log_power + (-1 if form.inverse else 1) * (size + 1)
    root = jnp.linalg.cholesky(c.scatter)
    halves = (freedom[..., None] - jnp.arange(size)) / 2
    log_gamma = jnp.sum(gammaln(halves), axis=-1) + size * (size - 1) / 4 * jnp.log(jnp.pi)
    log_scatter, log_anchor = (
        jnp.sum(jnp.log(jnp.diagonal(x, axis1=-2, axis2=-1)), axis=-1) for x in (root, c.lower)
    )
    trace = jnp.trace(c.scatter, axis1=-2, axis2=-1)
    own = freedom * (log_scatter - size * jnp.log(2.0) / 2) - log_gamma - trace / 2
    return own - (size + 1) * log_anchor


def _simplex(c: Array) -> Array:
    total = jnp.sum(c, axis=-1)
    size = c.shape[-1]
    return gammaln(total + size) - jnp.sum(gammaln(c + 1), axis=-1) - total * jnp.log(size)


_DENSITIES: dict[type, Density] = {
    NormalForm: Density(
        _normal, lambda value: value, lambda form: form.joint_axes, ("gradient", "precision")
    ),
    PowerForm: Density(_power, lambda value: value, lambda form: 0, ("log_power", "rate")),
    WishartForm: Density(_wishart, lambda value: value, lambda form: 2, ("log_power", "scatter")),
    DirichletForm: Density(
        lambda form, c: _simplex(c),
        lambda value: jnp.full_like(value, 1 / value.shape[-1]),
        lambda form: 1,
    ),
    BetaForm: Density(
        lambda form, c: _simplex(jnp.moveaxis(c, 0, -1)),
        lambda value: jnp.full_like(value, 0.5),
        lambda form: 0,
        stacked=0,
    ),
}
