"""Answers of engines in files: written as they come, and taken up by the same run after a stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..infer.fingerprint import Run, arguments_in_words, in_words, program_in_words
from ..program.errors import ProgramError
from ..program.problem import Problem
from .engines import RECORDS, EngineResult, Settings
from .saving import load, save

FOLDER = "engines"


class KeptAnswers:
    """The answers of one run's engines in a folder's own folder `engines`; in none where it is None.

    Files of another run (another program, data, settings or versions) are not taken up, and are removed
    when this run has its first answer.
    """

    def __init__(
        self,
        folder: str | Path | None,
        run: Run,
        say: Callable[[str], None],
    ) -> None:
        self.folder = None if folder is None else Path(folder) / FOLDER
        self.run, self._say = run, say
        self._found: dict[str, EngineResult] = {}
        self._foreign: list[Path] = []
        if self.folder is not None:
            self._read(self.folder)

    @cached_property
    def _told(self) -> dict[str, Any]:
        """What tells this run from another one."""
        points = self.run.points
        densities = self.run.densities(points)
        return {"words": self.run.words, "points": points, "densities": densities}

    def take(self, name: str) -> EngineResult | None:
        """The answer of that name, where this run left it before it was stopped."""
        found = self._found.pop(name, None)
        if found is not None:
            self._say(f"{name}: taken up from '{self.folder}'")
        return found

    def keep(self, name: str, result: EngineResult) -> None:
        """Write an answer; where that is not possible, say so, for the run itself can go on."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while self._foreign:
                self._foreign.pop().unlink(missing_ok=True)
            save(self.folder / f"{name}.nc", "answer", {"result": result, "run": self._told})
        except OSError as error:
            why = error.strerror or error
            self._say(f"{name}: could not be kept in '{self.folder}' ({why}); going on without")

    def _read(self, folder: Path) -> None:
        why = ""
        for file in sorted(folder.glob("*.nc")):
            try:
                found = load(file, "answer", RECORDS)
            except ProgramError as error:
                why = why or str(error)
                self._foreign.append(file)
                continue
            differ = self.run.unlike(**found["run"])
            if differ:
                name, was, is_now = differ[0]
                why = why or f"they are of another run ({name} was {was}, and is {is_now})"
                self._foreign.append(file)
            else:
                self._found[file.stem] = found["result"]
        if why:
            self._say(f"what is in '{folder}' is not all taken up: {why}; its engines run again")


def kept_names(folder: str | Path) -> list[str]:
    """The answers that a folder keeps."""
    return sorted(file.stem for file in (Path(folder) / FOLDER).glob("*.nc"))


def forget(folder: str | Path) -> None:
    """Remove the answers that a folder keeps."""
    for file in (Path(folder) / FOLDER).glob("*.nc"):
        file.unlink(missing_ok=True)
    try:
        (Path(folder) / FOLDER).rmdir()
    except OSError:  # there is none, or something else lies in it
        pass


def run_of(
    problem: Problem,
    settings: Settings,
    held_out: float,
    versions: Mapping[str, str],
) -> Run:
    """What the answers of a comparison's engines depend on."""
    told = {**settings._asdict(), "held_out": held_out, **versions}
    words = {name: in_words(value) for name, value in told.items() if name != "progress_bar"}
    words |= program_in_words(problem.plan) | arguments_in_words(
        problem.arguments, problem.plan.program
    )
    return Run(words, problem)
