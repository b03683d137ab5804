"""Passes over rows in memory, some batches at a time: what is compiled, and what is made of it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program.batches import Batches
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.statistics import Statistics
from .last_look import Look, last_look, marks_of
from .modes import gather_modes
from .orders import Fitted, Incremental, Stepwise
from .outcome import outcome_of
from .result import EMResult
from .status import Status


class Underway(NamedTuple):
    """Fits in progress, leading with starts: what the order keeps, the values that the last pass ended
    at with their objective, and how often rows were passed over."""

    fitted: Fitted
    values: Values
    objective: Array
    passes: Array


class Run(NamedTuple):
    """What stays the same while a fit runs."""

    problem: Problem
    order: Stepwise | Incremental
    batches: Batches
    order_key: Array


def begin(
    problem: Problem, order: Stepwise | Incremental, batches: Batches, values: Values
) -> Underway:
    """Fits before their first pass."""
    closed = max(1, sum(block.form is not None for block in problem.plan.blocks))
    proper = jnp.ones(closed, bool)
    objective, fitted = jax.vmap(lambda values: order.begin(problem, batches, values, proper))(
        values
    )
    return Underway(fitted, values, objective, jnp.zeros(objective.shape, int))


def advance(
    problem: Problem,
    order: Stepwise | Incremental,
    batches: Batches,
    before: Underway,
    key: Array,
    running: Array,
    until: Array,
) -> tuple[Underway, Array]:
    """Fits after passes up to a number of them, and their objectives."""

    def once(number: Array, fitted: Fitted) -> Fitted:
        visits = random.permutation(random.fold_in(key, number), batches.count)
        return jax.vmap(partial(order.sweep, problem, batches, visits))(fitted)

    def look(fitted: Fitted) -> tuple[Values, Array]:
        values = order.estimate(problem, fitted)
        return values, problem.at(batches.blocks).expected(values)[0]

    fitted = jax.lax.fori_loop(jnp.max(before.passes), until, once, before.fitted)
    values, objective = jax.vmap(look)(fitted)
    moved = Underway(fitted, values, objective, jnp.full_like(before.passes, until))
    # what is not finite is not taken: only its objective is told
    taken = running & jnp.isfinite(objective)

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(taken.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, before, moved), objective


def _last(
    problem: Problem, order: Stepwise | Incremental, progress: Underway
) -> tuple[Ended, Look]:
    """What is looked at where fits have ended."""
    statistics = jax.vmap(partial(order.statistics, problem))(progress.fitted)
    sites = problem.plan.reading.parameters
    curvature = jnp.full((progress.passes.size, len(sites)), jnp.inf)
    proper = progress.fitted.proper
    ended: Any = Ended(progress.values, statistics, proper, curvature, progress.passes)
    return ended, last_look(problem, ended)


class Ended(NamedTuple):
    """Where fits ended, leading with starts: what statuses are told from."""

    values: Values
    statistics: Statistics
    proper: Array
    curvature: Array
    step: Array
    status: Any = None


class Judge(NamedTuple):
    """The objectives at each look (looks, starts), passes made, and by start the number of looks while
    it ran, its status, and the size of its last gain."""

    trace: np.ndarray
    passes: np.ndarray
    looks: np.ndarray
    status: np.ndarray
    gain: np.ndarray

    @property
    def running(self) -> np.ndarray:
        """Which starts go on."""
        return self.status == Status.RUNNING

    def look(self, objective: np.ndarray, passes: int, tolerance: float, num_rows: int) -> Judge:
        """What the objectives after so many passes say."""
        before, running, finite = self.trace[-1], self.running, np.isfinite(objective)
        objective = np.where(finite, objective, before)
        size = np.abs(objective)
        noise = 64 * np.finfo(objective.dtype).eps * (size + num_rows)
        target = np.maximum(tolerance * (1 + size), noise)
        # as in EM: what is still to come, if gains shrink geometrically; batches may lower the objective
        gain = np.abs(objective - before)
        ratio = np.clip(gain / self.gain, 0.0, 0.999)
        settled = (gain <= target) & ((gain * ratio / (1 - ratio) <= target) | (gain <= noise))
        now = np.select([~finite, settled], [Status.NOT_FINITE, Status.CONVERGED], Status.RUNNING)
        return Judge(
            trace=np.concatenate([self.trace, np.where(running, objective, before)[None]]),
            passes=np.array(passes),
            looks=self.looks + (running & finite),
            status=np.where(running, now, self.status),
            gain=np.where(running, gain, self.gain),
        )


def first_look(objective: np.ndarray) -> Judge:
    """What the objectives of the starts (starts,) say."""
    now = np.where(np.isfinite(objective), Status.RUNNING, Status.NOT_FINITE)
    looks = np.zeros(objective.shape, int)
    return Judge(objective[None], np.array(0), looks, now, np.full(objective.shape, np.inf))


def batch_of_row(rng_key: Array, num_rows: int, count: int) -> np.ndarray:
    """The number of each row's batch, (N,): at random, of about equal size."""
    rng = np.random.default_rng(np.asarray(random.key_data(rng_key)).ravel())
    return rng.permutation(np.arange(num_rows) * count // num_rows)


def result_of(told: Run, judge: Judge, progress: Underway) -> EMResult:
    """The best of the starts, and what became of the others."""
    problem = told.problem.at(told.batches.blocks)
    ended, look = problem.run(_last, progress, static=(told.order,))
    marks = marks_of(problem, ended, look)
    ended, look = jax.tree.map(np.asarray, (ended, look))
    ended = ended._replace(status=judge.status)
    objectives = judge.trace[-1]
    outcomes = [outcome_of(problem.plan, ended, i, marks) for i in range(objectives.size)]
    statuses = [outcome.status for outcome in outcomes]
    finite = np.where(np.isfinite(objectives), objectives, -np.inf)
    best = max(
        range(objectives.size), key=lambda i: (statuses[i] is not Status.NOT_FINITE, finite[i])
    )
    return EMResult(
        parameters={name: value[best] for name, value in ended.values.items()},
        deterministic={name: value[best] for name, value in look.derived.items()},
        objective=judge.trace[: judge.looks[best] + 1, best],
        status=statuses[best],
        status_sites=outcomes[best].sites,
        modes=gather_modes(problem.plan, ended.values, objectives, statuses),
        restart_objectives=objectives,
        restart_statuses=tuple(statuses),
        restart_steps=ended.step,
        problem=told.problem,
    )
