"""Ready programs: plain NumPyro, with no privilege over one that a user writes.

Copy one and change it: nothing below the edges of the package knows these functions by name.
`PROGRAMS` lists them by the short names of the command line.

>>> from bayesmix import zoo
>>> list(zoo.PROGRAMS)
['full', 'tied', 'diagonal', 'diagonal-tied', 'spherical', 'spherical-tied']
"""

from collections.abc import Callable

from .gaussian import (
    gaussian_mixture,
    gaussian_mixture_diagonal,
    gaussian_mixture_diagonal_tied,
    gaussian_mixture_spherical,
    gaussian_mixture_spherical_tied,
    gaussian_mixture_tied,
)

PROGRAMS: dict[str, Callable[..., None]] = {
    "full": gaussian_mixture,
    "tied": gaussian_mixture_tied,
    "diagonal": gaussian_mixture_diagonal,
    "diagonal-tied": gaussian_mixture_diagonal_tied,
    "spherical": gaussian_mixture_spherical,
    "spherical-tied": gaussian_mixture_spherical_tied,
}

__all__ = [
    "PROGRAMS",
    "gaussian_mixture",
    "gaussian_mixture_diagonal",
    "gaussian_mixture_diagonal_tied",
    "gaussian_mixture_spherical",
    "gaussian_mixture_spherical_tied",
    "gaussian_mixture_tied",
]
