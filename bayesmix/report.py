"""The report of a comparison: one HTML file that needs nothing else, to read, send or print."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from .posterior.tables import least_agreement
from .report_html import html_table, note, section
from .report_pictures import pictures

if TYPE_CHECKING:
    from bayesmix.plots.common import Comparison

_MODE_NOTE = (
    "A mode is a mode of the density in the constrained space, without the Jacobian of any "
    "transformation; in other coordinates the mode is another point, while posterior means of the "
    "density and of responsibilities don't depend on that choice."
)

_WEIGHT_NOTE = (
    "A weight is Laplace's approximation to the posterior probability about a mode and its relabelled "
    "copies, among the modes found. A draw belongs to the mode that is nearest in the log densities of "
    "the rows."
)
_MOST_COLUMNS = 6  # beside which p-values of single columns would make the table too wide

_DIAGNOSTICS = {
    "engine": "engine",
    "rhat_invariant": "R-hat, label-invariant",
    "ess_invariant": "ESS, label-invariant",
    "rhat_labelled": "R-hat, as drawn",
    "rhat_relabelled": "R-hat, relabelled",
    "ess_relabelled": "ESS, relabelled",
    "switches": "label switches",
}


def _parameters(comparison: Comparison) -> str:
    if not comparison.parameters:
        return ""
    headings = {"parameter": "parameter", **{name: name for name in comparison.engines}}
    sampled = any(result.draws is not None for result in comparison.engines.values())
    kind = "Point estimates for EM." + (
        " Posterior mean and 94% interval for the samplers, after relabelling." if sampled else ""
    )
    return section("Parameters", html_table(comparison.parameters, headings), note(kind))


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
    return section(
        "Prediction of held-out rows",
        html_table(comparison.scores, headings),
        note(
            "In nats per row; higher is better. EM predicts from its point estimate, a sampler "
            "averages the density over its draws. The difference is taken row by row."
        ),
    )


def _evidence(comparison: Comparison) -> str:
    if not comparison.evidence:
        return ""
    headings = {"engine": "engine", "value": "log p(x)", "error": "standard error", "kind": "kind"}
    return section("Evidence", html_table(comparison.evidence, headings))


def _calibration(comparison: Comparison) -> str:
    if not comparison.calibration_scores:
        return section("Calibration", note(comparison.calibration_note)) * bool(
            comparison.calibration_note
        )
    headings = {
        "engine": "engine",
        "rows": "rows",
        "cells": "cells",
        "distance": "distance from uniform",
        "p_value": "p-value",
        "inside_50": "inside 50%",
        "inside_90": "inside 90%",
    }
    columns = list(comparison.calibration_scores[0]["marginal_p_values"])
    rows = []
    for record in comparison.calibration_scores:
        shares = {name: f"{record[name]:.1%}" for name in ("inside_50", "inside_90")}
        marginal = {f"p {name}": p for name, p in record["marginal_p_values"].items()}
        rows.append({**record, **shares, **marginal})
    if 1 < len(columns) <= _MOST_COLUMNS:
        headings |= {f"p {name}": f"p-value, {name} alone" for name in columns}
    high = [
        f" {record['engine']}: {record['high_pareto_k']} rows cannot be left out by weights (Pareto k "
        "above 0.7)."
        for record in comparison.calibration_scores
        if record["high_pareto_k"]
    ]
    return section(
        "Calibration",
        html_table(rows, headings),
        note(
            "The predictive distribution function at the rows is uniform if predictions are as "
            "uncertain as they say. The distance is Kolmogorov's, over all cells, each given those "
            "before it in its row; 50% and 90% are central intervals. Rows left out one at a time "
            "by importance weights are those of the fit." + "".join(high)
        ),
    )


def _agreement(comparison: Comparison) -> str:
    agreements = comparison.agreements
    if not agreements:
        return ""
    if len(agreements) > 1:
        headings = {
            "latent": "latent",
            "adjusted_rand": "adjusted Rand index",
            "variation": "variation of information, bits",
            "between": "of",
        }
        parts = [html_table(least_agreement(agreements), headings)]
    else:
        (found,) = agreements.values()
        parts = [
            html_table(
                _matrix(found.names, values),
                {"engine": what, **dict(zip(found.names, found.names))},
            )
            for what, values in (
                ("Adjusted Rand index", found.adjusted_rand),
                ("Variation of information, bits", found.variation_of_information),
            )
        ]
    explained = (
        "Of the hard labels. Adjusted Rand index: 1 is the same partition, 0 is chance. Variation of "
        "information: 0 is the same partition."
        + " By latent, the two engines that agree least."
        * (len(agreements) > 1)
    )
    return section("Agreement of the clusterings", *parts, note(explained))


def _matrix(names: Sequence[str], values: Any) -> list[dict[str, str]]:
    return [
        {"engine": name, **{other: f"{v:.3f}" for other, v in zip(names, row, strict=True)}}
        for name, row in zip(names, values, strict=True)
    ]


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
            note(
                "Judge convergence by the label-invariant columns: R-hat of labelled parameters is "
                "large whenever chains number the components differently, which is no failure."
            )
        )
    return section("Diagnostics of the samplers", *parts) if parts else ""


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
        weighed = comparison.modes if name == "MAP-EM" else []
        for i, (value, count) in enumerate(ranked):
            below = "best" if value == ranked[0][0] else f"{ranked[0][0] - value:.3f}"
            row = {"engine": name, "objective": f"{value:.3f}", "below": below, "starts": count}
            rows.append(row | (_weight(weighed[i]) if i < len(weighed) else {}))
    if not rows and not sentences:
        return ""
    headings = {
        "engine": "engine",
        "objective": "objective",
        "below": "below the best",
        "starts": "starts",
    }
    if comparison.modes:
        headings |= {"weight": "weight", "copies": "relabelled copies"}
        headings |= {f"draws {name}": f"draws of {name}" for name in comparison.modes[0]["draws"]}
    table = [html_table(rows, headings)] if rows else []
    notes = [note(_MODE_NOTE)] + [note(_WEIGHT_NOTE)] * bool(comparison.modes)
    return section("Modes found", *sentences, *table, *notes)


def _weight(mode: Mapping[str, Any]) -> dict[str, Any]:
    weight = mode["reason"] if mode["weight"] is None else f"{mode['weight']:.3f}"
    shares = {f"draws {name}": f"{share:.0%}" for name, share in mode["draws"].items()}
    return {"weight": weight, "copies": mode["copies"], **shares}


def _timings(comparison: Comparison) -> str:
    rows = [
        {
            "engine": name,
            "seconds": f"{result.seconds:.2f}",
            "compiling": f"{result.compiling:.2f}",
        }
        for name, result in comparison.engines.items()
    ]
    if not rows:
        return ""
    headings = {"engine": "engine", "seconds": "seconds", "compiling": "of these, compiling"}
    return section("Time", html_table(rows, headings))


def _origin(comparison: Comparison) -> str:
    rows = [{"what": name, "version": str(text)} for name, text in comparison.versions.items()]
    rows.append({"what": "seed", "version": str(comparison.seed)})
    return section(
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

    >>> from bayesmix import plots
    >>> page = render_report(plots.example_comparison(rows=20, columns=1, engines=["MAP-EM"]))
    >>> page.startswith("<!DOCTYPE html>"), "Diagnostics" in page
    (True, False)
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
    program = f"<pre>{escape(comparison.plan_text)}</pre>" if comparison.plan_text else ""
    parts = [
        verdict,
        _parameters(comparison),
        _scores(comparison),
        _calibration(comparison),
        _evidence(comparison),
        _agreement(comparison),
        _diagnostics(comparison),
        _modes(comparison),
        _timings(comparison),
        pictures(comparison),
        section("The program, as it was read", program) if program else "",
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
    >>> from bayesmix import plots
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
    """Write `report.html`, `summary.json`, `comparison.nc` and each sampler's draws (`posterior.nc`).

    The first sampler's relabelled draws go to `posterior.nc`, any other's to `posterior_<name>.nc`. All
    files are made first, then those of an earlier comparison go, and these take their place. What
    engines had kept there goes too, unless some have yet to finish. Returns the report's path. Raises
    `OSError` where the folder cannot be made or written; the earlier files are as they were then.
    """
    from .kept_answers import forget
    from .posterior.arviz_compat import to_netcdf

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
    from .posterior.engines import ENGINES

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
