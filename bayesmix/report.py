"""The report of a comparison: one HTML file that needs nothing else, to read, send or print."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix import plots
from bayesmix.plots.draws import has_replications, has_traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayesmix.plots.common import Comparison

_MODE_NOTE = (
    "A mode is a mode of the density in the constrained space, without the Jacobian of any "
    "transformation; in other coordinates the mode is another point, while posterior means of the "
    "density and of responsibilities don't depend on that choice."
)

_DIAGNOSTICS = {
    "engine": "engine",
    "rhat_invariant": "R-hat, label-invariant",
    "ess_invariant": "ESS, label-invariant",
    "rhat_labelled": "R-hat, as drawn",
    "rhat_relabelled": "R-hat, relabelled",
    "ess_relabelled": "ESS, relabelled",
    "switches": "label switches",
}


def format_value(value: Any) -> str:
    """Return a table cell as plain text: four significant digits, an interval in brackets.

    Args:
        value: a number, a (mean, low, high) triple, text, or None where there is nothing to say.

    >>> format_value(1234.567), format_value((0.25, 0.2, 0.3)), format_value(None)
    ('1235', '0.25 [0.2, 0.3]', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if np.ndim(value) > 0:
        centre, *rest = (format_value(float(entry)) for entry in value)
        return f"{centre} [{', '.join(rest)}]" if rest else centre
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = float(value)
    if np.isnan(number):
        return "not defined"
    whole = 1000 <= abs(number) < 1e7
    return f"{number:.0f}" if whole else f"{number:.4g}"


def html_table(rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> str:
    """Return rows as an HTML table, every text escaped; the first column is left-aligned.

    Args:
        rows: one mapping per line; a missing key leaves its cell empty.
        headings: the keys to show, in order, and the heading of each.

    >>> print(html_table([{"a": "<b>", "n": 0.5}], {"a": "name", "n": "value"}))
    <div class="wide"><table>
    <thead><tr><th>name</th><th>value</th></tr></thead>
    <tbody>
    <tr><td>&lt;b&gt;</td><td>0.5</td></tr>
    </tbody></table></div>
    """
    head = "".join(f"<th>{escape(text)}</th>" for text in headings.values())
    lines = []
    for row in rows:
        cells = (row.get(key) for key in headings)
        lines.append("".join(f"<td>{escape(format_value(cell))}</td>" for cell in cells))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _figure(name: str, caption: str, figure: Figure) -> str:
    code = base64.b64encode(plots.figure_png(figure)).decode("ascii")
    return (
        f'<figure>\n<img alt="{escape(name)}" src="data:image/png;base64,{code}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def _parameters(comparison: Comparison) -> str:
    if not comparison.parameters:
        return ""
    headings = {"parameter": "parameter", **{name: name for name in comparison.engines}}
    sampled = any(result.draws is not None for result in comparison.engines.values())
    note = "Point estimates for EM." + (
        " Posterior mean and 94% interval for the samplers, after relabelling." if sampled else ""
    )
    return _section("Parameters", html_table(comparison.parameters, headings), _note(note))


def _scores(comparison: Comparison) -> str:
    if not comparison.scores:
        return ""
    headings = {
        "engine": "engine",
        "held_out": "mean log density per row",
        "se": "standard error",
        "difference": "difference from MAP-EM",
        "difference_se": "its standard error",
    }
    if all(row.get("difference") is None for row in comparison.scores):
        headings = dict(list(headings.items())[:3])
    return _section(
        "Prediction of held-out rows",
        html_table(comparison.scores, headings),
        _note(
            "In nats per row; higher is better. EM predicts from its point estimate, a sampler "
            "averages the density over its draws. The difference is taken row by row."
        ),
    )


def _evidence(comparison: Comparison) -> str:
    if not comparison.evidence:
        return ""
    headings = {"engine": "engine", "value": "log p(x)", "error": "standard error", "kind": "kind"}
    return _section("Evidence", html_table(comparison.evidence, headings))


def _agreement(comparison: Comparison) -> str:
    if comparison.agreement is None or len(comparison.agreement[0]) < 2:
        return ""
    names, matrix = comparison.agreement
    rows = [
        {"engine": name, **{other: f"{matrix[i][j]:.3f}" for j, other in enumerate(names)}}
        for i, name in enumerate(names)
    ]
    return _section(
        "Agreement of the clusterings",
        html_table(rows, {"engine": "", **{name: name for name in names}}),
        _note("Adjusted Rand index of the hard labels: 1 is the same partition, 0 is chance."),
    )


def _diagnostics(comparison: Comparison) -> str:
    sentences = [
        f"<p><strong>{escape(name)}.</strong> {escape(result.diagnostics)}</p>"
        for name, result in comparison.engines.items()
        if result.draws is not None and result.diagnostics
    ]
    parts = list(sentences)
    if comparison.diagnostics:
        rows = [{**row, "switches": _switches(row)} for row in comparison.diagnostics]
        parts.insert(0, html_table(rows, _DIAGNOSTICS))
        parts.append(
            _note(
                "Judge convergence by the label-invariant columns: R-hat of labelled parameters is "
                "large whenever chains number the components differently, which is no failure."
            )
        )
    return _section("Diagnostics of the samplers", *parts) if parts else ""


def _switches(row: Mapping[str, Any]) -> Any:
    """Counts per chain become a list, never an interval."""
    value = row.get("switches")
    if value is None or np.ndim(value) == 0:
        return value
    return ", ".join(str(int(count)) for count in value)


def _modes(comparison: Comparison) -> str:
    rows: list[dict[str, Any]] = []
    sentences = []
    for name, result in comparison.engines.items():
        if result.draws is None and result.status:
            sentences.append(f"<p><strong>{escape(name)}.</strong> {escape(result.status)}</p>")
        ranked = sorted(result.modes or [], key=lambda mode: -mode[0])
        for value, count in ranked:
            rows.append(
                {
                    "engine": name,
                    "objective": f"{value:.3f}",
                    "below": "best" if value == ranked[0][0] else f"{ranked[0][0] - value:.3f}",
                    "starts": count,
                }
            )
    if not rows and not sentences:
        return ""
    headings = {
        "engine": "engine",
        "objective": "objective",
        "below": "below the best",
        "starts": "starts",
    }
    table = [html_table(rows, headings)] if rows else []
    return _section("Modes found", *sentences, *table, _note(_MODE_NOTE))


def _timings(comparison: Comparison) -> str:
    rows = [
        {"engine": name, "seconds": f"{result.seconds:.2f}"}
        for name, result in comparison.engines.items()
        if result.seconds is not None
    ]
    if not rows:
        return ""
    return _section("Time", html_table(rows, {"engine": "engine", "seconds": "seconds"}))


def _pictures(comparison: Comparison) -> str:
    """Draw every picture that the comparison has something for."""
    engines = comparison.engines
    gaussian = any(result.covariances is not None for result in engines.values())
    jobs: list[tuple[str, str, Callable[[], Figure]]] = []
    if engines:
        caption = (
            "Rows in the colour of their most probable component, with the density of the engines"
            + (" and the components' ellipses or curves" if gaussian else "")
            + "; look for rows that no component covers and for a component that covers few rows."
        )
        jobs.append(("Density", caption, lambda: plots.plot_density(comparison)))
    if comparison.parameters:
        caption = "Point estimates, component by component, each panel in its own units."
        if any(result.draws is not None for result in engines.values()):
            caption = (
                "Open markers are point estimates, filled ones posterior means with their 94% "
                "interval; a point far from the middle of its interval says that the mode doesn't "
                "stand for the mass."
            )
        jobs.append(("Estimates", caption, lambda: plots.plot_parameters(comparison)))
    if engines:
        caption = (
            "Each vertical bar is one row's responsibilities; mixed bars are rows that belong to "
            "no component for sure, and the curves below say by how much."
        )
        jobs.append(("Responsibilities", caption, lambda: plots.plot_responsibilities(comparison)))
    if has_replications(comparison):
        caption = (
            "Light is replicated from the fitted model, dark is the data; a dark line outside the "
            "light ones, or a p-value near 0 or 1, is something that the model can't produce."
        )
        jobs.append(("Predictive check", caption, lambda: plots.plot_predictive_check(comparison)))
    for name, result in engines.items():
        if has_traces(result):
            caption = (
                f"{name}: where colours change places at the left the labels switched; at the "
                "right each colour should keep to its own band."
            )
            jobs.append(
                (f"Draws of {name}", caption, lambda name=name: plots.plot_traces(comparison, name))  # type: ignore[misc]
            )
    if any(r.objective is not None and np.size(r.objective) for r in engines.values()):
        caption = (
            "The objective of EM may never fall; the straighter and steeper the line at the right, "
            "the faster it converged."
        )
        jobs.append(("Climb of EM", caption, lambda: plots.plot_objective(comparison)))
    if any(result.modes for result in engines.values()):
        caption = (
            "How many starts ended at each mode, the best on top; few starts at the best mode call "
            "for more restarts."
        )
        jobs.append(("Modes", caption, lambda: plots.plot_modes(comparison)))
    if not jobs:
        return ""
    return _section("Pictures", *(_figure(name, text, draw()) for name, text, draw in jobs))


def _origin(comparison: Comparison) -> str:
    rows = [{"what": name, "version": str(text)} for name, text in comparison.versions.items()]
    rows.append({"what": "seed", "version": str(comparison.seed)})
    return _section(
        "How to get this again", html_table(rows, {"what": "what", "version": "version"})
    )


def render_report(comparison: Comparison) -> str:
    """Return the report of a comparison as the text of one HTML page.

    Pictures are embedded as base64 PNG and the style sheet is inside the page, which links to
    nothing. All text that comes from the comparison is escaped. A section for which the comparison
    holds nothing (no sampler, no held-out rows, one engine only) is left out.

    Args:
        comparison: what `bayesmix.compare` returns.

    Raises:
        ImportError: without matplotlib.

    >>> page = render_report(plots.example_comparison(rows=20, columns=1, engines=["MAP-EM"]))
    >>> page.startswith("<!DOCTYPE html>"), "Diagnostics" in page
    (True, False)
    """
    rows, columns = np.shape(comparison.data)
    facts = (
        f"{rows:,} row{'s' * (rows != 1)}, {columns} column{'s' * (columns != 1)} "
        f"({', '.join(map(str, comparison.columns))}), "
        f"{comparison.num_components} component{'s' * (comparison.num_components != 1)}; "
        f"engines: {', '.join(comparison.engines) or 'none'}"
    )
    verdict = f'<p class="verdict">{escape(comparison.verdict)}</p>' if comparison.verdict else ""
    program = f"<pre>{escape(comparison.plan_text)}</pre>" if comparison.plan_text else ""
    parts = [
        verdict,
        _parameters(comparison),
        _scores(comparison),
        _evidence(comparison),
        _agreement(comparison),
        _diagnostics(comparison),
        _modes(comparison),
        _timings(comparison),
        _pictures(comparison),
        _section("The program, as it was read", program) if program else "",
        _origin(comparison),
    ]
    template = resources.files("bayesmix").joinpath("report_template.html")
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
    >>> comparison = plots.example_comparison(rows=20, columns=1, engines=["MAP-EM"])
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


def write_comparison(comparison: Any, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html`, `summary.json` and each sampler's draws (`posterior.nc`) into a folder.

    The first sampler's relabelled draws go to `posterior.nc`, any other's to `posterior_<name>.nc`. Each
    file is written in full or not at all, the report last. Returns the report's path. Raises `OSError`
    where the folder cannot be made or written.
    """
    from .posterior.arviz_compat import to_netcdf

    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    sampled = [result for result in comparison.engines.values() if result.idata is not None]
    for i, result in enumerate(sampled):
        suffix = "" if i == 0 else f"_{result.name.lower()}"
        to_netcdf(result.idata, where / f"posterior{suffix}.nc")
    summary = json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(where / "summary.json", summary)
    return write_report(comparison, where / "report.html")


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
