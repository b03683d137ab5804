"""The picture of the fitted density: data, components, and the density of each engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import common
from .common import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..comparison.result import Comparison

MASSES = (0.50, 0.80, 0.95)
_SHADES = ["#F0F0F0", "#DEDEDE", "#C8C8C8"]  # the outermost region first
MAX_COLUMNS = 4


def draw_ellipses(
    axes: Axes,
    means: ArrayLike,
    covariances: ArrayLike,
    masses: Sequence[float] = (0.68, 0.95),
) -> None:
    """Draw the ellipses that hold the given masses of each two-column normal component.

    Args:
        axes: where to draw.
        means: shape (K, 2).
        covariances: shape (K, 2, 2).
        masses: probabilities inside; the first is drawn solid, the others dashed.

    Raises:
        ValueError: as `ellipse_points`, for a covariance that is none.

    >>> axes = common.new_figure(2, 2).add_subplot()
    >>> draw_ellipses(axes, [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
    >>> len(axes.lines)  # an outline and its halo, per mass, and the centre
    5
    """
    centres, spreads = np.asarray(means, float), np.asarray(covariances, float)
    colors = common.component_colors(len(centres))
    for k, (mean, covariance) in enumerate(zip(centres, spreads, strict=True)):
        for j, mass in enumerate(masses):
            outline = common.ellipse_points(mean, covariance, mass)
            dash = "-" if j == 0 else (0, (4, 2))
            axes.plot(*outline.T, color="white", linewidth=2.8, alpha=0.8, zorder=3)
            axes.plot(*outline.T, color=colors[k], linewidth=1.5, linestyle=dash, zorder=4)
        axes.plot(
            *mean, marker="X", color=colors[k], markeredgecolor="white", markersize=8, zorder=5
        )


def draw_clusters(axes: Axes, points: ArrayLike, labels: ArrayLike, num_components: int) -> None:
    """Scatter two columns, one colour and marker per component.

    Whole-number columns are spread by up to 0.15 each way, so that equal rows show as a cloud, and
    at most 5000 evenly spaced rows are drawn.

    Args:
        axes: where to draw.
        points: shape (N, 2); rows with a missing cell are left out.
        labels: component of each row, whole numbers in 0 .. `num_components` - 1, shape (N,).
        num_components: K, which fixes the colours.

    >>> axes = common.new_figure(2, 2).add_subplot()
    >>> draw_clusters(axes, [[0.5, 1.5], [2.5, 3.5]], [0, 1], 2)
    >>> len(axes.collections)
    2
    """
    shown, label = np.array(points, float), np.asarray(labels)
    spread = np.random.default_rng(0).uniform(-0.15, 0.15, shown.shape)
    for j in range(2):
        if common.is_discrete(shown[:, j]):
            shown[:, j] += spread[:, j]
    chosen = common.thinned(len(shown))
    shown, label = shown[chosen], label[chosen]
    size = float(np.clip(2500.0 / max(len(shown), 1), 4.0, 18.0))
    for k, color in enumerate(common.component_colors(num_components)):
        rows = label == k
        if rows.any():
            axes.scatter(
                shown[rows, 0],
                shown[rows, 1],
                s=size,
                color=color,
                marker=common.component_marker(k),
                alpha=0.55,
                linewidths=0,
                zorder=2,
            )


def _draw_contours(axes: Axes, grid: Any, log_density: ArrayLike) -> None:
    across, up = (np.asarray(axis, float) for axis in grid)
    values = np.asarray(log_density, float)
    cell = np.gradient(up)[:, None] * np.gradient(across)[None, :]
    levels = np.unique(common.mass_levels(values, MASSES, cell))
    top = values.max()
    values = np.maximum(values, levels[0] - 50.0)
    bounds = [*levels[levels < top], top + 1e-9 * max(1.0, abs(top))]
    if len(bounds) > 1:
        shades = _SHADES[-(len(bounds) - 1) :]
        axes.contourf(across, up, values, levels=bounds, colors=shades, zorder=1)
        axes.contour(
            across, up, values, bounds[:-1], colors="#9A9A9A", linestyles="-", linewidths=0.6
        )


def _draw_column(axes: Axes, values: Array, engine: Any, column: int, num: int) -> None:
    """Draw a histogram on the density scale and, under it, the weighted component curves."""
    edges, seen = common.bin_edges(values), common.finite(values)
    if seen.size:
        axes.hist(seen, bins=edges.tolist(), density=True, color="#D9D9D9", zorder=1)
    if engine is None or engine.covariances is None:
        return
    margin = 0.08 * (edges[-1] - edges[0])
    x = np.linspace(edges[0] - margin, edges[-1] + margin, 500)
    for k, color in enumerate(common.component_colors(num)):
        variance = float(engine.covariances[k, column, column])
        if not variance > 0:
            continue
        curve = engine.weights[k] * common.normal_density(x, engine.means[k, column], variance)
        axes.fill_between(x, curve, color=color, alpha=0.25, linewidth=0, zorder=2)
        axes.plot(x, curve, color=color, linewidth=1.3, zorder=3)


def _chosen_engines(comparison: Comparison, engines: Sequence[str] | None) -> list[str]:
    if engines is not None:
        for name in engines:
            common.find_engine(comparison, name)
        return list(engines)
    both = (common.point_engine(comparison), common.sampler_engine(comparison))
    return [name for name in both if name is not None]


def _chosen_columns(comparison: Comparison, columns: Sequence[str] | None) -> list[int]:
    names = list(comparison.columns)
    if columns is None:
        return list(range(len(names)))[:MAX_COLUMNS]
    unknown = [name for name in columns if name not in names]
    if unknown or not columns:
        raise ValueError(f"no column {unknown}; the columns are {names}")
    return [names.index(name) for name in columns]


def _density_of(comparison: Comparison, name: str) -> tuple[Any, Array] | None:
    """Return the grid and an engine's log density on it, where the comparison holds them."""
    density = comparison.density
    if density is None or name not in density["log_density"]:
        return None
    return density["grid"], np.asarray(density["log_density"][name], float)


@common.picture
def plot_density(
    comparison: Comparison,
    engines: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Figure:
    """Show the data with the density and the components that each engine found.

    One column: a histogram with one tick per row, the density of every engine, and the weighted
    components of the first engine shown. Two columns: a panel per engine with the rows coloured by
    their most probable component, grey regions that hold 50, 80 and 95% of the probability, and
    ellipses that hold 68 and 95% of each component. More columns: a matrix of scatter plots, the
    first engine below the diagonal and the second above it. Ellipses are drawn for Gaussian
    components only, with the engine's point estimate (for a sampler the mean after relabelling).

    Args:
        comparison: what `bayesmix.compare` returns; data of shape (N, D), NaN allowed.
        engines: names of the engines; by default MAP-EM (else MLE-EM) and NUTS (else Gibbs), and
            every engine's curve where there is one column.
        columns: names of the columns in the matrix; by default the first four.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: for an engine or a column that the comparison doesn't hold.
        ImportError: without matplotlib.

    >>> figure = plot_density(comparison)
    >>> len(figure.axes)  # the MAP-EM panel and the NUTS panel
    2
    """
    chosen = _chosen_engines(comparison, engines)
    index = _chosen_columns(comparison, columns)
    if len(comparison.columns) == 1:
        curves = list(comparison.engines) if engines is None else chosen
        return _plot_one_column(comparison, chosen, curves)
    if len(index) == 1:
        raise ValueError("give at least two column names, or none")
    if len(index) == 2:
        return _plot_two_columns(comparison, chosen, index)
    return _plot_matrix(comparison, chosen, index)


def _plot_one_column(comparison: Comparison, chosen: list[str], curves: list[str]) -> Figure:
    from matplotlib.lines import Line2D

    figure = common.new_figure(8.0, 4.6, comparison.title)
    axes = figure.add_subplot()
    values, num = np.asarray(comparison.data, float)[:, 0], comparison.num_components
    first = comparison.engines[chosen[0]] if chosen else None
    _draw_column(axes, values, first, 0, num)
    ticks = common.finite(values)[common.thinned(common.finite(values).size)]
    axes.plot(
        ticks,
        np.full(ticks.size, -0.018),
        marker="|",
        markersize=7,
        linestyle="none",
        color="#333333",
        alpha=0.5,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
    low, high = axes.get_xlim()
    handles: list[Any] = []
    if first is not None and first.covariances is not None:
        handles = common.component_handles(num, marker=False)
    for name in curves:
        density = _density_of(comparison, name)
        if density is None:
            continue
        color, dash, _ = common.engine_style(name)
        axes.plot(density[0], np.exp(density[1]), color=color, linestyle=dash, zorder=4)
        sampled = comparison.engines[name].draws is not None
        text = f"{name}, posterior average" if sampled else f"{name}, plug-in"
        handles.append(Line2D([], [], color=color, linestyle=dash, label=text))
    axes.set(xlim=(low, high), xlabel=common.plain(comparison.columns[0]), ylabel="density")
    axes.set_ylim(bottom=0.0)
    axes.tick_params(axis="x", pad=9)
    whose = f"; components from {chosen[0]}" if handles and chosen else ""
    axes.set_title(f"Histogram of the rows and the density of each engine{whose}")
    if handles:
        common.legend_below(figure, handles)
    return figure


def _rows_note(comparison: Comparison) -> str:
    rows = len(comparison.data)
    drawn = len(common.thinned(rows))
    return "" if drawn == rows else f" ({drawn:,} of {rows:,} rows drawn)"


def _plot_two_columns(comparison: Comparison, chosen: list[str], index: list[int]) -> Figure:
    width = 5.2 * max(len(chosen), 1)
    figure = common.new_figure(max(width, 6.4), 5.0, comparison.title)
    panels = figure.subplots(1, max(len(chosen), 1), sharex=True, sharey=True, squeeze=False)[0]
    data, num = np.asarray(comparison.data, float)[:, index], comparison.num_components
    for axes, name in zip(panels, chosen, strict=False):
        engine = comparison.engines[name]
        draw_clusters(axes, data, np.asarray(engine.labels), num)
        notes = []
        if engine.covariances is not None:
            block = np.asarray(engine.covariances)[:, index][:, :, index]
            draw_ellipses(axes, np.asarray(engine.means)[:, index], block)
            notes.append("ellipses: 68% and 95% of each component")
        limits = axes.axis()
        density = _density_of(comparison, name)
        if density is not None and len(comparison.columns) == 2 and index == [0, 1]:
            _draw_contours(axes, *density)
            notes.append("grey: regions that hold 50, 80 and 95% of the probability")
        axes.axis(limits)
        kind = "posterior average" if engine.draws is not None else "point estimate"
        axes.set_title("\n".join([f"{name}, {kind}{_rows_note(comparison)}", *notes]))
        axes.set_xlabel(common.plain(comparison.columns[index[0]]))
    panels[0].set_ylabel(common.plain(comparison.columns[index[1]]))
    common.legend_below(figure, common.component_handles(num))
    return figure


def _plot_matrix(comparison: Comparison, chosen: list[str], index: list[int]) -> Figure:
    size = len(index)
    figure = common.new_figure(2.3 * size, 2.3 * size + 0.9, comparison.title)
    panels = figure.subplots(size, size, sharex="col", squeeze=False)
    data, num = np.asarray(comparison.data, float), comparison.num_components
    for i, row in enumerate(index):
        for j, column in enumerate(index):
            axes = panels[i, j]
            which = chosen[:1] if i >= j else chosen[1:2]
            engine = comparison.engines[which[0]] if which else None
            if i == j:
                _draw_column(axes, data[:, row], engine, row, num)
                common.hide_y(axes)
            elif engine is None:
                axes.set_axis_off()
            else:
                pair = [column, row]
                draw_clusters(axes, data[:, pair], np.asarray(engine.labels), num)
                if engine.covariances is not None:
                    block = np.asarray(engine.covariances)[:, pair][:, :, pair]
                    draw_ellipses(axes, np.asarray(engine.means)[:, pair], block)
    _share_rows(panels)
    for i, row in enumerate(index):
        panels[i, 0].set_ylabel(common.short(comparison.columns[row], 22))
        panels[-1, i].set_xlabel(common.short(comparison.columns[row], 22))
    figure.align_ylabels(list(panels[:, 0]))
    notes = chosen[0] if chosen else ""
    if len(chosen) > 1:
        notes = f"{chosen[0]} on and below the diagonal, {chosen[1]} above it"
    if any(comparison.engines[name].covariances is not None for name in chosen[:2]):
        notes += "; ellipses: 68% and 95% of each component"
    hidden = len(comparison.columns) - size
    more = f"; {hidden} more columns not drawn" if hidden else ""
    text = f"{notes}{more}{_rows_note(comparison)}"
    common.legend_below(figure, common.component_handles(num), title=text)
    return figure


def _share_rows(panels: Array) -> None:
    """Give the scatter plots of a row one vertical scale; the diagonal keeps its own."""
    for i, row in enumerate(panels):
        scatter = [axes for j, axes in enumerate(row) if j != i and axes.axison]
        if not scatter:
            continue
        limits = [axes.get_ylim() for axes in scatter]
        low, high = min(a for a, _ in limits), max(b for _, b in limits)
        for axes in scatter:
            axes.set_ylim(low, high)
            if axes is not row[0]:
                axes.tick_params(labelleft=False)
