"""Strategies that change solutions through their responsibilities: splits and merges, crossover.

A solution's responsibilities are arrays (values of a latent, rows). Moving, joining and dividing their
rows moves, joins and divides components, whatever their parameters are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array, random

from ..program.errors import ProgramError
from ..program.settings import check_fields
from .modes import gather_modes
from .search_problem import Climbs, Landscape, Shares, join
from .starts import SOFTENING, Seeding, kmeans_plus_plus
from .status import Status

_FLOOR = 1e-6  # least share of a row that a component taken from another solution has
Unit = tuple[str, ...]


@dataclass(frozen=True)
class SplitAndMerge:
    """From the best of `starts`: merge two components, split a third, climb, and keep what is better.

    Pairs to merge are those that share most rows, r_i'r_j. Components to split are those that fit worst,
    by the Kullback-Leibler distance of the rows they explain, weighted by w_nk = r_nk / sum_n r_nk, from
    the density that they give: sum_n w_nk log(w_nk / p(x_n | k)). By Bayes' rule p(x_n | k) is
    p(x_n) r_nk / p(k), so that with p(k) the mean share of k this is minus the weighted mean of
    log p(x_n) minus log N: the component whose rows are least likely. Each round tries `candidates`
    changes in one compiled call and keeps the best; the search ends after `rounds`, or when no candidate
    is better. All components climb after a change; the paper lets the three that changed climb first.

    Needs a latent with three values or more.

    Source: Ueda, Nakano, Ghahramani & Hinton (2000), *Neural Computation* 12, 2109-2128, section 3.
    """

    starts: int = 8
    rounds: int = 10
    candidates: int = 8
    seeding: Seeding = kmeans_plus_plus

    def __post_init__(self) -> None:
        check_fields(self, rounds=0)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        if max(landscape.units.values()) < 3:
            raise ProgramError(
                "SplitAndMerge merges two components and splits a third, and no latent of the program "
                "has three values; use Restarts or Genetic"
            )
        if not earlier:
            return landscape.climb(landscape.seeds(rng_key, self.starts, self.seeding))
        tops = [np.max(each.scores) for each in earlier]
        stuck = len(tops) > 1 and not better(tops[-1], max(tops[:-1]))
        if len(earlier) > self.rounds or stuck or np.isneginf(tops[0]):
            return None
        everything = join(earlier)
        best = everything.take([np.argmax(everything.scores)]).values
        shares, log_density = landscape.shares(best)
        rng = np.random.default_rng(_seed(rng_key))
        here = {name: share[0] for name, share in shares.items()}
        triples = _triples(landscape, here, log_density[0], self.candidates)
        changed = [_merged_and_split(landscape, here, *triple, rng) for triple in triples]
        wide = {name: np.repeat(v, len(changed), axis=0) for name, v in best.items()}
        solutions = landscape.refit(wide, _stacked(changed))
        return landscape.climb(solutions, spent=1 / len(changed))


@dataclass(frozen=True)
class Genetic:
    """A population of modes whose children take some components of each parent, then climb by EM.

    Each generation makes `population` children. Parents are drawn by rank; the labels of the second are
    put in the order in which its responsibilities overlap most with those of the first; each component's
    responsibilities are then those of one parent or the other, and in a share `mutation` of the children
    one component is put somewhere else (in all, where both parents are one solution). EM climbs from
    them, and the best `population` distinct modes of parents and children are the next generation. The
    best is never lost. With no generations these are restarts.

    Source: Pernkopf & Bouchaffra (2005), *IEEE Transactions on Pattern Analysis and Machine
    Intelligence* 27, 1344-1348 (there with a description length as fitness, to choose K as well).
    """

    population: int = 16
    generations: int = 5
    mutation: float = 0.2
    seeding: Seeding = kmeans_plus_plus

    def __post_init__(self) -> None:
        check_fields(self, generations=0)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        if not earlier:
            return landscape.climb(landscape.seeds(rng_key, self.population, self.seeding))
        parents = survivors(landscape, join(earlier), self.population)
        if len(earlier) > self.generations or not len(parents.costs):
            return None
        shares, _ = landscape.shares(parents.values)
        rng = np.random.default_rng(_seed(rng_key))
        count = len(parents.costs)
        rank = np.arange(count, 0, -1) / (count * (count + 1) / 2)
        children, first = [], rng.choice(count, self.population, p=rank)
        for one, other in zip(first, rng.choice(count, self.population, p=rank), strict=True):
            child = _crossed(landscape, shares, one, other, rng)
            if one == other or rng.random() < self.mutation:
                child = _moved(landscape, child, rng)
            children.append(child)
        leaving = {name: value[first] for name, value in parents.values.items()}
        solutions = landscape.refit(leaving, _stacked(children))
        return landscape.climb(solutions, spent=count / self.population)


def better(objective: float, than: float) -> bool:
    """Better by more than what tells modes apart."""
    margin = 1e-6 * (1 + abs(than)) if np.isfinite(than) else 0.0
    return bool(objective > than + margin)


def survivors(landscape: Landscape, climbs: Climbs, count: int) -> Climbs:
    """The best distinct modes up to relabelling, best first; none where no climb ended well."""
    finite = climbs.take(np.isfinite(climbs.scores))
    statuses = [Status(int(status)) for status in finite.statuses]
    modes = gather_modes(landscape.plan, finite.values, finite.objectives, statuses)[:count]
    return Climbs(
        {name: np.array([mode.parameters[name] for mode in modes]) for name in finite.values},
        np.array([mode.objective for mode in modes]),
        np.array([int(mode.status) for mode in modes]),
        np.zeros(len(modes)),
    )


def _seed(rng_key: Array) -> list[int]:
    return np.asarray(jax.random.key_data(random.fold_in(rng_key, 0))).tolist()


def _stacked(shares: Sequence[Shares]) -> Shares:
    return jax.tree.map(lambda *each: np.stack(each), *shares)


# ------------------------------------------------------------------------------- splits and merges
def _triples(
    landscape: Landscape, shares: Shares, log_density: np.ndarray, count: int
) -> list[tuple[Unit, int, int, int]]:
    """What to merge (i, j) and to split (k), most promising first."""
    found: list[tuple[float, int, Unit, int, int, int]] = []
    for unit, size in landscape.units.items():
        total = sum(np.sum(shares[name], axis=1) for name in unit)
        overlap: Any = sum(shares[name] @ shares[name].T for name in unit)
        fit = sum(shares[name] @ log_density for name in unit) / np.maximum(total, _FLOOR)
        for i in range(size):
            for j in range(i + 1, size):
                others = [k for k in np.argsort(fit) if k not in (i, j)]
                found += [
                    (-overlap[i, j], place, unit, i, j, int(k)) for place, k in enumerate(others)
                ]
    # the worst fit for every pair before the second worst of any
    found.sort(key=lambda each: (each[1], each[0]))
    return [each[2:] for each in found[:count]]


def _merged_and_split(
    landscape: Landscape,
    shares: Shares,
    unit: Unit,
    i: int,
    j: int,
    k: int,
    rng: np.random.Generator,
) -> Shares:
    """Component i takes over j's rows as well, and j a part of k's."""
    changed = dict(shares)
    for name in unit:
        share = shares[name].copy()
        share[i] += share[j]
        side = _halves(landscape, name, share[k], rng)
        share[j] = share[k] * side
        share[k] = share[k] * (1 - side)
        changed[name] = share
    return changed


def _halves(
    landscape: Landscape, name: str, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(rows,): near 1 for rows closer to one of two seeds among a component's rows, else near 0."""
    points = _points(landscape, name)
    weight = share + _FLOOR / len(share)
    if points.shape[1] == 0:
        near = rng.random(len(share)) < 0.5
    else:
        first = points[rng.choice(len(share), p=weight / weight.sum())]
        far = np.sum((points - first) ** 2, axis=1)
        spread = weight * far
        if spread.sum() == 0:  # all rows alike
            near = rng.random(len(share)) < 0.5
        else:
            second = points[rng.choice(len(share), p=spread / spread.sum())]
            near = np.sum((points - second) ** 2, axis=1) < far
    return np.where(near, 1 - SOFTENING / 2, SOFTENING / 2)


