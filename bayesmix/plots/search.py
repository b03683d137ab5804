"""Pictures of the optimisation: how EM climbed, and which modes the restarts found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from . import common
from .common import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..comparison.result import Comparison

MAX_MODES = 12
_OBJECTIVE = {"MLE-EM": "log likelihood", "MAP-EM": "log posterior + constant"}


def falls(objective: ArrayLike, tolerance: float = 1e-6) -> Array:
    """Return the iterations at which an EM objective fell by more than rounding.

    Args:
        objective: trace, shape (iterations,).
        tolerance: a fall counts when it exceeds this times the largest magnitude in the trace.

    >>> falls([-10.0, -5.0, -5.1, -4.0]).tolist()
    [2]
    """
    trace = np.asarray(objective, float)
    scale = float(np.abs(common.finite(trace)).max(initial=1.0))
    return np.flatnonzero(np.diff(trace) < -tolerance * scale) + 1


@common.picture
def plot_objective(comparison: Comparison) -> Figure:
    """Show how the objective of each EM engine rose, and how fast the gap to its end closed.

    The left panel is the objective of the best start, which must never fall (a fall is a bug and is
    marked). The right one is what was still to gain, on a log scale: a straight line is the linear
    convergence that is normal for EM, and a shallow one means much overlap between components.
    The posterior density is taken in the constrained space (no Jacobian).

    Args:
        comparison: what `bayesmix.compare` returns.

    Returns:
        A `matplotlib.figure.Figure` with two panels per EM engine.

    Raises:
        ValueError: where no engine kept a trace of its objective.
        ImportError: without matplotlib.

    >>> len(plot_objective(comparison).axes)  # MLE-EM and MAP-EM
    4
    """
    traces = {
        name: np.asarray(result.objective, float)
        for name, result in comparison.engines.items()
        if result.objective is not None and np.size(result.objective)
    }
    if not traces:
        raise ValueError("no engine kept a trace of its objective; EM engines do")
    height = 0.7 + 2.5 * len(traces)
    figure = common.new_figure(8.5, height, f"{comparison.title}: how EM climbed")
    panels = figure.subplots(len(traces), 2, squeeze=False)
    for (left, right), (name, trace) in zip(panels, traces.items(), strict=True):
        color = common.engine_style(name)[0]
        steps = np.arange(len(trace))
        left.plot(steps, trace, color=color, marker=".", markersize=4)
        fell = falls(trace)
        left.plot(fell, trace[fell], "x", color="#D55E00", markersize=9, markeredgewidth=2)
        verdict = f"falls at {len(fell)} places (crossed)" if len(fell) else "never falls"
        left.set_title(f"{name}: {verdict}")
        left.set(xlabel="iteration", ylabel=_OBJECTIVE.get(name, "objective"))
        left.ticklabel_format(axis="y", useOffset=False)
        gap = np.nanmax(trace) - trace if np.isfinite(trace).any() else np.zeros(0)
        positive = np.flatnonzero(np.isfinite(gap) & (gap > 0)) if gap.size else np.zeros(0, int)
        right.set_title(f"{name}: still to gain")
        right.set(xlabel="iteration", ylabel="best value minus this one")
        if positive.size:
            right.semilogy(steps[positive], gap[positive], color=color, marker=".", markersize=4)
            right.set_xlim(left.get_xlim())
        else:
            right.text(0.5, 0.5, "nothing to gain", ha="center", transform=right.transAxes)
            right.set_yticks([])
    return figure


def gather_modes(
    modes: Sequence[tuple[float, int]], limit: int = MAX_MODES
) -> list[tuple[str, int]]:
    """Return (text, starts) of the best `limit` modes, the rest gathered in one last entry.

    Args:
        modes: (objective, number of starts that ended there), in any order.
        limit: how many to keep apart.

    >>> gather_modes([(-12.5, 3), (-10.0, 7)])
    [('-10.00 (best)', 7), ('2.50 below', 3)]
    """
    ranked = sorted(modes, key=lambda mode: -mode[0])
    lines = [
        (f"{value:.2f} (best)" if i == 0 else f"{ranked[0][0] - value:.2f} below", int(count))
        for i, (value, count) in enumerate(ranked[:limit])
    ]
    rest = ranked[limit:]
    if rest:
        lines.append((f"{len(rest)} lower modes", sum(int(count) for _, count in rest)))
    return lines


@common.picture
def plot_modes(comparison: Comparison) -> Figure:
    """Show the distinct modes that the starts of each EM engine found, and how often.

    The best mode is on top with its objective; the others say how far below they lie. Many starts
    at low modes mean that more restarts, or another search, are worth their time. A mode is a mode
    of the density in the constrained space (no Jacobian); permuting the labels of a mode leaves its
    objective as it is.

    Args:
        comparison: what `bayesmix.compare` returns.

    Returns:
        A `matplotlib.figure.Figure` with one panel per EM engine.

    Raises:
        ValueError: where no engine lists modes.
        ImportError: without matplotlib.

    >>> len(plot_modes(comparison).axes)
    2
    """
    found = {
        name: gather_modes(result.modes)
        for name, result in comparison.engines.items()
        if result.modes
    }
    if not found:
        raise ValueError("no engine lists the modes of its starts; EM engines do")
    tallest = max(len(lines) for lines in found.values())
    figure = common.new_figure(
        4.5 * max(len(found), 1.5), 1.5 + 0.3 * tallest, f"{comparison.title}: modes found"
    )
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, lines) in zip(panels, found.items(), strict=True):
        counts = [count for _, count in lines]
        bars = axes.barh(range(len(lines)), counts, height=0.65, color="#B8B8B8")
        bars[0].set_color(common.INK)
        axes.bar_label(bars, padding=3, fontsize=8)
        axes.set_yticks(range(len(lines)), [text for text, _ in lines])
        axes.set_ylim(tallest - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_title(f"{name}: {_OBJECTIVE.get(name, 'objective')} at {sum(counts)} starts")
        axes.set_xlabel("starts that ended there")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
