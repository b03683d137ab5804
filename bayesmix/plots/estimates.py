"""Pictures of the estimates: parameters with intervals, and responsibilities row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import common
from .common import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..comparison.result import Comparison

MAX_PANELS = 12
_ENTRY = re.compile(r"(?P<site>[^\[\]]+)\[(?P<index>.*)\]")


def sorted_rows(responsibilities: ArrayLike) -> Array:
    """Return the order of rows by label and, within a label, from the most certain to the least.

    Args:
        responsibilities: shape (N, K).

    >>> sorted_rows([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [1.0, 0.0]]).tolist()
    [3, 1, 0, 2]
    """
    values = np.asarray(responsibilities, float)
    return np.lexsort((-values.max(axis=1), values.argmax(axis=1)))


def responsibility_image(responsibilities: ArrayLike, height: int = 60) -> Array:
    """Return stacked bars of responsibilities as an image: one pixel column per row of data.

    Component 0 is at the bottom (at the end of the first axis); each component's share of a pixel
    column is its responsibility, to the nearest pixel.

    Args:
        responsibilities: shape (N, K), each row adding up to 1.
        height: pixels of a whole bar.

    Returns:
        Colours in [0, 1], shape (height, N, 3).

    >>> responsibility_image([[1.0, 0.0], [0.5, 0.5]], height=4).shape
    (4, 2, 3)
    """
    values = np.asarray(responsibilities, float)
    colors = np.array(common.component_colors(values.shape[1]))
    tops = np.cumsum(values, axis=1)[:, :-1]  # the last component fills what is left
    middles = (np.arange(height)[::-1] + 0.5) / height
    component = (middles[:, None, None] > tops[None]).sum(axis=2)
    return colors[component]


@common.picture
def plot_responsibilities(
    comparison: Comparison,
    engines: Sequence[str] | None = None,
    max_rows: int = 1500,
    latent: str | None = None,
) -> Figure:
    """Show every row's responsibilities as a stacked bar, one strip per engine, and its doubt.

    Rows are put in one order for all engines: by label of the reference engine (MAP-EM where it is
    there) and, within a label, from certain to uncertain. The last panel is 1 - max_k r_ik: the
    probability that a row's most probable component is not its component.

    Args:
        comparison: what `bayesmix.compare` returns; the engines must number components alike.
        engines: which engines, by default all.
        max_rows: with more rows than this, that many evenly spaced ones are drawn.
        latent: which latent of a row, where a program has several.

    Returns:
        A `matplotlib.figure.Figure` with one strip per engine and the panel of uncertainty.

    Raises:
        ValueError: without engines, for an engine that isn't there, or where `latent` is none of
            the program's, or is needed.
        ImportError: without matplotlib.

    >>> len(plot_responsibilities(comparison).axes)  # four engines
    5
    """
    from matplotlib.lines import Line2D

    names = list(comparison.engines) if engines is None else list(engines)
    if not names:
        raise ValueError("a picture of responsibilities needs at least one engine")
    results = {name: common.find_engine(comparison, name) for name in names}
    reference = "MAP-EM" if "MAP-EM" in results else names[0]
    shares = {name: _responsibilities(result, latent) for name, result in results.items()}
    order = sorted_rows(shares[reference])
    chosen = order[common.thinned(len(order), max_rows)]
    figure = common.new_figure(9.0, 1.7 + 0.95 * len(names) + 1.3, comparison.title)
    panels = figure.subplots(
        len(names) + 1, 1, sharex=True, height_ratios=[1.0] * len(names) + [1.5]
    )
    handles = common.component_handles(shares[reference].shape[1], marker=False)
    worst = 0.0
    for axes, name in zip(panels, names, strict=False):
        values = shares[name][chosen]
        axes.imshow(
            responsibility_image(values),
            aspect="auto",
            interpolation="nearest",
            extent=(0.0, float(len(chosen)), 0.0, 1.0),
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_yticks([0.0, 1.0])
        axes.tick_params(axis="x", bottom=False)
        color, dash, _ = common.engine_style(name)
        doubt = 1.0 - values.max(axis=1)
        worst = max(worst, float(doubt.max()))
        panels[-1].plot(
            np.arange(len(chosen)) + 0.5, doubt, color=color, linestyle=dash, linewidth=1.1
        )
        handles.append(Line2D([], [], color=color, linestyle=dash, label=f"uncertainty, {name}"))
    drawn = "" if len(chosen) == len(order) else f" ({len(chosen):,} of {len(order):,} drawn)"
    whose = "" if latent is None else f" of {common.short(latent)}"
    panels[0].set_title(f"Responsibilities{whose}, one stacked bar per row of data{drawn}")
    panels[-1].set(xlim=(0.0, len(chosen)), ylim=(0.0, max(1.08 * worst, 0.05)))
    panels[-1].set_ylabel("1 - max r")
    panels[-1].set_xlabel(f"rows, by {reference} label, most certain first within a label")
    figure.align_ylabels(list(panels))
    common.legend_below(figure, handles)
    return figure


def _responsibilities(result: Any, latent: str | None) -> Array:
    """Those of one latent, (N, K)."""
    found = result.responsibilities if latent is None else result.by_latent.get(latent)
    if found is None:
        raise ValueError(f"latent={latent!r}; name one of {sorted(result.by_latent)}")
    return np.asarray(found, float)


def parse_parameter(text: str) -> tuple[str, list[str]]:
    """Split the name of a table row into its site and its indices.

    >>> parse_parameter("mean[0, eruptions]"), parse_parameter("nu")
    (('mean', ['0', 'eruptions']), ('nu', []))
    """
    match = _ENTRY.fullmatch(text.strip())
    if match is None:
        return text, []
    return match["site"], [index.strip() for index in match["index"].split(",")]


def _label_axes(comparison: Comparison) -> Mapping[str, int] | None:
    """Return where labels sit, as the samplers found it; None where no sampler ran."""
    for result in comparison.engines.values():
        if result.draws is not None:
            return result.label_axis
    return None


def _panels(comparison: Comparison) -> dict[str, list[tuple[str, int | None, Mapping[str, Any]]]]:
    """Group the table's rows: one panel per site and remaining index, one line per component."""
    axes = _label_axes(comparison)
    groups: dict[str, list[tuple[str, int | None, Mapping[str, Any]]]] = {}
    for row in comparison.parameters:
        site, index = parse_parameter(row["parameter"])
        place = 0 if axes is None else axes.get(site, -1)
        if 0 <= place < len(index) and index[place].isdigit():
            component = int(index.pop(place))
            title = f"{site}, {', '.join(index)}" if index else site
            known = component if component < comparison.num_components else None
            groups.setdefault(title, []).append((str(component), known, row))
        else:
            groups.setdefault(site, []).append((", ".join(index), None, row))
    for lines in groups.values():
        lines.sort(key=lambda line: -1 if line[1] is None else line[1])
    return groups


