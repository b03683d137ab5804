"""A guard against a deadlock in older JAX on machines with few cores.

Before JAX 0.12, two large batches of Cholesky factors or triangular solves at a time can each take a
thread of XLA's CPU pool and wait for the other's: with two cores the program then hangs for ever (four
batches of a thousand 10 x 10 Cholesky factors are enough, with no bayesmix in sight). A pool with more
threads than there are such calls at a time cannot. Its size is read once, when JAX first computes.
"""

from __future__ import annotations

import os
from importlib.metadata import version

_ENOUGH = 8
_MENDED = (0, 12)


def widen_pool() -> None:
    """Ask for a pool of at least eight threads, unless the user has asked for some number."""
    release = tuple(int(part) for part in version("jax").split(".")[:2])
    asked = {"NPROC", "PJRT_NPROC"} & set(os.environ)
    if release < _MENDED and not asked and (os.cpu_count() or 1) < _ENOUGH:
        os.environ["PJRT_NPROC"] = str(_ENOUGH)
