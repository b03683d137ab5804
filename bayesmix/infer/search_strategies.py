"""Strategies that search for modes: restarts, annealing, genetic, splits and merges, exemplars.

A strategy is a small frozen dataclass with one method,

    step(landscape, rng_key, earlier) -> Climbs | None

which makes further starts and climbs from them, given what its own earlier steps found; None says that
it has no more to do. Steps depend on nothing else, so that a stopped search goes on where it was. Write
your own in the same way: :class:`bayesmix.infer.search_problem.Landscape` is what there is to work with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jax import Array, random

from ..program.errors import ProgramError
from ..program.settings import check_fields
from .search_exemplars import ConvexExemplar
from .search_moves import Genetic, SplitAndMerge
from .search_problem import LONGEST_WALK, Climbs, Landscape, Schedule
from .starts import Seeding, kmeans_plus_plus, random_rows

__all__ = [
    "ConvexExemplar",
    "DeterministicAnnealing",
    "Genetic",
    "Restarts",
    "SimulatedAnnealing",
    "SplitAndMerge",
    "Strategy",
    "kmeans_plus_plus",
    "next_step",
    "random_rows",
]


class Strategy(Protocol):
    """What :class:`bayesmix.Search` asks of a strategy."""

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        """Further climbs, or None where there is nothing more to do."""


def next_step(
    strategy: Strategy, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
) -> Climbs | None:
    """A strategy's step after those that were; the key is that of all its steps."""
    key = random.fold_in(rng_key, len(earlier))
    climbs = strategy.step(landscape, key, tuple(earlier))
    if climbs is None and not earlier:
        raise ProgramError(
            f"{type(strategy).__name__} makes no start at all; its first step has to give some"
        )
    return climbs


@dataclass(frozen=True)
class Restarts:
    """EM from `count` starts: rows partitioned about seeds, and the program's M step.

    `seeding` is a function of (key, points (N, D), K) that gives the rows K seeds are at:
    :func:`bayesmix.infer.starts.kmeans_plus_plus` or :func:`bayesmix.infer.starts.random_rows`.
    A start costs as many passes as EM takes.

    Source: Arthur & Vassilvitskii (2007), SODA, 1027-1035.
    """

    count: int = 32
    seeding: Seeding = kmeans_plus_plus

    def __post_init__(self) -> None:
        check_fields(self)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        left = self.count - sum(len(each.costs) for each in earlier)
        if left <= 0:
            return None
        return landscape.climb(landscape.seeds(rng_key, min(left, landscape.batch), self.seeding))


@dataclass(frozen=True)
class DeterministicAnnealing:
    """EM on a smoothed objective that is sharpened step by step, then plain EM, from `count` starts.

    At temperature T = 1 / beta responsibilities are in proportion to p(x_i, z_i)^beta, which is the E
    step of the free energy

        F_beta(theta) = (1 / beta) sum_i log sum_z p(x_i, z | theta)^beta + log p(theta).

    At a high temperature it has one mode, with all components alike; as T falls, they part one after
    another. T starts at `start_temperature` and is multiplied by `rate` after every `steps` EM steps,
    while it is above 1. Until then noise of size `noise` is added to the log factors: without it,
    components that have met exactly could never part. With start_temperature = 1 this is plain EM.
    For clusters of known spread the first parting is at T = (largest variance of all rows) / (variance
    of a cluster), and a start below it forgets less of its seeds.
    A start costs levels times `steps` passes, and those of the EM that follows.

    Source: Ueda & Nakano (1998), *Neural Networks* 11, 271-282.
    """

    count: int = 8
    start_temperature: float = 50.0
    rate: float = 0.8
    steps: int = 5
    noise: float = 0.3
    seeding: Seeding = random_rows

    def __post_init__(self) -> None:
        check_fields(self)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        if earlier:
            return None
        _check(self, self.start_temperature >= 1, "start_temperature", "at least 1")
        _check(self, 0 < self.rate < 1, "rate", "between 0 and 1")
        levels = np.ceil(round(np.log(self.start_temperature) / -np.log(self.rate), 6))
        temperature = self.start_temperature * self.rate ** np.arange(levels)
        inverse = np.repeat(1 / temperature, self.steps)
        schedule = Schedule(inverse, np.full(inverse.shape, self.noise), np.zeros(inverse.shape))
        return _walk_and_climb(self, landscape, rng_key, schedule)


@dataclass(frozen=True)
class SimulatedAnnealing:
    """Stochastic EM that cools down to EM, then plain EM, from `count` starts.

    At step t of `steps`, a share g_t = 1 - t / steps of the weights is one draw of each row's latents at
    temperature T_t = start_temperature^g_t, and the rest are the probabilities it is drawn from. So the
    walk goes over from stochastic EM, which leaves poor modes, to EM, which does not. A start costs
    `steps` passes, and those of the EM that follows.

    Source: Celeux & Diebolt (1992), *Stochastics and Stochastics Reports* 41, 119-134.
    """

    count: int = 8
    steps: int = 60
    start_temperature: float = 2.0
    seeding: Seeding = random_rows

    def __post_init__(self) -> None:
        check_fields(self, steps=0)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        if earlier:
            return None
        _check(self, self.start_temperature >= 1, "start_temperature", "at least 1")
        share = 1 - np.arange(self.steps) / max(self.steps, 1)
        schedule = Schedule(self.start_temperature**-share, np.zeros(self.steps), share)
        return _walk_and_climb(self, landscape, rng_key, schedule)


def _walk_and_climb(
    strategy: DeterministicAnnealing | SimulatedAnnealing,
    landscape: Landscape,
    rng_key: Array,
    schedule: Schedule,
) -> Climbs:
    length = len(schedule.drawn)
    if length > LONGEST_WALK:
        raise ProgramError(
            f"{type(strategy).__name__} would make {length} steps, and a walk has at most "
            f"{LONGEST_WALK}; cool faster"
        )
    ends = landscape.walk(rng_key, strategy.count, strategy.seeding, schedule)
    return landscape.climb(ends, spent=length)


def _check(strategy: Strategy, holds: bool, name: str, cure: str) -> None:
    if not holds:
        given = getattr(strategy, name)
        raise ProgramError(f"{name} of {type(strategy).__name__} is {given}; give one {cure}")
