"""Picture of the distortion of k-means against the number of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..infer.distortion import DistortionCurve
from . import common

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@common.picture
def plot_distortion(curve: DistortionCurve) -> Figure:
    """Show distortion against the number of clusters, fitted and held out, and the elbow.

    Both axes are logarithmic: rows that fill space evenly then give a straight line, here the chord.

    Args:
        curve: what `bayesmix.distortion_curve` returns.

    Returns:
        A `matplotlib.figure.Figure` with one panel.

    Raises:
        ImportError: without matplotlib.

    >>> import numpy as np
    >>> from bayesmix import DistortionCurve, Status
    >>> fitted = np.array([9.0, 1.0, 0.5])
    >>> curve = DistortionCurve(np.array([1, 2, 3]), fitted, 1.1 * fitted, (Status.CONVERGED,) * 3)
    >>> plot_distortion(curve).axes[0].get_title(loc="left")
    'elbow at K = 2, depth 0.37'
    """
    figure = common.new_figure(5.5, 3.6)
    axes = figure.subplots()
    sizes, held_out = curve.num_clusters, curve.held_out
    axes.plot(sizes[[0, -1]], held_out[[0, -1]], color="#B8B8B8", linestyle=":", label="chord")
    axes.plot(sizes, curve.fitted, color="#8A8A8A", linestyle="--", marker="s", label="fitted rows")
    axes.plot(sizes, held_out, color=common.INK, marker="o", label="rows held out")
    place = int(np.argmax(curve.depths))
    axes.plot(sizes[place], held_out[place], "o", color="#D55E00", markersize=13, fillstyle="none")
    axes.set(
        xscale="log", yscale="log", xlabel="number of clusters K", ylabel="distortion of a row"
    )
    ticks = np.unique(np.geomspace(sizes[0], sizes[-1], 10).round().astype(int))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title(f"elbow at K = {curve.elbow}, depth {curve.depths[place]:.2f}")
    axes.legend()
    return figure
