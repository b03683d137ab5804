"""Where the first M step leaves from: climbed sites in the units of the data, ordered ones in order.

A closed form finds the data in one step from anywhere; a climb does not, where it begins at 1 and the
data are at 3000, or where covariates of a log link are in the thousands.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints

from ..families.forms import base_support
from ..program.evaluate import Values
from ..program.modules import array_names
from ..program.plan import Plan
from ..program.reading import Site
from .climb import Newton

_ORDERED = (constraints.ordered_vector, constraints.positive_ordered_vector)
# supports that multiples of a value do not leave
_CONES = (constraints.real, constraints.real_vector, constraints.positive, *_ORDERED)
_POWERS = np.arange(-9, 10)
_WORTH = 1.0  # nats, for which a site leaves its ordinary size
_APART = 0.01  # of their range, components in order are apart at least


def in_units_of_data(plan: Plan, log_joint: Callable[[Values], Array], rough: Values) -> Values:
    """Rough values with every climbed site multiplied by a power of ten, one after the other and twice,
    where `log_joint` is highest."""
    nets = array_names(plan.program)
    climbed = {block.site for block in plan.blocks if block.form is None}
    names = [
        site.name
        for site in plan.reading.parameters
        if site.name in climbed - nets
        and site.family != "param"
        and any(base_support(site.support) == cone for cone in _CONES)
    ]
    if not names:
        return rough
    bonus = jnp.where(_POWERS == 0, _WORTH, 0.0)

    def step(values: Values, place: Array) -> tuple[Values, None]:
        def at(power: Array) -> Values:
            factor = jnp.asarray(10.0, bonus.dtype) ** power
            moved = enumerate(names)
            return values | {n: values[n] * jnp.where(place == i, factor, 1.0) for i, n in moved}

        powers = jnp.asarray(_POWERS, bonus.dtype)
        heights = jax.vmap(lambda power: log_joint(at(power)))(powers) + bonus
        best = jnp.argmax(jnp.where(jnp.isfinite(heights), heights, -jnp.inf))
        return at(powers[best]), None

    places = jnp.tile(jnp.arange(len(names)), 2)
    return jax.lax.scan(step, rough, places)[0]


def ordered_sites(plan: Plan) -> list[Site]:
    """Parameters that are kept in order along an axis of labels, none of which is known."""
    known = {latent.name for latent in plan.reading.latents if latent.observed}
    found = []
    for site in plan.reading.parameters:
        if any(base_support(site.support) == support for support in _ORDERED):
            if (latents := latents_along(plan, site)) and not known & set(latents):
                found.append(site)
    return found


def latents_along(plan: Plan, site: Site) -> tuple[str, ...]:
    """The latents whose labels the last axis of a site carries."""
    for group in plan.labels.groups:
        if len(site.shape) - 1 in group.axes.get(site.name, ()):
            return group.latents
    return ()


def sorted_along(
    site: Site, log_likelihood: Callable[[Values], Array], values: Values
) -> tuple[Array, Values]:
    """The order of labels in which an ordered site rises, and values with the site in that order.

    Its components are fitted to their parts of the rows without regard to order, by Newton steps from
    equal components; the prior, which is one of components in order, is no part of that.
    """
    positive = base_support(site.support) == constraints.positive_ordered_vector

    def placed(free: Array) -> Array:
        return jnp.exp(free) if positive else free

    value = values[site.name]
    middle = jnp.mean(value, axis=-1, keepdims=True)
    start = jnp.broadcast_to(jnp.log(middle) if positive else middle, value.shape)

    def loss(flat: Array) -> Array:
        return -log_likelihood({**values, site.name: placed(flat.reshape(value.shape))})

    free = Newton()(loss, start.ravel()).reshape(value.shape)
    order = jnp.argsort(jnp.sum(free.reshape(-1, free.shape[-1]), axis=0))
    free = jnp.sort(free, axis=-1)
    spread = free[..., -1:] - free[..., :1]
    least = _APART * jnp.where(spread > 0, spread, 1.0)
    places = jnp.arange(free.shape[-1])
    # each at least so far above the one before
    free = jax.lax.cummax(free - least * places, axis=free.ndim - 1) + least * places
    return order, {**values, site.name: placed(free)}
