"""Time orders of the rows against batch EM: `python -m tests.benchmarks.online [--rows 1000000]`.

All start at the same values. Gaps are nats a row below the objective that batch EM converges to. Seconds
are without compiling, and the objective over all rows is looked at twice, at the start and at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import bayesmix
from bayesmix import EM, EMResult, OnlineEM
from bayesmix.infer.orders import Incremental, Stepwise
from bayesmix.zoo import gaussian_mixture

COLUMNS, COMPONENTS, PASSES = 5, 5, (1, 2, 5)
ORDERS = {
    "stepwise, batches of 1,000": Stepwise(1000),
    "stepwise, batches of 10,000": Stepwise(10_000),
    "stepwise, batches of 1,000, last": Stepwise(1000, averaging=None),
    "incremental, 200 batches": Incremental(200),
}


def overlapping(rows: int) -> np.ndarray:
    """Gaussian clusters that overlap: batch EM needs some hundred steps."""
    rng = np.random.default_rng(1)
    centres = 1.3 * rng.normal(size=(COMPONENTS, COLUMNS))
    return centres[rng.integers(COMPONENTS, size=rows)] + rng.normal(size=(rows, COLUMNS))


def timed(run: Callable[[], EMResult]) -> tuple[EMResult, float]:
    """What a second run gives, and its seconds."""
    run()
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    jax.config.update("jax_enable_x64", True)
    x = overlapping(rows)
    plan = bayesmix.plan(gaussian_mixture, x, COMPONENTS)
    bare: dict[str, Any] = {"progress_bar": False}
    EM(plan, tolerance=1e9, **bare).run(0, x, COMPONENTS)
    started = time.perf_counter()
    best = EM(plan, tolerance=1e-6, **bare).run(0, x, COMPONENTS)
    seconds = time.perf_counter() - started
    steps = len(best.objective) - 1
    gaps = (best.objective[-1] - best.objective) / rows
    print(f"{rows:,} rows; the start is {gaps[0]:.3g} nats a row below the mode")
    print(f"batch EM {best.status.name.lower()} after {steps} steps, {seconds:.1f} s", flush=True)
    near = int(np.argmax(gaps < 1e-3))
    each = ", ".join(f"{passes}: {gaps[passes]:.1e}" for passes in PASSES)
    print(f"    {each}; within 1e-3 after {near}, {seconds * near / steps:.1f} s", flush=True)
    for name, order in ORDERS.items():
        line = []
        for passes in PASSES:
            online = OnlineEM(plan, order=order, tolerance=-1.0, look_every=passes, **bare)
            fit, seconds = timed(partial(online.run, 0, x, COMPONENTS, num_passes=passes))
            gap = (best.objective[-1] - fit.objective[-1]) / rows
            line.append(f"{passes}: {gap:.1e} {seconds:.1f} s")
        print(f"{name}\n    {', '.join(line)}", flush=True)


if __name__ == "__main__":
    main()
