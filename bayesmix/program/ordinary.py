"""Ordinary parameter values in the units of the data, for programs that are impossible elsewhere.

Programs are looked at near values of unit size. Where the log joint is minus infinity there (the
probability between two bounds in the thousands, say), places and scales are taken from the numbers that
the program is called with, a random choice for each parameter, until some choice is possible.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax import Array
from numpyro.distributions import constraints

from ..families.forms import base_support
from .arguments import Arguments
from .sites import Site

Values = dict[str, Array]
# for each site a shift and a factor
Units = dict[str, tuple[float, float]]
NO_UNITS: Units = {}
_MOST_CHOICES = 200
_POWERS = (0.0, 1.0, -1.0, 2.0, -2.0)


def in_units(points: Values, units: Units) -> Values:
    """Values of unit size in these units.

    >>> import numpy as np
    >>> in_units({"mean": np.array([0.0, 1.0])}, {"mean": (100.0, 20.0)})["mean"].tolist()
    [100.0, 120.0]
    """
    unit = (0.0, 1.0)
    return {
        name: value * units.get(name, unit)[1] + units.get(name, unit)[0]
        for name, value in points.items()
    }


def find_units(
    sites: tuple[Site, ...],
    noise: Values,
    arguments: Arguments,
    log_joint: Callable[[Values], float],
) -> Units:
    """Units in which the log joint is finite at all of the random values; none where no choice that was
    tried is."""
    from .conjugacy import random_points

    points = {name: np.asarray(value) for name, value in random_points(sites, noise).items()}
    probes = range(len(next(iter(points.values()))))
    ordinary = _ordinary_numbers(arguments)
    rng = np.random.default_rng(0)
    for _ in range(_MOST_CHOICES if ordinary else 0):
        units = {site.name: unit for site in sites if (unit := _unit(site, ordinary, rng))}
        found = in_units(points, units)
        if all(np.isfinite(log_joint({n: v[i] for n, v in found.items()})) for i in probes):
            return units
    return {}


def _ordinary_numbers(arguments: Arguments) -> list[tuple[float, float]]:
    """Median and spread of every array of numbers."""
    found = []
    for array in map(np.asarray, arguments.arrays):
        numbers = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        if array.dtype.kind in "fiu" and numbers.size > 1:
            spread = float(np.std(numbers))
            if spread > 0:
                found.append((float(np.median(numbers)), spread))
    return found


def _unit(
    site: Site, ordinary: list[tuple[float, float]], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A place and a scale for one site, at random; None where its values have no units."""
    place, spread = ordinary[rng.integers(len(ordinary))]
    support = base_support(site.support)
    if support in (constraints.real, constraints.real_vector):
        return [(0.0, 1.0), (0.0, spread), (place, spread)][rng.integers(3)]
    if support == constraints.positive:
        size = spread if rng.random() < 0.7 else abs(place) + spread
        return 0.0, size ** _POWERS[rng.integers(len(_POWERS))]
    return None
