"""A program's arguments: arrays that may change between calls, and everything else, which is static."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .devices import whole
from .errors import ProgramError


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
    """Arrays in order, JAX's or NumPy's, and the layout that puts them back into `(args, kwargs)`."""

    arrays: tuple[Any, ...]
    layout: Layout

    def on_device(self) -> Arguments:
        """The same call with JAX's arrays; NumPy's are copied."""
        # data stay data where a sampler calls the program from inside its own transformations
        with jax.core.eval_context():
            arrays = (jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in self.arrays)
            return self._replace(arrays=tuple(arrays))

    def call(self, arrays: tuple[Any, ...] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with these arrays, or with others of the same kinds."""
        arrays = self.arrays if arrays is None else arrays
        static = dict(self.layout.static)
        remaining = iter(arrays)
        size = len(static) + len(self.layout.shapes)
        leaves = [static[i] if i in static else next(remaining) for i in range(size)]
        return jax.tree.unflatten(self.layout.treedef, leaves)


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
    array = leaf if isinstance(leaf, jax.Array) else _plain(leaf)
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


def _plain(leaf: Any) -> np.ndarray:
    """The array of a leaf: of objects that are numbers, as nullable columns of pandas hold them, these
    numbers, and NaN for what is missing."""
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


def compile_lightly(
    function: Callable[..., Any], static_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`jax.jit` for what runs a few times only: less optimisation, a shorter wait."""
    options = {"xla_backend_optimization_level": 0, **_shorter_compiling()}
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options)


def compile_fully(
    function: Callable[..., Any], static_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """`jax.jit` for what runs long."""
    options = _shorter_compiling()
    return jax.jit(function, static_argnums=static_argnums, compiler_options=options or None)


@cache
def _shorter_compiling() -> dict[str, Any]:
    """Options that halve the time of compiling and cost nothing afterwards, as far as XLA has them.

    The emitters of fused loops that came in with JAX 0.5 compile each by itself; the ones before them
    give code as fast for what is compiled here. Later versions of JAX have the new ones only.
    """
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        with jax.ensure_compile_time_eval():
            jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return {}
    return options


def split(args: tuple[Any, ...], kwargs: dict[str, Any], on_device: bool = True) -> Arguments:
    """Separate arrays from static arguments; those of NumPy go to the device, or stay where they are.

    >>> import numpy as np
    >>> arguments = split((np.zeros((5, 2)), 3), {})
    >>> len(arguments.arrays), arguments.call()[0][1]
    (1, 3)
    """
    leaves, treedef = jax.tree.flatten_with_path((args, kwargs))
    arrays, static = [], []
    for i, ((_, *path), leaf) in enumerate(leaves):
        leaf = _as_array(leaf, jax.tree_util.keystr(tuple(path), simple=True, separator="."))
        if isinstance(leaf, (jax.Array, jax.core.Tracer, np.ndarray)):
            arrays.append(leaf)
        else:
            static.append((i, leaf))
    shapes = shapes_of(arrays)
    found = Arguments(tuple(arrays), Layout(treedef, tuple(static), shapes))
    return found.on_device() if on_device else found


def has_rows(arguments: Arguments, num_rows: int) -> bool:
    """Does some array lead with the rows, so that :func:`take_rows` can take some of them?"""
    return any(shape[:1] == (num_rows,) for shape, _ in arguments.layout.shapes)


def take_rows(arguments: Arguments, num_rows: int, index: Any) -> Arguments:
    """The same call on some rows: arrays whose leading axis has `num_rows` entries are indexed."""
    # what follows the call's own arrays was computed from all rows
    own = arguments.arrays[: len(arguments.layout.shapes)]
    arrays = tuple(a[index] if jnp.ndim(a) > 0 and jnp.shape(a)[0] == num_rows else a for a in own)
    shapes = shapes_of(arrays)
    return Arguments(arrays, arguments.layout._replace(shapes=shapes, specialised=False))
