"""Answers of engines in files: written as they come, and taken up by the same run after a stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpyro import handlers
from numpyro.infer import init_to_uniform

from .posterior.engines import EngineResult, Settings
from .program.arguments import Arguments
from .program.errors import ProgramError
from .program.plan import Plan
from .program.tracing import unchecked

FOLDER = "engines"


class KeptAnswers:
    """The answers of one run's engines in a folder's own folder `engines`; in none where it is None.

    Files of another run (another program, data, settings or versions) are not taken up, and are removed
    when this run has its first answer.
    """

    def __init__(
        self,
        folder: str | Path | None,
        run: Callable[[], Mapping[str, str]],
        say: Callable[[str], None],
    ) -> None:
        self.folder = None if folder is None else Path(folder) / FOLDER
        self._run, self._say = run, say
        self._found: dict[str, EngineResult] = {}
        self._foreign: list[Path] = []
        if self.folder is not None:
            self._read(self.folder)

    @cached_property
    def run(self) -> dict[str, str]:
        """What tells this run from another one, in words."""
        return dict(self._run())

    def take(self, name: str) -> EngineResult | None:
        """The answer of that name, where this run left it before it was stopped."""
        found = self._found.pop(name, None)
        if found is not None:
            self._say(f"{name}: taken up from '{self.folder}'")
        return found

    def keep(self, name: str, result: EngineResult) -> None:
        """Write an answer; where that is not possible, say so, for the run itself can go on."""
        from .saved_comparison import save_answer

        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while self._foreign:
                self._foreign.pop().unlink(missing_ok=True)
            save_answer(result, self.run, self.folder / f"{name}.nc")
        except OSError as error:
            why = error.strerror or error
            self._say(f"{name}: could not be kept in '{self.folder}' ({why}); going on without")

    def _read(self, folder: Path) -> None:
        from .saved_comparison import load_answer

        why = ""
        for file in sorted(folder.glob("*.nc")):
            try:
                result, run = load_answer(file)
            except ProgramError as error:
                why = why or str(error)
                self._foreign.append(file)
                continue
            differ = [name for name, words in self.run.items() if run.get(name) != words]
            if differ:
                why = why or f"they are of another run ({', '.join(differ)})"
                self._foreign.append(file)
            else:
                self._found[file.stem] = result
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


def run_in_words(
    plan: Plan,
    arguments: Arguments,
    settings: Settings,
    held_out: float,
    versions: Mapping[str, str],
) -> dict[str, str]:
    """What a comparison's answers depend on; a program is told by its densities at made-up values."""
    data = hashlib.sha256(repr(arguments.layout.static).encode())
    for array in arguments.arrays:
        data.update(f"{array.dtype} {array.shape}".encode())
        data.update(np.ascontiguousarray(array).tobytes())
    lengths = {**settings._asdict(), "held_out": held_out}
    del lengths["progress_bar"]
    return {
        "program": _program_in_words(plan, arguments),
        "data": data.hexdigest(),
        "settings": str(lengths),
        "versions": str(dict(versions)),
    }


def _program_in_words(plan: Plan, arguments: Arguments) -> str:
    args, kwargs = arguments.call()
    with unchecked(), handlers.trace() as sites:
        values = handlers.substitute(substitute_fn=init_to_uniform(radius=1.0))
        with values, handlers.seed(rng_seed=0):
            plan.program(*args, **kwargs)
        found = []
        for name, site in sites.items():
            if site["type"] == "sample":
                scale = 1.0 if site["scale"] is None else np.asarray(site["scale"])
                density = np.nansum(np.asarray(site["fn"].log_prob(site["value"])) * scale)
                found.append(f"{name} {density:.6g}")
    return ", ".join(found)
