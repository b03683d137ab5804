"""Looking through NumPyro's wrappers, in one place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpyro.distributions as dist


class Peeled(NamedTuple):
    """The distribution below its wrappers, how many of its batch axes belong to one event, the shape of
    the whole event (to which parameters may still have to be broadcast), and under which components
    rows count (K,), or None: under all of them."""

    base: Any
    reinterpreted: int
    event_shape: tuple[int, ...] = ()
    mask: Any = None


def peel(distribution: Any) -> Peeled:
    """Remove `expand`, `to_event` and `mask` wrappers.

    >>> import jax.numpy as jnp
    >>> import numpyro.distributions as dist
    >>> peel(dist.Normal(jnp.zeros((3, 1, 2)), 1.0).to_event(1).expand([3, 7])).reinterpreted
    1
    """
    reinterpreted, event_shape = 0, tuple(distribution.event_shape)
    while True:
        if isinstance(distribution, dist.ExpandedDistribution | dist.MaskedDistribution):
            distribution = distribution.base_dist
        elif isinstance(distribution, dist.Independent):
            reinterpreted += distribution.reinterpreted_batch_ndims
            distribution = distribution.base_dist
        else:
            return Peeled(distribution, reinterpreted, event_shape)
