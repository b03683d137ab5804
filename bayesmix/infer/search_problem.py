"""What strategies of search work with: starts, walks, responsibilities, and EM as the local step.

Nothing here knows what parameters mean. A solution is changed through its responsibilities, from which
the program's own M step makes parameters; EM's compiled loop then climbs from them. All starts of a
batch run in one compiled call, and all batches have the same size, so that nothing is compiled twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program import elimination, row_pass
from ..program.elimination import Graph, Tables, independent, indicators
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.parts import Part, Weighed
from ..program.plan import Plan
from ..program.problem import Problem
from .ascent import num_lanes
from .em import EM
from .m_steps import maximise_blocks
from .result import EMResult
from .starts import (
    ALIKE_STEPS,
    Seeding,
    SeedingRows,
    Starting,
    own_starts,
    rough_values,
    seeding_rows,
    started_together,
    starting_statistics,
)
from .status import Status

_SOUND = (Status.CONVERGED, Status.OUT_OF_STEPS, Status.ROUNDING)
_REFITS = 2  # M steps from changed responsibilities: blocks that depend on each other meet twice
LONGEST_WALK = 1 << 10

Solutions = dict[str, np.ndarray]  # values by site, leading with solutions
Shares = dict[str, np.ndarray]  # responsibilities by latent, (solutions, values, rows)


class Climbs(NamedTuple):
    """Where climbs ended: values by site, objectives, statuses, and the passes that each has cost, all
    leading with starts."""

    values: Solutions
    objectives: np.ndarray
    statuses: np.ndarray
    costs: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Objectives of starts that ended at a mode, or on the way to one; -inf for the others (a
        covariance that is singular, say, where the likelihood has no bound)."""
        return np.where(np.isin(self.statuses, _SOUND), self.objectives, -np.inf)

    def take(self, index: Any) -> Climbs:
        """Some of the starts."""
        return jax.tree.map(lambda array: array[index], self)


