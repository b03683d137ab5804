"""Pictures of labels and partitions: who exchanged labels, which methods agree, who is together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..posterior.labels import LabelSwitching
from ..posterior.partitions import posterior_similarity
from ..posterior.point_partition import PointPartition
from ..posterior.relabelling_comparison import RelabellingComparison
from . import common
from .common import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CHAINS = 4
MAX_ROWS = 600  # more rows than this are more pixels than a picture has
_MAP = "Blues"


def _heat(axes: Axes, values: Array, names: Sequence[str], top: float) -> Any:
    """A square of shades with an entry in each cell, where there is room for it."""
    image = axes.imshow(values, cmap=_MAP, vmin=0.0, vmax=top, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    whole = np.issubdtype(values.dtype, np.integer)
    if len(names) <= 14:
        for (i, j), value in np.ndenumerate(values):
            text = str(value) if whole else f"{value:.2f}"
            ink = "white" if value > 0.6 * top else common.INK
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=7.5)
    return image


@common.picture
def plot_switched_pairs(report: LabelSwitching, dim: str | None = None) -> Figure:
    """Show which components exchanged labels, chain by chain.

    A cell counts the draws at which the component of its row took the label that the component of its
    column had at the draw before; components are numbered as after relabelling. An exchange shows
    at both sides of the diagonal. A pair that stands out overlaps, or is empty; shades everywhere
    are a sampler that moves between all namings.

    Args:
        report: what `bayesmix.label_switching` returns.
        dim: which label dimension, by default the first.

    Returns:
        A `matplotlib.figure.Figure` with a panel for each of the first four chains.

    Raises:
        ValueError: where the draws carry no labels, or not of this dimension.
        ImportError: without matplotlib.

    >>> from bayesmix.posterior.labels import label_switching
    >>> len(plot_switched_pairs(label_switching(draws)).axes)
    2
    """
    dim = next(iter(report.pairs), None) if dim is None else dim
    if dim not in report.pairs:
        known = ", ".join(report.pairs) or "none"
        raise ValueError(f"no label dimension {dim or ''} in this report; it has: {known}")
    counts = report.pairs[dim]
    shown = counts[:MAX_CHAINS]
    top = max(float(shown.max(initial=0)), 1.0)
    size = max(1.9, min(0.4 * counts.shape[1], 4.0))
    title = "Which components exchanged labels"
    figure = common.new_figure(max(3.6, 0.8 + size * len(shown)), 1.5 + size, title)
    names = [str(k) for k in range(counts.shape[1])]
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for chain, axes in enumerate(panels):
        _heat(axes, shown[chain], names, top)
        axes.tick_params(axis="x", labelrotation=0)
        axes.set_title(f"chain {chain}: {report.switches[chain]} switches")
        axes.set_xlabel("had the label before")
    panels[0].set_ylabel("component with the label now")
    return figure


@common.picture
def plot_agreement(comparison: RelabellingComparison) -> Figure:
    """Show the share of draws that each two methods rename alike, and the confidence in each method.

    Methods that agree everywhere leave nothing to choose. Where they part, the bar says which of
    them leaves the least doubt: at confidence 1 no other naming of a draw fits nearly as well, at 0
    another fits as well.

    Args:
        comparison: what `bayesmix.compare_relabellings` returns.

    Returns:
        A `matplotlib.figure.Figure`: the shares on the left, the confidence on the right.

    Raises:
        ImportError: without matplotlib.

    >>> from bayesmix.posterior.relabelling_comparison import compare_relabellings
    >>> len(plot_agreement(compare_relabellings(draws)).axes)
    2
    """
    names = [common.short(name) for name in comparison.agreement.index]
    size = max(2.2, 0.42 * len(names))
    title = "Share of draws that two methods rename alike"
    figure = common.new_figure(size + 4.6, size + 1.5, title)
    left, right = figure.subplots(1, 2, width_ratios=[size, 1.6])
    _heat(left, comparison.agreement.to_numpy(), names, 1.0)
    sure = comparison.table["confidence"].to_numpy(float)
    places = np.arange(len(names))
    bars = right.barh(places, np.nan_to_num(sure), height=0.65, color="#B8B8B8")
    bars[list(comparison.agreement.index).index(comparison.best)].set_color(common.INK)
    texts = ["no labels of rows" if np.isnan(value) else f"{value:.2f}" for value in sure]
    right.bar_label(bars, texts, padding=3, fontsize=8)
    right.set_ylim(len(names) - 0.5, -0.5)
    right.set_yticks([])
    right.set(xlim=(0.0, 1.3), xticks=[0.0, 0.5, 1.0], xlabel="confidence (best dark)")
    right.spines["left"].set_visible(False)
    return figure


def _leaves(similarity: Array) -> Array:
    """Rows in the order of the leaves of their average-linkage tree."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(similarity) == 1:
        return np.zeros(1, int)
    apart = squareform(np.maximum(1 - similarity, 0.0), checks=False)
    return leaves_list(linkage(apart, "average"))


@common.picture
def plot_similarity(partition: PointPartition) -> Figure:
    """Show how often each two rows are in one component, with rows in the order of their cluster.

    Dark squares on the diagonal are clusters that the draws agree about; shades beside them are
    rows, or whole clusters, that the draws put together now and then. Within a cluster, rows are in the
    order of an average-linkage tree.

    Args:
        partition: what `bayesmix.point_partition` returns.

    Returns:
        A `matplotlib.figure.Figure`; of many rows, evenly spaced ones are shown.

    Raises:
        ImportError: without matplotlib.

    >>> from bayesmix.posterior.point_partition import point_partition
    >>> z = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    >>> len(plot_similarity(point_partition(z)).axes)  # the matrix and its scale
    2
    """
    rows = common.thinned(len(partition.labels), MAX_ROWS)
    similarity = posterior_similarity(partition.draws, rows)
    labels = partition.labels[rows]
    order = _leaves(similarity)
    order = order[np.argsort(labels[order], kind="stable")]
    whole = len(partition.labels)
    some = f" ({len(rows)} of {whole} rows)" if len(rows) < whole else ""
    figure = common.new_figure(5.2, 4.9, f"Rows that share a component{some}")
    axes = figure.subplots()
    image = axes.imshow(
        similarity[np.ix_(order, order)], cmap=_MAP, vmin=0.0, vmax=1.0, interpolation="nearest"
    )
    for edge in np.flatnonzero(np.diff(labels[order])) + 0.5:
        axes.axhline(edge, color="#D55E00", linewidth=0.8)
        axes.axvline(edge, color="#D55E00", linewidth=0.8)
    axes.set(xlabel="row, by cluster", ylabel="row, by cluster")
    axes.set_title(
        f"{partition.num_clusters} clusters; expected {partition.loss.name} "
        f"{partition.expected_loss:.3g}"
    )
    axes.set(xticks=[], yticks=[])
    figure.colorbar(
        image, ax=axes, label="posterior probability of sharing a component", shrink=0.8
    )
    return figure
