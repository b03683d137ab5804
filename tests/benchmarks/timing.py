"""How benchmarks take times: runs in turn, medians, and ratios to a peer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import numpyro
from threadpoolctl import threadpool_limits

import bayesmix

STEPS, REPEATS = 20, 5
_TURN = 0.1  # seconds that a turn takes at least


@contextmanager
def settings(float32: bool, cores: int = 1) -> Iterator[type]:
    """A precision for all, and cores of the machine as devices that rows are spread over; peers have so
    many threads where there is more than one. Gives the type of the numbers."""
    if cores > 1:
        numpyro.set_host_device_count(cores)
    jax.config.update("jax_enable_x64", not float32)
    dtype = np.float32 if float32 else np.float64
    if cores == 1:
        yield dtype
        return
    with bayesmix.rows_on(), threadpool_limits(cores):
        yield dtype


def interleaved(*runs: Callable[[], Any], repeats: int = REPEATS) -> list[np.ndarray]:
    """Seconds of each run, so many times, taken in turn after one warm-up of each.

    Short runs are made several times a turn: threads of other libraries wait for more work in a loop, so
    that what comes within some milliseconds of them has a core less.
    """
    for run in runs:
        run()
    counts = [int(np.clip(_TURN / _seconds(run, 1), 1, 100)) for run in runs]
    turns = [[_seconds(run, count) for run, count in zip(runs, counts)] for _ in range(repeats)]
    return list(np.transpose(turns))


def _seconds(run: Callable[[], Any], count: int) -> float:
    """Seconds of one of so many runs."""
    started = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - started) / count


def steps_of(
    plan: bayesmix.Plan, init: dict, *arguments, most: int = STEPS
) -> tuple[Callable[[], bayesmix.EMResult], Callable[[], bayesmix.EMResult], int]:
    """Runs of one EM step and of several more, from the same values, and how many more: `most`, or as
    many as there are before rounding hides all gain."""

    def run(steps: int) -> Callable[[], bayesmix.EMResult]:
        em = bayesmix.EM(plan, progress_bar=False, max_steps=steps, tolerance=-1.0)
        return lambda: em.run(0, *arguments, init=init)

    steps = int(run(most + 1)().restart_steps[0])
    return run(1), run(steps), steps - 1


def line(name: str, mine: np.ndarray, theirs: np.ndarray) -> str:
    """One line of a table: medians, the ratio of the two, and the spread of the ratios by turn."""
    ratio = np.median(theirs) / np.median(mine)
    low, high = np.min(theirs / mine), np.max(theirs / mine)
    return (
        f"{name:55s} {1e3 * np.median(mine):10.2f} ms  peer {1e3 * np.median(theirs):10.2f} ms"
        f"  ratio {ratio:6.1f}  [{low:.1f}, {high:.1f}]"
    )
