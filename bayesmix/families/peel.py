"""Looking through NumPyro's wrappers, in one place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpyro.distributions as dist


class Peeled(NamedTuple):
    """The distribution below its wrappers, and how many of its batch axes belong to one event."""

    base: Any
    reinterpreted: int


def peel(distribution: Any) -> Peeled:
    """Remove `expand` and `to_event` wrappers.

    >>> import jax.numpy as jnp
    >>> import numpyro.distributions as dist
    >>> peel(dist.Normal(jnp.zeros((3, 1, 2)), 1.0).to_event(1).expand([3, 7])).reinterpreted
    1
    """
    reinterpreted = 0
    while True:
        if isinstance(distribution, dist.ExpandedDistribution):
            distribution = distribution.base_dist
        elif isinstance(distribution, dist.Independent):
            reinterpreted += distribution.reinterpreted_batch_ndims
            distribution = distribution.base_dist
        else:
            return Peeled(distribution, reinterpreted)
