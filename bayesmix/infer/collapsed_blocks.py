"""Blocks of parameters integrated out of the joint density, so that rows come and go by adding numbers.

Where the log joint of given labels is, as a function of some blocks v_b,

    log p(x, z, v | rest) = sum_b <c_b(x, z), t_b(v_b)> + constant,

the candidate's formula gives the evidence of the labels from any value v of these blocks:

    log p(x, z | rest) = log p(x, z, v | rest) - sum_b log q_b(v_b | c_b(x, z)),

with q_b the complete conditional. Coefficients of rows add up, so that a row that goes from one
component to another changes c_b by numbers that do not depend on the other rows.

Where two sites are one block (a normal m and its scale V), the coefficients are those of V at the anchor
of m, and the gradient g and precision P of m at the anchor of V. The mode of m is d = P^-1 g away and
does not move with V (the plan certifies it for any statistics), so that the precision at another V is
R(V) P with the same R for all rows, and for the prior. The conditional of V has m at its mode, which
adds d' R(V) g / 2: its coefficients are linear in d g', and are read once for each sweep.

Sources: Besag (1989), *Biometrika* 76, 183 (the candidate's formula); Liu (1994), *JASA* 89, 958-966.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from ..families.forms import Form, NormalCoefficients, added, with_added
from ..program.conjugacy import Conditional
from ..program.evaluate import Values
from ..program.plan import Plan

LogDensity = Callable[[Values], Array]
Addends = tuple[tuple[Array, ...], ...]  # of each part of a unit


class Unit(NamedTuple):
    """A block that is integrated out, and how its entries go with the labels.

    parts: the block's site and its form; in a pair, the normal and its form follow. axes: by site the
    axis along which a component has entries of its own (then there are as many groups as components),
    or None where all rows share all entries (then there is one group).
    """

    block: Conditional
    parts: tuple[tuple[str, Form], ...]
    axes: dict[str, int | None]
    groups: int

    def lead(self, name: str, value: Array) -> Array:
        """A site's value with its groups first."""
        axis = self.axes[name]
        return value[None] if axis is None else jnp.moveaxis(value, axis, 0)

    def back(self, name: str, value: Array) -> Array:
        """A site's value as the program has it."""
        axis = self.axes[name]
        return value[0] if axis is None else jnp.moveaxis(value, 0, axis)


class Base(NamedTuple):
    """A unit at its anchors: of each part the coefficients of all factors together, arrays leading with
    groups; and, in a pair, the coefficients of the scale for each entry of d g', arrays
    (groups, entries, ...)."""

    coefficients: tuple[Any, ...]
    turned: tuple[Array, ...]


def unit_of(plan: Plan, block: Conditional) -> Unit:
    """How a block goes with the labels, from the plan's label axes."""
    assert block.form is not None
    parts: tuple[tuple[str, Form], ...] = ((block.site, block.form),)
    if block.integrated is not None and block.integrated_form is not None:
        parts = (*parts, (block.integrated, block.integrated_form))
    shapes = {site.name: site.shape for site in plan.reading.parameters}
    (latent,) = plan.reading.latents
    group = plan.labels.group_of(latent.name)
    axes: dict[str, int | None] = {}
    for name, form in parts:
        carried = group.axes.get(name, ()) if group else ()
        batch = len(shapes[name]) - form.event_axes
        axes[name] = carried[0] if len(carried) == 1 and carried[0] < batch else None
    if None in axes.values():
        return Unit(block, parts, dict.fromkeys(axes), 1)
    return Unit(block, parts, axes, latent.size)


def anchors_of(units: tuple[Unit, ...], values: Values) -> Values:
    """Values at which coefficients are read: those given, but for simplexes, whose centre is."""
    parts = [part for unit in units for part in unit.parts]
    return {**values, **{name: form.anchor(values[name]) for name, form in parts}}


def read(unit: Unit, log_density: LogDensity, anchors: Values) -> tuple[Any, ...]:
    """Coefficients of each part of a unit in a log density at the anchors, arrays leading with
    groups."""

    def one(name: str, form: Form) -> Any:
        found = form.read(
            lambda value: log_density({**anchors, name: unit.back(name, value)}),
            unit.lead(name, anchors[name]),
        )
        return form.lead(found, unit.groups)

    return tuple(one(name, form) for name, form in unit.parts)


