"""Long fits in chunks of steps: they show where they are, can be watched, stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

from .keep import Checkpoint
from .status import Status


class Progress(NamedTuple):
    """What a callback is told between chunks of steps, by start: steps made (R,), objectives (R,),
    statuses, and parameters by site, leading with starts."""

    step: np.ndarray
    objective: np.ndarray
    status: tuple[Status, ...]
    values: dict[str, np.ndarray]


class Running(Protocol):
    """Fits under way, leading with starts."""

    @property
    def step(self) -> Any: ...
    @property
    def status(self) -> Any: ...


Fits = TypeVar("Fits", bound=Running)
Watch = tuple[Callable[[Progress], bool | None], Callable[[Any], tuple[Any, dict[str, Any]]]]


def run_in_chunks(
    fits: Fits,
    advance: Callable[[Fits, int], Fits],
    *,
    name: str,
    unit: str = "step",
    max_steps: int,
    every: int,
    progress_bar: bool,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
) -> Fits:
    """Fits after `advance(fits, limit)` with rising limits, until none of them runs.

    Args:
        fits: fits before their first chunk; those in the checkpoint's file take their place.
        advance: brings all fits that run to step `limit`, or to their end.
        name, unit: what the bar says, and counts. max_steps: the last limit. every: steps in a chunk.
        progress_bar: show a bar, where it takes longer than a second or two.
        checkpoint: where the fits are kept after each chunk.
        watch: a callback, which stops the fits by returning True, and a function of the fits that gives
            their objectives and their parameters by site.
    """
    if checkpoint is not None:
        fits = checkpoint.resume(fits)
    bar = tqdm(total=max_steps, desc=name, unit=unit, delay=2.0, disable=not progress_bar)
    with bar, _one_thread_for_matrices():
        running = np.asarray(fits.status) == Status.RUNNING
        limit = max(int(np.max(np.asarray(fits.step))), 0)
        while running.any() and limit < max_steps:
            limit = min(limit + every, max_steps)
            fits = advance(fits, limit)
            running = np.asarray(fits.status) == Status.RUNNING
            bar.set_postfix_str(f"{running.sum()} of {running.size} running", refresh=False)
            bar.update(limit - bar.n)
            if checkpoint is not None:
                checkpoint.write(fits)
            if watch is not None and watch[0](told(fits.step, fits.status, *watch[1](fits))):
                break
    return fits


class _Limited:
    """How many fits run, and the limit of threads that ends with the last of them."""

    def __init__(self) -> None:
        self.lock, self.fits, self.until = Lock(), 0, ExitStack()


_limited = _Limited()


@contextmanager
def _one_thread_for_matrices() -> Iterator[None]:
    """In it OpenBLAS, which JAX takes for factors and triangular solves, keeps to one thread.

    Its threads and XLA's wait for each other otherwise: on two cores an M step for ten covariances of
    fifty columns then takes 150 ms, and not 7. Fits in several threads share the limit: the last to end
    puts back what the first has found.
    """
    with _limited.lock:
        if _limited.fits == 0:
            _limited.until.enter_context(_libraries().limit(limits=1, user_api="blas"))
        _limited.fits += 1
    try:
        yield
    finally:
        with _limited.lock:
            _limited.fits -= 1
            if _limited.fits == 0:
                _limited.until.close()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def told(step: Any, status: Any, objective: Any, values: dict[str, Any]) -> Progress:
    """What a callback is told, on the host."""
    statuses = tuple(Status(int(each)) for each in np.asarray(status))
    host = {name: np.asarray(value) for name, value in values.items()}
    return Progress(np.asarray(step), np.asarray(objective), statuses, host)
