"""A program specialised to its data: what depends on data alone is computed once.

Priors that take their scale from the data, normalising constants, indices: an engine would compute them
anew in every step, and XLA compile them into every function. The factors are traced once; what needs no
parameter is computed once for a call's arrays, and only the rest is left to the engines.

Source: partial evaluation of programs, Jones, Gomard & Sestoft (1993), *Partial Evaluation and Automatic
Program Generation*, chapter 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from .compiling import compile_lightly
from .equations import Taken, indexes, live, run, variables
from .factorise import factorised_once

# what is larger than this and costs nothing to make again is not kept
_KEPT_ENTRIES = 1 << 12
_MOVING = ("gather", "broadcast_in_dim", "reshape", "squeeze", "transpose")
_CHEAP = ("broadcast_in_dim", "iota", "reshape", "squeeze", "convert_element_type")


class Specialised(NamedTuple):
    """A function of arrays and values in two parts: `rest(arrays, known(arrays), values)` is it.

    needed: which of the arrays' leaves the rest looks at.
    """

    known: Callable[[Any], tuple[jax.Array, ...]]
    rest: Callable[[Any, tuple[jax.Array, ...], Any], Any]
    values: Any
    needed: frozenset[int]

    def fits(self, values: Any) -> bool:
        """Whether values are of the shapes and types that the parts were made for."""
        same = jax.tree.structure(values) == jax.tree.structure(self.values)
        return same and all(
            jax.typeof(one).shape == like.shape and jax.typeof(one).dtype == like.dtype
            for one, like in zip(*map(jax.tree.leaves, (values, self.values)), strict=True)
        )


def specialise(function: Callable[[Any, Any], Any], arrays: Any, values: Any) -> Specialised:
    """Take `function(arrays, values)` apart into what needs no values, and the rest.

    Args:
        function: pure and traceable.
        arrays, values: pytrees of arrays, or of their shapes and types.

    Example:
        >>> import jax.numpy as jnp
        >>> def density(x, v):
        ...     return -jnp.sum((v - jnp.mean(x)) ** 2)
        >>> x, v = jnp.arange(4.0), jnp.array(2.0)
        >>> parts = specialise(density, x, v)
        >>> known = parts.known(x)
        >>> [one.shape for one in known], float(parts.rest(x, known, v))
        ([()], -0.25)
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(arrays, values)
    structure = jax.tree.structure(shape)
    traced = _inlined(traced, jax.tree.leaves((arrays, values)))
    jaxpr = traced.jaxpr
    count = len(jax.tree.leaves(arrays))
    inputs, unknown = jaxpr.invars[:count], set(jaxpr.invars[count:])
    constants = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    early, late = [], []
    for equation in live(jaxpr.eqns, jaxpr.outvars):
        if equation.effects or unknown & set(variables(equation.invars)):
            late.append(equation)
            unknown.update(equation.outvars)
        else:
            early.append(equation)
    late = factorised_once(_without_indexing(early, late, constants))
    late = _with_cheap(early, live(late, jaxpr.outvars), jaxpr.outvars)
    made = {variable for equation in late for variable in equation.outvars}
    wanted = {v for equation in late for v in variables(equation.invars)}
    wanted |= set(variables(jaxpr.outvars))
    defined = [*jaxpr.constvars, *(v for equation in early for v in equation.outvars)]
    kept = [variable for variable in defined if variable in wanted - made]

    def known(arrays: Any) -> tuple[jax.Array, ...]:
        found = constants | dict(zip(inputs, jax.tree.leaves(arrays), strict=True))
        return tuple(run(early, found, kept))

    needed = [i for i, variable in enumerate(inputs) if variable in wanted]

    def rest(arrays: Any, known: tuple[jax.Array, ...], values: Any) -> Any:
        leaves = jax.tree.leaves(arrays)
        found = {inputs[i]: leaves[i] for i in needed}
        found |= dict(zip(jaxpr.invars[count:], jax.tree.leaves(values), strict=True))
        found |= dict(zip(kept, known, strict=True))
        return jax.tree.unflatten(structure, run(late, found, jaxpr.outvars))

    like = jax.tree.map(jax.typeof, values)
    return Specialised(known, rest, like, frozenset(needed))


