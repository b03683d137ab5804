"""Passes over rows in memory, some batches at a time: what is compiled, and what is made of it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program.batches import Batches
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Problem
from .convergence import judge
from .ending import Ended
from .kernel import Kernel, Latents
from .last_look import Look, last_look
from .orders import Fitted
from .starts import Seeding, rough_values, seeding_rows, starting_values, told_values
from .status import Status


class Underway(NamedTuple):
    """Fits in progress, leading with starts: what the order keeps; the values that the last pass ended
    at, with their objective and the size of its last gain; how often rows were passed over, and looked
    at; statuses; and the objectives of all looks (starts, looks)."""

    fitted: Fitted
    values: Values
    objective: Array
    gain: Array
    step: Array
    looks: Array
    status: Array
    trace: Any


def begin(problem: Problem, kernel: Kernel, batches: Batches, values: Values) -> Underway:
    """Fits before their first pass."""
    closed = max(1, sum(block.form is not None for block in problem.plan.blocks))
    proper = jnp.ones(closed, bool)

    def one(values: Values) -> tuple[Array, Fitted]:
        return kernel.order.begin(problem, kernel, batches, values, proper)

    objective, fitted = jax.vmap(one)(values)
    status = jnp.where(jnp.isfinite(objective), Status.RUNNING, Status.NOT_FINITE)
    gain, step = jnp.full_like(objective, jnp.inf), jnp.zeros(objective.shape, int)
    return Underway(fitted, values, objective, gain, step, step, status, objective[:, None])


def advance(
    problem: Problem,
    kernel: Kernel,
    batches: Batches,
    before: Underway,
    key: Array,
    tolerance: Array,
    until: Array,
) -> Underway:
    """Fits, without their traces, after passes up to a number of them, looked at once."""

    def once(number: Array, fitted: Fitted) -> Fitted:
        visits = random.permutation(random.fold_in(key, number), batches.count)
        return jax.vmap(partial(kernel.order.sweep, problem, kernel, batches, visits))(fitted)

    def look(fitted: Fitted) -> tuple[Values, Array]:
        values = kernel.order.estimate(problem, kernel, fitted)
        return values, kernel.latents(problem.at(batches.blocks), values, ()).objective

    running = before.status == Status.RUNNING
    first = jnp.max(jnp.where(running, before.step, 0))
    fitted = jax.lax.fori_loop(first, until, once, before.fitted)
    values, objective = jax.vmap(look)(fitted)
    # batches may lower the objective: what counts is how far it moved
    gain = jnp.abs(objective - before.objective)
    judged = judge(
        before.objective + gain, before.objective, before.gain, tolerance, batches.blocks.num_rows
    )
    finite = jnp.isfinite(objective)
    status = jnp.select(
        [~finite, judged.settled], [Status.NOT_FINITE, Status.CONVERGED], Status.RUNNING
    )
    status = jnp.where(running, status, before.status)
    step = jnp.full_like(before.step, until)
    moved = Underway(fitted, values, objective, gain, step, before.looks + 1, status, ())
    # what is not finite is not taken: only the status is
    taken = running & finite

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(taken.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, before, moved)._replace(status=status)


def last(problem: Problem, kernel: Kernel, fits: Underway) -> tuple[Ended, Look]:
    """What is looked at where fits have ended."""
    statistics = jax.vmap(partial(kernel.order.statistics, problem))(fits.fitted)
    curvature = jnp.full((fits.step.size, len(problem.plan.reading.parameters)), jnp.inf)
    proper = fits.fitted.proper
    ended = Ended(
        fits.values, statistics, proper, curvature, fits.objective, fits.step, fits.status
    )
    return ended, last_look(problem, ended)


def batch_of_row(rng_key: Array, num_rows: int, count: int) -> np.ndarray:
    """The number of each row's batch, (N,): at random, of about equal size."""
    rng = np.random.default_rng(np.asarray(random.key_data(rng_key)).ravel())
    return rng.permutation(np.arange(num_rows) * count // num_rows)


def check_statistics(plan: Plan) -> None:
    """Raise :class:`ProgramError` where K statistics do not stand for rows."""
    if plan.by_row:
        raise ProgramError(
            "some factors of the program differ from row to row (print the plan to see which), so "
            "that every M step needs all rows; use bayesmix.EM"
        )


def check_memoryless(problem: Problem, latents: Latents) -> None:
    """Raise :class:`ProgramError` where an E step carries something from step to step, which batches
    would mix up."""
    rough = rough_values(problem.plan)
    if jax.tree.leaves(jax.eval_shape(lambda: latents.begin(problem, rough, random.key(0)))):
        raise ProgramError(
            f"e_step is {latents}, which carries something from step to step; OnlineEM takes Exact() or "
            "Hard()"
        )


def first_values(
    problem: Problem, observed: Observed, keys: Array, init: dict[str, Any] | None, seeding: Seeding
) -> Values:
    """Values to start from, leading with starts: those of :class:`bayesmix.EM` with these keys."""
    plan, given = problem.plan, told_values(problem, init, keys)
    if set(given) == set(plan.reading.parameter_names):
        return given
    rows = seeding_rows(problem.at(plan.arrange(observed)), observed)
    return {**problem.run(starting_values, rows, keys, static=(seeding,)), **given}
