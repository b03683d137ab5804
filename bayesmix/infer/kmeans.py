"""k-means by Lloyd's algorithm, for vector quantisation: many starts in one compiled call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpy.typing import ArrayLike

from ..program.errors import ProgramError
from ..program.settings import key_of, tolerance_of, whole
from . import lloyd
from .codebook import KMeansResult, read_rows
from .keep import checkpoint_at
from .modes import Mode
from .run import Progress, run_in_chunks
from .starts import Seeding, kmeans_plus_plus
from .status import Status


class Settled(NamedTuple):
    """Where each start ended: centroids (R, K, D), statuses and steps (R,), and the distortion before
    each step, traces (R, max_steps)."""

    centroids: np.ndarray
    statuses: tuple[Status, ...]
    steps: np.ndarray
    traces: np.ndarray


def _told(state: lloyd.LloydState) -> tuple[np.ndarray, dict[str, Any]]:
    """Distortions so far and centroids, for a callback."""
    trace, last = np.asarray(state.trace), np.maximum(np.asarray(state.step) - 1, 0)
    return trace[np.arange(len(last)), last], {"centroids": state.centroids}


class KMeans:
    """The K centroids that lie closest to the rows: a local minimum of the distortion, from many starts.

    Distortion: (1/N) sum_i min_k |x_i - c_k|^2. In turn, each row takes its nearest centroid (the lowest
    of several) and each centroid the mean of its rows, until no centroid moves. Neither can raise the
    distortion. This is EM with hard assignments for a mixture of equal weights 1/K and one known,
    spherical covariance (see the page on k-means). A cluster that loses all its rows is put on the row
    farthest from all centroids, which cannot raise the distortion either.

    float32 rows are computed in single precision, all others in JAX's default. Rows are spread over
    JAX's devices; `numpyro.set_host_device_count(n)` makes n of a machine's cores such.

    Args:
        num_clusters: K.
        seeding: how starts are seeded: a function of (key, points (N, D), K) giving K row indices, such
            as :func:`bayesmix.infer.starts.kmeans_plus_plus`, :func:`bayesmix.infer.starts.random_rows`
            or :func:`bayesmix.infer.seeding.farthest_point`.
        max_steps: largest number of steps.
        tolerance: settled when moving the centroids lowers the distortion by no more than this share
            of it; with 0, when no centroid moves.
        callback, report_every: as in :class:`EM`; the objectives it is told are distortions, and the
            centroids are relative to the mean of the rows.
        progress_bar: show progress on fits longer than a second or two.

    Example:
        >>> import jax, numpy as np
        >>> import bayesmix
        >>> x = np.array([[0.0, 0.0], [0.2, 0.0], [5.0, 1.0], [5.0, 1.4]])
        >>> fit = bayesmix.KMeans(2).run(jax.random.key(0), x, restarts=5)
        >>> bool(fit.status), fit.centroids[fit.labels].tolist()
        (True, [[0.1, 0.0], [0.1, 0.0], [5.0, 1.2], [5.0, 1.2]])
        >>> round(float(fit.trace[-1]), 3)
        0.025

    Source: Lloyd (1982), *IEEE Trans. Inf. Theory* 28, 129-137; Murphy (2012), *Machine Learning: A
    Probabilistic Perspective*, section 11.4.2.5.
    """

    def __init__(
        self,
        num_clusters: int,
        *,
        seeding: Seeding = kmeans_plus_plus,
        max_steps: int = 1000,
        tolerance: float = 0.0,
        callback: Callable[[Progress], bool | None] | None = None,
        report_every: int = 20,
        progress_bar: bool = True,
    ) -> None:
        self.num_clusters = whole("num_clusters", num_clusters)
        self.seeding = seeding
        self.max_steps = whole("max_steps", max_steps)
        self.tolerance = tolerance_of(tolerance)
        self.callback = callback
        self.report_every = whole("report_every", report_every)
        self.progress_bar = progress_bar

    def run(
        self,
        rng_key: Array,
        x: ArrayLike,
        *,
        restarts: int = 1,
        init: ArrayLike | None = None,
        checkpoint: str | Path | None = None,
    ) -> KMeansResult:
        """Fit from `restarts` starts and keep the one of least distortion.

        Args:
            rng_key: a JAX random key (or an integer seed), for the seeds.
            x: rows (N, D).
            restarts: number of starts, all run in one compiled call.
            init: centroids to start from, (K, D), or (restarts, K, D); no seeds are drawn then.
            checkpoint: a file in which the fit is kept, and from which it goes on, as in :class:`EM`.

        Returns:
            A :class:`KMeansResult`: `centroids`, `labels`, `trace`, `status`, `modes`, and more.

        Raises:
            ProgramError: where x is not a table of finite numbers with at least K different rows, or
                `init` does not fit it.
        """
        restarts = whole("restarts", restarts)
        x = read_rows(x, "x")
        check_different(x, self.num_clusters)
        origin = x.mean(axis=0, dtype=float).astype(x.dtype)
        if init is None:
            starts = self.seed(rng_key, x - origin, restarts)
        else:
            starts = self._given(init, x, restarts) - origin
        rows = lloyd.arrange(x, origin, self.num_clusters)
        use = np.ones(starts.shape[:2], bool)
        found = self.settle(rows, starts, use, checkpoint)
        centroids = found.centroids + origin
        # measured where rounding has put them
        measured = lloyd.measure(rows, centroids - origin, use)
        distortions, labels = (np.asarray(each) for each in measured)
        best = int(np.argmin(distortions))
        return KMeansResult(
            centroids=centroids[best],
            labels=labels,
            trace=np.append(found.traces[best][: found.steps[best]], distortions[best]),
            status=found.statuses[best],
            modes=gather_modes(centroids, distortions, found.statuses),
            restart_distortions=distortions,
            restart_statuses=found.statuses,
            restart_steps=found.steps,
            origin=origin,
        )

    def seed(self, rng_key: Array, x: np.ndarray, restarts: int) -> Array:
        """Centroids (restarts, K, D) at seeds among the rows."""
        key = key_of(rng_key)
        keys = random.split(key, restarts)
        return lloyd.seeded(self.seeding, keys, jnp.asarray(x), self.num_clusters)

    def settle(
        self,
        rows: lloyd.Rows,
        starts: ArrayLike,
        use: np.ndarray,
        checkpoint: str | Path | None = None,
    ) -> Settled:
        """Run every start to its end, in chunks of steps, so that a long run shows where it is.

        Args:
            rows: what :func:`bayesmix.infer.lloyd.arrange` makes of the rows.
            starts: centroids (R, K, D).
            use: which of them each start has, (R, K); the others stay as they are.
            checkpoint: as in :meth:`run`.
        """
        state = lloyd.new_state(rows, starts, use, self.max_steps)
        tolerance = np.asarray(self.tolerance, rows.blocks.dtype)

        def advance(state: lloyd.LloydState, limit: int) -> lloyd.LloydState:
            return lloyd.advance(rows, state, np.asarray(limit), tolerance)

        state = run_in_chunks(
            state,
            advance,
            name="k-means",
            max_steps=self.max_steps,
            every=self.report_every,
            progress_bar=self.progress_bar,
            checkpoint=checkpoint_at(checkpoint, self, None, rows=rows.blocks, starts=starts),
            watch=self.callback and (self.callback, _told),
        )
        host = jax.tree.map(np.asarray, state)
        statuses = (Status(int(each)) for each in host.status)
        return Settled(
            host.centroids,
            tuple(Status.OUT_OF_STEPS if s is Status.RUNNING else s for s in statuses),
            host.step,
            host.trace,
        )

    def _given(self, init: ArrayLike, x: np.ndarray, restarts: int) -> np.ndarray:
        """The centroids to start from, checked and with an axis of starts."""
        given, shape = np.asarray(init, x.dtype), (self.num_clusters, x.shape[1])
        if given.shape not in (shape, (restarts, *shape)):
            raise ProgramError(
                f"init has shape {given.shape}; give {shape}, or {(restarts, *shape)} for centroids of "
                "each start"
            )
        if not np.isfinite(given).all():
            raise ProgramError("init has cells that are NaN or infinite; give finite centroids")
        return np.broadcast_to(given, (restarts, *shape))


def check_different(x: np.ndarray, num_clusters: int) -> None:
    """Raise where fewer than K rows differ; looks at no more rows than it takes to find K."""
    looked, different = 0, 0
    while different < num_clusters:
        if looked >= len(x):
            raise ProgramError(
                f"{num_clusters} clusters need as many different rows, and x has {different}; "
                f"lower the number of clusters to at most {different}"
            )
        looked = max(2 * looked, 2 * num_clusters)
        some = x[:looked] + 0.0  # minus zero is zero
        different = len({row.tobytes() for row in some})


def gather_modes(
    centroids: np.ndarray, distortions: np.ndarray, statuses: tuple[Status, ...]
) -> tuple[Mode, ...]:
    """The distinct ends of the starts, best first: centroids (R, K, D) that are the same in some order,
    to the square root of the precision, are one mode.

    Example:
        >>> import numpy as np
        >>> from bayesmix import Status
        >>> ends = np.array([[[0.0], [4.0]], [[4.0], [0.0]], [[1.0], [9.0]]])
        >>> modes = gather_modes(ends, np.array([2.0, 2.0, 1.0]), (Status.CONVERGED,) * 3)
        >>> [(mode.objective, mode.count) for mode in modes]
        [(1.0, 1), (2.0, 2)]
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    close = np.sqrt(np.finfo(centroids.dtype).eps)
    apart = close * np.ptp(centroids, axis=(0, 1)).max()
    found: list[tuple[int, list[int]]] = []
    for i in np.argsort(distortions, kind="stable"):
        for first, members in found:
            near = distortions[i] - distortions[first] <= close * distortions[i]
            if near and statuses[i] is statuses[first]:
                between = cdist(centroids[i], centroids[first])
                if between[linear_sum_assignment(between)].max() <= apart:
                    members.append(i)
                    break
        else:
            found.append((i, [i]))
    return tuple(
        Mode(float(distortions[i]), len(members), statuses[i], {"centroids": centroids[i]})
        for i, members in found
    )
