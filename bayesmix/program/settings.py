"""Settings of engines, each kind checked in one place: whole numbers, numbers, and random keys."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from .errors import ProgramError

_LARGEST = 2**31 - 1  # what counters in compiled loops hold


def whole(name: str, value: Any, least: int = 1, most: int = _LARGEST) -> int:
    """A whole number, Python's or NumPy's, as an int.

    >>> import numpy as np
    >>> whole("restarts", np.int64(3))
    3
    >>> whole("restarts", 0)
    Traceback (most recent call last):
    bayesmix.program.errors.ProgramError: restarts is 0; ask for at least one
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise ProgramError(f"{name} is {value!r}; give a whole number") from None
    if found < least:
        raise ProgramError(f"{name} is {found}; ask for at least {'one' if least == 1 else least}")
    if found > most:
        raise ProgramError(f"{name} is {found}; give at most {most}")
    return found


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A number that is not NaN, as a float.

    >>> number("tolerance", float("nan"))
    Traceback (most recent call last):
    bayesmix.program.errors.ProgramError: tolerance is nan; give a number
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise ProgramError(f"{name} is {value!r}; give a number")
    if not least <= found <= most:
        bound = f"at least {least:g}" if found < least else f"at most {most:g}"
        raise ProgramError(f"{name} is {found:g}; give {bound}")
    return found


def tolerance_of(value: Any) -> float:
    """A tolerance: a finite number, below 0 where no step is to be the last but for their number."""
    largest = float(np.finfo(np.float32).max)
    return number("tolerance", value, -largest, largest)


def check_fields(settings: Any, **least: int | float) -> None:
    """Check the numbers of a dataclass: its fields of type int are at least 1 and those of type float at
    least 0, unless `least` says otherwise; what may be None or a function may be so."""
    for field in dataclasses.fields(settings):
        kinds = {kind.strip() for kind in str(field.type).split("|")}
        value = getattr(settings, field.name)
        if value is None or callable(value) or not kinds & {"int", "float"}:
            continue
        if "float" in kinds:
            number(field.name, value, least.get(field.name, 0.0))
        else:
            whole(field.name, value, int(least.get(field.name, 1)))


def key_of(rng_key: Any) -> Any:
    """One random key of JAX: the key itself, or the key of a seed, a whole number of any kind.

    >>> import numpy as np
    >>> key_of(np.int64(3)) == key_of(3)
    Array(True, dtype=bool)
    >>> key_of(0.5)
    Traceback (most recent call last):
    bayesmix.program.errors.ProgramError: rng_key is 0.5; give a key of jax.random.key, or a whole...
    """
    dtype = getattr(rng_key, "dtype", None)
    if isinstance(rng_key, jax.Array) and jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
        if rng_key.ndim:
            raise ProgramError(f"rng_key holds {rng_key.size} keys; give one of them")
        return rng_key
    if dtype == np.uint32 and np.ndim(rng_key) == 1:
        return jnp.asarray(rng_key)  # as those of jax.random.PRNGKey
    try:
        seed = whole("rng_key", rng_key, -(2**63), 2**63 - 1)
    except ProgramError:
        raise ProgramError(
            f"rng_key is {rng_key!r}; give a key of jax.random.key, or a whole number that fits 64 bits"
        ) from None
    return random.key(seed)
