"""What tells one run from another: settings and arguments in words, and the program by its own density.

No source code is looked at. Two programs are one where they give the same log densities: of each
parameter's prior, and of the rows with all hidden values summed out, at a few values of the parameters.
These numbers are stored, and compared to more than rounding between versions of JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program import row_pass
from ..program.arguments import Arguments
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.tracing import unchecked

# what the end of a run does not depend on, and what is told by densities
_NO_SETTINGS = ("plans", "program", "callback", "progress_bar", "report_every")
_NUM_POINTS, _MOST_GROUPS = 2, 64
_SAME = 1e-6  # of log densities: more than versions of JAX differ by
_SHOWN_ENTRIES, _DEEPEST = 4, 6


class Run(NamedTuple):
    """What a saved state has to share with a run that goes on from it: words by name, and where there is
    a program the densities of its plan at these arguments."""

    words: dict[str, str]
    problem: Problem | None = None

    def densities(self, points: Values) -> dict[str, np.ndarray]:
        """Log densities by name at values that lead with points, (points,) or (points, groups of rows);
        in double precision whatever the data are."""
        if self.problem is None:
            return {}
        with jax.enable_x64(True), unchecked():
            problem = self.problem.with_rows()
            found = []
            for i in range(len(next(iter(points.values())))):
                at = {name: jnp.asarray(value[i]) for name, value in points.items()}
                prior, rows = jax.tree.map(np.asarray, problem.run(_look, at))
                groups = np.array_split(rows, min(len(rows), _MOST_GROUPS))
                own = {f"a log prior of '{name}' of": value for name, value in prior.items()}
                found.append(own | {"log densities of rows of": np.array([*map(np.sum, groups)])})
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    def unlike(
        self,
        words: Mapping[str, str],
        points: Values,
        densities: Mapping[str, np.ndarray],
    ) -> list[tuple[str, str, str]]:
        """In what another run differs that had these words, and these densities at these points: names,
        each with what it was there and what it is here."""
        names = [
            name for name in {**self.words, **words} if words.get(name) != self.words.get(name)
        ]
        differ = [
            (name, words.get(name, "absent"), self.words.get(name, "absent")) for name in names
        ]
        if differ or self.problem is None:
            return differ
        for name, value in self.densities(points).items():
            apart = ~np.isclose(value, densities[name], rtol=_SAME, atol=_SAME, equal_nan=True)
            if apart.any():
                was, is_now = (
                    f"{np.asarray(each)[apart][0]:.8g}" for each in (densities[name], value)
                )
                differ.append((name, was, is_now))
        return differ

    @property
    def points(self) -> dict[str, np.ndarray]:
        """Ordinary values of every parameter, at which densities are stored."""
        points = {} if self.problem is None else self.problem.plan.points
        return {name: value[:_NUM_POINTS] for name, value in points.items()}


def _look(problem: Problem, values: Values) -> tuple[dict[str, Array], Array]:
    plan, blocks, evaluation = problem.plan, problem.blocks, problem.evaluate(values)
    each = row_pass.log_evidence(plan.graph, plan.families, evaluation, blocks)
    weight = blocks.restore(blocks.weight)
    return evaluation.prior, jnp.where(weight > 0, weight * each, 0.0)


def run_of(engine: Any, problem: Problem | None, rng_key: Any = None, **told: Any) -> Run:
    """A run of an engine, all of whose settings count; `told` is what else its end depends on."""
    settings = {name: value for name, value in vars(engine).items() if name not in _NO_SETTINGS}
    words = {"the engine": type(engine).__name__}
    if problem is not None:
        plan = problem.plan
        words |= program_in_words(plan) | arguments_in_words(problem.arguments, plan.program)
    told = {"rng_key": rng_key, **settings, **told}
    return Run(words | {name: in_words(value) for name, value in told.items()}, problem)


def program_in_words(plan: Plan) -> dict[str, str]:
    """The sites of a program."""
    reading = plan.reading
    parameters = ", ".join(f"{site.name} {site.shape}" for site in reading.parameters)
    others = ", ".join((*plan.graph.names, *(site.name for site in reading.observed)))
    return {"the parameters": parameters, "the sites of rows": others}


def arguments_in_words(arguments: Arguments, program: Any = None) -> dict[str, str]:
    """The arguments of a call by name: arrays by digest, others by value.

    >>> from ..program.arguments import split
    >>> arguments_in_words(split((np.zeros(9), 2.5), {"K": 3}), lambda x, scale, K: None)
    {'argument x': 'float64 (9,) #...', 'argument scale': '2.5', 'argument K': '3'}
    """
    names = _positional(program)
    (args, kwargs), found = arguments.call(), {}
    given = {names[i] if i < len(names) else str(i + 1): value for i, value in enumerate(args)}
    for name, value in (given | kwargs).items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            found[f"argument {name}{jax.tree_util.keystr(path)}"] = in_words(leaf)
    return found


def _positional(program: Any) -> list[str]:
    """Names of the positional arguments of a program, as far as they can be told."""
    try:
        parameters = inspect.signature(program).parameters.values()
    except (TypeError, ValueError):
        return []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wrapped = getattr(program, "program", None)
    return named if named or wrapped is None else _positional(wrapped)


def in_words(value: Any, depth: int = 0) -> str:
    """A value in words that are the same in every process, and others where it is another.

    >>> from bayesmix import strategies
    >>> in_words(strategies.Restarts(4))
    'Restarts(count=4, seeding=kmeans_plus_plus)'
    >>> in_words({"rate": functools.partial(pow, 0.5)}), in_words(np.arange(2))
    ('{rate=partial(pow, 0.5)}', '[0, 1]')
    """
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array_in_words(value)
    if isinstance(value, Mapping):
        return "{" + _listed(value, depth) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_asdict"):
        return f"({', '.join(in_words(each, depth + 1) for each in value)})"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__ + _bound(value, depth)
    parts: Mapping[Any, Any]
    if isinstance(value, functools.partial):
        parts = dict(enumerate((value.func, *value.args))) | value.keywords
    elif dataclasses.is_dataclass(value):
        parts = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        parts = value._asdict()
    elif " at 0x" in repr(value):  # no words of its own
        parts = getattr(value, "__dict__", {})
    else:
        return repr(value)
    return f"{type(value).__qualname__}({_listed(parts, depth)})"


def _listed(parts: Mapping[Any, Any], depth: int) -> str:
    if depth > _DEEPEST:  # something that holds itself
        return "..."
    told = ((name, in_words(value, depth + 1)) for name, value in parts.items())
    return ", ".join(text if isinstance(name, int) else f"{name}={text}" for name, text in told)


def _bound(function: Callable[..., Any], depth: int) -> str:
    """What a function without a place of its own in a module consists of."""
    if inspect.ismethod(function):
        return f" of {in_words(function.__self__, depth + 1)}"
    code = getattr(function, "__code__", None)
    if code is None or "<" not in function.__qualname__:
        return ""
    own = hashlib.sha256(code.co_code + repr((code.co_names, code.co_varnames)).encode())
    constants = [each for each in code.co_consts if not inspect.iscode(each)]
    told = {**inspect.getclosurevars(function).nonlocals, "constants": constants}
    told["defaults"] = (*(function.__defaults__ or ()), function.__kwdefaults__ or {})
    return f" #{own.hexdigest()[:8]}({_listed(told, depth)})"


def _array_in_words(array: Any) -> str:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = random.key_data(array)
    array = np.asarray(array)
    if array.size <= _SHOWN_ENTRIES:
        return str(array.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{array.dtype} {array.shape} #{digest[:16]}"
