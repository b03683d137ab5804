"""How parameters reach the likelihood, in words: found by comparing values, for a reader of the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

Values = dict[str, Array]


def _readings(value: np.ndarray, dimension: int) -> list[tuple[str, np.ndarray]]:
    """Functions of a site's value that a mean or a covariance may be equal to."""
    identity = np.eye(dimension)
    with np.errstate(all="ignore"):  # what is not finite is equal to nothing
        return _functions(value, dimension, identity)


def _functions(
    value: np.ndarray, dimension: int, identity: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    found = [("{}", value), ("1 / {}", 1 / value), ("{}^2", value**2)]
    if value.ndim >= 2 and value.shape[-1] == value.shape[-2] == dimension:
        if np.all(np.abs(np.linalg.det(value)) > 0):
            found.append(("inverse({})", np.linalg.inv(value)))
            found.append(("{0} {0}'", value @ np.swapaxes(value, -1, -2)))
    diagonal = [
        (f"diag({text})", read[..., None] * identity)
        for text, read in found[:3]
        if read.ndim and read.shape[-1] == dimension
    ]
    scalar = [(f"{text} I", read[..., None, None] * identity) for text, read in found[:3]]
    return found + diagonal + scalar


def describe_links(
    moments: Callable[[Values], tuple[Array, Array]], values: Values, label: str
) -> tuple[str, str]:
    """Sentences such as ``mean[z]`` for the mean and ``diag(scale[z]^2)`` for the covariance.

    `moments(values)` gives each component's mean (K, D) and covariance (K, D, D).
    """
    mean, covariance = (np.asarray(m) for m in moments(values))
    return (
        _describe(mean, values, label, lambda v: moments(v)[0]),
        _describe(covariance, values, label, lambda v: moments(v)[1]),
    )


def _describe(target: np.ndarray, values: Values, label: str, read: Any) -> str:
    dimension = target.shape[-1]
    for name, value in values.items():
        for text, candidate in _readings(np.asarray(value), dimension):
            for index, form in ((f"[{label}]", candidate), ("", candidate[None])):
                if _same(form, target):
                    return text.format(name + index)
            if _same(candidate[..., None], target):
                return text.format(f"{name}[{label}]")
    used = [
        name
        for name, value in values.items()
        if not np.allclose(np.asarray(read({**values, name: value * 0.9})), target, equal_nan=True)
    ]
    return f"a function of {', '.join(used)}" if used else "fixed"


def _same(candidate: np.ndarray, target: np.ndarray) -> bool:
    if candidate.ndim != target.ndim:
        return False
    if candidate.shape[0] not in (1, target.shape[0]) or candidate.shape[1:] != target.shape[1:]:
        return False
    return bool(np.allclose(candidate, target, rtol=1e-7, atol=1e-12))
