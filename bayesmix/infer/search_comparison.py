"""Which strategy reaches the best mode at equal cost: many short searches, counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array, random
from tqdm.auto import tqdm

from ..program.errors import ProgramError
from ..program.plan import Plan
from ..program.settings import key_of, number, whole
from .search import Search, named
from .search_moves import better
from .search_problem import Climbs, Landscape
from .search_strategies import Strategy, next_step


@dataclass(frozen=True, eq=False)
class StrategyComparison:
    """How often each strategy reached the best known mode within a budget of passes.

    Attributes:
        best_known: the best objective that any run of any strategy reached, also beyond the budget.
        budget: passes that each run could spend.
        costs, objectives: by strategy, for each run the passes spent when each of its starts had ended,
            and where that start ended; -inf where at no mode.
    """

    best_known: float
    budget: float
    costs: dict[str, list[np.ndarray]]
    objectives: dict[str, list[np.ndarray]]

    @property
    def successes(self) -> dict[str, int]:
        """By strategy, the number of runs that reached the best known mode within the budget."""
        return {
            name: sum(bool(first <= self.budget) for first in self.passes_needed(name))
            for name in self.costs
        }

    def passes_needed(self, strategy: str) -> np.ndarray:
        """The passes that each run of a strategy took to the best known mode; inf where it did not."""
        pairs = zip(self.costs[strategy], self.objectives[strategy])
        return np.array(
            [
                next((c for c, o in zip(*pair) if not better(self.best_known, o)), math.inf)
                for pair in pairs
            ]
        )

    def to_dataframe(self) -> Any:
        """One row for each strategy: runs, successes, their share with a 95 % interval, and the median
        of the best objective within the budget."""
        import pandas as pd

        rows = {}
        for name, successes in self.successes.items():
            runs = len(self.costs[name])
            lower, upper = wilson_interval(successes, runs)
            share = successes / runs
            rows[name] = [runs, successes, share, lower, upper, float(np.median(self._tops(name)))]
        columns = ["runs", "successes", "probability", "lower", "upper", "median_objective"]
        found = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return found.rename_axis("strategy")

    def _tops(self, name: str) -> np.ndarray:
        pairs = zip(self.costs[name], self.objectives[name])
        return np.array([max(o[c <= self.budget], default=-np.inf) for c, o in pairs])

    def __str__(self) -> str:
        lines = [
            f"best known log joint {self.best_known:.4f}; {self.budget:.0f} passes for each run"
        ]
        frame = self.to_dataframe()
        width = max(len(name) for name in frame.index)
        lines.append(f"{'strategy':<{width}}  reached  95 % interval  median log joint")
        for row in frame.itertuples():
            lines.append(
                f"{row.Index:<{width}}  {row.probability:>6.0%}   {row.lower:>4.0%} to {row.upper:>4.0%}"
                f"  {row.median_objective:>16.4f}"
            )
        return "\n".join(lines)

    __repr__ = __str__


def compare_strategies(
    program: Callable[..., Any] | Plan,
    strategies: Sequence[Strategy] | Mapping[str, Strategy],
    rng_key: Array,
    *args: Any,
    budget: float,
    repeats: int = 50,
    batch: int = 16,
    max_steps: int = 2000,
    tolerance: float = 1e-10,
    progress_bar: bool = True,
    **kwargs: Any,
) -> StrategyComparison:
    """How likely is each strategy to reach the best known mode at equal cost?

    Every strategy is run `repeats` times. A run goes on, with the strategy started anew where it has
    come to its end, until `budget` passes are spent; it is a success where a start that ended within
    the budget is at the best objective known from all runs. The starts of a batch are counted one after
    another, though they run together.

    Args:
        program: a NumPyro program, or a plan of one.
        strategies: as in :class:`bayesmix.Search`.
        rng_key: a JAX random key (or an integer seed).
        *args, **kwargs: the program's own arguments.
        budget: passes for each run; a pass is one computation of the responsibilities of all rows.
        repeats: number of runs of each strategy.
        batch: how many starts run in one compiled call.
        max_steps, tolerance: of EM, see :class:`bayesmix.EM`.
        progress_bar: show progress where it takes longer than a second or two.

    Returns:
        A :class:`StrategyComparison`, which prints as a table; :func:`bayesmix.plots.plot_strategies`
        draws it. A better mode than the best known may exist: the probabilities are upper bounds.

    Raises:
        ProgramError: as :meth:`bayesmix.Search.run`.

    Example:
        >>> import jax, numpy as np
        >>> import bayesmix
        >>> from bayesmix import strategies, zoo
        >>> x = np.array([0, 1, 1, 0, 2, 9, 8, 11, 10, 9, 30, 28, 33, 31, 29])[:, None]
        >>> found = bayesmix.compare_strategies(
        ...     zoo.poisson_mixture, [strategies.Restarts(8)], 0, x, K=3, budget=100, repeats=5, batch=8
        ... )
        >>> found.successes
        {'Restarts': 5}

    Source of the intervals: Wilson (1927), *JASA* 22, 209-212.
    """
    repeats, budget = whole("repeats", repeats), number("budget", budget)
    if not 0 < budget < np.inf:
        raise ProgramError(f"budget is {budget:g}; each strategy needs passes to spend")
    key = key_of(rng_key)
    members = named(strategies)
    search = Search(program, members, batch=batch, max_steps=max_steps, tolerance=tolerance)
    landscape = search.landscape(search.plans.call(args, kwargs))
    costs: dict[str, list[np.ndarray]] = {name: [] for name in members}
    objectives: dict[str, list[np.ndarray]] = {name: [] for name in members}
    total = repeats * len(members)
    with tqdm(total=total, unit="run", delay=2.0, disable=not progress_bar) as bar:
        for name, own_key in zip(members, random.split(key, len(members))):
            bar.set_description(name)
            for run_key in random.split(own_key, repeats):
                spent, reached = _one_run(landscape, members[name], run_key, budget)
                costs[name].append(spent)
                objectives[name].append(reached)
                bar.update()
    best = max(np.max(each) for runs in objectives.values() for each in runs)
    return StrategyComparison(float(best), budget, costs, objectives)


def _one_run(
    landscape: Landscape, strategy: Strategy, rng_key: Array, budget: float
) -> tuple[np.ndarray, np.ndarray]:
    """Passes spent when each start had ended, and where it ended."""
    earlier: list[Climbs] = []
    costs, reached, spent, rounds = [], [], 0.0, 0
    while spent < budget:
        key = random.fold_in(rng_key, rounds)
        climbs = next_step(strategy, landscape, key, earlier)
        if climbs is None:
            earlier, rounds = [], rounds + 1
            continue
        earlier.append(climbs)
        costs.append(spent + np.cumsum(climbs.costs))
        reached.append(climbs.scores)
        spent = float(costs[-1][-1])
    return np.concatenate(costs), np.concatenate(reached)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a probability, by default at 95 %.

    >>> [round(end, 3) for end in wilson_interval(0, 10)]
    [0.0, 0.278]

    Source: Wilson (1927), *JASA* 22, 209-212.
    """
    share, scale = successes / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