def moving(unit: Unit, coefficients: tuple[Any, ...]) -> Addends:
    """The arrays of coefficients that add up over rows."""
    each = zip(unit.parts, coefficients, strict=True)
    return tuple(added(form, found) for (_, form), found in each)


def base_of(unit: Unit, log_joint: LogDensity, log_prior: LogDensity, anchors: Values) -> Base:
    """A unit at its anchors, with all factors of the joint density."""
    found = read(unit, log_joint, anchors)
    turned = () if unit.block.integrated is None else _turned(unit, log_prior, anchors)
    return Base(found, turned)


def _turned(unit: Unit, log_prior: LogDensity, anchors: Values) -> tuple[Array, ...]:
    """Coefficients of the scale in d' R(V) g / 2 for each entry of d g'."""
    (scale, form), (normal, inner) = unit.parts
    start = unit.lead(scale, anchors[scale])

    def precision(value: Array) -> Array:
        told = {**anchors, scale: unit.back(scale, value)}

        def density(value: Array) -> Array:
            return log_prior({**told, normal: unit.back(normal, value)})

        found = inner.read(density, unit.lead(normal, anchors[normal]))
        return inner.lead(found, unit.groups).precision

    there = precision(start)  # (groups, blocks, d, d)

    def at(entry: Array) -> tuple[Array, ...]:
        def half_square(value: Array) -> Array:
            ratio = jnp.linalg.solve(there, precision(value))  # R(V)'
            return jnp.sum(entry * jnp.swapaxes(ratio, -1, -2)) / 2

        return added(form, form.lead(form.read(half_square, start), unit.groups))

    shape = there.shape[1:]
    size = shape[0] * shape[1] * shape[2]
    entries = jnp.eye(size, dtype=there.dtype).reshape(size, *shape)
    return tuple(jnp.moveaxis(array, 0, 1) for array in jax.vmap(at)(entries))


def log_conditional(unit: Unit, base: Base, total: Addends) -> Array:
    """log q(anchor | coefficients) for several sets of addends (L, ...), (L,).

    Each is that of the group in its place; where there is one group only, all are that group's.
    """

    def one(base: Base, total: Addends) -> Array:
        each = zip(unit.parts, base.coefficients, total, strict=True)
        found = [with_added(form, fixed, arrays) for (_, form), fixed, arrays in each]
        if len(found) > 1:
            found[0] = _at_mode(unit, base, *found)
        heights = [
            jnp.sum(form.at_anchor(c)) for (_, form), c in zip(unit.parts, found, strict=True)
        ]
        return sum(heights, jnp.zeros(()))

    if unit.groups > 1:
        return jax.vmap(one)(base, total)
    return jax.vmap(one, (None, 0))(jax.tree.map(lambda x: x[0], base), total)


def _at_mode(unit: Unit, base: Base, own: Any, normal: NormalCoefficients) -> Any:
    """Coefficients of one group's scale with the normal integrated out."""
    form = unit.parts[0][1]
    gradient = normal.gradient[..., None]
    away = cho_solve((jnp.linalg.cholesky(normal.precision), True), gradient)
    square = jnp.ravel(away * jnp.swapaxes(gradient, -1, -2))
    each = zip(added(form, own), base.turned, strict=True)
    moved = tuple(x + jnp.tensordot(square, turned, 1) for x, turned in each)
    return form.shift(with_added(form, own, moved), unit.block.powers)


def of_row(
    unit: Unit, table: Callable[[Values], Array], anchors: Values, num_components: int
) -> Addends:
    """What one row adds to the coefficients of its group in each component, arrays (K, ...).

    `table(values)` (K,) has the row's log density in each component.
    """
    if unit.groups > 1:  # components have entries of their own: one reading serves all
        return moving(unit, read(unit, lambda values: jnp.sum(table(values)), anchors))

    def alone(component: Array) -> Addends:
        return moving(unit, read(unit, lambda values: jnp.sum(component * table(values)), anchors))

    found = jax.vmap(alone)(jnp.eye(num_components))
    return jax.tree.map(lambda array: array[:, 0], found)
