"""A program's arguments: arrays that may change between calls, and everything else, which is static."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Arguments:
    """Arrays in order, JAX's or NumPy's, and the layout that puts them back into `(args, kwargs)`: a
    pytree, whose leaves are the arrays.

    `tables` are those arguments, by their place among all, that came as tables (data frames); they are
    no part of the pytree.
    """

    arrays: tuple[Any, ...]
    layout: Layout
    tables: tuple[tuple[int, Any], ...] = ()

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        return self.arrays, self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, arrays: Any) -> Arguments:
        return cls(tuple(arrays), layout)

    def with_arrays(self, arrays: Iterable[Any]) -> Arguments:
        """The same call with other arrays of the same kinds."""
        return replace(self, arrays=tuple(arrays))

    def on_device(self) -> Arguments:
        """The same call with JAX's arrays; NumPy's are copied."""
        # data stay data where a sampler calls the program from inside its own transformations
        with jax.core.eval_context():
            return self.with_arrays(map(on_device, self.arrays))

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


def _as_array(leaf: Any, name: str) -> Any:
    """An array for anything that NumPy reads as numbers, but an int for one whole number alone; other
    leaves come back unchanged."""
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    if not isinstance(leaf, jax.Array) and not hasattr(leaf, "__array__"):
        return leaf
    array = leaf if isinstance(leaf, jax.Array) else plain_array(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):  # random keys
        return array
    kind, what, cure = array.dtype.kind, "", ""
    if kind == "c":
        what, cure = "complex numbers", "pass real and imaginary parts as columns of their own"
    elif kind in "mM":
        what, cure = "times", "pass numbers, such as x / np.timedelta64(1, 's') for seconds"
    elif kind != "b" and not jnp.issubdtype(array.dtype, jnp.number):
        what, cure = "text or mixed objects", "pass numbers (for a table, only its numeric columns)"
    if what:
        raise ProgramError(f"argument {name} of the program holds {what}; {cure}")
    if array.ndim == 0 and kind in "biu":
        return array.item()
    return whole(array) if isinstance(array, jax.Array) else _as_jax_has_it(array, name)


def plain_array(leaf: Any) -> np.ndarray:
    """The array of a leaf: of objects that are numbers, as nullable columns of pandas hold them, these
    numbers, and NaN for what is missing, or masked."""
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.getmaskarray(leaf).any():
        numbers = leaf.astype(np.result_type(leaf.dtype, np.float32))
        return np.where(np.ma.getmaskarray(leaf), np.nan, np.asarray(numbers))
    array = np.asarray(leaf)
    if array.dtype != object:
        return array
    there = [not (each is None or type(each).__name__ == "NAType") for each in array.ravel()]
    found = np.array([each for each, known in zip(array.ravel(), there, strict=True) if known])
    if found.dtype == object and not any(isinstance(each, str) for each in found):
        try:
            found = found.astype(float)  # decimal fractions
        except (TypeError, ValueError):
            return array
    if found.dtype.kind not in "biuf" or found.ndim != 1:
        return array
    if all(there):
        return found.reshape(array.shape)
    filled = np.full(array.size, np.nan)
    filled[there] = found
    return filled.reshape(array.shape)


def _as_jax_has_it(array: np.ndarray, name: str) -> np.ndarray:
    """The array in the machine's byte order and in a precision that JAX has.

    Raises :class:`ProgramError` where numbers do not fit it.
    """
    own = np.dtype(float) if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    wanted = np.dtype(jax.dtypes.canonicalize_dtype(own))
    if wanted == array.dtype:
        return array
    with np.errstate(over="ignore"):
        found = array.astype(wanted)
    if wanted.kind in "iu":
        lost = found != array
    else:
        lost = np.isinf(found) & ~np.isinf(array)
    if lost.any():
        double = "" if wanted.itemsize == 8 else "call numpyro.enable_x64() first, or "
        raise ProgramError(
            f"argument {name} of the program holds {array[lost][0]!s}, which is too large for {wanted}; "
            f"{double}pass smaller numbers (a difference, or other units)"
        )
    return found


def _is_table(leaf: Any) -> bool:
    """Is it a data frame, or a column of one?"""
    return hasattr(leaf, "__dataframe__") or (hasattr(leaf, "to_numpy") and hasattr(leaf, "dtype"))


def split(args: tuple[Any, ...], kwargs: dict[str, Any], on_device: bool = True) -> Arguments:
    """Separate arrays from static arguments; those of NumPy go to the device, or stay where they are.

    >>> import numpy as np
    >>> arguments = split((np.zeros((5, 2)), 3), {})
    >>> len(arguments.arrays), arguments.call()[0][1]
    (1, 3)
    """
    leaves, treedef = jax.tree.flatten_with_path((args, kwargs))
    arrays, static, tables = [], [], []
    for i, ((_, *path), leaf) in enumerate(leaves):
        if _is_table(leaf):
            if plain_array(leaf).dtype.kind not in "biuf":
                static.append((i, Held(leaf)))
                continue
            tables.append((i, leaf))
        leaf = _as_array(leaf, jax.tree_util.keystr(tuple(path), simple=True, separator="."))
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
