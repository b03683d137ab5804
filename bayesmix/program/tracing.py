"""Programs are run one at a time: all threads of a process share one stack of handlers of NumPyro's, and
one switch for whether distributions check their arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from numpyro.distributions.distribution import validation_enabled
from numpyro.handlers import trace

# held by whoever runs a program, and by whoever asks for a plan that nobody has read yet
one_at_a_time = RLock()


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside it, programs of this thread alone run, and distributions take any arguments."""
    with one_at_a_time, validation_enabled(False):
        yield


def sites_of(program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The sites of a program, under the handlers that it is wrapped in, by name."""
    with one_at_a_time:
        return trace(program).get_trace(*args, **kwargs)
