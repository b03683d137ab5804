"""Distribution functions of single cells: of a vector's cells alone, and given the cells before them.

A row's cells x_1, ..., x_D have a joint density; the Rosenblatt transform takes each through its
distribution function given those before it, u_d = F(x_d | x_1, ..., x_{d-1}). A vector whose marginal
and conditional distributions are known has an entry in `BY_CELL`; cells that are independent need none.

Source: Rosenblatt (1952), *Annals of Mathematical Statistics* 23, 470-472; conditionals of a
multivariate t: Kotz & Nadarajah (2004), *Multivariate t Distributions and Their Applications*, section
1.11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from ..families.triangles import inverse_lower


class ByCell(NamedTuple):
    """A vector's cells (..., D) as distributions of numbers: each by itself, and each given the cells
    before it, at one value."""

    alone: Any
    in_turn: Any


def distribution_function(base: Any, value: Array, largest: int | None = None) -> Array:
    """P(X <= value) of a distribution of numbers, 0 below its support and 1 above.

    Args:
        base: a NumPyro distribution of numbers (no event dimensions).
        value: any shape that broadcasts with the batch.
        largest: no value is larger than this, where it is known: what NumPyro has no distribution
            function for is then a sum of probabilities, where values are whole numbers.

    Raises:
        NotImplementedError: where neither is possible.

    >>> import numpyro.distributions as dist
    >>> distribution_function(dist.Binomial(2, 0.5), jnp.array([-1, 0, 1, 2]), largest=2).tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    lowest = getattr(base.support, "lower_bound", -jnp.inf)
    highest = getattr(base.support, "upper_bound", jnp.inf)
    try:
        found = base.cdf(jnp.clip(value, lowest, highest))
    except NotImplementedError:
        if largest is None or not base.is_discrete or not jnp.ndim(lowest) == 0:
            raise
        return _summed(base, value, int(getattr(base.support, "lower_bound", 0)), largest)
    found = jnp.where(value < lowest, 0.0, found)
    return jnp.where(value >= highest, 1.0, found)


def _summed(base: Any, value: Array, lowest: int, largest: int) -> Array:
    """sum of p(k) over whole numbers k <= value."""
    shape = jnp.broadcast_shapes(base.batch_shape, jnp.shape(value))

    def add(k: int, total: Array) -> Array:
        inside = base.support(k) & (k <= value)
        return total + jnp.where(inside, jnp.exp(base.log_prob(k)), 0.0)

    return jax.lax.fori_loop(lowest, largest + 1, add, jnp.zeros(shape))


def by_cell(base: Any, value: Array) -> ByCell | None:
    """Cells of a vector-valued distribution at `value` (..., D), or of one whose cells are independent;
    None where their distributions are not known.

    >>> plane = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.8], [0.8, 1.0]]))
    >>> cells = by_cell(plane, jnp.array([2.0, 1.0]))
    >>> cells.in_turn.loc.round(3).tolist(), cells.in_turn.scale.round(3).tolist()
    ([0.0, 1.6], [1.0, 0.6])
    """
    if base.event_dim == 0:
        return ByCell(base, base)
    rule = next((rule for kind, rule in BY_CELL.items() if isinstance(base, kind)), None)
    return None if rule is None else rule(base, value)


def _whitened(base: Any, value: Array) -> tuple[Array, Array, Array, Array]:
    """w = L^-1 (x - m); each cell's mean given those before it, scale L_dd, and own deviation."""
    lower = base.scale_tril
    w = jnp.einsum("...ij,...j->...i", inverse_lower(lower), value - base.loc)
    scale = jnp.diagonal(lower, axis1=-2, axis2=-1)
    return w, value - scale * w, scale, jnp.linalg.norm(lower, axis=-1)


def _normal(base: Any, value: Array) -> ByCell:
    _, mean, scale, deviation = _whitened(base, value)
    return ByCell(dist.Normal(base.loc, deviation), dist.Normal(mean, scale))


def _student(base: Any, value: Array) -> ByCell:
    """Given d cells: nu + d degrees of freedom, the scale times sqrt((nu + |w|^2) / (nu + d))."""
    w, mean, scale, deviation = _whitened(base, value)
    freedom = jnp.asarray(base.df)[..., None]
    before = jnp.cumsum(w**2, axis=-1) - w**2
    after = freedom + jnp.arange(w.shape[-1])
    inflation = jnp.sqrt((freedom + before) / after)
    alone = dist.StudentT(freedom, base.loc, deviation)
    return ByCell(alone, dist.StudentT(after, mean, scale * inflation))


#: Vectors whose cells' distributions are known: a function of the distribution and its value.
BY_CELL: dict[type, Callable[[Any, Array], ByCell]] = {
    dist.MultivariateNormal: _normal,
    dist.MultivariateStudentT: _student,
}
