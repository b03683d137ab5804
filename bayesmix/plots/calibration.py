"""Are predictions as uncertain as they say: distribution functions of integral transforms."""

from __future__ import annotations

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
_BAND = 0.95


def departure(u: ArrayLike) -> tuple[Array, Array]:
    """Return the steps of the empirical distribution function of `u` minus that of a uniform.

    Args:
        u: values in [0, 1], any shape; NaN entries are left out.

    Returns:
        Where (2n + 2,) and how far (2n + 2,), from 0 to 1.

    >>> where, how_far = departure([0.25, 0.5])
    >>> where.tolist(), how_far.tolist()
    ([0.0, 0.25, 0.25, 0.5, 0.5, 1.0], [0.0, -0.25, 0.25, 0.0, 0.5, 0.0])
    """
    values = np.sort(common.finite(u))
    share = np.arange(len(values) + 1) / max(len(values), 1)
    where = np.concatenate([[0.0], np.repeat(values, 2), [1.0]])
    return where, np.repeat(share, 2) - where


@common.picture
def plot_calibration(comparison: Comparison) -> Figure:
    """Show how far the predictive distribution function at the rows is from uniform.

    Each curve is the share of values u = F(x) below a level, minus that level: 0 everywhere where
    predictions are calibrated. A steep rise in the middle says that predictions are too wide, a
    steep fall that they are too narrow, a hump that they lie too high, a dip that they lie too
    low. The band holds all of a calibrated curve with probability 95% (Kolmogorov). Panels: all
    cells, each given those before it in its row; then each column by itself. The upper row is of
    held-out rows, the lower one of rows left out one at a time by weights.

    Args:
        comparison: what `bayesmix.compare` returns.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: where the comparison holds no integral transforms.
        ImportError: without matplotlib.

    >>> len(plot_calibration(comparison).axes)
    6
    """
    from matplotlib.lines import Line2D

    found = comparison.calibration
    if not found:
        raise ValueError("the comparison holds no integral transforms")
    kinds = list(dict.fromkeys(each.rows for each in found))
    names = list(comparison.columns)
    single = names[:MAX_COLUMNS] if len(names) > 1 else []
    across = 1 + len(single)
    hidden = len(names) - MAX_COLUMNS
    note = f"; {hidden} more columns not drawn" if hidden > 0 else ""
    figure = common.new_figure(
        max(3.0 * across, 6.0), 2.6 * len(kinds) + 0.8, f"{comparison.title}: calibration{note}"
    )
    panels = figure.subplots(len(kinds), across, squeeze=False, sharex=True)
    for row, kind in zip(panels, kinds, strict=True):
        engines = {each.engine: each for each in found if each.rows == kind}
        first = "all cells in turn" if single else common.short(names[0])
        _draw_panel(row[0], {n: each.in_turn for n, each in engines.items()}, f"{first}, {kind}")
        for j, name in enumerate(single):
            values = {n: each.marginal[:, j] for n, each in engines.items()}
            _draw_panel(row[1 + j], values, common.short(name))
        row[0].set_ylabel("share below minus u")
    for axes in panels[-1]:
        axes.set_xlabel("u = F(x)")
    handles = [
        Line2D(
            [], [], color=common.engine_style(n)[0], linestyle=common.engine_style(n)[1], label=n
        )
        for n in dict.fromkeys(each.engine for each in found)
    ]
    common.legend_below(figure, handles)
    return figure


def _draw_panel(axes: Axes, values: dict[str, Any], title: str) -> None:
    from scipy.stats import kstwo

    most = max(len(common.finite(u)) for u in values.values())
    band = float(kstwo.ppf(_BAND, most)) if most else 0.0
    axes.axhspan(-band, band, color="#EEEEEE", zorder=0)
    axes.axhline(0.0, color="#BBBBBB", linewidth=0.8, zorder=1)
    for name, u in values.items():
        color, dash, _ = common.engine_style(name)
        axes.plot(*departure(u), color=color, linestyle=dash, linewidth=1.2)
    axes.set_title(title)
    axes.set_xlim(0.0, 1.0)
