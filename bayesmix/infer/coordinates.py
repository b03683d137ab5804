"""Sites in unconstrained coordinates: NumPyro's bijection with the support of each."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from numpyro.distributions import biject_to

from ..program.evaluate import Values
from ..program.reading import Site

Potential = Callable[[Values], Array]
LogDensity = Callable[[Values], Array]


def unconstrained(sites: tuple[Site, ...], values: Values) -> Values:
    """The sites' values in unconstrained coordinates."""
    return {site.name: biject_to(site.support).inv(values[site.name]) for site in sites}


def constrained(sites: tuple[Site, ...], free: Values) -> Values:
    """The sites' values in their supports."""
    return {site.name: biject_to(site.support)(free[site.name]) for site in sites}


def potential_energy(sites: tuple[Site, ...], log_density: LogDensity, values: Values) -> Potential:
    """Minus `log_density` of the sites given all other `values`, as a function of the sites'
    unconstrained coordinates, with the Jacobian."""

    def potential(free: Values) -> Array:
        told = constrained(sites, free)
        jacobian = sum(
            jnp.sum(biject_to(s.support).log_abs_det_jacobian(free[s.name], told[s.name]))
            for s in sites
        )
        return -(log_density({**values, **told}) + jacobian)

    return potential
