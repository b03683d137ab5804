"""A density along one of its values, all else evaluated once.

A conditional is read from derivatives of the log joint by one site. Most of the log joint does not
depend on that site: terms that do not are left out, and what the others need of the other sites is
computed before anything is differentiated, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, Var

from .equations import CALLS, live, name_of, run, variables

Values = dict[str, Array]


def along(
    log_density: Callable[[Values], Array], values: Values, name: str
) -> Callable[[Array], Array]:
    """log density (a scalar) as a function of `values[name]` alone, but for a constant.

    The function is traced once where it is under `jax.jit`, however many values it is taken along.

    >>> def log_density(at):
    ...     return jnp.log(at["x"]) + jnp.sqrt(at["x"]) * at["y"]
    >>> at = {"x": jnp.array(4.0), "y": jnp.array(1.0)}
    >>> sliced = along(log_density, at, "y")
    >>> float(sliced(jnp.array(3.0)) - sliced(at["y"]))
    4.0
    >>> primitives = {each.primitive.name for each in jax.make_jaxpr(sliced)(at["y"]).eqns}
    >>> primitives & {"log", "sqrt", "mul"}
    {'mul'}
    """
    equations, found, moving, output = _opened(jax.make_jaxpr(log_density)(values), values, name)
    early, late, moved = [], [], {moving}
    for equation in live(equations, [output]):
        if equation.effects or moved & set(variables(equation.invars)):
            late.append(equation)
            moved.update(equation.outvars)
        else:
            early.append(equation)
    terms = _terms(output, late, moved)
    late = live(late, terms)
    kept = {v for equation in late for v in variables(equation.invars)}
    kept &= {v for equation in early for v in equation.outvars}
    wanted = list(kept)
    found |= dict(zip(wanted, run(live(early, wanted), found, wanted), strict=True))

    def sliced(value: Array) -> Array:
        return sum(run(late, {**found, moving: value}, terms), jnp.zeros((), output.aval.dtype))

    return sliced


def _opened(
    traced: Any, values: Values, name: str
) -> tuple[Sequence[Any], dict[Var, Any], Var, Any]:
    """Equations, the values of their variables, the variable that moves, and the output; inside the
    call, where the whole is a call of one function."""
    jaxpr = traced.jaxpr
    found = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    found |= dict(zip(jaxpr.invars, jax.tree.leaves(values), strict=True))
    moving = jaxpr.invars[sorted(values).index(name)]
    while len(jaxpr.eqns) == 1 and name_of(jaxpr.eqns[0]) in CALLS:
        (call,) = jaxpr.eqns
        inner = call.params["jaxpr"]
        if call.invars.count(moving) != 1 or jaxpr.outvars != call.outvars:
            break
        told = [atom.val if isinstance(atom, Literal) else found[atom] for atom in call.invars]
        found = dict(zip(inner.jaxpr.constvars, inner.consts, strict=True))
        found |= dict(zip(inner.jaxpr.invars, told, strict=True))
        moving = inner.jaxpr.invars[call.invars.index(moving)]
        jaxpr = inner.jaxpr
    return jaxpr.eqns, found, moving, jaxpr.outvars[0]


def _terms(output: Any, late: Sequence[Any], moved: set[Var]) -> list[Var]:
    """The terms that the output is a sum of, as far as they move."""
    made = {variable: equation for equation in late for variable in equation.outvars}
    terms, left = [], [output]
    while left:
        atom = left.pop()
        if isinstance(atom, Literal) or atom not in moved:
            continue
        if atom in made and name_of(made[atom]) in ("add", "add_any") and not atom.aval.shape:
            left.extend(made[atom].invars)
        else:
            terms.append(atom)
    return terms
