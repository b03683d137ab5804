"""What a search found: the distinct modes, how heavy and how often found they are, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..program.errors import ProgramError
from .laplace import LogWeight, laplace_log_weight
from .modes import Mode, gather_modes
from .result import EMResult
from .search_problem import Climbs, Landscape, join
from .status import Status

_SHOWN, _WEIGHED = 12, 50
_STOPPED = {
    "": "ended when every strategy had nothing more to do",
    "patience": "ended early, as the last starts brought nothing better (patience)",
    "callback": "was ended by the callback",
}


@dataclass(frozen=True, eq=False)
class SearchMode:
    """A distinct mode up to relabelling.

    Attributes:
        objective: log p(x, theta) there, in the constrained space (no Jacobian).
        log_weight: Laplace's approximation to the log of the joint density's integral about the mode
            and its relabelled copies, in unconstrained coordinates (NumPyro's `biject_to`); None, with a
            reason, where there is none. See :func:`bayesmix.infer.laplace.laplace_log_weight`.
        counts: by strategy, how many of its starts ended here; those with none are left out.
        frequencies: the same as shares of the strategy's starts.
        status: how these starts ended.
        parameters: values by site.
    """

    objective: float
    log_weight: LogWeight
    counts: dict[str, int]
    frequencies: dict[str, float]
    status: Status
    parameters: dict[str, np.ndarray]

    @property
    def found_by(self) -> tuple[str, ...]:
        """The strategies that found it."""
        return tuple(self.counts)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found; prints as a table.

    Attributes:
        modes: distinct modes up to relabelling, best first; after them where climbs ended that are no
            modes (a singular covariance, say), each with its status.
        best: the best mode as an :class:`EMResult`, to predict with; its `modes` and `restart_...` are
            those of all starts of all strategies.
        climbs: by strategy, where each of its starts ended and what it cost.
        stopped: why the search ended: '' (every strategy ran to its end), 'patience' or 'callback'.
    """

    modes: tuple[SearchMode, ...]
    best: EMResult
    climbs: dict[str, Climbs]
    stopped: str

    @property
    def costs(self) -> dict[str, float]:
        """By strategy, its passes: computations of the responsibilities of all rows for one start."""
        return {name: float(climbs.costs.sum()) for name, climbs in self.climbs.items()}

    def to_dataframe(self) -> Any:
        """One row for each mode: objective, log weight, weight among the modes, status, and the share of
        each strategy's starts that ended there."""
        import pandas as pd

        log_weights = np.array([_number(mode.log_weight) for mode in self.modes])
        known = np.isfinite(log_weights)
        total = logsumexp(log_weights[known]) if known.any() else 0.0
        columns: dict[str, Any] = {
            "objective": [mode.objective for mode in self.modes],
            "log_weight": log_weights,
            "weight": np.exp(log_weights - total),
            "status": [mode.status.name for mode in self.modes],
        }
        for name in self.climbs:
            columns[name] = [mode.frequencies.get(name, 0.0) for mode in self.modes]
        return pd.DataFrame(columns).rename_axis("mode")

    def __str__(self) -> str:
        frame = self.to_dataframe().head(_SHOWN)
        letters = [chr(ord("A") + i) for i in range(len(self.climbs))]
        rows = [["mode", "log joint", "log weight", "weight", *letters, ""]]
        for number, (mode, row) in enumerate(zip(self.modes, frame.itertuples())):
            value = mode.log_weight.value
            shares = [mode.frequencies.get(name, 0.0) for name in self.climbs]
            rows.append(
                [
                    str(number),
                    f"{mode.objective:.4f}",
                    "-" if value is None else f"{value:.2f}",
                    "-" if value is None else f"{row.weight:.3f}",
                    *(f"{share:.0%}" if share else "." for share in shares),
                    " ".join(_notes(mode)),
                ]
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(text.rjust(w) for text, w in zip(row[:-1], widths)) + f"  {row[-1]}".rstrip()
            for row in rows
        ]
        if len(self.modes) > _SHOWN:
            lines.append(f"... and {len(self.modes) - _SHOWN} more")
        lines.append("A mode's share of the starts of")
        for letter, (name, climbs) in zip(letters, self.climbs.items()):
            lines.append(
                f"{letter}  {name}: {len(climbs.costs)} starts, {climbs.costs.sum():.0f} passes"
            )
        return "\n".join([*lines, f"The search {_STOPPED[self.stopped]}."])

    __repr__ = __str__


def _number(weight: LogWeight) -> float:
    return np.nan if weight.value is None else weight.value


def _notes(mode: SearchMode) -> list[str]:
    notes = [] if mode.status else [f"[{mode.status.name.lower().replace('_', ' ')}]"]
    return notes + ([f"({mode.log_weight.reason})"] if mode.log_weight.reason else [])


def summarise(
    landscape: Landscape, history: Mapping[str, list[Climbs]], stopped: str
) -> SearchResult:
    """All climbs of a search as one result."""
    climbs = {name: join(found) for name, found in history.items()}
    everything = join(list(climbs.values()))
    owner = np.repeat(list(climbs), [len(each.costs) for each in climbs.values()])
    statuses = [Status(int(status)) for status in everything.statuses]
    gathered = gather_modes(landscape.plan, everything.values, everything.objectives, statuses)
    sound = np.isfinite(everything.scores)
    ordered = sorted(gathered, key=lambda mode: not sound[mode.starts[0]])
    top = next((m for m in ordered if landscape.inside(_wide(m.parameters))[0]), None)
    if top is None:
        raise ProgramError(
            f"no climb of the search ended inside the supports of the parameters: {ordered[0].status}"
        )
    best = landscape.fit(top.parameters)
    best = replace(
        best,
        modes=gathered,
        restart_objectives=everything.objectives,
        restart_statuses=tuple(statuses),
        restart_steps=np.rint(everything.costs).astype(int) - 1,
        restart_parameters=everything.values,
    )
    weights = [LogWeight(None, "no mode")] * len(ordered)
    for i, mode in enumerate(ordered):
        if sound[mode.starts[0]]:
            weights[i] = _log_weight(landscape, mode, i)
    modes = tuple(_mode(*each, owner) for each in zip(ordered, weights))
    return SearchResult(modes, best, climbs, stopped)


def _wide(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[None] for name, value in parameters.items()}


def _log_weight(landscape: Landscape, mode: Mode, place: int) -> LogWeight:
    if place >= _WEIGHED:
        return LogWeight(None, f"not among the best {_WEIGHED}")
    return laplace_log_weight(landscape.problem, mode.parameters)


def _mode(mode: Mode, log_weight: LogWeight, owner: np.ndarray) -> SearchMode:
    """The mode with its starts counted by strategy, in the order in which these were run."""
    own = owner[list(mode.starts)]
    counts = {name: int(np.sum(own == name)) for name in dict.fromkeys(owner.tolist())}
    counts = {name: count for name, count in counts.items() if count}
    frequencies = {name: count / int(np.sum(owner == name)) for name, count in counts.items()}
    return SearchMode(mode.objective, log_weight, counts, frequencies, mode.status, mode.parameters)
