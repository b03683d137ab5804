"""Exponential-family likelihoods from one builder, :func:`exponential_family`.

    log p(x | k) = sum_f c_f(theta_k) t_f(x) + h(x)

with features t_f and base h of the data, and coefficients c_f of the parameters. One feature is as a
rule the constant 1, its coefficient minus the log normaliser. All is then products of matrices: log
densities are c t + h, statistics are w t', and Q is the sum of c times these (h is a constant).

Cells of an event are independent, with features of their own. In a missing cell all of them are zero,
the constant one too: it is integrated out, and costs no code. Where nothing is missing, the constant
features of all cells are one feature. Infinite coefficients (log 0) and features have a finite stand-in,
so that 0 log 0 is 0 and an impossible value has a log density near -1e30.

Source: Barndorff-Nielsen (1978), *Information and Exponential Families in Statistical Theory*, Wiley,
chapter 8; Brown (1986), *Fundamentals of Statistical Exponential Families*, IMS, chapter 1.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .likelihoods import Family, Lead, register
from .peel import Peeled

# Stands for infinity: times 0 it is 0, and sums of many still fit into single precision.
INFINITE = 1e30


class FeatureRows(NamedTuple):
    """Features (F, N), zero in missing cells, and each row's base (N,). Where no cell is missing, those
    that are the same in all rows are left out, and there is a one at the end."""

    features: Array
    base: Array


class PreparedFeatures(NamedTuple):
    """Coefficients of all features, (P, K, D) for P parts of each cell; and (K, F) of the features that
    rows have where no cell is missing."""

    parts: Array
    fewer: Array


# -------------------------------------------------------------------------------------- the builder
def exponential_family(
    name: str,
    parameter_names: tuple[str, ...],
    *,
    features: Callable[[Array], Any],
    coefficients: Callable[..., Any],
    moments: Callable[..., tuple[Any, Any]],
    base: Callable[[Array], Any] = lambda x: 0.0,
    read: Callable[[Any], tuple[Any, ...]] | None = None,
    parameter_axes: tuple[int, ...] | None = None,
    value_axes: int = 0,
) -> Family:
    """A family with log p(x | k) = sum_f coefficients_f(parameters of k) features_f(x) + base(x).

    The event's cells become D columns; D is 1 where an event is one cell.

    - ``features(x)`` with x (D, N): a tuple of F arrays like x, or numbers. Those of Python or NumPy,
      (D, 1) or (), are the same in all rows, and cost next to nothing where no cell is missing.
    - ``coefficients(*parameters)`` with parameters (K, D): a tuple of F arrays like these, or numbers.
    - ``base(x)``: like x; zero unless given.
    - ``moments(*parameters)``: mean and variance of a cell, each (K, D).
    - ``read(distribution)``: a tuple of the parameters as the NumPyro distribution has them; unless
      given, its attributes of these names.

    Where a parameter has axes of its own (the probabilities of a categorical), `parameter_axes` says how
    many for each parameter, and the parameter is (K, D, *own). Where a cell's value has (counts of a
    multinomial), `value_axes` says how many: x is (C, D, N), base is (D, N), the moments are (K, D, C)
    and (K, D, C, C), and a cell is there when all its entries are. Features and coefficients may also be
    one array with the F parts along its first axis.

    Values that are zero with a probability of their own, for instance:

    >>> family = exponential_family(
    ...     "exponential columns with zeros",
    ...     ("gate", "rate"),
    ...     features=lambda x: (x == 0, x > 0, x),
    ...     coefficients=lambda gate, rate: (jnp.log(gate), jnp.log1p(-gate) + jnp.log(rate), -rate),
    ...     moments=lambda gate, rate: ((1 - gate) / rate, (1 - gate**2) / rate**2),
    ... )
    >>> prepared = family.prepare((jnp.array([[0.25], [0.5]]), jnp.array([[2.0], [1.0]])), None)
    >>> rows = family.arrange(jnp.array([0.0, 1.0, 2.0]), jnp.array([True, True, False]))
    >>> jnp.exp(family.log_prob(prepared, rows)).round(3).tolist()  # (K, N)
    [[0.250, 0.203, 1.000], [0.500, 0.184, 1.000]]
    >>> family.accumulate(prepared, rows, jnp.ones((2, 3)), None).tolist()  # (K, F)
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    axes = (0,) * len(parameter_names) if parameter_axes is None else parameter_axes
    make = namedtuple("Parameters", parameter_names)  # type: ignore[misc]

    if read is None:
        read = lambda distribution: tuple(getattr(distribution, each) for each in parameter_names)

    def parameters(peeled: Peeled, lead: Lead) -> Any:
        found = zip(read(peeled.base), axes, strict=True)
        return make(*(_led(array, own, peeled, lead) for array, own in found))

    def coefficients_of(parameters: Any) -> Array:
        shape = parameters[0].shape[:2]
        return _stacked(coefficients(*parameters), shape, parameters[0].dtype)

    @functools.cache
    def constants(cells: int) -> _Constants:
        return {} if value_axes else _constants(features, cells)

    def prepare(parameters: Any, pattern: Array | None = None) -> PreparedFeatures:
        return _prepare(coefficients_of(parameters), constants(parameters[0].shape[1]))

    def expected_log_prob(parameters: Any, sums: Array) -> Array:
        return jnp.sum(_flat(coefficients_of(parameters)) * sums, -1)

    return Family(
        name=name,
        parameters=parameters,
        arrange=functools.partial(_arrange, features, base, value_axes, constants),
        prepare=prepare,
        log_prob=_log_prob,
        accumulate=_accumulate,
        finish=functools.partial(_finish, constants),
        expected_log_prob=expected_log_prob,
        moments=functools.partial(_moments, moments, value_axes),
        entries=lambda components, cells, fits: cells,
    )


