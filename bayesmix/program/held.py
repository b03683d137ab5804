"""Arguments that a program reads in Python: counts of groups, columns of a table, branches on data.

NumPyro's own samplers hand a program its arguments as they are, so that `int(group.max()) + 1`,
`np.unique(group)` and `table["y"].values` work. Here arrays are traced, and one program serves all data
of a shape. An argument that cannot be traced is *held*: the program gets it as it is, and it counts as a
setting, as K does, so that other values of it are another plan.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Held:
    """An array or a table as the caller gave it, compared by its content.

    >>> import numpy as np
    >>> Held(np.arange(3)) == Held(np.arange(3)), Held(np.arange(3)) == Held(np.arange(4))
    (True, False)
    """

    def __init__(self, value: Any) -> None:
        self.value = value.view(_Array) if type(value) is np.ndarray else value
        self.digest = hashlib.sha256(pickle.dumps(value)).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Held({type(self.value).__name__})"


class _Array(np.ndarray):
    """An array of NumPy's that a traced latent can index."""

    def __getitem__(self, index: Any) -> Any:
        traced = any(isinstance(i, jax.core.Tracer) for i in jax.tree.leaves(index))
        return jnp.asarray(self)[index] if traced else super().__getitem__(index)


def choices(kinds: dict[int, str]) -> Iterator[frozenset[int]]:
    """Which arguments to hold, the likeliest first: one, two, or all of them; tables (kind 't') and
    integers before other numbers."""
    order = sorted(kinds, key=lambda i: ("tbiu".find(kinds[i]) % 5, i))
    for count in (1, 2):
        yield from map(frozenset, combinations(order, count))
    if len(order) > 2:
        yield frozenset(i for i in order if kinds[i] in "tbiu")
        yield frozenset(order)


def first_that_runs(
    candidates: Iterable[frozenset[int]], runs: Callable[[frozenset[int]], bool]
) -> frozenset[int] | None:
    """The first choice under which the program runs, or None."""
    return next((choice for choice in candidates if runs(choice)), None)
