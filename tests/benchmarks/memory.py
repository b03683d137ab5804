"""Peak memory of a fit: `python -m tests.benchmarks.memory [--rows 10000000]`, single precision.

A Gaussian mixture with full covariances, two steps of EM. What is printed is the largest resident size
so far, in all and beyond the data: after importing and a small fit, with the data, and after the fit.
Rows are used where they lie, in JAX's array or in NumPy's (`--numpy`); a fit copies them into blocks.
"""

from __future__ import annotations

import argparse
import resource
from typing import Any

import jax
import numpy as np

import bayesmix
from tests.benchmarks.families import K, normal

COLUMNS = 10


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def rows_of(count: int) -> np.ndarray:
    """Rows about K centres, made piece by piece."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, COLUMNS), dtype=np.float32)
    centres = 2 * rng.standard_normal((K, COLUMNS), dtype=np.float32)
    for first in range(0, count, 100_000):
        piece = x[first : first + 100_000]
        piece += centres[rng.integers(K, size=len(piece))]
    return x


def main() -> None:
    """Print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--numpy", action="store_true", help="give the rows as a NumPy array")
    asked = parser.parse_args()
    small = normal(1_000, np.random.default_rng(0))
    em = bayesmix.EM(small.program, progress_bar=False, max_steps=2, tolerance=-1.0)
    init = {**small.start, "weights": np.full(K, 1 / K)}
    em.run(0, small.x.astype(np.float32), init=init)
    before = peak()
    x: Any = rows_of(asked.rows)
    size = x.nbytes / 1e6
    if not asked.numpy:
        x = jax.block_until_ready(jax.device_put(x))
    made = peak()
    em.run(0, x, init=init)
    print(f"imports and a small fit {before:.0f} MB; {size:.0f} MB of data made {made:.0f} MB")
    print(f"fitted {peak():.0f} MB: the data and {peak() - size:.0f} MB")


if __name__ == "__main__":
    main()
