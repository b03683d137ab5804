"""The engines of a comparison, one after another; what has finished is kept, whatever comes after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..program.errors import ProgramError
from ..program.problem import Problem
from ..program.recent import Recent
from .compile_clock import clock
from .engines import ENGINES, EngineResult, Settings
from .kept_answers import KeptAnswers

_TAKE_EVERYTHING = ("MLE-EM", "MAP-EM")
_log = logging.getLogger(__name__)


class Split(NamedTuple):
    """The problem of the training rows, as many as all, and the numbers of the held-out rows."""

    train: Problem
    test: np.ndarray


class Found(NamedTuple):
    """Engines' answers; those of fits without the held-out rows, and the numbers of these rows; what was
    left out and why, with the error of engines that raised one; and whether all was interrupted."""

    engines: dict[str, EngineResult]
    parts: dict[str, EngineResult]
    test: np.ndarray | None
    left_out: dict[str, str]
    errors: dict[str, Exception]
    interrupted: bool = False


def run_engines(
    problem: Problem,
    settings: Settings,
    rows: Split | None,
    engines: Sequence[str],
    kept: KeptAnswers,
    say: Callable[[str], None],
) -> Found:
    """Every engine on all rows, and again without the held-out rows.

    Raises :class:`ProgramError` where an engine that takes every program does not take this one, or none
    does; `KeyboardInterrupt` where there is no answer yet; and an engine's own error where none has one.
    """
    found = Found({}, {}, None if rows is None else rows.test, {}, {})
    try:
        for name in engines:
            try:
                _run_one(name, problem, settings, rows, kept, say, found)
            except ProgramError as error:
                if name in _TAKE_EVERYTHING and not found.engines:  # something else is wrong
                    raise
                say(f"{name}: left out")
                found.left_out[_what(name, found)] = str(error)
            except Exception as error:  # of any kind: what the others have found is not lost for it
                _log.error("%s stopped with an error", name, exc_info=True)
                said = " ".join(str(error).split())
                found.left_out[_what(name, found)] = (
                    f"it stopped with {type(error).__name__}: {said}"
                )
                found.errors[name] = error
    except KeyboardInterrupt:
        if not found.engines:
            raise
        return found._replace(interrupted=True)
    if not found.engines:
        for first in found.errors.values():
            raise first
        raise ProgramError("no engine takes the program: " + " ".join(found.left_out.values()))
    return found


def _what(name: str, found: Found) -> str:
    """What an engine has not done."""
    return f"{name} without the held-out rows" if name in found.engines else name


def _run_one(
    name: str,
    problem: Problem,
    settings: Settings,
    rows: Split | None,
    kept: KeptAnswers,
    say: Callable[[str], None],
    found: Found,
) -> None:
    """One engine's answers, put into `found` and kept as they come."""
    made = Recent(4)

    def answer(into: dict[str, EngineResult], label: str, said: str, given: Problem) -> None:
        result = kept.take(label)
        if result is not None:
            into[name] = result
            return
        say(said)
        with clock() as taken:
            result = ENGINES[name](given, settings, made)
        into[name] = replace(result, seconds=taken.seconds, compiling=taken.compiling)
        kept.keep(label, into[name])

    size = problem.plan.reading.rows.size
    if rows is not None:
        problem = problem.weighted(np.ones(size))  # of one kind with that of the training rows
    answer(found.engines, name, f"{name}: {size} rows", problem)
    if rows is not None:
        again = f"{name}: again without the held-out rows"
        answer(found.parts, f"{name} in part", again, rows.train)
        held_out = found.parts[name].log_density(problem.take(rows.test))
        found.engines[name] = replace(found.engines[name], held_out=held_out)
