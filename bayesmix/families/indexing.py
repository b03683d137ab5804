"""Distributions whose parameters are indexed: those of one component from those of many.

`MixtureSameFamily` holds all components as one distribution, whose last batch axis counts them. With
labels in the place of that axis it is the distribution of each row's own component, as `mean[z]` and
`scale[z]` are written by hand. Which axes of a parameter are batch is what `arg_constraints` say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms


class NotIndexed(Exception):
    """A distribution whose parameters are not known, and why."""


Change = Callable[..., Any]  # of the number of an array's axes that are no batch, and the arrays


def picked(label: Any) -> Change:
    """Take what the label chooses along the last axis of the batch, or among several arrays."""

    def change(own: int, *arrays: Any) -> Any:
        array = arrays[0] if len(arrays) == 1 else _stacked(own, arrays)
        axis = np.ndim(array) - own - 1
        if axis < 0:
            return array
        if array.shape[axis] == 1:
            return array.squeeze(axis)
        sizes, table = array.shape[:axis], jnp.asarray(array)
        if math.prod(sizes) == 1:
            return table.reshape(table.shape[axis:])[label]
        places = (
            jnp.arange(size).reshape(size, *(1,) * (axis - 1 - i)) for i, size in enumerate(sizes)
        )
        return table[(*places, label)]

    return change


def _stacked(own: int, arrays: tuple[Any, ...]) -> Any:
    """Arrays along a new last axis of their batch, of size 1 where all are the same."""
    first = arrays[0]
    same = all(array is first for array in arrays)
    if not same and all(
        isinstance(array, (int, float, np.ndarray, np.generic)) for array in arrays
    ):
        same = all(np.array_equal(array, first) for array in arrays)
    if same:
        shape, place = np.shape(first), np.ndim(first) - own
        return first if place <= 0 else first.reshape(*shape[:place], 1, *shape[place:])
    width = max(own, *(np.ndim(array) for array in arrays))
    wide = [jnp.reshape(a, (1,) * (width - np.ndim(a)) + np.shape(a)) for a in arrays]
    return jnp.stack(jnp.broadcast_arrays(*wide), axis=width - own)


def indexed(change: Change, fns: list[Any], own: int = 0) -> Any:
    """The distribution whose parameters are those of `fns`, all of one kind, changed.

    `own` axes on the right of their batches belong to one event.
    """
    first, kind = fns[0], type(fns[0])
    if any(type(fn) is not kind for fn in fns) or kind is dist.MaskedDistribution:
        raise NotIndexed("its components are of several kinds, or masked")

    def part(name: str, more: int = 0) -> Any:
        return indexed(change, [getattr(fn, name) for fn in fns], own + more)

    if kind is dist.Independent:
        count = _one_of([fn.reinterpreted_batch_ndims for fn in fns])
        return part("base_dist", count).to_event(count)
    if kind is dist.MixtureSameFamily:
        mixing = part("mixing_distribution")
        return dist.MixtureSameFamily(mixing, part("component_distribution", 1))
    batches = [jax.ShapeDtypeStruct(fn.batch_shape, float) for fn in fns]
    shape = jax.eval_shape(lambda *arrays: change(own, *arrays), *batches).shape
    if kind is dist.ExpandedDistribution:
        return part("base_dist").expand(shape)

    def field(name: str, is_static: bool) -> Any:
        values = [fn.__dict__.get(name) for fn in fns]
        if is_static and not any(np.ndim(value) for value in values):
            return values[0] if name.startswith("_") else _one_of(values)
        return _field(change, fns, name, values, own)

    names, static = kind.gather_pytree_data_fields(), kind.gather_pytree_aux_fields()
    kept = ("_batch_shape", "_event_shape", "_validate_args")
    told = dict(zip(static, first.tree_flatten()[1], strict=True))
    others = {name: field(name, True) for name in static if name not in kept}
    made = kind.tree_unflatten(
        tuple((told | others)[name] for name in static), tuple(field(name, False) for name in names)
    )
    made._batch_shape, made._validate_args = shape, first._validate_args
    return made


def _one_of(values: list[Any]) -> Any:
    if any(value != values[0] for value in values):
        raise NotIndexed("its components differ in a setting that is no array")
    return values[0]


def _field(change: Change, fns: list[Any], name: str, values: list[Any], own: int) -> Any:
    """A field of distributions, changed: an array, or what is made of arrays."""
    first = values[0]
    if any((value is None) != (first is None) for value in values):
        raise NotIndexed("its components are given by different parameters")
    if first is None:
        return None
    if isinstance(first, dist.Distribution):
        return indexed(change, values, own)
    if isinstance(first, list | tuple) and isinstance(first[0], dist.Distribution):
        return type(first)(indexed(change, list(each), own) for each in zip(*values, strict=True))
    if name == "transforms":
        return [_transform(change, list(each), own) for each in zip(*values, strict=True)]
    if isinstance(first, dist.constraints.Constraint):
        return _tree(change, values, own)
    return change(own + _event_axes(fns[0], name), *values)


def _transform(change: Change, each: list[Any], own: int) -> Any:
    if any(np.ndim(leaf) for leaf in jax.tree.leaves(each)) and not isinstance(
        each[0], transforms.AffineTransform | transforms.PowerTransform
    ):
        raise NotIndexed(f"its components have a {type(each[0]).__name__} with arrays")
    return _tree(change, each, own + each[0].domain.event_dim)


def _tree(change: Change, each: list[Any], own: int) -> Any:
    if any(jax.tree.structure(one) != jax.tree.structure(each[0]) for one in each):
        raise NotIndexed("its components have different transforms or supports")
    return jax.tree.map(lambda *leaves: change(own, *leaves), *each)


def _event_axes(fn: Any, name: str) -> int:
    """How many axes of a distribution's parameter are no batch."""
    if isinstance(fn, dist.Delta) and name == "v":
        return int(fn.event_dim)
    for kind in type(fn).__mro__:
        told = kind.__dict__.get("arg_constraints")
        if isinstance(told, dict) and name in told:
            return int(told[name].event_dim)
    if name == "_capacitance_tril":  # of a MultivariateNormal of low rank
        return 2
    raise NotIndexed(f"what '{name}' of its {type(fn).__name__} is by component is not known")
