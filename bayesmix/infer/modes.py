"""The distinct modes among the restarts of a fit, up to the names of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..program.labels import LabelGroup, Labels, permute_labels
from ..program.plan import Plan
from .status import Status

_SAME_OBJECTIVE = 1e-6
_SAME_PARAMETERS = 0.05


@dataclass(frozen=True, eq=False)
class Mode:
    """A distinct mode up to relabelling: its objective, how many starts reached it, where it is, and
    which starts these were."""

    objective: float
    count: int
    status: Status
    parameters: dict[str, np.ndarray]
    starts: tuple[int, ...] = ()


def gather_modes(
    plan: Plan,
    values: dict[str, np.ndarray],
    objectives: np.ndarray,
    statuses: list[Status],
) -> tuple[Mode, ...]:
    """Starts that ended at the same parameters up to a permutation of the labels are one mode."""
    found: list[list[Any]] = []
    order = np.argsort(np.where(np.isfinite(objectives), -objectives, np.inf))
    for i in order:
        here = {name: value[i] for name, value in values.items()}
        for mode in found:
            close = abs(mode[0] - objectives[i]) <= _SAME_OBJECTIVE * (1 + abs(mode[0]))
            if close and mode[2] == statuses[i] and _same(plan, mode[3], here):
                mode[1] += 1
                mode[4] += (int(i),)
                break
        else:
            found.append([float(objectives[i]), 1, statuses[i], here, (int(i),)])
    return tuple(Mode(*mode) for mode in found)


def align(
    plan: Plan,
    group: LabelGroup,
    reference: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
) -> np.ndarray:
    """The order of a group's labels, (K,), that brings `values` closest to `reference` (linear
    assignment)."""
    from scipy.optimize import linear_sum_assignment

    one, other = (_by_component(source, plan.labels, group) for source in (reference, values))
    scale = np.std(np.concatenate([one, other]), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    cost = np.sum(((one[:, None] - other[None]) / scale) ** 2, axis=-1, dtype=float)
    return linear_sum_assignment(np.nan_to_num(cost, nan=1e300, posinf=1e300))[1]


def _by_component(values: dict[str, np.ndarray], labels: Labels, group: LabelGroup) -> np.ndarray:
    """What each label of a group has, (K, ...), whatever the order along further label axes."""
    parts = [np.zeros((group.size, 0))]
    for name, (first, *_) in group.axes.items():
        if name not in values:
            continue
        value = np.asarray(values[name])
        of_labels = {axis for other in labels.groups for axis in other.axes.get(name, ())}
        for axis in of_labels - {first}:
            value = np.sort(value, axis=axis)
        parts.append(np.moveaxis(value, first, 0).reshape(group.size, -1))
    return np.concatenate(parts, axis=1)


def aligned(
    plan: Plan, reference: dict[str, np.ndarray], values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`values` with every group's labels in the order that is closest to `reference`."""
    for group in plan.labels.hidden:
        order = align(plan, group, reference, values)
        values = permute_labels(values, group.axes, order, group.complements)
    return values


def _same(plan: Plan, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Equal to within a small share of the spread between components, after alignment."""
    moved = aligned(plan, one, other)
    for name, value in one.items():
        gap = np.max(np.abs(value - np.asarray(moved[name])), initial=0.0)
        if not gap <= _SAME_PARAMETERS * (np.ptp(value) if value.size else 0.0) + 1e-3 * np.max(
            np.abs(value), initial=0.0
        ):
            return False
    return True