def _without_indexing(
    early: Sequence[JaxprEqn], late: Sequence[JaxprEqn], constants: dict[Var, Any]
) -> list[Any]:
    """The late equations with less indexing, whose derivatives take XLA long to compile.

    `mean[z]` at all values of z in turn is a mere change of shape, and a diagonal a sum under a mask.
    Which entries a result has is told by the equations themselves, applied to places, not to values.
    """
    fixed = set(constants)
    for equation in early:
        if not equation.effects and fixed.issuperset(variables(equation.invars)):
            fixed.update(equation.outvars)
    roots: dict[Var, Var] = {}
    moving = []
    for equation in late:
        if equation.primitive.name in _MOVING:
            operand, *indices = equation.invars
            if fixed.issuperset(variables(indices)) and not isinstance(operand, Literal):
                roots[equation.outvars[0]] = roots.get(operand, operand)
                moving.append(equation)
    indexing = [equation for equation in moving if equation.primitive.name == "gather"]
    if not indexing:
        return list(late)
    # in an order that is the same in every process, or compiled code would not be found again
    needed = list(dict.fromkeys(v for e in indexing for v in variables(e.invars[1:])))

    def find_places() -> list[jax.Array]:
        found = dict(zip(needed, run(live(early, needed), constants, needed), strict=True))
        for root in dict.fromkeys(roots.values()):
            # in floating point, where an entry that is not there has no place: it is not a number
            found[root] = jnp.arange(root.aval.size, dtype=float).reshape(root.aval.shape)
        return run(moving, found, [equation.outvars[0] for equation in indexing])

    with jax.core.eval_context():
        places = compile_lightly(find_places)()
    taken = {}
    for equation, found in zip(indexing, places, strict=True):
        mere = _taken(roots[equation.outvars[0]], np.asarray(found), equation)
        if mere is not None:
            taken[equation.outvars[0]] = mere
    # an equation may have no result, such as one that prints
    return [taken.get(next(iter(equation.outvars), None), equation) for equation in late]


def _taken(root: Var, places: np.ndarray, equation: JaxprEqn) -> Taken | None:
    """What stands for an equation whose result has the entries of `root` at these places, or None."""
    shape, places = root.aval.shape, places.ravel()
    if np.array_equal(places, np.arange(math.prod(shape))):
        return Taken(root, None, equation.outvars)
    numbers = jnp.issubdtype(root.aval.dtype, jnp.inexact)
    if not shape or not numbers or math.prod(shape) > _KEPT_ENTRIES:
        return None
    if np.array_equal(places // shape[-1], np.arange(math.prod(shape[:-1]))):
        return Taken(root, (places % shape[-1]).astype(int), equation.outvars)
    return None


def _inlined(traced: ClosedJaxpr, arguments: Sequence[Any]) -> ClosedJaxpr:
    """The same with the bodies of functions that index in the place of their calls."""
    jaxpr = traced.jaxpr
    if not any(map(indexes, jaxpr.eqns)):
        return traced

    def inlined(*arguments: Any) -> list[Any]:
        found = dict(zip(jaxpr.constvars, traced.consts, strict=True))
        return run(
            jaxpr.eqns, found | dict(zip(jaxpr.invars, arguments, strict=True)), jaxpr.outvars
        )

    return jax.make_jaxpr(inlined)(*arguments)


def _with_cheap(early: Sequence[JaxprEqn], late: list[Any], outputs: Sequence[Any]) -> list[Any]:
    """The late equations, and before them those whose large results are made again, not kept."""
    wanted = set(variables(outputs)).union(*(variables(e.invars) for e in late))
    again = []
    for equation in reversed(early):
        large = equation.outvars[0].aval.size > _KEPT_ENTRIES
        if large and equation.primitive.name in _CHEAP and wanted & set(equation.outvars):
            again.append(equation)
            wanted.update(variables(equation.invars))
    return again[::-1] + late
