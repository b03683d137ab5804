"""How long a piece of work took, and how much of that JAX spent on tracing and compiling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_STAGES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Clock:
    """Seconds that passed, and `compiling` seconds among them; both are there when the work is done."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._spans: list[tuple[float, float]] = []

    @property
    def compiling(self) -> float:
        """Seconds of tracing and compiling (or of fetching what was compiled before)."""
        return sum(end - start for start, end in self._spans)

    def add(self, seconds: float) -> None:
        """Note a stage that has just ended; stages inside it, which ended before, are part of it."""
        end = time.perf_counter()
        start = end - seconds
        while self._spans and self._spans[-1][0] >= start:
            self._spans.pop()
        self._spans.append((start, end))


_running: list[Clock] = []
_listening: list[bool] = []


def _note(event: str, duration: float, **_: object) -> None:
    if event in _STAGES:
        for clock in _running:
            clock.add(duration)


@contextmanager
def clock() -> Iterator[Clock]:
    """Time the body.

    >>> with clock() as taken:
    ...     _ = jax.jit(lambda x: x + 41)(1)
    >>> 0 < taken.compiling < taken.seconds
    True
    """
    if not _listening:
        jax.monitoring.register_event_duration_secs_listener(_note)
        _listening.append(True)
    own, started = Clock(), time.perf_counter()
    _running.append(own)
    try:
        yield own
    finally:
        _running.remove(own)
        own.seconds = time.perf_counter() - started
