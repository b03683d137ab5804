"""Likelihood families: how rows become additive statistics.

A family is a record of plain functions, registered for a NumPyro distribution. Component parameters
lead with the K components; rows come last, so that the same products serve any number of columns:

    parameters(peeled, lead)             -> parameters, a NamedTuple of arrays (K, ...); `lead(array,
                                            event_ndim)` brings one to (K, *event)
    arrange(value, present)              -> rows, a pytree of arrays (..., N); value is (N, *event) with
                                            any feasible number in missing cells, present the same shape
                                            (False where missing), or None where nothing is missing
    prepare(parameters, pattern)         -> what the two kernels below reuse for every block of rows
    log_prob(prepared, rows)             -> (K, n), missing cells integrated out
    accumulate(prepared, rows, weights, rng_key)
                                         -> raw sums; weights (K, n). Hidden parts of a row (missing
                                            cells, a scale) are expected where rng_key is None, else
                                            drawn (weights are then zeros and ones)
    finish(prepared, sums)               -> statistics
    expected_log_prob(parameters, stats) -> (K,), sum_i r_ik log p(x_i | k), up to a constant
    moments(parameters)                  -> mean (K, D), covariance (K, D, D)
    combine(one, other, first, second)   -> first * one + second * other, statistics of the rows of both;
                                            these may have been accumulated at different parameters

`expected_log_prob` takes parameters other than those that the rows were weighted with: it is Q. A family
may also offer its gradient at those parameters, where that is cheaper than to differentiate it:

    score(prepared, sums)                -> derivatives, as parameters

Most statistics are sums, and :func:`linear` combines them. Moments about a reference are not: they have
to be about the same one first, and `combine` takes that of `other`.

How long blocks are is told by what a row takes of memory while kernels run for so many fits at a time:
`entries(components, cells, fits)` numbers, one for each (:func:`by_cell`) unless the kernels are matrix
products. Where `grouped`, the kernels need all rows of a block to have the same cells missing: `pattern`
(D,) is True where a cell is there. Other families get None for it, and find missing cells in their rows.
A grouped family may leave it to the end of a pass to fill them in, once for each pattern:

    complete(prepared, sums)             -> sums of whole rows, from those of rows with one pattern

A user registers a family from outside with :func:`register`; nothing above this floor changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpyro.distributions as dist
from numpyro.distributions.constraints import Constraint

from .peel import Peeled

Lead = Callable[[Any, int], Any]


def linear(one: Any, other: Any, first: Any, second: Any) -> Any:
    """first * one + second * other, array by array.

    >>> linear((1.0, 2.0), (10.0, 20.0), 1.0, 0.5)
    (6.0, 12.0)
    """
    return jax.tree.map(lambda x, y: first * x + second * y, one, other)


def by_cell(components: int, cells: int, fits: int) -> int:
    """Numbers that a row takes where each fit has one for every component and cell.

    >>> by_cell(3, 2, 10)
    60
    """
    return components * cells * fits


class Origin:
    """How a family was made: `make(*args)` gives it again. No part of what a family is."""

    def __init__(self, make: Callable[..., Family], *args: Any) -> None:
        self.made = make, args

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0


def _outline(value: Any) -> Any:
    """Numbers of Python and NumPy are known, and stay; what has passed through JAX may be data."""
    if isinstance(value, dist.Distribution):
        outline = object.__new__(type(value))
        outline.__dict__.update({name: _outline(each) for name, each in vars(value).items()})
        return outline
    if isinstance(value, tuple):
        return tuple(map(_outline, value))
    if isinstance(value, jax.Array):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    return jax.tree.map(_outline, value) if isinstance(value, Constraint) else value


class Family(NamedTuple):
    """A likelihood with statistics whose size does not grow with the rows; see the module's text."""

    name: str
    parameters: Callable[..., Any]
    arrange: Callable[[Any, Any], Any]
    prepare: Callable[[Any, Any], Any]
    log_prob: Callable[[Any, Any], Any]
    accumulate: Callable[[Any, Any, Any, Any], Any]
    finish: Callable[[Any, Any], Any]
    expected_log_prob: Callable[[Any, Any], Any]
    moments: Callable[[Any], Any]
    grouped: bool = False
    entries: Callable[[int, int, int], int] = by_cell
    combine: Callable[[Any, Any, Any, Any], Any] = linear
    score: Callable[[Any, Any], Any] | None = None
    complete: Callable[[Any, Any], Any] | None = None
    origin: Origin | None = None

    def __reduce__(self) -> Any:
        """Pickled by how it was made: its functions need no names of their own."""
        return (Family, tuple(self)) if self.origin is None else self.origin.made


_FAMILIES: dict[type, Callable[[Peeled], Family | None]] = {}


def register(distribution_type: type, choose: Callable[[Peeled], Family | None]) -> None:
    """Register a family for a NumPyro distribution.

    `choose` gets the peeled distribution and returns the family, or None where the family does not
    cover that case (then the rows themselves are the statistics: right, but at a cost in N).

    >>> import numpyro.distributions as dist
    >>> lookup(Peeled(dist.Laplace(0.0, 1.0), 0)) is None
    True
    """
    _FAMILIES[distribution_type] = choose


def lookup(peeled: Peeled) -> Family | None:
    """The family registered for a peeled distribution, or None."""
    choose = _FAMILIES.get(type(peeled.base))
    found = None if choose is None else choose(peeled)
    if found is None:
        return None
    outline = peeled._replace(base=_outline(peeled.base), mask=None)
    return found._replace(origin=Origin(again, outline))


def again(peeled: Peeled) -> Family:
    """The family that was pickled, from what it was looked up for, with shapes in place of arrays.

    Raises ValueError where it is not registered in this process.
    """
    found = lookup(peeled)
    if found is None:
        raise ValueError(
            f"no family is registered for {type(peeled.base).__name__}, and there was one when this was "
            "pickled; import the module that registers it first"
        )
    return found
