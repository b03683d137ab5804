"""What a comparison found: its record, shown as text, as a report, and kept in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..program.plan import Plan
from .calibration import Calibration
from .engines import RECORDS, EngineResult
from .records import Agreement
from .report import write_comparison
from .saving import load, save
from .sections import as_text, sections

_NAME = "comparison.nc"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`bayesmix.compare` found; print it, `write` it to a folder, or `save` it to one file.

    Attributes:
        engines: each engine's :class:`EngineResult`, components in one common order.
        parameters, scores, diagnostics: tables as lists of records.
        calibration: :class:`Calibration` of each engine on held-out rows, and of samplers on all rows,
            each left out by weights; `calibration_scores` the table made of them, `calibration_note` why
            there is none.
        agreements: :class:`Agreement` of the engines' clusterings, by latent.
        modes: what MAP-EM found, a record for each distinct mode, with weights; see
            :func:`bayesmix.comparison.mode_weights.weighed_modes`.
        density: the predictive density of each engine on a grid, for one or two columns.
        evidence: log p(x) by the engines that give it. left_out: engines that do not take the program,
            each with the reason.
        verdict: in plain words, whether plugging in the mode is safe here.
        interrupted: whether the run was interrupted; `engines` holds those that had finished.
        raised: the engines in `left_out` that stopped with an error.
        plan: the plan that was used; None in a comparison that was loaded from a file.
    """

    title: str
    plan: Plan | None
    plan_text: str
    columns: tuple[str, ...]
    data: np.ndarray
    num_components: int
    seed: int
    versions: dict[str, str]
    engines: dict[str, EngineResult]
    parameters: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    calibration: list[Calibration]
    calibration_scores: list[dict[str, Any]]
    calibration_note: str
    agreements: dict[str, Agreement]
    modes: list[dict[str, Any]]
    diagnostics: list[dict[str, Any]]
    density: dict[str, Any] | None
    verdict: str
    interrupted: bool
    evidence: list[dict[str, Any]]
    left_out: dict[str, str]
    raised: tuple[str, ...] = ()

    def table(self) -> str:
        """The whole comparison as text."""
        heading = f"{self.title}\n{'=' * len(self.title)}"
        return "\n\n".join([heading, *map(as_text, sections(self)), self.verdict])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, in types that JSON holds."""
        return _plain(
            {
                "title": self.title,
                "columns": self.columns,
                "rows": self.data.shape[0],
                "num_components": self.num_components,
                "seed": self.seed,
                "versions": self.versions,
                "interrupted": self.interrupted,
                "parameters": self.parameters,
                "held_out": self.scores,
                "evidence": self.evidence,
                "left_out": self.left_out,
                "calibration": self.calibration_scores,
                "calibration_note": self.calibration_note,
                "modes": self.modes,
                "agreement": {latent: found._asdict() for latent, found in self.agreements.items()},
                "diagnostics": self.diagnostics,
                "engines": {
                    name: {
                        "seconds": result.seconds,
                        "compiling": result.compiling,
                        "status": result.status,
                        "modes": [{"objective": o, "starts": c} for o, c in result.modes],
                        "estimate": result.estimate,
                        "weights": result.weights,
                        "labels": result.labels,
                        "diagnostics": result.diagnostics,
                    }
                    for name, result in self.engines.items()
                },
                "plan": self.plan_text,
                "verdict": self.verdict,
            }
        )

    def write(self, folder: str | Path) -> Path:
        """Write `report.html`, `posterior.nc` (and `posterior_nuts.nc`), `summary.json`, and all of the
        comparison as `comparison.nc` (see :meth:`save`).

        All files are made before the first takes its place; those of an earlier comparison go. Raises
        `OSError` where the folder cannot be written, and leaves it as it was.
        """
        return write_comparison(self, folder)

    def save(self, path: str | Path) -> Path:
        """Write everything, draws included, to one netCDF file that :func:`load_comparison` reads.

        Args:
            path: a file that ends in .nc, or a folder, in which it will be `comparison.nc`.

        Returns:
            The file. It is written in full or not at all; `OSError` where that is not possible.
        """
        file = file_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        return save(file, "comparison", self)


def file_of(path: str | Path) -> Path:
    """The file that a path means: itself if it ends in .nc, else `comparison.nc` in that folder."""
    path = Path(path)
    return path if path.suffix == ".nc" else path / _NAME


def load_comparison(path: str | Path) -> Comparison:
    """A comparison that :meth:`Comparison.save` wrote.

    Tables, pictures, estimates and draws are those of the comparison that was saved, bit by bit. What
    belongs to the program itself is not in the file: `plan` is None, and so is each engine's `fit`.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        ProgramError: where there is no such file, or it is damaged, or of another kind.

    Example:
        >>> load_comparison("nowhere")
        Traceback (most recent call last):
        bayesmix.program.errors.ProgramError: there is no file 'nowhere/comparison.nc'; ...

    :func:`bayesmix.compare` has an example with a file.
    """
    kinds = (Comparison, Calibration, Agreement, *RECORDS)
    found: Comparison = load(file_of(path), "comparison", kinds)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
