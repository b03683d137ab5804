"""A program specialised to its data: what depends on data alone is computed once.

Priors that take their scale from the data, normalising constants, indices: an engine would compute them
anew in every step, and XLA compile them into every function. The factors are traced once; what needs no
parameter is computed once for a call's arrays, and only the rest is left to the engines.

Source: partial evaluation of programs, Jones, Gomard & Sestoft (1993), *Partial Evaluation and Automatic
Program Generation*, chapter 1; the interpreter is the one that JAX documents for its jaxprs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import JaxprEqn, Literal, Var

# what is larger than this and costs nothing to make again is not kept
_KEPT_ENTRIES = 1 << 12
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
    jaxpr, structure = traced.jaxpr, jax.tree.structure(shape)
    count = len(jax.tree.leaves(arrays))
    inputs, unknown = jaxpr.invars[:count], set(jaxpr.invars[count:])
    constants = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    early, late = [], []
    for equation in _live(jaxpr.eqns, jaxpr.outvars):
        if equation.effects or unknown & set(_variables(equation.invars)):
            late.append(equation)
            unknown.update(equation.outvars)
        else:
            early.append(equation)
    late = _with_cheap(early, late, jaxpr.outvars)
    made = {variable for equation in late for variable in equation.outvars}
    wanted = {v for equation in late for v in _variables(equation.invars)}
    wanted |= set(_variables(jaxpr.outvars))
    defined = [*jaxpr.constvars, *(v for equation in early for v in equation.outvars)]
    kept = [variable for variable in defined if variable in wanted - made]

    def known(arrays: Any) -> tuple[jax.Array, ...]:
        found = constants | dict(zip(inputs, jax.tree.leaves(arrays), strict=True))
        return tuple(_run(early, found, kept))

    needed = [i for i, variable in enumerate(inputs) if variable in wanted]

    @jax.jit
    def late_part(arrays: list[Any], known: tuple[jax.Array, ...], values: Any) -> Any:
        found = dict(zip((inputs[i] for i in needed), arrays, strict=True))
        found |= dict(zip(jaxpr.invars[count:], jax.tree.leaves(values), strict=True))
        found |= dict(zip(kept, known, strict=True))
        return jax.tree.unflatten(structure, _run(late, found, jaxpr.outvars))

    def rest(arrays: Any, known: tuple[jax.Array, ...], values: Any) -> Any:
        # loops would carry along what is not looked at
        leaves = jax.tree.leaves(arrays)
        return late_part([leaves[i] for i in needed], known, values)

    like = jax.tree.map(jax.typeof, values)
    return Specialised(known, rest, like, frozenset(needed))


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _live(equations: Sequence[JaxprEqn], outputs: Sequence[Any]) -> list[JaxprEqn]:
    """The equations that the outputs need, in order."""
    wanted, kept = set(_variables(outputs)), []
    for equation in reversed(equations):
        if equation.effects or wanted & set(equation.outvars):
            kept.append(equation)
            wanted.update(_variables(equation.invars))
    return kept[::-1]


def _with_cheap(
    early: Sequence[JaxprEqn], late: list[JaxprEqn], outputs: Sequence[Any]
) -> list[JaxprEqn]:
    """The late equations, and before them those whose large results are made again, not kept."""
    wanted = set(_variables(outputs)).union(*(_variables(e.invars) for e in late))
    again = []
    for equation in reversed(early):
        large = equation.outvars[0].aval.size > _KEPT_ENTRIES
        if large and equation.primitive.name in _CHEAP and wanted & set(equation.outvars):
            again.append(equation)
            wanted.update(_variables(equation.invars))
    return again[::-1] + late


def _run(equations: Sequence[JaxprEqn], found: dict[Var, Any], outputs: Sequence[Any]) -> list[Any]:
    """Evaluate equations one after another."""
    found = dict(found)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else found[atom]

    for equation in equations:
        # older versions of JAX name functions apart
        given = equation.primitive.get_bind_params(equation.params)
        functions, parameters = given if isinstance(given, tuple) else ((), given)
        result = equation.primitive.bind(*functions, *map(read, equation.invars), **parameters)
        several = equation.primitive.multiple_results
        found |= dict(zip(equation.outvars, result if several else [result], strict=True))
    return [read(atom) for atom in outputs]
