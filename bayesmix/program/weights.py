"""Row weights of zero: empty bins of a table of frequencies, say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpyro import handlers
from numpyro.util import not_jax_tracer

_lock = threading.Lock()
_running = 0


@contextmanager
def weights_may_be_zero() -> Iterator[None]:
    """Let `numpyro.handlers.scale` take zeros while a program runs.

    It refuses them where it sees numbers and takes them where it sees a tracer, so that the same call
    could be fitted under jit and fail outside. Negative numbers stay refused.
    """
    global _running
    with _lock:
        _running += 1
        vars(handlers)["not_jax_tracer"] = _negative
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                vars(handlers)["not_jax_tracer"] = not_jax_tracer


def _negative(scale: Any) -> bool:
    """Is there anything for `scale` to refuse?"""
    return not_jax_tracer(scale) and bool(np.any(np.less(scale, 0)))
