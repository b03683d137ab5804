"""What every picture shares: colours, a blank figure, small mathematics.

Nothing here imports matplotlib until a picture is asked for, and nothing touches ``pyplot``:
each picture is a `matplotlib.figure.Figure` on an Agg canvas of its own.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..comparison.result import Comparison

P = ParamSpec("P")
Array = np.ndarray


# Okabe and Ito's colours, told apart with every common form of colour blindness; yellow, which is
# faint on white, comes late.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#E5D51E")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Engines never wear a component's colour; dash and marker tell them apart without any colour.
_ENGINES: dict[str, tuple[str, Any, str]] = {
    "MLE-EM": ("#8A8A8A", (0, (1.0, 1.2)), "^"),
    "MAP-EM": ("#111111", "-", "o"),
    "Gibbs": ("#8C510A", (0, (5, 2)), "s"),
    "NUTS": ("#5E3C99", (0, (6, 2, 1, 2)), "D"),
    "Laplace": ("#B2182B", (0, (1.0, 2.0)), "v"),
    "VB": ("#01665E", (0, (3, 1)), "P"),
    "SMC": ("#C51B7D", (0, (8, 2)), "X"),
}
_STYLE: dict[str, Any] = {
    "text.usetex": False,
    "text.color": "#1A1A1A",
    "font.family": ["sans-serif"],
    "font.size": 9.0,
    "figure.facecolor": "white",
    "figure.titlesize": 11.0,
    "axes.facecolor": "white",
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#1A1A1A",
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
}
INK = "#1A1A1A"
MAX_POINTS = 5000  # more than this adds ink to a scatter plot, not information


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    return matplotlib


def picture(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give a drawing function the common style, and lay its figure out before it is returned.

    A text that matplotlib can't draw therefore raises here, not later when the figure is saved.
    The style is set for the duration of the call and the caller's own settings come back after it.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _matplotlib().rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
        return figure

    return drawn


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return a blank `matplotlib.figure.Figure` on an Agg canvas, `width` x `height` inches.

    It is unknown to ``pyplot``, so it needs no closing; a notebook shows it as a picture.
    """
    _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    vars(figure)["_repr_png_"] = functools.partial(figure_png, figure)  # what a notebook calls
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontweight="bold", wrap=True)
    return figure


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """Return the figure as the bytes of a PNG file (the same figure gives the same bytes).

    >>> figure_png(new_figure(1, 1))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with _matplotlib().rc_context(_STYLE):
        figure.savefig(
            buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


def plain(text: object) -> str:
    """Return `text` so that matplotlib shows it letter by letter (``$`` starts no formula).

    >>> print(plain("price in $, cost in $"))
    price in \\$, cost in \\$
    """
    return str(text).replace("$", r"\$")


def component_colors(num_components: int) -> list[tuple[float, float, float]]:
    """Return one colour-blind-safe colour (red, green, blue in [0, 1]) per component.

    The first eight are Okabe and Ito's; later rounds repeat them darker, and the scatter plots
    change the marker too. Component k has the same colour whatever the number of components.

    Raises:
        ValueError: if `num_components` is below 1.

    >>> component_colors(3)[:2] == component_colors(2)
    True
    """
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1, got {num_components}")
    colors = []
    for k in range(num_components):
        code = _PALETTE[k % len(_PALETTE)]
        shade = 0.62 ** (k // len(_PALETTE))
        red, green, blue = (int(code[i : i + 2], 16) / 255 * shade for i in (1, 3, 5))
        colors.append((red, green, blue))
    return colors


def component_marker(k: int) -> str:
    """Return the scatter marker of component `k`."""
    return _MARKERS[(k + k // len(_MARKERS)) % len(_MARKERS)]


def engine_style(name: str) -> tuple[str, Any, str]:
    """Return the colour, the dash pattern and the marker of the engine called `name`."""
    return _ENGINES.get(name, ("#444444", (0, (3, 1, 1, 1, 1, 1)), "v"))


def find_engine(comparison: Comparison, name: str) -> Any:
    """Return the result of the engine called `name`.

    Raises:
        ValueError: naming the engines that the comparison does hold.
    """
    if name not in comparison.engines:
        held = ", ".join(comparison.engines) or "none"
        raise ValueError(f"no engine {name!r} in this comparison; it holds: {held}")
    return comparison.engines[name]


def point_engine(comparison: Comparison) -> str | None:
    """Return the engine whose point estimate is shown: MAP-EM, else another without draws."""
    names = [name for name, engine in comparison.engines.items() if engine.draws is None]
    return "MAP-EM" if "MAP-EM" in names else (names[0] if names else None)


def sampler_engine(comparison: Comparison) -> str | None:
    """Return the engine whose posterior average is shown: NUTS, else another with draws."""
    names = [name for name, engine in comparison.engines.items() if engine.draws is not None]
    return "NUTS" if "NUTS" in names else (names[0] if names else None)


def ellipse_points(
    mean: ArrayLike, covariance: ArrayLike, mass: float = 0.95, points: int = 181
) -> Array:
    """Return the outline of the smallest region that holds `mass` of a bivariate normal.

    The points x satisfy (x - mean)' covariance^-1 (x - mean) = r^2, where r^2 is the chi-square
    quantile of `mass` with two degrees of freedom, r^2 = -2 log(1 - mass). A singular covariance
    gives the flat ellipse that is its limit.

    Args:
        mean: centre, shape (2,).
        covariance: symmetric positive semi-definite, shape (2, 2).
        mass: probability inside, above 0 and below 1 (0.39 is "one sigma", 0.865 "two sigma").
        points: how many points; the first and the last coincide.

    Returns:
        Array of shape (points, 2), in the units of the data.

    Raises:
        ValueError: for a wrong shape, a mass outside (0, 1), or a covariance that is not
            symmetric positive semi-definite.

    >>> outline = ellipse_points([1.0, 2.0], [[4.0, 0.0], [0.0, 1.0]], mass=0.5)
    >>> outline.shape, outline.max(axis=0).round(3).tolist()
    ((181, 2), [3.355, 3.177])
    """
    centre, spread = np.asarray(mean, float), np.asarray(covariance, float)
    if centre.shape != (2,) or spread.shape != (2, 2):
        raise ValueError(
            f"mean must be (2,) and covariance (2, 2), got {centre.shape} and {spread.shape}"
        )
    if not 0.0 < mass < 1.0:
        raise ValueError(f"mass must lie between 0 and 1, got {mass}")
    scale = float(np.abs(spread).max())
    if not np.isfinite(scale) or abs(spread[0, 1] - spread[1, 0]) > 1e-5 * scale:
        raise ValueError("covariance must be finite and symmetric")
    variances, axes = np.linalg.eigh(0.5 * (spread + spread.T))
    if variances[0] < -1e-6 * scale:
        raise ValueError(f"covariance has a negative eigenvalue, {variances[0]:.3g}")
    radius = np.sqrt(-2.0 * np.log1p(-mass))
    angle = np.linspace(0.0, 2.0 * np.pi, points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centre + radius * (circle * np.sqrt(np.maximum(variances, 0.0))) @ axes.T


def normal_density(x: ArrayLike, mean: float, variance: float) -> Array:
    """Return the normal density at `x` (any shape), for a mean and a variance above 0.

    >>> float(normal_density(0.0, 0.0, 1.0).round(4))
    0.3989
    """
    deviation = np.asarray(x, float) - mean
    return np.exp(-0.5 * deviation**2 / variance) / np.sqrt(2.0 * np.pi * variance)


def mass_levels(log_density: ArrayLike, masses: Sequence[float], volume: ArrayLike = 1.0) -> Array:
    """Return the log density levels whose highest-density regions hold the given masses.

    Args:
        log_density: values on a grid, any shape; -inf is allowed. It need not be normalised.
        masses: probabilities in (0, 1], of the mass that lies on the grid.
        volume: size of each grid cell, broadcast against `log_density`.

    Returns:
        Array (number of masses,): level j is the lowest log density of the region of mass j.

    Raises:
        ValueError: if no value is finite, or if one is NaN.

    >>> mass_levels(np.log([0.6, 0.3, 0.1]), [0.5, 0.8]).round(3).tolist()
    [-0.511, -1.204]
    """
    values = np.asarray(log_density, float)
    if np.isnan(values).any() or not np.isfinite(values).any():
        raise ValueError("log_density must hold a finite value and no NaN")
    cell = np.broadcast_to(np.asarray(volume, float), values.shape).ravel()
    order = np.argsort(-values, axis=None, kind="stable")
    ranked = values.ravel()[order]
    inside = np.cumsum(np.exp(ranked - ranked[0]) * cell[order])
    index = np.searchsorted(inside / inside[-1], np.asarray(masses) - 1e-12)
    return ranked[np.minimum(index, ranked.size - 1)]


def kernel_density(values: ArrayLike, grid: Array) -> Array:
    """Return a Gaussian kernel density estimate on an evenly spaced grid, in O(N + G^2).

    The bandwidth is 0.9 min(sd, IQR / 1.34) N^(-1/5) (Silverman 1986, eq. 3.31), no less than
    one grid step. Values beyond the grid are left out of the picture, not of the total mass.

    Args:
        values: the sample, any shape; NaN entries are left out.
        grid: increasing and evenly spaced, shape (G,), at least two points.

    >>> grid = np.linspace(-6, 6, 241)
    >>> curve = kernel_density(np.linspace(-1, 1, 50), grid)
    >>> float((curve.sum() * (grid[1] - grid[0])).round(3))
    1.0
    """
    sample = finite(values)
    step = float(grid[1] - grid[0])
    if sample.size == 0:
        return np.zeros(grid.shape)
    quarter, three_quarters = np.percentile(sample, [25, 75])
    spreads = [s for s in (sample.std(), (three_quarters - quarter) / 1.34) if s > 0]
    width = max(0.9 * min(spreads, default=0.0) * sample.size**-0.2, step)
    edges = np.append(grid - 0.5 * step, grid[-1] + 0.5 * step)
    counts = np.histogram(sample, bins=edges)[0]
    kernel = normal_density(grid[:, None] - grid[None, :], 0.0, width**2)
    return kernel @ counts / sample.size


def finite(values: ArrayLike) -> Array:
    """Return the finite entries of `values` as a flat float array."""
    flat = np.asarray(values, float).ravel()
    return flat[np.isfinite(flat)]


def is_discrete(values: ArrayLike) -> bool:
    """Say whether a column holds few whole numbers (counts, categories, yes and no).

    >>> is_discrete([0, 1, 1, 0]), is_discrete([0.5, 1.0])
    (True, False)
    """
    distinct = np.unique(finite(values))
    return bool(0 < distinct.size <= 40 and np.all(distinct == np.round(distinct)))


def bin_edges(values: ArrayLike) -> Array:
    """Return histogram edges: one bin per whole number of a discrete column, else 8 to 60 bins."""
    sample = finite(values)
    if sample.size == 0:
        return np.array([0.0, 1.0])
    low, high = float(sample.min()), float(sample.max())
    if is_discrete(sample) and high - low <= 60:
        return np.arange(low, high + 2.0) - 0.5
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        return np.linspace(low - 0.5, high + 0.5, 9)
    quarter, three_quarters = np.percentile(sample, [25, 75])
    width = 2.0 * (three_quarters - quarter) * sample.size ** (-1 / 3)
    count = (high - low) / width if width > 0 else 0.0  # Freedman and Diaconis: one mode's worth
    count = max(count, 1.5 * sample.size**0.5)  # several modes need more
    return np.linspace(low, high, int(np.clip(np.ceil(count), 8, 60)) + 1)


def thinned(rows: int, limit: int = MAX_POINTS) -> Array:
    """Return at most `limit` evenly spaced row numbers out of `rows`."""
    if rows <= limit:
        return np.arange(rows)
    return np.linspace(0, rows - 1, limit).round().astype(int)


def component_handles(num_components: int, marker: bool = True) -> list[Any]:
    """Return legend entries "component 0", "component 1", ... in the components' colours."""
    from matplotlib.lines import Line2D

    colors = component_colors(num_components)
    return [
        Line2D(
            [],
            [],
            color=colors[k],
            marker=component_marker(k) if marker else "s",
            linestyle="none",
            markersize=6,
            label=f"component {k}",
        )
        for k in range(num_components)
    ]


def legend_below(figure: Figure, handles: Sequence[Any], title: str | None = None) -> None:
    """Put one legend under the panels, where it covers no data, in columns that fit the width."""
    longest = max((len(handle.get_label()) for handle in handles), default=1)
    fit = int(figure.get_figwidth() / (0.55 + 0.075 * longest))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=int(np.clip(fit, 1, min(max(len(handles), 1), 6))),
        title=title,
        title_fontsize=9.0,
    )


def short(text: object, limit: int = 28) -> str:
    """Return `text` with at most `limit` letters, so that a long column name spoils no panel."""
    whole = str(text)
    return plain(whole if len(whole) <= limit else whole[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}")


def hide_y(axes: Axes) -> None:
    """Remove a vertical axis whose height means nothing to the reader."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