def _points(landscape: Landscape, name: str) -> np.ndarray:
    """What is seen of a latent's rows, scaled, (rows, columns)."""
    names, points = next(each for each in landscape.points.items() if name in each[0])
    return points[names.index(name)]


# --------------------------------------------------------------------------------------- crossover
def _crossed(
    landscape: Landscape, shares: Shares, one: int, other: int, rng: np.random.Generator
) -> Shares:
    """Responsibilities of a child, each component's from one of two parents."""
    from scipy.optimize import linear_sum_assignment

    child = {}
    hidden = {name for group in landscape.plan.labels.hidden for name in group.latents}
    for unit, size in landscape.units.items():
        overlap = sum(shares[name][one] @ shares[name][other].T for name in unit)
        order = linear_sum_assignment(-overlap)[1] if hidden & set(unit) else np.arange(size)
        chosen = rng.random(size) < 0.5
        for name in unit:
            mixed = np.where(chosen[:, None], shares[name][one], shares[name][other][order])
            child[name] = _normalised(mixed)
    return child


def _moved(landscape: Landscape, shares: Shares, rng: np.random.Generator) -> Shares:
    """One component on a row drawn at random and those nearest to it, as many as half of its even share;
    random rows, where nothing tells which are near."""
    units = list(landscape.units)
    unit = units[rng.integers(len(units))]
    k = rng.integers(landscape.units[unit])
    changed = dict(shares)
    for name in unit:
        points, share = _points(landscape, name), shares[name].copy()
        size = max(2, share.shape[1] // (2 * len(share)))
        centre = points[rng.integers(len(points))]
        distance = (
            np.sum((points - centre) ** 2, axis=1) if points.shape[1] else rng.random(len(points))
        )
        share[k] = _FLOOR
        near = np.argsort(distance)[:size]
        share[:, near] *= SOFTENING
        share[k, near] = 1.0
        changed[name] = _normalised(share)
    return changed


def _normalised(share: np.ndarray) -> np.ndarray:
    share = share + _FLOOR
    return share / share.sum(axis=0)
