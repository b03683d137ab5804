"""Sites in unconstrained coordinates: NumPyro's bijection with the support of each.

An angle's coordinate is the angle itself, on the whole line: NumPyro's, which ends at -pi and pi, puts a
bound where the density has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import biject_to, constraints

from ..families.forms import base_support
from ..program.evaluate import Values
from ..program.reading import Site

Potential = Callable[[Values], Array]
LogDensity = Callable[[Values], Array]


# supports without an end
ENDLESS = (
    constraints.real,
    constraints.real_vector,
    constraints.real_matrix,
    constraints.circular,
)


class _Turns:
    """Any real number as an angle in [-pi, pi); an angle is its own coordinate."""

    def __call__(self, free: Array) -> Array:
        return jnp.remainder(free + jnp.pi, 2 * jnp.pi) - jnp.pi

    def inv(self, angle: Array) -> Array:
        return angle

    def log_abs_det_jacobian(self, free: Array, angle: Array) -> Array:
        return jnp.zeros_like(free)


def bijection(site: Site) -> Any:
    """From unconstrained coordinates to the site's support."""
    circular = base_support(site.support) == constraints.circular
    return _Turns() if circular else biject_to(site.support)


def unconstrained(sites: tuple[Site, ...], values: Values) -> Values:
    """The sites' values in unconstrained coordinates."""
    return {site.name: bijection(site).inv(values[site.name]) for site in sites}


def constrained(sites: tuple[Site, ...], free: Values) -> Values:
    """The sites' values in their supports."""
    return {site.name: bijection(site)(free[site.name]) for site in sites}


def potential_energy(sites: tuple[Site, ...], log_density: LogDensity, values: Values) -> Potential:
    """Minus `log_density` of the sites given all other `values`, as a function of the sites'
    unconstrained coordinates, with the Jacobian."""

    def potential(free: Values) -> Array:
        told = constrained(sites, free)
        jacobian = sum(
            jnp.sum(bijection(s).log_abs_det_jacobian(free[s.name], told[s.name])) for s in sites
        )
        return -(log_density({**values, **told}) + jacobian)

    return potential
