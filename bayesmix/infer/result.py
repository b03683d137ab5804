"""What a fit returns, and the distinct modes among its restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from ..program.arguments import Arguments, split
from ..program.labels import permute_labels
from ..program.plan import Plan
from .status import Status

_SAME_OBJECTIVE = 1e-6
_SAME_PARAMETERS = 0.05


@dataclass(frozen=True, eq=False)
class Mode:
    """A distinct mode up to relabelling: its objective, how many starts reached it, where it is."""

    objective: float
    count: int
    status: Status
    parameters: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class EMResult:
    """The best of the starts, and what became of the others.

    Attributes:
        parameters: site name to value, at the best start. A mode of the density in the constrained
            space (no Jacobian).
        deterministic: the program's deterministic sites at those parameters.
        objective: the whole trace, (steps + 1,): log likelihood plus log prior; entry 0 is the start.
        status: how the best start ended; truthy if it converged.
        modes: distinct modes up to relabelling, best first, each with the number of starts that reached
            it. Starts that did not converge are listed too, each with its own status.
        restart_objectives, restart_statuses, restart_steps: one entry per start.
        plan: the plan that was used.
    """

    parameters: dict[str, np.ndarray]
    deterministic: dict[str, np.ndarray]
    objective: np.ndarray
    status: Status
    modes: tuple[Mode, ...]
    restart_objectives: np.ndarray
    restart_statuses: tuple[Status, ...]
    restart_steps: np.ndarray
    plan: Plan
    arguments: Arguments

    def log_joint_table(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log p(x_i, z_i = k | parameters), (N, K), on the rows of the fit or of other arguments."""
        arguments = split(args, kwargs) if args or kwargs else self.arguments
        table = jax.jit(
            lambda arrays, values: self.plan.log_joint_table(
                arguments._replace(arrays=arrays), values
            )
        )(arguments.arrays, self.parameters)
        return np.asarray(table).T

    def responsibilities(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """r_ik = p(z_i = k | x_i, parameters), (N, K).

        Without arguments: on the rows of the fit. With the program's arguments: on those rows.
        """
        table = self.log_joint_table(*args, **kwargs)
        shifted = np.exp(table - table.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log p(x_i | parameters) of each row, the latent summed out, (N,)."""
        table = self.log_joint_table(*args, **kwargs)
        top = table.max(axis=1)
        return top + np.log(np.exp(table - top[:, None]).sum(axis=1))

    def print_summary(self) -> None:
        """Print the parameters, the objective, the status and the modes."""
        print(self)

    def __str__(self) -> str:
        lines = [
            f"objective (log joint): {self.objective[-1]:.6g} after {len(self.objective) - 1} steps"
        ]
        lines.append(str(self.status))
        for name, value in {**self.parameters, **self.deterministic}.items():
            text = np.array2string(
                np.asarray(value), precision=4, suppress_small=True, prefix="    "
            )
            lines.append(f"{name}:\n    {text}")
        lines.append("modes (up to relabelling):")
        for mode in self.modes:
            note = "" if mode.status else f"  [{mode.status.name.lower().replace('_', ' ')}]"
            lines.append(f"    {mode.objective:.6f}  reached by {mode.count} start(s){note}")
        return "\n".join(lines)

    __repr__ = __str__


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
                break
        else:
            found.append([float(objectives[i]), 1, statuses[i], here])
    return tuple(Mode(*mode) for mode in found)


def align(
    plan: Plan, reference: dict[str, np.ndarray], values: dict[str, np.ndarray]
) -> np.ndarray:
    """The order of labels, (K,), that brings `values` closest to `reference` (linear assignment)."""
    size = plan.reading.num_components
    axes = {name: axis for name, axis in plan.labels.axes.items() if name in reference}
    if not axes:
        return np.arange(size)
    one, other = (_by_component(source, axes, size) for source in (reference, values))
    scale = np.std(np.concatenate([one, other]), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    cost = np.sum(((one[:, None] - other[None]) / scale) ** 2, axis=-1, dtype=float)
    return linear_sum_assignment(np.nan_to_num(cost, nan=1e300, posinf=1e300))[1]


def _by_component(values: dict[str, np.ndarray], axes: dict[str, int], size: int) -> np.ndarray:
    parts = [np.moveaxis(values[name], axis, 0).reshape(size, -1) for name, axis in axes.items()]
    return np.concatenate(parts, axis=1)


def _same(plan: Plan, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Equal to within a small share of the spread between components, after alignment."""
    axes = {name: axis for name, axis in plan.labels.axes.items() if name in one}
    moved = permute_labels(other, axes, align(plan, one, other))
    for name, value in one.items():
        gap = np.max(np.abs(value - np.asarray(moved[name])), initial=0.0)
        if not gap <= _SAME_PARAMETERS * (np.ptp(value) if value.size else 0.0) + 1e-3 * np.max(
            np.abs(value), initial=0.0
        ):
            return False
    return True
