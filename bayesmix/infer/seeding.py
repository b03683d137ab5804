"""Seeds for clusters besides those of :mod:`bayesmix.infer.starts`: functions of (key, points, K)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, random


def farthest_point(rng_key: Array, points: Array, num_seeds: int) -> Array:
    """Indices of seeds (K,): a row at random, then each time the row farthest from the seeds so far.

    The largest distance of a row from its nearest seed is at most twice the least that any K centres
    can reach. Outliers are chosen first, so for distortion k-means++ is the better start. `points` is
    (N, D).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> points = jnp.array([[0.0], [0.1], [5.0], [9.0]])
        >>> sorted(farthest_point(jax.random.key(0), points, 3).tolist()) in ([0, 2, 3], [1, 2, 3])
        True

    Source: Gonzalez (1985), *Theoretical Computer Science* 38, 293-306.
    """
    first = random.randint(rng_key, (), 0, points.shape[0])

    def squares(index: Array) -> Array:
        return jnp.sum((points - points[index]) ** 2, axis=1)

    def add(distance: Array, _: None) -> tuple[Array, Array]:
        index = jnp.argmax(distance)
        return jnp.minimum(distance, squares(index)), index

    _, rest = jax.lax.scan(add, squares(first), length=num_seeds - 1)
    return jnp.concatenate([first[None], rest])
