"""The report of a comparison: one HTML file that needs nothing else, to read, send or print."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from ..posterior.arviz_compat import to_netcdf
from .engines import ENGINES
from .kept_answers import forget
from .pictures import pictures
from .sections import Section, as_html, framed, sections

if TYPE_CHECKING:
    from .result import Comparison


def render_report(comparison: Comparison) -> str:
    """Return the report of a comparison as the text of one HTML page.

    Pictures are embedded as base64 PNG and the style sheet is inside the page, which links to
    nothing. All text that comes from the comparison is escaped. A section for which the comparison
    holds nothing (no sampler, no held-out rows, one engine only) is left out.

    Args:
        comparison: what `bayesmix.compare` returns.

    Raises:
        ImportError: without matplotlib.

    >>> page = render_report(comparison)
    >>> page.startswith("<!DOCTYPE html>"), "Modes found" in page
    (True, True)
    """
    rows, columns = np.shape(comparison.data)
    missing = int(np.isnan(np.asarray(comparison.data, float)).sum())
    cells = f"{missing:,} cell{'s' * (missing != 1)} missing, " if missing else ""
    facts = (
        f"{rows:,} row{'s' * (rows != 1)}, {columns} column{'s' * (columns != 1)} "
        f"({', '.join(map(str, comparison.columns))}), {cells}"
        f"{comparison.num_components} component{'s' * (comparison.num_components != 1)}; "
        f"engines: {', '.join(comparison.engines) or 'none'}"
    )
    verdict = f'<p class="verdict">{escape(comparison.verdict)}</p>' if comparison.verdict else ""
    program = f"<pre>{escape(comparison.plan_text)}</pre>"
    versions = [*comparison.versions.items(), ("seed", str(comparison.seed))]
    parts = [
        verdict,
        *map(as_html, sections(comparison)),
        pictures(comparison),
        framed("The program, as it was read", program) if comparison.plan_text else "",
        as_html(Section("How to get this again", ["what", "version"], versions)),
    ]
    template = resources.files(__package__).joinpath("report_template.html")
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(comparison.title),
        facts=escape(facts),
        body="\n".join(part for part in parts if part),
    )


def write_report(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write the report of a comparison to one self-contained HTML file.

    The page is rendered in full first, written to a temporary file in the same folder and then
    moved into place, so that a reader never sees half a report, and a failure leaves an earlier
    report as it was.

    Args:
        comparison: what `bayesmix.compare` returns.
        path: the file to write, such as "report.html"; its folder must exist.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: where the folder doesn't exist.
        IsADirectoryError: where `path` is a folder.
        ImportError: without matplotlib.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(comparison, Path(folder) / "report.html").name
    'report.html'
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} into")
    return write_text(target, render_report(comparison))


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html`, `summary.json`, `comparison.nc` and each sampler's draws (`posterior.nc`).

    The first sampler's relabelled draws go to `posterior.nc`, any other's to `posterior_<name>.nc`. All
    files are made first, then those of an earlier comparison go, and these take their place. What
    engines had kept there goes too, unless some have yet to finish. Returns the report's path. Raises
    `OSError` where the folder cannot be made or written; the earlier files are as they were then.
    """
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    sampled = [result for result in comparison.engines.values() if result.idata is not None]
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=where) as made_in:
        made = Path(made_in)
        for i, result in enumerate(sampled):
            to_netcdf(result.idata, made / _draws_file("" if i == 0 else result.name))
        comparison.save(made)
        summary = json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(made / "summary.json", summary)
        write_report(comparison, made / "report.html")
        for name in earlier_files(where):
            (where / name).unlink()
        for file in made.iterdir():
            os.replace(file, where / file.name)
    if not (comparison.interrupted or comparison.raised):
        forget(where)
    return where / "report.html"


def _draws_file(engine: str) -> str:
    return f"posterior_{engine.lower()}.nc" if engine else "posterior.nc"


def earlier_files(folder: str | os.PathLike[str]) -> list[str]:
    """The files of a folder that are those of a comparison, by name."""
    ours = {"report.html", "summary.json", "comparison.nc", *map(_draws_file, ("", *ENGINES))}
    return sorted(name for name in ours if (Path(folder) / name).is_file())


def write_text(path: Path, text: str) -> Path:
    """Write a text file in full or not at all: a draft beside it, then one rename."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path
