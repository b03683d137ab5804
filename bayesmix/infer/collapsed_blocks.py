"""Blocks of parameters integrated out of the joint density, so that rows come and go by adding numbers.

Where the log joint of given labels is, as a function of some blocks v_b,

    log p(x, z, v | rest) = sum_b <c_b(x, z), t_b(v_b)> + constant,

the candidate's formula gives the evidence of the labels from any value v of these blocks:

    log p(x, z | rest) = log p(x, z, v | rest) - sum_b log q_b(v_b | c_b(x, z)),

with q_b the complete conditional. Coefficients of rows add up, so that a row that goes from one
component to another changes c_b by numbers that do not depend on the other rows.

Sources: Besag (1989), *Biometrika* 76, 183 (the candidate's formula); Liu (1994), *JASA* 89, 958-966.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..families.forms import Form
from ..program.conjugacy import Conditional
from ..program.evaluate import Values
from ..program.plan import Plan

LogDensity = Callable[[Values], Array]
Addends = tuple[Any, ...]


class Unit(NamedTuple):
    """A block that is integrated out, and how its entries go with the labels.

    axes: by site the axis along which a component has entries of its own (then there are as many groups
    as components), or None where all rows share all entries (then there is one group).
    """

    block: Conditional
    form: Form
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


def unit_of(plan: Plan, block: Conditional) -> Unit:
    """How a block goes with the labels, from the plan's label axes."""
    assert block.form is not None
    shapes = {site.name: site.shape for site in plan.reading.parameters}
    (latent,) = plan.reading.latents
    group = plan.labels.group_of(latent.name)
    axes: dict[str, int | None] = {}
    for name, form in zip(block.sites, block.form.parts, strict=True):
        carried = group.axes.get(name, ()) if group else ()
        batch = len(shapes[name]) - form.event_axes
        axes[name] = carried[0] if len(carried) == 1 and carried[0] < batch else None
    if None in axes.values():
        return Unit(block, block.form, dict.fromkeys(axes), 1)
    return Unit(block, block.form, axes, latent.size)


def anchors_of(units: tuple[Unit, ...], values: Values) -> Values:
    """Values at which coefficients are read: those given, but for simplexes, whose centre is."""
    each = ((n, f) for u in units for n, f in zip(u.block.sites, u.form.parts, strict=True))
    return {**values, **{name: form.anchor(values[name]) for name, form in each}}


def read(
    unit: Unit, log_density: LogDensity, anchors: Values, log_prior: LogDensity | None = None
) -> Any:
    """Coefficients of a unit in a log density at the anchors, arrays leading with groups; those of all
    factors of the joint density are read with its prior as well."""
    led = {name: unit.lead(name, anchors[name]) for name in unit.block.sites}

    def taken(function: LogDensity) -> Any:
        def along(values: Values, name: str) -> Callable[[Array], Array]:
            def one(value: Array) -> Array:
                own = {**values, name: value}
                return function({**anchors, **{n: unit.back(n, own[n]) for n in own}})

            return one

        return unit.block.density(along, led)

    prior = None if log_prior is None else taken(log_prior)
    return unit.form.terms(taken(log_density), unit.block.of(led), unit.groups, prior)


def log_conditional(unit: Unit, base: Any, total: Addends) -> Array:
    """log q(anchor | coefficients) for several sets of addends (L, ...), (L,).

    Each is that of the group in its place; where there is one group only, all are that group's.
    """

    def one(base: Any, total: Addends) -> Array:
        return jnp.sum(unit.form.at_anchor(unit.form.with_added(base, total)))

    if unit.groups > 1:
        return jax.vmap(one)(base, total)
    return jax.vmap(one, (None, 0))(jax.tree.map(lambda x: x[0], base), total)


def of_row(
    unit: Unit, table: Callable[[Values], Array], anchors: Values, num_components: int
) -> Addends:
    """What one row adds to the coefficients of its group in each component, arrays (K, ...).

    `table(values)` (K,) has the row's log density in each component.
    """

    def added(weigh: Callable[[Array], Array]) -> Addends:
        found = read(unit, lambda values: jnp.sum(weigh(table(values))), anchors)
        return unit.form.added(found)

    if unit.groups > 1:  # components have entries of their own: one reading serves all
        return added(lambda heights: heights)
    found = jax.vmap(lambda alone: added(lambda heights: alone * heights))(jnp.eye(num_components))
    return jax.tree.map(lambda array: array[:, 0], found)