def join(climbs: Sequence[Climbs]) -> Climbs:
    """All starts of several lists, in order."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *climbs)


class Schedule(NamedTuple):
    """What the steps of a walk do, each (steps,): tables of log factors are multiplied by an inverse
    temperature, normal noise of this size is added, and of the weights that follow a share is drawn."""

    inverse_temperature: np.ndarray
    noise: np.ndarray
    drawn: np.ndarray


NO_STEPS = Schedule(np.zeros(0), np.zeros(0), np.zeros(0))


def walking(setting: tuple[Array, Array, Array]) -> Part:
    """The E step of a walk: tempered, jittered, and partly drawn.

    With r the probabilities in proportion to exp(beta * log p(x, z) + noise) and z one draw from them,
    weights are (1 - drawn) r + drawn 1[z].
    """
    inverse_temperature, noise, drawn = setting

    def weigh(graph: Graph, tables: Tables, rng_key: Array) -> Weighed:
        keys = random.split(rng_key, len(tables) + 1)

        def changed(table: Array, key: Array) -> Array:
            shaken = inverse_temperature * table + noise * random.normal(key, table.shape)
            return jnp.where(jnp.isneginf(table), table, shaken)  # what cannot be stays so

        told = tuple(changed(*each) for each in zip(tables, keys[1:], strict=True))
        evidence, exact = elimination.marginals(graph, told)

        def mixed() -> Tables:
            uniform = elimination.uniforms(graph, keys[0], evidence.size, evidence.dtype)
            labels = elimination.draw(graph, told, uniform)[1]
            ones = indicators(graph, labels, evidence.dtype)
            return tuple((1 - drawn) * r + drawn * z for r, z in zip(exact, ones, strict=True))

        weights = jax.lax.cond(drawn > 0, mixed, lambda: exact)
        return Weighed(evidence, weights, None, None)

    return weigh


class Landscape:
    """One program on one set of rows, as strategies see it.

    A pass is one computation of the responsibilities of all rows for one start; that is what searches
    cost, and what they are compared by. M steps go with them and are not counted.

    Attributes:
        problem, plan: the program and its data; its plan.
        em: the local step.
        batch: how many starts run in one compiled call.
        points: for each list of latents that are started together, what is seen of their rows, scaled,
            (latents, rows, columns); no columns where all of it is a regression.
        units: latents whose labels are moved together (the states of a chain), and how many values each
            has.
    """

    def __init__(self, problem: Problem, em: EM, batch: int) -> None:
        self.plan, self.em, self.batch = problem.plan, em, batch
        observed = problem.observe(fitting=True)
        lanes = num_lanes(self.plan, observed.num_rows, batch)
        self.problem = problem.at(self.plan.arrange(observed, lanes))
        self.rows = seeding_rows(self.problem, observed)
        self.points = {
            names: np.asarray(points).reshape(
                len(names), self.rows.blocks.num_rows, points.shape[1]
            )
            for names, points in zip(started_together(self.plan), self.rows.points, strict=True)
        }
        self.units = _units(self.plan)

    # ----------------------------------------------------------------------------------- what is had
    def seeds(self, rng_key: Array, count: int, seeding: Seeding) -> Solutions:
        """Starts from rows partitioned about seeds, as EM's own."""
        return self.walk(rng_key, count, seeding, NO_STEPS)

    def walk(self, rng_key: Array, count: int, seeding: Seeding, schedule: Schedule) -> Solutions:
        """Where EM steps with changed E steps lead to from seeds; one pass a step."""
        if count < 1:
            raise ProgramError(f"a strategy asks for {count} starts; ask for at least one")
        keys = random.split(rng_key, count)

        def one(keys: Array) -> Solutions:
            starting, leaving = self.problem.run(_seeded, self.rows, keys, static=(seeding,))
            values = self._walked(leaving, starting, ALIKE_STEPS, schedule, keys)
            if schedule.drawn.size == 0:
                values |= own_starts(self.problem, keys)
            return values

        return self._in_batches(one, keys)

    def shares(self, solutions: Solutions) -> tuple[Shares, np.ndarray]:
        """Responsibilities by latent, (solutions, values, rows), and log p(x_i), (solutions, rows).

        Of a few thousand rows only, where there are more and parameters do not depend on them. A pass.
        """
        return self._in_batches(lambda v: self.problem.run(_shares, self.rows, v), solutions)

    def component_tables(self, solutions: Solutions) -> np.ndarray:
        """log p(x_i | z_i = k) for the rows of :meth:`shares`, (solutions, K, rows), of a program with
        one latent, whatever is known of it. A pass."""
        found = partial(self.problem.run, _component_tables, self.rows)
        return self._in_batches(found, solutions)

    def refit(self, solutions: Solutions, shares: Shares) -> Solutions:
        """The program's M step from given responsibilities, leaving from given values."""

        def one(told: tuple[Solutions, Shares]) -> Solutions:
            solutions, shares = told
            statistics = self.problem.run(_statistics, self.rows, solutions, shares)
            keys = random.split(random.key(0), self.batch)
            starting = Starting(statistics, statistics, solutions)
            return self._walked(solutions, starting, _REFITS - 1, NO_STEPS, keys)

        return self._in_batches(one, (solutions, shares))

    def climb(self, solutions: Solutions, spent: Any = 0) -> Climbs:
        """Run EM from every solution; `spent` passes were made before, by solution or by each alike.

        Solutions outside the supports of their sites (a covariance that has become singular on the
        way) are not climbed from: they come back with the status NOT_FINITE.
        """
        inside = self.inside(solutions)
        count = len(inside)
        costs = np.broadcast_to(spent, count).astype(float)
        objectives = np.full(count, -np.inf)
        statuses = np.full(count, int(Status.NOT_FINITE))
        values = {name: np.array(value) for name, value in solutions.items()}
        good = np.flatnonzero(inside)
        if good.size:
            found = self._in_batches(self._climb, {n: v[good] for n, v in solutions.items()})
            objectives[good], statuses[good] = found.objectives, found.statuses
            costs[good] += found.costs
            for name, value in values.items():
                value[good] = found.values[name]
        return Climbs(values, objectives, statuses, costs)

    def inside(self, solutions: Solutions) -> np.ndarray:
        """Which solutions are finite and inside the supports of all sites, (solutions,)."""
        count = len(next(iter(solutions.values())))
        inside = np.ones(count, bool)
        for site in self.plan.reading.parameters:
            value = np.asarray(solutions[site.name])
            for each in (np.asarray(site.support(value)), np.isfinite(value)):
                inside &= each.reshape(count, -1).all(axis=1)
        return inside

    def fit(self, solution: Solutions) -> EMResult:
        """EM's result from one solution without an axis."""
        wide = {n: np.repeat(v[None], self.batch, axis=0) for n, v in solution.items()}
        return self._em(wide)

    # --------------------------------------------------------------------------------------- within
    def _em(self, solutions: Solutions) -> EMResult:
        return self.em.run_problem(
            random.key(0), self.problem, restarts=self.batch, init=dict(solutions)
        )

    def _climb(self, solutions: Solutions) -> Climbs:
        fit = self._em(solutions)
        statuses = np.array([int(status) for status in fit.restart_statuses])
        passes = fit.restart_steps.astype(float) + 1
        return Climbs(fit.restart_parameters, fit.restart_objectives, statuses, passes)

    def _walked(
        self, values: Any, starting: Starting, num_alike: int, schedule: Schedule, keys: Array
    ) -> Solutions:
        length = len(schedule.drawn)
        told = tuple(jnp.asarray(_padded(part, LONGEST_WALK), float) for part in schedule)
        steps = jnp.asarray(num_alike + 1 + length)
        places = (jnp.asarray(num_alike), steps)
        given = (values, starting, told, places, keys)
        found = self.problem.run(_walk, *given, fully=True)
        return dict(found)

    def _in_batches(self, function: Callable[[Any], Any], told: Any) -> Any:
        """`function` of arrays that lead with starts, a batch at a time; the last is filled up."""
        count = jax.tree.leaves(told)[0].shape[0]
        found = []
        for first in range(0, count, self.batch):
            index = np.minimum(np.arange(first, first + self.batch), count - 1)
            found.append(function(jax.tree.map(itemgetter(index), told)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)


def _units(plan: Plan) -> dict[tuple[str, ...], int]:
    sizes = dict(zip(plan.graph.names, plan.graph.sizes, strict=True))
    units: dict[tuple[str, ...], int] = {}
    for name, size in sizes.items():
        group = plan.labels.group_of(name)
        units[group.latents if group else (name,)] = size
    return units


def _padded(part: np.ndarray, size: int) -> np.ndarray:
    return np.pad(np.asarray(part, float), (0, size - len(part)))


# -------------------------------------------------------------------------------- to be compiled
def _seeded(
    problem: Problem, seeding: Seeding, rows: SeedingRows, keys: Array
) -> tuple[Starting, Values]:
    rough = rough_values(problem.plan)
    starting = starting_statistics(problem, rows, rough, keys, seeding)
    return starting, starting.values


def _shares(
    problem: Problem, rows: SeedingRows, solutions: Values
) -> tuple[dict[str, Array], Array]:
    graph = problem.plan.graph

    def one(values: Values) -> tuple[dict[str, Array], Array]:
        evidence, weights = elimination.marginals(
            graph, problem.at(rows.blocks).log_factors(values)
        )
        return {name: weights[graph.own(name)] for name in graph.names}, evidence

    return jax.vmap(one)(solutions)


def _component_tables(problem: Problem, rows: SeedingRows, solutions: Values) -> Array:
    plan = problem.plan
    (name,) = plan.graph.names

    def one(values: Values) -> Array:
        evaluation = problem.evaluate(values)
        told = replace(rows.blocks, labels=None)
        (table,) = row_pass.log_factors(plan.graph, plan.families, evaluation, told)
        own = evaluation.latent[name]
        return table - (own[:, None] if own.ndim == 1 else own)

    return jax.vmap(one)(solutions)


def _statistics(
    problem: Problem,
    rows: SeedingRows,
    solutions: Values,
    shares: dict[str, Array],
) -> row_pass.Statistics:
    graph = problem.plan.graph

    def one(values: Values, shares: dict[str, Array]) -> row_pass.Statistics:
        weights = independent(graph, [shares[name] for name in graph.names], rows.blocks.num_rows)
        evaluation = problem.evaluate(values)
        return row_pass.weighted_statistics(
            graph, problem.plan.families, evaluation, rows.blocks, weights
        )

    return jax.vmap(one)(solutions, shares)


def _walk(
    problem: Problem,
    solutions: Values,
    starting: Starting,
    schedule: tuple[Array, Array, Array],
    places: tuple[Array, Array],
    keys: Array,
) -> Values:
    """M steps from given statistics, then E and M steps by the schedule; the last step is an M step.

    A start whose M step gives no number keeps its values.
    """
    num_alike, steps = places

    def m_step(statistics: row_pass.Statistics, values: Values) -> Values:
        found = maximise_blocks(problem, statistics, values)[0]
        finite = jnp.stack([jnp.all(jnp.isfinite(each)) for each in found.values()])
        return jax.tree.map(partial(jnp.where, jnp.all(finite)), found, values)

    def e_step(values: Values, key: Array, setting: Any) -> row_pass.Statistics:
        told = random.split(key, problem.blocks.weight.shape[0])
        return problem.weigh(values, walking(setting), told)[1].statistics

    def step(state: tuple[Array, Values, row_pass.Statistics]) -> Any:
        i, values, statistics = state
        values = jax.vmap(m_step)(statistics, values)

        def told() -> row_pass.Statistics:
            last = i >= num_alike - 1
            return jax.tree.map(partial(jnp.where, last), starting.partitioned, starting.alike)

        def expected() -> row_pass.Statistics:
            setting = tuple(part[i - num_alike] for part in schedule)
            now = jax.vmap(partial(random.fold_in, data=i))(keys)
            return jax.vmap(partial(e_step, setting=setting))(values, now)

        needed = (i >= num_alike) & (i < steps - 1)
        return i + 1, values, jax.lax.cond(needed, expected, told)

    first = jax.tree.map(partial(jnp.where, num_alike > 0), starting.alike, starting.partitioned)
    state = (jnp.zeros_like(steps), solutions, first)
    return jax.lax.while_loop(lambda state: state[0] < steps, step, state)[1]
