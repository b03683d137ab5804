"""Equations of JAX's traced functions: looked through, and evaluated one by one.

Some are replaced: what stands in the place of one has `invars`, `outvars` and `effects` as it has, and
`of(*operands)` is its result.

Source: the interpreter is the one that JAX documents for its jaxprs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

CALLS = ("jit", "pjit")


def variables(atoms: Iterable[Any]) -> list[Var]:
    """Those that are no literals."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def name_of(equation: Any) -> str:
    """The name of its primitive; none of what stands in the place of an equation."""
    return "" if hasattr(equation, "of") else equation.primitive.name


def live(equations: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """The equations that the outputs need, in order."""
    wanted, kept = set(variables(outputs)), []
    for equation in reversed(equations):
        if equation.effects or wanted & set(equation.outvars):
            kept.append(equation)
            wanted.update(variables(equation.invars))
    return kept[::-1]


class Taken(NamedTuple):
    """In the place of an equation that indexes at constants: its result has all entries of `root` in
    their order or, where there is a `pick`, that one of each row along the last axis."""

    root: Var
    pick: np.ndarray | None
    outvars: list[Var]
    effects: frozenset[Any] = frozenset()

    @property
    def invars(self) -> list[Var]:
        """What it needs."""
        return [self.root]

    def of(self, root: jax.Array) -> jax.Array:
        """The result."""
        if self.pick is not None:
            chosen = np.arange(root.shape[-1]) == self.pick.reshape(*root.shape[:-1], 1)
            root = jnp.sum(jax.lax.select(chosen, root, jnp.zeros_like(root)), axis=-1)
        return jnp.reshape(root, self.outvars[0].aval.shape)


def indexes(equation: JaxprEqn) -> bool:
    """Is this a call of a function that indexes?"""
    inner = equation.params.get("jaxpr") if equation.primitive.name in CALLS else None
    return inner is not None and any(e.primitive.name == "gather" or indexes(e) for e in inner.eqns)


def run(equations: Sequence[Any], found: dict[Var, Any], outputs: Sequence[Any]) -> list[Any]:
    """Evaluate equations one after another; functions that index are inlined."""
    found = dict(found)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else found[atom]

    for equation in equations:
        result: Any
        if hasattr(equation, "of"):  # it stands in the place of an equation
            result = [equation.of(*map(read, equation.invars))]
        elif indexes(equation):
            inner = equation.params["jaxpr"]
            told = zip(inner.jaxpr.constvars, inner.consts, strict=True)
            given = zip(inner.jaxpr.invars, map(read, equation.invars), strict=True)
            result = run(inner.jaxpr.eqns, dict((*told, *given)), inner.jaxpr.outvars)
        else:
            result = bind(equation, [read(atom) for atom in equation.invars])
        found |= dict(zip(equation.outvars, result, strict=True))
    return [read(atom) for atom in outputs]


def bind(equation: Any, operands: list[Any]) -> Sequence[Any]:
    """The results of an equation for these operands."""
    # older versions of JAX name functions apart
    given = equation.primitive.get_bind_params(equation.params)
    functions, parameters = given if isinstance(given, tuple) else ((), given)
    result = equation.primitive.bind(*functions, *operands, **parameters)
    return result if equation.primitive.multiple_results else [result]
