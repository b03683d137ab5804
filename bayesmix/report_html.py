"""Pieces of the report as HTML: cells, tables, sections, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def section(title: str, *parts: str) -> str:
    """A section of a page under its heading; parts are HTML already."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def note(text: str) -> str:
    """A remark in small letters, escaped."""
    return f'<p class="note">{escape(text)}</p>'


def picture(name: str, caption: str, figure: Figure) -> str:
    """A figure as a PNG inside the page, with its caption."""
    code = base64.b64encode(plots.figure_png(figure)).decode("ascii")
    return (
        f'<figure>\n<img alt="{escape(name)}" src="data:image/png;base64,{code}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )
