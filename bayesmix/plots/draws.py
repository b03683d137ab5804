"""Pictures of what a sampler drew: traces and label switches, and the predictive check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import common
from .common import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..comparison.result import Comparison

MAX_COLUMNS = 4
MAX_LINES = 25


def draw_trace(axes: Axes, draws: ArrayLike) -> None:
    """Draw one dot per draw, one colour per component, chain after chain.

    Args:
        axes: where to draw.
        draws: shape (chain, draw, K); long chains are thinned evenly to about 4000 dots each.

    Raises:
        ValueError: for another number of dimensions.

    >>> axes = common.new_figure(2, 2).add_subplot()
    >>> draw_trace(axes, np.zeros((4, 100, 2)))
    >>> [float(limit) for limit in axes.get_xlim()]
    [0.0, 400.0]
    """
    values = np.asarray(draws, float)
    if values.ndim != 3:
        raise ValueError(f"draws must have shape (chain, draw, K), got {values.shape}")
    chains, length, num = values.shape
    when = np.arange(chains * length).reshape(chains, length)
    step = max(1, -(-chains * length // 4000))
    for k, color in enumerate(common.component_colors(num)):
        axes.plot(
            when[:, ::step].ravel(),
            values[:, ::step, k].ravel(),
            linestyle="none",
            marker=".",
            markersize=3.0,
            markeredgewidth=0,
            color=color,
            alpha=0.7,
        )
    for chain in range(1, chains):
        axes.axvline(chain * length, color="#555555", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0.0, float(chains * length))
    middles = (np.arange(chains) + 0.5) * length
    names = [f"chain {c}" if chains <= 4 else str(c) for c in range(chains)]
    axes.set_xticks(middles, names)
    axes.tick_params(axis="x", length=0)


def _carrier(engine: Any) -> str | None:
    """Return the label-carrying parameter worth a trace: real, no matrix, no simplex if possible.

    The weights of close components overlap even after relabelling and a matrix has no one column,
    so they are taken only where nothing else carries labels.
    """
    best: str | None = None
    rank = 3
    for site, axis in engine.label_axis.items():
        values = np.asarray(engine.draws.get(site, np.zeros(0, int)))
        if not np.issubdtype(values.dtype, np.floating) or values.size == 0:
            continue
        simplex = np.allclose(values.sum(axis=2 + axis), 1.0, atol=1e-4)
        mine = 2 if simplex else int(values.ndim > 4)
        if mine < rank:
            best, rank = site, mine
    return best


def has_traces(engine: Any) -> bool:
    """Say whether an engine's result holds draws of a parameter that carries labels.

    >>> engines = comparison.engines
    >>> has_traces(engines["Gibbs"]), has_traces(engines["MAP-EM"])
    (True, False)
    """
    return engine.draws is not None and _carrier(engine) is not None


def _by_component(draws: Array, axis: int, column: int) -> Array:
    """Return (chain, draw, K): one entry of each component."""
    leading = np.moveaxis(np.asarray(draws, float), 2 + axis, 2)
    flat = leading.reshape(*leading.shape[:3], -1)
    if not 0 <= column < flat.shape[3]:
        raise ValueError(f"column must lie in 0 .. {flat.shape[3] - 1}, got {column}")
    return flat[..., column]


@common.picture
def plot_traces(
    comparison: Comparison, engine: str, parameter: str | None = None, column: int = 0
) -> Figure:
    """Show a sampler's draws before and after relabelling, one colour per component.

    A label switch is a place where two colours change places in the left panel; in the right one
    every colour should stay in its own band. Chains follow one another, with a dashed line between.

    Args:
        comparison: what `bayesmix.compare` returns.
        engine: name of a sampler in it, such as "Gibbs" or "NUTS".
        parameter: a parameter that carries labels; by default the first real one that is neither a
            matrix nor a vector of probabilities, such as the component means.
        column: which entry of each component, counted along its remaining axes flattened.

    Returns:
        A `matplotlib.figure.Figure`; one panel only where no relabelled draws exist.

    Raises:
        ValueError: for an engine that isn't there or that drew nothing, for a parameter that
            carries no label, or for a column out of range.
        ImportError: without matplotlib.

    >>> figure = plot_traces(comparison, "Gibbs", "mean", column=1)
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['as drawn', 'after relabelling']
    """
    result = common.find_engine(comparison, engine)
    if result.draws is None:
        raise ValueError(f"{engine} gives a point estimate, so it has no draws to trace")
    site = parameter if parameter is not None else _carrier(result)
    if site is None or site not in result.label_axis or site not in result.draws:
        carriers = ", ".join(result.label_axis) or "none"
        raise ValueError(f"{site!r} carries no label in {engine}; parameters that do: {carriers}")
    axis = result.label_axis[site]
    versions = {"as drawn": result.draws[site]}
    if result.relabelled is not None and site in result.relabelled:
        versions["after relabelling"] = result.relabelled[site]
    figure = common.new_figure(9.0, 3.8, f"{comparison.title}: {engine} draws")
    panels = figure.subplots(1, len(versions), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, versions.items(), strict=True):
        draw_trace(axes, _by_component(values, axis, column))
        axes.set_title(title)
    trailing = list(np.shape(result.draws[site])[2:])
    num = trailing.pop(axis)
    name = site
    if trailing == [len(comparison.columns)]:
        name = f"{site}, {comparison.columns[column]}"
    elif trailing:
        entry = np.unravel_index(column, trailing)
        name = f"{site}, entry ({', '.join(str(int(e)) for e in entry)})"
    panels[0].set_ylabel(common.plain(name))
    common.legend_below(figure, common.component_handles(num, marker=False))
    return figure


def skewness(values: ArrayLike) -> float:
    """Return the sample skewness m_3 / m_2^(3/2) of the finite entries, 0 for a constant column.

    >>> round(skewness([0.0, 0.0, 3.0]), 4)
    0.7071
    """
    sample = common.finite(values)
    deviation = sample - sample.mean() if sample.size else sample
    variance = float(np.mean(deviation**2)) if sample.size else 0.0
    return float(np.mean(deviation**3) / variance**1.5) if variance > 0 else 0.0


def largest(values: ArrayLike) -> float:
    """Return the largest finite entry, or NaN where there is none."""
    sample = common.finite(values)
    return float(sample.max()) if sample.size else float("nan")


STATISTICS: Mapping[str, Callable[[ArrayLike], float]] = {
    "skewness": skewness,
    "largest value": largest,
}


def predictive_p_value(observed: float, replicated: ArrayLike) -> float:
    """Return the share of replicated statistics that are at least the observed one.

    This estimates the posterior predictive p-value Pr(T(x_rep) >= T(x) given x) (Gelman et al.,
    *Bayesian Data Analysis*, 3rd ed., section 6.3). Values near 0 or 1 mean that the model doesn't
    reproduce this feature of the data; it is no significance level.

    Args:
        observed: the statistic of the data.
        replicated: the statistic of each replicated data set, shape (R,).

    Raises:
        ValueError: without replications.

    >>> predictive_p_value(2.0, [1.0, 2.0, 3.0, 0.0])
    0.5
    """
    values = np.asarray(replicated, float)
    if values.size == 0:
        raise ValueError("a predictive p-value needs at least one replicated data set")
    return float(np.mean(values >= observed))


def has_replications(comparison: Comparison) -> bool:
    """Say whether any engine replicated the data set."""
    return any(result.replicated is not None for result in comparison.engines.values())


def _replicating(comparison: Comparison, engine: str | None) -> str:
    if engine is not None:
        if common.find_engine(comparison, engine).replicated is None:
            raise ValueError(f"{engine} replicated no data; a sampler does")
        return engine
    names = [n for n, result in comparison.engines.items() if result.replicated is not None]
    if not names:
        raise ValueError("no engine replicated the data; compare with a sampler, Gibbs or NUTS")
    return "NUTS" if "NUTS" in names else names[0]


def draw_replications(axes: Axes, observed: ArrayLike, replicated: ArrayLike) -> None:
    """Draw one column's density in each replicated data set (light) and in the data (dark).

    Whole-number columns show the share of each value instead of a smoothed density.

    Args:
        axes: where to draw.
        observed: shape (N,), NaN where a cell is missing.
        replicated: shape (R, N); the first 25 are drawn.

    >>> axes = common.new_figure(2, 2).add_subplot()
    >>> draw_replications(axes, np.arange(9.5), np.zeros((3, 10)))
    >>> len(axes.lines)
    4
    """
    data, sets = np.asarray(observed, float), np.asarray(replicated, float)[:MAX_LINES]
    together = common.finite(np.concatenate([data.ravel(), sets.ravel()]))
    low, high = common.bin_edges(together)[[0, -1]]
    if common.is_discrete(data) and common.is_discrete(together):
        grid = np.arange(np.ceil(low), np.floor(high) + 1.0)
        marker = "o"
        axes.locator_params(axis="x", integer=True)

        def curve(values: Array) -> Array:
            return np.mean(common.finite(values)[:, None] == grid, axis=0)
    else:
        margin = 0.15 * (high - low)
        grid = np.linspace(low - margin, high + margin, 300)
        marker = ""

        def curve(values: Array) -> Array:
            return common.kernel_density(values, grid)

    for values in sets:
        axes.plot(grid, curve(values), color="#7FB2D9", linewidth=0.8, alpha=0.6)
    axes.plot(grid, curve(data), color=common.INK, linewidth=2.0, marker=marker, markersize=4)
    axes.set_ylim(bottom=0.0)


def _draw_statistic(axes: Axes, observed: float, replicated: Array) -> None:
    if len(replicated) >= 50:
        axes.hist(replicated, bins=20, color="#7FB2D9")
    else:
        height = (np.arange(len(replicated)) + 0.5) / len(replicated)
        axes.plot(replicated, height, "o", color="#7FB2D9", markersize=4, linestyle="none")
        axes.set_ylim(0.0, 1.0)
    axes.axvline(observed, color=common.INK, linewidth=2.0)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=5)
    common.hide_y(axes)


@common.picture
def plot_predictive_check(
    comparison: Comparison,
    engine: str | None = None,
    statistics: Mapping[str, Callable[[ArrayLike], float]] = STATISTICS,
) -> Figure:
    """Compare the data with data sets replicated from the posterior predictive distribution.

    One row of panels per column, four at most: the density of each replicated data set in light
    lines with the data in dark, then each statistic of the replicated sets with the data's as a
    dark line and the posterior predictive p-value, Pr(replicated >= observed). Where a cell is
    missing in the data, the replicated cell is left out too.

    Args:
        comparison: what `bayesmix.compare` returns.
        engine: a sampler; by default NUTS, else the first that replicated the data.
        statistics: functions of one column, shape (N,), by the name to show; NaN marks a missing
            cell. By default the skewness and the largest value.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: where the engine isn't there or nothing was replicated.
        ImportError: without matplotlib.

    >>> figure = plot_predictive_check(comparison)
    >>> len(figure.axes)  # two columns times a density and two statistics
    6
    """
    name = _replicating(comparison, engine)
    data = np.asarray(comparison.data, float)
    sets = np.array(comparison.engines[name].replicated, float)
    sets[:, np.isnan(data)] = np.nan
    shown = min(data.shape[1], MAX_COLUMNS)
    hidden = data.shape[1] - shown
    more = f" (first {shown} columns of {data.shape[1]})" if hidden else ""
    title = f"{comparison.title}: data against {len(sets)} sets replicated by {name}{more}"
    figure = common.new_figure(9.0, 1.0 + 2.1 * shown, title)
    width = [1.9] + [1.0] * len(statistics)
    panels = figure.subplots(shown, len(width), squeeze=False, width_ratios=width)
    for column, row in enumerate(panels):
        draw_replications(row[0], data[:, column], sets[:, :, column])
        row[0].set_xlabel(common.plain(comparison.columns[column]))
        common.hide_y(row[0])
        for axes, (label, statistic) in zip(row[1:], statistics.items(), strict=True):
            seen = statistic(data[:, column])
            copies = np.array([statistic(values) for values in sets[:, :, column]])
            _draw_statistic(axes, seen, copies)
            axes.set_title(f"p = {predictive_p_value(seen, copies):.2f}")
            axes.set_xlabel(common.plain(label))
    panels[0, 0].set_title("distribution of each column")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=common.INK, linewidth=2.0, label="data"),
        Line2D([], [], color="#7FB2D9", marker="o", markersize=4, label="replicated data"),
    ]
    common.legend_below(figure, handles)
