"""Time k-means against scikit-learn: `python -m tests.benchmarks.kmeans [--float32] [--cores n]`.

Whole fits of the same steps from the same start, taken in turn. Rows are normal, without clusters, so
that no fit ends early. Ratios are peer / bayesmix, the median of those of each turn, with their spread:
above 1 means that bayesmix is faster. Both use n cores: JAX as devices, scikit-learn as threads.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans as Peer
from threadpoolctl import threadpool_limits

import bayesmix
from bayesmix.infer.starts import random_rows
from tests.benchmarks.timing import interleaved, settings

STEPS = 20


def same_steps(rows: int, columns: int, size: int, dtype: type) -> str:
    """Fits of STEPS steps from the same centroids."""
    x = np.random.default_rng(0).normal(size=(rows, columns)).astype(dtype)
    init = x[:size]
    ours = bayesmix.KMeans(size, max_steps=STEPS, progress_bar=False)
    peer = Peer(size, init=init, n_init=1, tol=0.0, max_iter=STEPS, algorithm="lloyd")
    mine, theirs = ours.run(0, x, init=init), peer.fit(x)
    np.testing.assert_allclose(mine.trace[-1] * rows, theirs.inertia_, rtol=1e-4)
    assert len(mine.trace) - 1 == theirs.n_iter_ or dtype is np.float32
    name = f"N={rows:.0e} D={columns} K={size}"
    return _line(name, lambda: ours.run(0, x, init=init), lambda: peer.fit(x))


def restarts(dtype: type) -> str:
    """100 restarts from rows at random, each to its end."""
    x = np.random.default_rng(0).normal(size=(1_000, 2)).astype(dtype)
    ours = bayesmix.KMeans(5, seeding=random_rows, progress_bar=False)
    peer = Peer(5, init="random", n_init=100, tol=0.0, max_iter=1000, algorithm="lloyd")
    name = "100 restarts, N=1e3 D=2 K=5"
    return _line(name, lambda: ours.run(0, x, restarts=100), lambda: peer.fit(x))


def _line(name: str, ours: Callable[[], object], peer: Callable[[], object]) -> str:
    mine, theirs = interleaved(ours, peer)
    ratio = theirs / mine
    return (
        f"{name:28s} {1e3 * np.median(mine):9.1f} ms  peer {1e3 * np.median(theirs):9.1f} ms"
        f"  ratio {np.median(ratio):6.2f}  [{ratio.min():.2f}, {ratio.max():.2f}]"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores for both")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with settings(asked.float32, asked.cores) as dtype, threadpool_limits(asked.cores):
        print(restarts(dtype), flush=True)
        for rows in (10_000, 100_000):
            for columns in (2, 10, 50):
                for size in (3, 10, 50):
                    print(same_steps(rows, columns, size, dtype), flush=True)


if __name__ == "__main__":
    main()
