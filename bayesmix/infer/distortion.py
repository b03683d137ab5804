"""How many clusters: the distortion of rows that were held out, by K, and its elbow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..program.errors import ProgramError
from ..program.settings import whole
from . import lloyd
from .codebook import read_rows
from .kmeans import KMeans, check_different
from .starts import Seeding, kmeans_plus_plus
from .status import Status


@dataclass(frozen=True, eq=False)
class DistortionCurve:
    """Distortion by number of clusters; :func:`bayesmix.plots.plot_distortion` draws it.

    Attributes:
        num_clusters: the K's, increasing, (M,).
        fitted: distortion of the fitted rows, best of the starts, (M,).
        held_out: distortion of the rows held out, with the same centroids, (M,).
        statuses: how the best start of each K ended.
    """

    num_clusters: np.ndarray
    fitted: np.ndarray
    held_out: np.ndarray
    statuses: tuple[Status, ...]

    @property
    def depths(self) -> np.ndarray:
        """How far below its chord the held-out curve runs at each K, in the log-log plane, (M,).

        Rows that fill D dimensions evenly have distortion proportional to K^(-2/D) for large K, a
        straight line in this plane; so depth is what clusters gain beyond cutting space finer.

        Source: Zador (1982), *IEEE Trans. Inf. Theory* 28, 139-149 (the rate K^(-2/D)); the distance
        from the chord: Satopää et al. (2011), *ICDCS Workshops*, 166-171.
        """
        across, up = np.log(self.num_clusters), np.log(self.held_out)
        return up[0] + (up[-1] - up[0]) * (across - across[0]) / (across[-1] - across[0]) - up

    @property
    def elbow(self) -> int:
        """The K at which the curve runs deepest below its chord: a rule of thumb. Where the largest of
        `depths` is small (below 0.3, say) there is no elbow to speak of."""
        return int(self.num_clusters[np.argmax(self.depths)])

    def __str__(self) -> str:
        lines = ["  K    fitted  held out  depth"]
        for k, fitted, held_out, depth in zip(
            self.num_clusters, self.fitted, self.held_out, self.depths, strict=True
        ):
            mark = "  <- elbow" if k == self.elbow else ""
            lines.append(f"{k:3d} {fitted:9.4g} {held_out:9.4g} {depth:6.2f}{mark}")
        return "\n".join(lines)

    __repr__ = __str__


def distortion_curve(
    rng_key: Array,
    x: ArrayLike,
    held_out: ArrayLike,
    Ks: Sequence[int],
    *,
    restarts: int = 10,
    seeding: Seeding = kmeans_plus_plus,
    max_steps: int = 1000,
    progress_bar: bool = True,
) -> DistortionCurve:
    """Fit k-means to x for each K, and measure the distortion of other rows.

    Unlike a likelihood, the distortion of rows held out goes on falling with K, since centroids without
    widths fill space ever finer; look for the elbow and not for a minimum. All K's and starts run in
    one compiled call, as runs with the largest K of which some centroids are not in use.

    Args:
        rng_key: a JAX random key (or an integer seed).
        x: rows to fit, (N, D).
        held_out: rows to measure, (M, D).
        Ks: numbers of clusters, at least three different ones.
        restarts: starts for each K.
        seeding, max_steps, progress_bar: as in :class:`bayesmix.KMeans`; the first K of a seeding's
            rows must be a seeding for K.

    Returns:
        A :class:`DistortionCurve`: `fitted`, `held_out`, `elbow`.

    Raises:
        ProgramError: where rows are not tables of finite numbers with the same columns, x has fewer
            different rows than the largest K, or some K leaves no distortion.

    Example:
        >>> import jax, numpy as np
        >>> from bayesmix import distortion_curve
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(300, 2)) + 10.0 * rng.integers(3, size=300)[:, None]
        >>> distortion_curve(jax.random.key(0), x[:200], x[200:], range(1, 7)).elbow
        3

    Source: Murphy (2012), *Machine Learning: A Probabilistic Perspective*, section 11.5.2.
    """
    x = read_rows(x, "x")
    held_out = read_rows(held_out, "held_out").astype(x.dtype)
    if held_out.shape[1] != x.shape[1]:
        raise ProgramError(
            f"held_out has {held_out.shape[1]} columns and x has {x.shape[1]}; give both the same"
        )
    restarts = whole("restarts", restarts)
    sizes = np.unique([whole("Ks", size) for size in Ks])
    if len(sizes) < 3:
        raise ProgramError(f"Ks is {list(Ks)}; give at least three different numbers of clusters")
    largest = int(sizes[-1])
    check_different(x, largest)
    means = KMeans(largest, seeding=seeding, max_steps=max_steps, progress_bar=progress_bar)
    origin = x.mean(axis=0, dtype=float).astype(x.dtype)
    starts = np.tile(means.seed(rng_key, x - origin, restarts), (len(sizes), 1, 1))
    use = np.repeat(np.arange(largest) < sizes[:, None], restarts, axis=0)
    rows = lloyd.arrange(x, origin, largest)
    found = means.settle(rows, starts, use)
    fitted = np.asarray(lloyd.measure(rows, found.centroids, use)[0])
    best = np.arange(len(sizes)) * restarts
    best += fitted.reshape(len(sizes), restarts).argmin(axis=1)
    others = lloyd.arrange(held_out, origin, largest)
    measured = np.asarray(lloyd.measure(others, found.centroids[best], use[best])[0])
    if not measured.all():
        raise ProgramError(
            f"{sizes[np.argmin(measured)]} clusters leave no distortion on held_out; give smaller Ks"
        )
    statuses = tuple(found.statuses[i] for i in best)
    return DistortionCurve(sizes, fitted[best], measured, statuses)
