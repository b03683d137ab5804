"""The sections of a comparison: each is made once, as data, and shown as text or as HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .records import Agreement
    from .result import Comparison

_MOST_COLUMNS = 6  # beside which p-values of single columns would make the table too wide
_MOST_MODES = 10


class Section(NamedTuple):
    """A table of cells (see :func:`cell`), what is found beside it, and how to read it.

    The first column names what a row is about. Each of `remarks` is a sentence for itself.
    """

    title: str
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    remarks: Sequence[str] = ()
    note: str = ""


def sections(comparison: Comparison) -> list[Section]:
    """Every section that a comparison has something for, in the order to show them."""
    parts = (
        _interrupted,
        _parameters,
        _scores,
        _calibration,
        _evidence,
        _agreement,
        _diagnostics,
        _modes,
        _times,
        _left_out,
    )
    made = [section for part in parts for section in part(comparison)]
    return [section for section in made if section.rows or section.remarks]


# --------------------------------------------------------------------------------------- what they hold
def _interrupted(comparison: Comparison) -> Iterator[Section]:
    if comparison.interrupted:
        yield Section("Interrupted", remarks=["Only the engines that had finished are shown."])


def _parameters(comparison: Comparison) -> Iterator[Section]:
    engines = list(comparison.engines)
    rows = [
        [row["parameter"], *(row.get(name) for name in engines)] for row in comparison.parameters
    ]
    note = "Point estimates for EM."
    if any(result.draws is not None for result in comparison.engines.values()):
        note += " Posterior mean and 94% interval for the samplers, after relabelling."
    yield Section("Parameters", ["parameter", *engines], rows, note=note)


def _scores(comparison: Comparison) -> Iterator[Section]:
    headings = ["engine", "prediction", "mean log density per row", "s.e."]
    paired = any(row["difference"] is not None for row in comparison.scores)
    headings += ["difference from MAP-EM", "its s.e."] * paired
    rows = []
    for row in comparison.scores:
        kind = "plug-in" if row["plug_in"] else "posterior average"
        cells = [row["engine"], kind, f"{row['held_out']:.4f}", f"{row['se']:.4f}"]
        if row["difference"] is not None:
            cells += [f"{row['difference']:+.4f}", f"{row['difference_se']:.4f}"]
        rows.append(cells + ["-"] * (len(headings) - len(cells)))
    note = (
        "In nats per row; higher is better. EM predicts from its point estimate, a sampler averages the "
        "density over its draws. The difference is taken row by row."
    )
    yield Section("Prediction of held-out rows", headings, rows, note=note)


def _calibration(comparison: Comparison) -> Iterator[Section]:
    if not comparison.calibration_scores:
        if comparison.calibration_note:
            yield Section("Calibration", remarks=[comparison.calibration_note])
        return
    columns = list(comparison.calibration_scores[0]["marginal_p_values"])
    columns = columns if 1 < len(columns) <= _MOST_COLUMNS else []
    rows = [
        [
            row["engine"],
            row["rows"],
            row["cells"],
            f"{row['distance']:.3f}",
            row["p_value"],
            f"{row['inside_50']:.1%}",
            f"{row['inside_90']:.1%}",
            *(row["marginal_p_values"][name] for name in columns),
        ]
        for row in comparison.calibration_scores
    ]
    headings = ["engine", "rows", "cells", "distance from uniform", "p-value"]
    headings += ["inside 50%", "inside 90%", *(f"p-value, {name} alone" for name in columns)]
    remarks = [
        f"{row['engine']}: {row['high_pareto_k']} row(s) cannot be left out by weights (Pareto k above "
        "0.7)."
        for row in comparison.calibration_scores
        if row["high_pareto_k"]
    ]
    note = (
        "The predictive distribution function at the rows is uniform if predictions are as uncertain as "
        "they say. The distance is Kolmogorov's, over all cells, each given those before it in its row; "
        "50% and 90% are central intervals. Rows left out one at a time by importance weights are those "
        "of the fit."
    )
    yield Section("Calibration", headings, rows, remarks, note)


def _evidence(comparison: Comparison) -> Iterator[Section]:
    rows = [
        [row["engine"], f"{row['value']:.3f}", row["error"], row["kind"]]
        for row in comparison.evidence
    ]
    yield Section("Log evidence", ["engine", "log p(x)", "s.e.", "kind"], rows)


def _agreement(comparison: Comparison) -> Iterator[Section]:
    """Of one latent every two engines; of several latents the two engines that agree least on each."""
    meaning = {
        "adjusted Rand index": "Of the hard labels: 1 is the same partition, 0 is chance.",
        "variation of information, bits": "Of the hard labels: 0 is the same partition.",
    }
    if len(comparison.agreements) > 1:
        rows = [_least_agreement(*each) for each in comparison.agreements.items()]
        note = (
            "Of the hard labels; index 1 and variation 0 are the same partition, index 0 is chance."
        )
        title = "Least agreement of the clusterings"
        yield Section(title, ["latent", *meaning, "between"], rows, note=note)
        return
    for found in comparison.agreements.values():
        for what, values in zip(meaning, found[1:], strict=True):
            rows = [
                [name, *(f"{value:.3f}" for value in row)]
                for name, row in zip(found.names, values, strict=True)
            ]
            title = f"Agreement of the clusterings: {what}"
            yield Section(title, ["engine", *found.names], rows, note=meaning[what])


def _least_agreement(latent: str, found: Agreement) -> list[str]:
    others = np.where(np.eye(len(found.names), dtype=bool), np.inf, found.adjusted_rand)
    least = np.unravel_index(np.argmin(others), others.shape)
    one, other = (found.names[i] for i in least)
    index, variation = (f"{values[least]:.3f}" for values in found[1:])
    return [latent, index, variation, f"{one} and {other}"]


def _diagnostics(comparison: Comparison) -> Iterator[Section]:
    columns = {
        "engine": "engine",
        "rhat_invariant": "R-hat, label-invariant",
        "ess_invariant": "ESS, label-invariant",
        "rhat_labelled": "R-hat, as drawn",
        "rhat_relabelled": "R-hat, relabelled",
        "ess_relabelled": "ESS, relabelled",
        "switches": "label switches",
    }
    rows = [[row[name] for name in columns] for row in comparison.diagnostics]
    remarks = [
        f"{name}: {result.diagnostics}"
        for name, result in comparison.engines.items()
        if result.diagnostics
    ]
    note = (
        "Worst over quantities. Judge convergence by the label-invariant columns: R-hat of labelled "
        "parameters is large whenever chains number the components differently, which is no failure."
    )
    yield Section("Diagnostics of the samplers", list(columns.values()), rows, remarks, note)


def _modes(comparison: Comparison) -> Iterator[Section]:
    headings = ["engine", "objective", "below the best", "starts"]
    rows: list[list[Any]] = []
    remarks = []
    samplers = list(comparison.modes[0]["draws"]) if comparison.modes else []
    if comparison.modes:
        headings += ["weight", "relabelled copies", *(f"draws of {name}" for name in samplers)]
    for name, result in comparison.engines.items():
        if result.status:
            remarks.append(f"{name}: {result.status}")
        if result.failed:
            kinds = ", ".join(sorted(set(result.failed)))
            remarks.append(f"{name}: {len(result.failed)} start(s) did not converge ({kinds}).")
        if len(result.modes) > _MOST_MODES:
            remarks.append(f"{name}: {len(result.modes) - _MOST_MODES} more modes, lower still.")
        for i, (objective, starts) in enumerate(result.modes[:_MOST_MODES]):
            gap = result.modes[0][0] - objective
            row = [name, f"{objective:.4f}", f"{gap:.3f}" if gap else "best", starts]
            weighed = name == "MAP-EM" and i < len(comparison.modes)
            row += _weight(comparison.modes[i]) if weighed else [None] * (len(headings) - 4)
            rows.append(row)
    note = (
        "A mode is a mode of the density in the constrained space, without the Jacobian of any "
        "transformation; in other coordinates the mode is another point, while posterior means of the "
        "density and of responsibilities don't depend on that choice."
    )
    if comparison.modes:
        note += (
            " A weight is Laplace's approximation to the posterior probability about a mode and its "
            "relabelled copies, among the modes found. A draw belongs to the mode that is nearest in "
            "the log densities of the rows."
        )
    yield Section("Modes found", headings, rows, remarks, note if rows else "")


def _weight(mode: Mapping[str, Any]) -> list[Any]:
    weight = f"none: {mode['reason']}" if mode["weight"] is None else f"{mode['weight']:.3f}"
    return [weight, mode["copies"], *(f"{share:.0%}" for share in mode["draws"].values())]


def _times(comparison: Comparison) -> Iterator[Section]:
    rows = [
        [name, f"{result.seconds:.2f}", f"{result.compiling:.2f}"]
        for name, result in comparison.engines.items()
    ]
    yield Section("Time on all rows", ["engine", "seconds", "of these, compiling"], rows)


def _left_out(comparison: Comparison) -> Iterator[Section]:
    reasons = comparison.left_out.items()
    yield Section(
        "Left out", remarks=[f"{name} was left out: {reason}." for name, reason in reasons]
    )


# ---------------------------------------------------------------------------------- how they are shown
def cell(value: Any) -> str:
    """A cell as text: four significant digits, an interval in brackets, a dash for None.

    >>> cell(1234.567), cell((0.25, 0.2, 0.3)), cell(None)
    ('1235', '0.25 [0.2, 0.3]', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if np.ndim(value) > 0:
        centre, *ends = (cell(float(entry)) for entry in value)
        return f"{centre} [{', '.join(ends)}]"
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = float(value)
    if np.isnan(number):
        return "not defined"
    return f"{number:.0f}" if 1000 <= abs(number) < 1e7 else f"{number:.4g}"


def as_text(section: Section) -> str:
    """A section for a terminal: the first column aligned left and the others right.

    >>> print(as_text(Section("Sizes", ["name", "n"], [["a", 12], ["bc", None]], note="In metres.")))
    Sizes
      name   n
      ----  --
      a     12
      bc     -
      In metres.
    """
    lines = [section.title]
    if section.rows:
        table = [section.headings, *([cell(value) for value in row] for row in section.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        table.insert(1, ["-" * width for width in widths])
        for first, *others in table:
            right = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
            lines.append(("  " + "  ".join([first.ljust(widths[0]), *right])).rstrip())
    lines += [f"  {remark}" for remark in section.remarks]
    lines += [f"  {line}" for line in textwrap.wrap(section.note, 98)]
    return "\n".join(lines)


def as_html(section: Section) -> str:
    """A section for a page, every text escaped.

    >>> print(as_html(Section("Sizes", ["name", "n"], [["<b>", 0.5]])))
    <section>
    <h2>Sizes</h2>
    <div class="wide"><table>
    <thead><tr><th>name</th><th>n</th></tr></thead>
    <tbody>
    <tr><td>&lt;b&gt;</td><td>0.5</td></tr>
    </tbody></table></div>
    </section>
    """
    parts = []
    if section.rows:
        head = "".join(f"<th>{escape(text)}</th>" for text in section.headings)
        lines = ("".join(f"<td>{escape(cell(v))}</td>" for v in row) for row in section.rows)
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        parts.append(
            f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )
    parts += [f"<p>{escape(remark)}</p>" for remark in section.remarks]
    if section.note:
        parts.append(f'<p class="note">{escape(section.note)}</p>')
    return framed(section.title, *parts)


def framed(title: str, *parts: str) -> str:
    """Parts of a page, which are HTML already, under a heading."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])
