"""Triangular matrices, many small ones at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def solve_lower(lower: Array, right: Array, transpose: bool = False) -> Array:
    """L^{-1} B of lower triangular L (..., d, d) and B (..., d, m); L'^{-1} B where asked."""
    return jax.lax.linalg.triangular_solve(
        lower, right, left_side=True, lower=True, transpose_a=transpose
    )


def inverse_lower(lower: Array, transpose: bool = False) -> Array:
    """L^{-1} of lower triangular L (..., d, d); L'^{-1} where asked."""
    inverse = _inverse_lower(lower)
    return jnp.swapaxes(inverse, -1, -2) if transpose else inverse


@jax.custom_jvp
def _inverse_lower(lower: Array) -> Array:
    identity = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return solve_lower(lower, identity)


@_inverse_lower.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # by products, since each solve of small matrices takes several times as long
    inverse = _inverse_lower(*primals)
    return inverse, -inverse @ jnp.tril(tangents[0]) @ inverse
