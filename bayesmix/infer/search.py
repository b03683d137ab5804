"""Search for the modes of any program that `plan` can read, by several strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import Array, random
from tqdm.auto import tqdm

from ..program.errors import ProgramError
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import key_of, tolerance_of, whole
from .em import EM
from .keep import ANY, Checkpoint, checkpoint_at
from .search_moves import better
from .search_problem import Climbs, Landscape, join
from .search_result import SearchResult, summarise
from .search_strategies import DeterministicAnnealing, Genetic, Restarts, Strategy, next_step

DEFAULT_STRATEGIES = (Restarts(), DeterministicAnnealing(), Genetic())


History = dict[str, list[Climbs]]  # by strategy, what each of its steps found


class SearchProgress(NamedTuple):
    """What a callback is told after each step of a strategy: its name, the step's climbs, the passes
    that the search has cost so far, and the best objective so far."""

    strategy: str
    climbs: Climbs
    cost: float
    best: float


class Search:
    """Search for the modes of log p(x, theta) by several strategies, one after another.

    Every strategy makes starts; EM climbs from them, many in one compiled call (see
    :class:`bayesmix.EM`). Strategies work through responsibilities and the program's own M step, so they
    run on any program with a latent. Costs are counted in passes: one pass is one computation of the
    responsibilities of all rows for one start. Modes are those of the density of the parameters
    themselves (no Jacobian), distinct up to relabelling.

    Args:
        program: a NumPyro program, or a plan of one.
        strategies: strategies of :mod:`bayesmix.strategies` or your own, or a mapping of names to them.
        max_steps, tolerance: of EM, see :class:`bayesmix.EM`.
        batch: how many starts run in one compiled call; a strategy that makes fewer pays for all.
        patience: stop after this many starts in succession that brought nothing better.
        callback: called with a :class:`SearchProgress` after each step of a strategy; where it returns
            True, the search stops.
        progress_bar: show progress on searches longer than a second or two.

    Example:
        >>> import jax, numpy as np
        >>> import bayesmix
        >>> from bayesmix import strategies, zoo
        >>> x = np.array([0, 1, 1, 0, 2, 9, 8, 11, 10, 9, 30, 28, 33, 31, 29])[:, None]
        >>> search = bayesmix.Search(
        ...     zoo.poisson_mixture,
        ...     (strategies.Restarts(8), strategies.DeterministicAnnealing(2)),
        ...     batch=8,
        ... )
        >>> found = search.run(jax.random.key(0), x, K=3)
        >>> np.sort(found.best.parameters["rate"], axis=None).round(1).tolist()
        [0.9, 9.2, 29.6]
        >>> found.modes[0].found_by
        ('Restarts', 'DeterministicAnnealing')

    Source: the strategies name theirs.
    """

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        strategies: Sequence[Strategy] | Mapping[str, Strategy] = DEFAULT_STRATEGIES,
        *,
        max_steps: int = 2000,
        tolerance: float = 1e-10,
        batch: int = 16,
        patience: int | None = None,
        callback: Callable[[SearchProgress], bool | None] | None = None,
        progress_bar: bool = True,
    ) -> None:
        if not strategies:
            raise ProgramError("there is no strategy to search by; give at least one")
        self.plans = Plans(program)
        self.strategies = named(strategies)
        self.max_steps = whole("max_steps", max_steps)
        self.tolerance = tolerance_of(tolerance)
        self.batch = whole("batch", batch)
        self.patience = None if patience is None else whole("patience", patience)
        self.callback = callback
        self.progress_bar = progress_bar

    def run(
        self, rng_key: Array, *args: Any, checkpoint: str | Path | None = None, **kwargs: Any
    ) -> SearchResult:
        """Run every strategy until it has nothing more to do.

        Args:
            rng_key: a JAX random key (or an integer seed).
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.
            checkpoint: a file to keep the search in. Where it exists the search goes on from there, and
                ends as it would have without the stop.

        Returns:
            A :class:`SearchResult`: `modes`, `best` (an :class:`EMResult`), costs; it prints as a table.

        Raises:
            ProgramError: where the program or its data cannot be read, where a strategy makes no sense
                for it, or where the checkpoint is of another search; the message names the cure.
        """
        key = key_of(rng_key)
        landscape = self.landscape(self.plans.call(args, kwargs))
        kept = checkpoint_at(checkpoint, self, landscape.problem, key)
        history, finished = self._resume(landscape, kept)
        stopped = "" if self._patient(history) else "patience"
        with tqdm(desc="search", unit="start", delay=2.0, disable=not self.progress_bar) as bar:
            for name, own_key in zip(self.strategies, random.split(key, len(self.strategies))):
                bar.set_description(f"search: {name}")
                while not stopped and name not in finished:
                    climbs = self._step(landscape, own_key, name, history, finished)
                    if kept is not None:
                        steps = {name: len(found) for name, found in history.items()}
                        kept.write(history, steps=steps, finished=sorted(finished))
                    if climbs is not None:
                        progress = _progress(name, climbs, history)
                        bar.update(len(climbs.costs))
                        bar.set_postfix_str(
                            f"best {progress.best:.6g}, {progress.cost:.0f} passes", refresh=False
                        )
                        stopped = self._stops(progress, history)
        told = {name: found for name, found in history.items() if found}
        return summarise(landscape, told, stopped)

    def landscape(self, problem: Problem) -> Landscape:
        """What strategies work with, for a program with its data."""
        plan = problem.plan
        if not plan.graph.names:
            raise ProgramError(
                "the program has no latent, so there are no responsibilities to search over; use EM "
                "with several restarts"
            )
        em = EM(plan, max_steps=self.max_steps, tolerance=self.tolerance, progress_bar=False)
        return Landscape(problem, em, self.batch)

    def _step(
        self,
        landscape: Landscape,
        rng_key: Array,
        name: str,
        history: History,
        finished: set[str],
    ) -> Climbs | None:
        climbs = next_step(self.strategies[name], landscape, rng_key, history[name])
        if climbs is None:
            finished.add(name)
        else:
            history[name].append(climbs)
        return climbs

    def _resume(self, landscape: Landscape, kept: Checkpoint | None) -> tuple[History, set[str]]:
        if kept is None or kept.saved is None:
            return {name: [] for name in self.strategies}, set()
        like = Climbs(dict.fromkeys(landscape.plan.reading.parameter_names, ANY), ANY, ANY, ANY)
        steps, finished = (kept.saved.header[name] for name in ("steps", "finished"))
        history = kept.resume({name: [like] * steps[name] for name in self.strategies})
        return {name: history[name] for name in self.strategies}, set(finished)

    def _stops(self, progress: SearchProgress, history: History) -> str:
        if self.callback is not None and self.callback(progress):
            return "callback"
        return "" if self._patient(history) else "patience"

    def _patient(self, history: History) -> bool:
        """Have the last `patience` starts, in the order of the strategies, brought something better?"""
        if self.patience is None:
            return True
        best, since = -np.inf, 0
        for score in (s for found in history.values() for each in found for s in each.scores):
            since += 1
            if better(score, best):
                best, since = score, 0
        return since < self.patience


def _progress(name: str, climbs: Climbs, history: History) -> SearchProgress:
    everything = join([each for found in history.values() for each in found])
    return SearchProgress(
        name, climbs, float(everything.costs.sum()), float(everything.scores.max())
    )


def _settings(strategy: Strategy) -> dict[str, Any]:
    if not dataclasses.is_dataclass(strategy):
        return {}
    return {each.name: getattr(strategy, each.name) for each in dataclasses.fields(strategy)}


def _text(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def named(strategies: Sequence[Strategy] | Mapping[str, Strategy]) -> dict[str, Strategy]:
    """Strategies by name: that of their class, and where several share it with the settings that differ.

    Raises :class:`ProgramError` where two are the same, or one is no strategy.
    """
    for each in strategies.values() if isinstance(strategies, Mapping) else strategies:
        if isinstance(each, type) or not callable(getattr(each, "step", None)):
            raise ProgramError(
                f"{each!r} is no strategy, as it has no method `step`; give one such as "
                "bayesmix.strategies.Restarts(count=32)"
            )
    if isinstance(strategies, Mapping):
        return dict(strategies)
    found: dict[str, Strategy] = {}
    for each in strategies:
        kind, own = type(each), _settings(each)
        same = [_settings(other) for other in strategies if type(other) is kind]
        differ = [name for name in own if any(other[name] != own[name] for other in same)]
        told = ", ".join(f"{name}={_text(own[name])}" for name in differ)
        name = kind.__name__ + (f"({told})" if told else "")
        if name in found:
            raise ProgramError(
                f"the strategy {name} is given twice; give each once, or names in a mapping"
            )
        found[name] = each
    return found
