"""A program's arguments: arrays that may change between calls, and everything else, which is static."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .devices import whole
from .errors import ProgramError


class Layout(NamedTuple):
    """What stays fixed between calls that share one compiled program; hashable."""

    treedef: Any
    static: tuple[tuple[int, Any], ...]
    shapes: tuple[tuple[tuple[int, ...], str], ...]


class Arguments(NamedTuple):
    """Arrays in order, and the layout that puts them back into `(args, kwargs)`."""

    arrays: tuple[jax.Array, ...]
    layout: Layout

    def call(self, arrays: tuple[Any, ...] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with these arrays, or with others of the same kinds."""
        arrays = self.arrays if arrays is None else arrays
        static = dict(self.layout.static)
        remaining = iter(arrays)
        size = len(static) + len(arrays)
        leaves = [static[i] if i in static else next(remaining) for i in range(size)]
        return jax.tree.unflatten(self.layout.treedef, leaves)


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
        # data stay data where a sampler calls the program from inside its own transformations
        with jax.core.eval_context():
            return jnp.asarray(array)
    return leaf


def compile_lightly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for what runs a few times only: less optimisation, a shorter wait."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Separate arrays from static arguments.

    >>> import numpy as np
    >>> arguments = split((np.zeros((5, 2)), 3), {})
    >>> len(arguments.arrays), arguments.call()[0][1]
    (1, 3)
    """
    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays, static = [], []
    for i, leaf in enumerate(leaves):
        leaf = _as_array(leaf)
        if isinstance(leaf, (jax.Array, jax.core.Tracer)):
            arrays.append(leaf)
        else:
            static.append((i, leaf))
    shapes = tuple((tuple(jnp.shape(a)), str(jnp.result_type(a))) for a in arrays)
    return Arguments(tuple(arrays), Layout(treedef, tuple(static), shapes))


def take_rows(arguments: Arguments, num_rows: int, index: Any) -> Arguments:
    """The same call on some rows: arrays whose leading axis has `num_rows` entries are indexed."""
    arrays = tuple(
        a[index] if jnp.ndim(a) > 0 and jnp.shape(a)[0] == num_rows else a for a in arguments.arrays
    )
    shapes = tuple((tuple(jnp.shape(a)), str(jnp.result_type(a))) for a in arrays)
    return Arguments(arrays, arguments.layout._replace(shapes=shapes))
