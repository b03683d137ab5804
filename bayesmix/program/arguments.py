"""A program's arguments: arrays that may change between calls, and everything else, which is static."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .devices import whole
from .errors import ProgramError
from .held import Held


class Layout(NamedTuple):
    """What stays fixed between calls that share one compiled program; hashable.

    `specialised`: whether, after the call's arrays, there follow those that `Plan.specialise` has
    computed from them.
    """

    treedef: Any
    static: tuple[tuple[int, Any], ...]
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    specialised: bool = False


class Arguments(NamedTuple):
    """Arrays in order, JAX's or NumPy's, and the layout that puts them back into `(args, kwargs)`.

    `tables` are those arguments, by their place among all, that came as tables (data frames).
    """

    arrays: tuple[Any, ...]
    layout: Layout
    tables: tuple[tuple[int, Any], ...] = ()

    def on_device(self) -> Arguments:
        """The same call with JAX's arrays; NumPy's are copied."""
        # data stay data where a sampler calls the program from inside its own transformations
        with jax.core.eval_context():
            return self._replace(arrays=tuple(map(on_device, self.arrays)))

    def call(self, arrays: tuple[Any, ...] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with these arrays, or with others of the same kinds."""
        arrays = self.arrays if arrays is None else arrays
        static = dict(self.layout.static)
        remaining = iter(arrays)
        size = len(static) + len(self.layout.shapes)
        leaves = [static[i] if i in static else next(remaining) for i in range(size)]
        leaves = [leaf.value if isinstance(leaf, Held) else leaf for leaf in leaves]
        return jax.tree.unflatten(self.layout.treedef, leaves)

    @property
    def places(self) -> tuple[int, ...]:
        """The place of each array among all arguments."""
        static = dict(self.layout.static)
        size = len(static) + len(self.layout.shapes)
        return tuple(i for i in range(size) if i not in static)

    def hold(self, places: frozenset[int]) -> Arguments:
        """The same call with the arguments at these places as the caller gave them, not to be traced."""
        if not places or self.layout.specialised:
            return self
        tables = dict(self.tables)
        static, arrays, shapes = dict(self.layout.static), [], []
        for place, array, shape in zip(self.places, self.arrays, self.layout.shapes, strict=True):
            if place in places:
                static[place] = Held(tables.get(place, np.asarray(array)))
            else:
                arrays.append(array)
                shapes.append(shape)
        layout = self.layout._replace(static=tuple(sorted(static.items())), shapes=tuple(shapes))
        return Arguments(tuple(arrays), layout, self.tables)


def on_device(array: Any) -> Any:
    """A copy of NumPy's array on the device, JAX's array as it is; `jnp.asarray` would compile a copy
    for every new shape."""
    return jax.device_put(np.array(array)) if isinstance(array, np.ndarray) else array


def shapes_of(arrays: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Shapes and types of arrays, as a layout has them."""
    return tuple((tuple(array.shape), str(array.dtype)) for array in arrays)


def _as_array(leaf: Any) -> Any:
    """An array for anything that NumPy reads as numbers; other leaves come back unchanged."""
    if isinstance(leaf, (jax.Array, jax.core.Tracer)):
        return whole(leaf)
    if isinstance(leaf, np.ndarray) or hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
        if array.dtype == object or array.dtype.kind in "USM":
            raise ProgramError(
                "an argument of the program holds text or mixed objects; "
                "pass an array of numbers (for a table, only its numeric columns)"
            )
        return array.astype(jnp.result_type(array), copy=False)
    return leaf


def _is_table(leaf: Any) -> bool:
    """Is it a data frame, or a column of one?"""
    return hasattr(leaf, "__dataframe__") or (hasattr(leaf, "to_numpy") and hasattr(leaf, "dtype"))


def _is_numeric(table: Any) -> bool:
    return np.asarray(table).dtype.kind in "biuf"


def split(args: tuple[Any, ...], kwargs: dict[str, Any], on_device: bool = True) -> Arguments:
    """Separate arrays from static arguments; those of NumPy go to the device, or stay where they are.

    >>> import numpy as np
    >>> arguments = split((np.zeros((5, 2)), 3), {})
    >>> len(arguments.arrays), arguments.call()[0][1]
    (1, 3)
    """
    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays, static, tables = [], [], []
    for i, leaf in enumerate(leaves):
        if _is_table(leaf):
            if not _is_numeric(leaf):
                static.append((i, Held(leaf)))
                continue
            tables.append((i, leaf))
        leaf = _as_array(leaf)
        if isinstance(leaf, (jax.Array, jax.core.Tracer, np.ndarray)):
            arrays.append(leaf)
        else:
            static.append((i, leaf))
    shapes = shapes_of(arrays)
    found = Arguments(tuple(arrays), Layout(treedef, tuple(static), shapes), tuple(tables))
    return found.on_device() if on_device else found


def has_rows(arguments: Arguments, num_rows: int) -> bool:
    """Does some array lead with the rows, so that :func:`take_rows` can take some of them?"""
    if any(isinstance(value, Held) for _, value in arguments.layout.static):
        return False  # what is held belongs to all rows
    return any(shape[:1] == (num_rows,) for shape, _ in arguments.layout.shapes)


def take_rows(arguments: Arguments, num_rows: int, index: Any) -> Arguments:
    """The same call on some rows: arrays whose leading axis has `num_rows` entries are indexed."""
    # what follows the call's own arrays was computed from all rows
    own = arguments.arrays[: len(arguments.layout.shapes)]
    arrays = tuple(a[index] if jnp.ndim(a) > 0 and jnp.shape(a)[0] == num_rows else a for a in own)
    shapes = shapes_of(arrays)
    layout = arguments.layout._replace(shapes=shapes, specialised=False)
    return Arguments(arrays, layout)
