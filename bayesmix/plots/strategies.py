"""Pictures of a search for modes: which mode each strategy found, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import common
from .search import MAX_MODES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..infer.search_comparison import StrategyComparison
    from ..infer.search_result import SearchResult


@common.picture
def plot_search(result: SearchResult) -> Figure:
    """Show which modes a search found, how often each strategy ended there, and how fast it got there.

    On the left are the best modes, with the share of each strategy's starts that ended there (area of
    the dot); modes are distinct up to relabelling and those of the density in the constrained space (no
    Jacobian). On the right is the best objective so far against the passes a strategy has spent.

    Args:
        result: what :meth:`bayesmix.Search.run` returns.

    Returns:
        A `matplotlib.figure.Figure` with two panels.

    Raises:
        ImportError: without matplotlib.
    """
    names = list(result.climbs)
    modes = result.modes[:MAX_MODES]
    figure = common.new_figure(
        10.0, 1.9 + 0.27 * max(len(modes), 6), "Modes found by each strategy"
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for column, (name, color) in enumerate(zip(names, common.component_colors(len(names)))):
        shares = np.array([mode.frequencies.get(name, 0.0) for mode in modes])
        rows = np.flatnonzero(shares)
        left.scatter(np.full(rows.size, column), rows, s=220 * shares[rows], color=color)
        for row in rows:
            left.annotate(
                f"{shares[row]:.0%}", (column, row), (9, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
        marker = common.component_marker(column)
        _draw_rise(right, result.climbs[name], name, color, marker)
    top = modes[0].objective
    texts = [f"{top:.2f} (best)", *(f"{top - mode.objective:.2f} below" for mode in modes[1:])]
    left.set_yticks(range(len(modes)), texts)
    left.set_ylim(len(modes) - 0.5, -0.5)
    labels = [common.plain(name) for name in names]
    left.set_xticks(range(len(names)), labels, rotation=20, ha="right")
    left.set_xlim(-0.5, len(names) - 0.2)
    left.set_title("share of starts that ended at each mode")
    right.set(xlabel="passes over the rows", ylabel="best objective so far")
    right.set_title("what it cost")
    low, high = right.get_ylim()
    if high - low < 1:  # or rounding would fill the panel where all reach the best mode at once
        right.set_ylim(top - 0.9, top + 0.1)
    right.ticklabel_format(axis="y", useOffset=False)
    right.legend(loc="lower right")
    return figure


def _draw_rise(axes: Axes, climbs: Any, name: str, color: Any, marker: str) -> None:
    costs, best = np.cumsum(climbs.costs), np.maximum.accumulate(climbs.scores)
    shown = np.isfinite(best)
    axes.step(costs[shown], best[shown], where="post", color=color, label=common.plain(name))
    axes.plot(costs[shown][:1], best[shown][:1], marker, color=color)


@common.picture
def plot_strategies(comparison: StrategyComparison) -> Figure:
    """Show how likely each strategy is to reach the best known mode at equal cost.

    On the left is the share of runs that reached it within the budget, with 95 % intervals (Wilson); on
    the right the share of runs that had reached it against the passes spent.

    Args:
        comparison: what :func:`bayesmix.compare_strategies` returns.

    Returns:
        A `matplotlib.figure.Figure` with two panels.

    Raises:
        ImportError: without matplotlib.
    """
    frame = comparison.to_dataframe()
    title = f"Runs that reached the best known mode ({comparison.best_known:.2f})"
    figure = common.new_figure(10.0, 2.0 + 0.3 * max(len(frame), 4), title)
    left, right = figure.subplots(1, 2)
    for row, (name, color) in enumerate(zip(frame.index, common.component_colors(len(frame)))):
        share, lower, upper = frame.loc[name, ["probability", "lower", "upper"]]
        marker = common.component_marker(row)
        left.plot([lower, upper], [row, row], color=color)
        left.plot([share], [row], marker, color=color, markersize=7)
        needed = np.sort(comparison.passes_needed(name))
        inside = needed[needed <= comparison.budget]
        places = np.concatenate([[0.0], inside, [comparison.budget]])
        reached = np.arange(inside.size + 1) / needed.size
        right.step(
            places, [*reached, reached[-1]], where="post", color=color, label=common.plain(name)
        )
        right.plot(comparison.budget, reached[-1], marker, color=color, clip_on=False)
    left.set_yticks(range(len(frame)), [common.plain(name) for name in frame.index])
    left.set_ylim(len(frame) - 0.5, -0.5)
    left.set_xlim(-0.02, 1.02)
    left.set(xlabel="probability, with 95 % interval")
    left.set_title(f"within {comparison.budget:.0f} passes")
    right.set(xlabel="passes over the rows", ylabel="share of runs", ylim=(-0.02, 1.02))
    right.set_title("and on the way there")
    right.legend(loc="upper left")
    return figure
