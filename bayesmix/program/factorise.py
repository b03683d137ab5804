"""Matrices that differ by a factor or by their shape are factorised once.

A program takes the Cholesky factor of one covariance several times: for its prior, for that of a mean
whose covariance is proportional to it, for the rows of each component. With its derivatives each costs a
dozen small operations, and compiling them. But chol(c V) = sqrt(c) chol(V) where c > 0, and a change of
shape that leaves matrices whole leaves their factors whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var

from .equations import CALLS, Taken, bind, name_of


class _Factor(NamedTuple):
    """The Cholesky factor of a root, under a name of its own; in the place of an equation."""

    root: Var
    effects: frozenset[Any] = frozenset()

    @property
    def invars(self) -> list[Var]:
        """What it needs."""
        return [self.root]

    @property
    def outvars(self) -> list[Any]:
        """What it gives."""
        return [("factor", self.root)]

    def of(self, root: jax.Array) -> jax.Array:
        """The factor."""
        return jnp.linalg.cholesky(root)


class _Changed(NamedTuple):
    """The factor of a matrix that `steps` make of the root; in the place of an equation."""

    root: Var
    steps: tuple[Any, ...]
    outvars: list[Var]
    effects: frozenset[Any] = frozenset()

    @property
    def invars(self) -> list[Any]:
        """What it needs."""
        return _Factor(self.root).outvars

    def of(self, factor: jax.Array) -> jax.Array:
        """What the steps make of the root's factor."""
        for step in self.steps:
            scale = _scale(step)
            if scale is not None:
                factor = factor * np.asarray(scale**0.5, factor.dtype)
            else:
                factor = step.of(factor) if isinstance(step, Taken) else bind(step, [factor])[0]
        return factor


def factorised_once(equations: Sequence[Any]) -> list[Any]:
    """The same equations with one `jax.numpy.linalg.cholesky` of all that are positive multiples, or
    other shapes, of the same matrices."""
    made: dict[Var, Any] = {}
    taken: set[Var] = set()
    found: list[Any] = []
    for equation in equations:
        if _is_cholesky(equation):
            (root,), steps = equation.invars, []
            while root in made:
                steps.append(made[root])
                root = _whole(made[root])
            if root not in taken:
                taken.add(root)
                found.append(_Factor(root))
            found.append(_Changed(root, tuple(steps[::-1]), equation.outvars))
        else:
            if _whole(equation) is not None:
                made[equation.outvars[0]] = equation
            found.append(equation)
    return found


def _whole(equation: Any) -> Var | None:
    """What an equation takes whose result has its matrices, or multiples of them; else None."""
    if _scale(equation) is not None:
        return next(atom for atom in equation.invars if not isinstance(atom, Literal))
    single = len(equation.invars) == len(equation.outvars) == 1
    if not single or isinstance(equation.invars[0], Literal):
        return None
    operand, like = equation.invars[0].aval, equation.outvars[0].aval
    if operand.ndim < 2 or operand.shape[-2:] != like.shape[-2:]:
        return None
    return equation.invars[0] if _keeps_order(equation, operand.ndim, like.ndim) else None


def _keeps_order(equation: Any, before: int, after: int) -> bool:
    """Does an equation change an array's shape alone, and neither of its last two axes?"""
    if isinstance(equation, Taken):
        return equation.pick is None
    name, told = equation.primitive.name, equation.params
    if name == "squeeze":
        return all(axis < before - 2 for axis in told["dimensions"])
    if name == "broadcast_in_dim":
        return tuple(told["broadcast_dimensions"][-2:]) == (after - 2, after - 1)
    return name == "reshape" and told["dimensions"] is None


def _scale(equation: Any) -> float | None:
    """The positive number that an equation multiplies by; None where it does something else."""
    name = name_of(equation)
    if name not in ("mul", "div"):
        return None
    left, right = equation.invars
    if name == "mul" and isinstance(left, Literal):
        left, right = right, left
    if isinstance(left, Literal) or not isinstance(right, Literal) or np.ndim(right.val):
        return None
    number = float(right.val)
    if not 0 < number < np.inf:
        return None
    return number if name == "mul" else 1 / number


def _is_cholesky(equation: Any) -> bool:
    if name_of(equation) not in CALLS or equation.params["name"] != "cholesky":
        return False
    if len(equation.invars) != 1:
        return False
    operand = equation.invars[0].aval
    return str(equation.params["jaxpr"]) == _usual_cholesky(operand.shape, operand.dtype)


@cache
def _usual_cholesky(shape: tuple[int, ...], dtype: Any) -> str:
    """How JAX writes `jax.numpy.linalg.cholesky` out; another function may have the same name."""
    traced = jax.make_jaxpr(jnp.linalg.cholesky)(jax.ShapeDtypeStruct(shape, dtype))
    return str(traced.eqns[0].params["jaxpr"])