def to_float(array: Any) -> Array:
    """In the usual floating point precision, or the array's own."""
    return jnp.asarray(array, jnp.result_type(array, float))


def _led(array: Any, own_axes: int, peeled: Peeled, lead: Lead) -> Array:
    """One parameter, brought to (K, D, *own)."""
    array = to_float(array)
    event_ndim = peeled.reinterpreted + own_axes
    array = array.reshape((1,) * (event_ndim - array.ndim) + array.shape)
    led = lead(array, event_ndim)
    cells = peeled.event_shape[: peeled.reinterpreted]
    own = led.shape[1 + peeled.reinterpreted :]
    led = jnp.broadcast_to(led, (led.shape[0], *cells, *own))
    return led.reshape(led.shape[0], math.prod(cells), *own)


def _turned(value: Array, own_axes: int) -> Array:
    """(N, *event) as (*own, D, N)."""
    event = value.shape[1:]
    cells, own = event[: len(event) - own_axes], event[len(event) - own_axes :]
    flat = value.reshape(value.shape[0], math.prod(cells), *own)
    return jnp.moveaxis(flat, (0, 1), (-1, -2))


def _stacked(parts: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """F parts as one array (F, *shape) of finite numbers."""
    if isinstance(parts, tuple):
        parts = jnp.stack([jnp.broadcast_to(part, shape) for part in parts])
    return jnp.clip(jnp.asarray(parts, dtype), -INFINITE, INFINITE)


# values (D,) of the features that are the same in all rows, by their place among the parts
_Constants = dict[int, np.ndarray]


def _constants(features: Callable[[Array], Any], cells: int) -> _Constants:
    """Those that are Python or NumPy numbers, where there is more than one."""
    found: _Constants = {}

    def look(x: Array) -> None:
        parts = features(x)
        for place, part in enumerate(parts if isinstance(parts, tuple) else ()):
            number = isinstance(part, (int, float, np.ndarray, np.generic))
            if number and np.shape(part)[-1:] in ((), (1,)):
                found[place] = np.broadcast_to(np.asarray(part, float), (cells, 1))[:, 0]

    jax.eval_shape(look, jax.ShapeDtypeStruct((cells, 1), float))
    return found if len(found) * cells > 1 else {}


def _flat(parts: Array) -> Array:
    """Parts (P, K, D) as (K, F), in the order in which rows are arranged."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1)


def _prepare(parts: Array, same: _Constants) -> PreparedFeatures:
    if not same:
        return PreparedFeatures(parts, _flat(parts))
    rest = [place for place in range(parts.shape[0]) if place not in same]
    one = sum(parts[place] @ value.astype(parts.dtype) for place, value in same.items())
    fewer = jnp.concatenate([_flat(parts[np.array(rest, int)]), one[:, None]], axis=1)
    return PreparedFeatures(parts, fewer)


def _arrange(
    features: Any, base: Any, own_axes: int, constants: Any, value: Any, present: Any
) -> FeatureRows:
    x = _turned(to_float(value), own_axes)
    cells = x.shape[own_axes:]
    parts, same = features(x), constants(cells[0])
    if present is None and same:
        parts = tuple(part for place, part in enumerate(parts) if place not in same)
    parts = _stacked(parts, cells, x.dtype)
    bases = jnp.broadcast_to(jnp.asarray(base(x), x.dtype), cells)
    if present is not None:
        there = jnp.all(_turned(jnp.asarray(present), own_axes), axis=tuple(range(own_axes)))
        parts, bases = jnp.where(there, parts, 0), jnp.where(there, bases, 0)
    arranged = parts.reshape(-1, cells[-1])
    if present is None and same:
        arranged = jnp.concatenate([arranged, jnp.ones_like(arranged[:1])])
    return FeatureRows(arranged, jnp.sum(bases, axis=0))


# accelerators multiply single precision with fewer digits unless told otherwise
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _log_prob(prepared: PreparedFeatures, rows: FeatureRows) -> Array:
    complete = rows.features.shape[0] == prepared.fewer.shape[1]
    coefficients = prepared.fewer if complete else _flat(prepared.parts)
    return _product(coefficients, rows.features) + rows.base


def _accumulate(prepared: Any, rows: FeatureRows, weights: Array, rng_key: Array | None) -> Array:
    # missing cells have no features: there is nothing to expect or to draw
    return _product(weights, rows.features.T)


def _finish(
    constants: Callable[[int], _Constants], prepared: PreparedFeatures, sums: Array
) -> Array:
    """Sums (K, F) of all features, from those of the features that rows have."""
    count, size, cells = prepared.parts.shape
    same = constants(cells)
    if not same or sums.shape[1] != prepared.fewer.shape[1]:
        return sums
    rest = iter(jnp.moveaxis(sums[:, :-1].reshape(size, -1, cells), 1, 0))
    parts = (
        sums[:, -1:] * same[place].astype(sums.dtype) if place in same else next(rest)
        for place in range(count)
    )
    return jnp.concatenate(list(parts), axis=1)


def _moments(moments: Callable[..., Any], own_axes: int, parameters: Any) -> tuple[Array, Array]:
    """Mean (K, D C) and covariance (K, D C, D C), whose blocks are the cells'."""
    size, cells = parameters[0].shape[:2]
    mean, spread = map(jnp.asarray, moments(*parameters))
    if own_axes == 0:
        mean = jnp.broadcast_to(mean, (size, cells))[..., None]
        spread = jnp.broadcast_to(spread, (size, cells))[..., None, None]
    # not a product with the identity: variances may be infinite
    same = jnp.eye(cells, dtype=bool)[:, None, :, None]
    covariance = jnp.where(same, spread[:, :, :, None, :], 0)
    mean = mean.reshape(size, -1)
    return mean, covariance.reshape(*mean.shape, -1)


# --------------------------------------------------------------------------------- known parameters
def known(array: Any, peeled: Peeled) -> np.ndarray | None:
    """A parameter (D, 1) that is the same for all components and rows and in every call, or None.

    Only Python and NumPy numbers count: what has passed through JAX may be a parameter or data.

    >>> import numpyro.distributions as dist
    >>> counts = dist.Binomial(total_count=np.array([5, 8]), probs=jnp.full((3, 1, 2), 0.5))
    >>> known(counts.total_count, Peeled(counts, 1, (2,))).tolist()
    [[5.0], [8.0]]
    """
    if not isinstance(array, (int, float, np.ndarray, np.generic)):
        return None
    value = np.asarray(array, float)
    shape = value.shape[max(0, value.ndim - peeled.reinterpreted) :]
    if value.size != math.prod(shape):
        return None
    return np.broadcast_to(value.reshape(shape), peeled.event_shape).reshape(-1, 1)


def where_known(
    attribute: str, build: Callable[[np.ndarray], Family]
) -> Callable[[Peeled], Family | None]:
    """What to register where an attribute has to be :func:`known`: `build` gets its value (D, 1).

    Elsewhere no family is chosen, and the density is evaluated row by row.

    >>> import numpyro.distributions as dist
    >>> from .likelihoods import lookup
    >>> lookup(Peeled(dist.Binomial(4, jnp.array([0.2, 0.7])), 0)).name
    'binomial columns'
    >>> lookup(Peeled(dist.Binomial(jnp.array([4, 5]), 0.5), 0)) is None
    True
    """

    def choose(peeled: Peeled) -> Family | None:
        value = known(getattr(peeled.base, attribute), peeled)
        if value is None:
            return None
        family = build(value)

        def parameters(later: Peeled, lead: Lead) -> Any:
            # rows are arranged with the value that the plan saw; another one needs another plan
            now = known(getattr(later.base, attribute), later)
            if now is None or not np.array_equal(now, value):
                raise ValueError(
                    f"{attribute} is not what the program was planned with ({value.ravel().tolist()}); "
                    "make a new plan for these arguments"
                )
            return family.parameters(later, lead)

        return family._replace(parameters=parameters)

    return choose


def register_all(choice: Family | Callable[[Peeled], Family | None], *types: type) -> None:
    """Register a family, or what chooses one, for NumPyro distributions."""
    for each in types:
        register(each, (lambda peeled: choice) if isinstance(choice, Family) else choice)