def _draw_cell(axes: Axes, cell: Any, height: float, name: str) -> None:
    """Draw a number as an open marker and a (mean, low, high) as a filled one with its interval."""
    color, _, marker = common.engine_style(name)
    if np.ndim(cell) == 0:
        axes.plot(
            float(cell), height, marker=marker, color=color, markerfacecolor="white", markersize=5.5
        )
        return
    mean, low, high = (float(value) for value in cell)
    axes.plot([low, high], [height, height], color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot(mean, height, marker=marker, color=color, markersize=5.0)


@common.picture
def plot_parameters(comparison: Comparison, sites: Sequence[str] | None = None) -> Figure:
    """Show point estimates against posterior means and 94% intervals, parameter by parameter.

    Each panel is one parameter in its own units, with a line per component (marked at the left in
    the component's colour) and, within it, the engines from top to bottom. Open markers are point
    estimates; filled ones are posterior means after relabelling, with the interval of the table.

    Args:
        comparison: what `bayesmix.compare` returns.
        sites: the parameters to show, such as ["mean"]; by default all, at most 12 panels, with a
            note that says how many more the table holds.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: where the table is empty or a site isn't in it.
        ImportError: without matplotlib.

    >>> figure = plot_parameters(comparison)
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['mean, column a', 'mean, column b', 'weights']
    """
    groups = _panels(comparison)
    if sites is not None:
        held = {parse_parameter(row["parameter"])[0] for row in comparison.parameters}
        missing = [site for site in sites if site not in held]
        if missing:
            raise ValueError(f"no parameter {missing} in the table; it holds {sorted(held)}")
        groups = {
            title: lines
            for title, lines in groups.items()
            if parse_parameter(lines[0][2]["parameter"])[0] in sites
        }
    if not groups:
        raise ValueError("the comparison's table of parameters is empty")
    shown = list(groups.items())[:MAX_PANELS]
    hidden = len(groups) - len(shown)
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    tallest = max(len(lines) for _, lines in shown)
    engines = list(comparison.engines)
    panel = min(0.55 + max(0.16 * len(engines), 0.3) * tallest, 5.0)
    note = f"; {hidden} more panels left to the table" if hidden else ""
    figure = common.new_figure(
        3.1 * max(across, 2), 1.1 + (panel + 0.45) * down, f"{comparison.title}: estimates{note}"
    )
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (title, lines) in zip(grid, shown, strict=False):
        _draw_panel(axes, lines, engines, comparison.num_components)
        axes.set_title(common.short(title, 40))
        if axes in grid[::across] and all(component is not None for _, component, _ in lines):
            axes.set_ylabel("component")
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    common.legend_below(figure, _engine_handles(comparison))
    return figure


def _draw_panel(
    axes: Axes,
    lines: Sequence[tuple[str, int | None, Mapping[str, Any]]],
    engines: Sequence[str],
    num_components: int,
) -> None:
    colors = common.component_colors(num_components)
    for i, (_, component, row) in enumerate(lines):
        for j, name in enumerate(engines):
            height = i + 0.7 * ((j + 0.5) / len(engines) - 0.5)
            cell = row.get(name)
            if cell is not None and not isinstance(cell, str) and np.all(np.isfinite(cell)):
                _draw_cell(axes, cell, height, name)
        if component is not None:
            axes.plot(
                [0.0, 0.0],
                [i - 0.4, i + 0.4],
                color=colors[component],
                linewidth=7.0,
                solid_capstyle="butt",
                transform=axes.get_yaxis_transform(),
                clip_on=False,
                zorder=5,
            )
        if i:
            axes.axhline(i - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_yticks(range(len(lines)), [common.short(label, 18) for label, _, _ in lines])
    axes.tick_params(axis="y", length=0, pad=6)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)
    axes.locator_params(axis="x", nbins=5)


def _engine_handles(comparison: Comparison) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for name, result in comparison.engines.items():
        color, _, marker = common.engine_style(name)
        point = result.draws is None
        handles.append(
            Line2D(
                [],
                [],
                color=color,
                marker=marker,
                markerfacecolor="white" if point else color,
                linestyle="none" if point else "-",
                label=f"{name}, {'point estimate' if point else 'mean and 94% interval'}",
            )
        )
    return handles
