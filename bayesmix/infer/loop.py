"""The one loop that raises an objective: steps of a kernel, several starts together, compiled whole.

What a step does is the kernel's (:class:`.Kernel`): M step, accelerator, E step. The loop judges it.

A fit that is started from data first takes a few M steps from statistics of all rows alike, then one
from the rows partitioned about seeds; they run in the same loop, so that the M step is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from ..program import row_pass
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from .accelerators import Proposal, free_coordinates, propose
from .convergence import judge
from .kernel import Expected, Kernel
from .lanes import run_in_lanes
from .status import Status

# an accelerated fit has converged after small gains in a row, since they go up and down, and are a small
# share of what is still to come
_CALM_STEPS, _CALM_SHARE = 3, 0.01
# steps of next to no gain after which a climb that promises more is given up
_PATIENCE = 20


Fit = TypeVar("Fit")


class Ascent(NamedTuple):
    """Fits in progress, leading with starts: belief and statistics at `step` (-1: before the first
    E step), objectives and their traces (max_steps + 1,). `promised` and `curvature` are what the last
    M step said of its climbs. `alike` counts the M steps still to be made
    from statistics of all rows alike, before the first E step. `memory` and `pace` are what the E step
    and the accelerator carry, `calm` the number of small gains in a row; `path`: the values of every
    step (max_steps + 1, ...), or nothing."""

    alike: Any
    step: Array
    belief: Any
    statistics: row_pass.Statistics
    objective: Array
    gain: Array
    trace: Array
    status: Array
    proper: Array
    promised: Array
    curvature: Array
    calm: Array
    memory: Any
    pace: Any
    path: Values


class Fixed(NamedTuple):
    """What a fit starts from: statistics of the rows partitioned about seeds, and given values."""

    partitioned: Any
    given: Values


class Settings(NamedTuple):
    """Numbers that may change between calls without a new compilation."""

    tolerance: Array
    until: Array


def new_state(
    plan: Plan, belief: Any, statistics: row_pass.Statistics, max_steps: int, alike: int
) -> Ascent:
    """Fits before their first step; `alike` M steps will be made from `statistics` of all rows alike."""
    restarts = jax.tree.leaves(belief)[0].shape[0]
    dtype = jnp.result_type(float)
    closed = max(1, sum(block.form is not None for block in plan.blocks))
    nothing = jnp.full(restarts, -jnp.inf, dtype)
    return Ascent(
        alike=jnp.full(restarts, alike),
        step=jnp.full(restarts, -1),
        belief=belief,
        statistics=statistics,
        objective=nothing,
        gain=-nothing,
        trace=jnp.full((restarts, max_steps + 1), jnp.nan, dtype),
        status=jnp.full(restarts, Status.RUNNING),
        proper=jnp.ones((restarts, closed), bool),
        promised=-nothing,
        curvature=jnp.full((restarts, len(plan.reading.parameters)), jnp.inf, dtype),
        calm=jnp.zeros(restarts, int),
        memory=(),
        pace=(),
        path={},
    )


def begin_parts(
    problem: Problem, kernel: Kernel, states: Ascent, rng_keys: Array, keep_path: bool
) -> Ascent:
    """The same fits with what the parts carry, and room for the path."""

    def one(belief: Any, rng_key: Array) -> tuple[Any, Any]:
        memory = kernel.latents.begin(problem, belief, rng_key)
        if kernel.accelerator is None:
            return memory, ()
        start = jnp.zeros_like(free_coordinates(problem.plan, belief))
        return memory, kernel.accelerator.begin(start)

    def room(value: Array) -> Array:
        return jnp.zeros((value.shape[0], states.trace.shape[1], *value.shape[1:]), value.dtype)

    memory, pace = jax.vmap(one)(states.belief, rng_keys)
    path = jax.tree.map(room, states.belief) if keep_path else {}
    return states._replace(memory=memory, pace=pace, path=path)


def advance(
    problem: Problem, kernel: Kernel, lanes: int, states: Ascent, fixed: Fixed, settings: Settings
) -> Ascent:
    """M and E steps in turn, `lanes` starts at a time, until each has stopped or has made
    `settings.until` steps."""
    each = jax.vmap if lanes > 1 else _alone
    last = states.trace.shape[1] - 1

    def running(states: Ascent) -> Array:
        return (states.status == Status.RUNNING) & (states.step < settings.until)

    def phase(fits: tuple[Ascent, Fixed]) -> Array:
        return jnp.where(fits[0].alike > 0, 2, running(fits[0]).astype(int))

    def step(
        fits: tuple[Ascent, Fixed], record: _Record, place: Array
    ) -> tuple[tuple[Ascent, Fixed], _Record]:
        before, fixed = fits
        visited = each(partial(kernel.parameters, problem))(before.statistics, before.belief)
        moved = before._replace(
            belief=visited.belief,
            proper=visited.proper,
            promised=visited.promised,
            curvature=visited.curvature,
        )
        starting = jnp.max(before.alike) > 0  # as in all lanes
        after = jax.lax.cond(starting, once_more, each(expected), before, moved, fixed)
        return (after, fixed), _recorded(record, before, after, place)

    def once_more(before: Ascent, moved: Ascent, fixed: Fixed) -> Ascent:
        """Components alike; then, from the partition, each its own."""
        statistics = _chosen(jnp.max(before.alike) == 1, fixed.partitioned, before.statistics)
        return moved._replace(alike=before.alike - 1, statistics=statistics)

    def expected(before: Ascent, moved: Ascent, fixed: Fixed) -> Ascent:
        """One fit's E step where the accelerator goes, judged."""
        going = Proposal(moved.belief, before.pace, jnp.asarray(False))
        if kernel.accelerator is not None:
            going = propose(
                problem.plan, kernel.accelerator, before.belief, moved.belief, before.pace
            )
        first = before.step < 0
        told = kernel.parameters.with_values(moved.belief, fixed.given)
        seen = kernel.latents(problem, _chosen(first, told, going.values), before.memory)
        extrapolated = going.extrapolated & ~first
        moved = moved._replace(pace=_chosen(first, before.pace, going.pace))
        at_end = before.step + 1 >= last
        after = _judge(
            before,
            moved,
            seen,
            extrapolated,
            at_end,
            settings.tolerance,
            problem.blocks.num_rows,
            kernel,
        )
        # a fit that is alone goes on, or the loop would have ended
        return after if lanes == 1 else _chosen(running(before), after, before)

    record = _Record(states.trace, states.path)
    fits = (states._replace(trace=None, path={}), fixed)
    (states, _), record = run_in_lanes(step, phase, fits, record, lanes)
    return states._replace(**record._asdict())


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """In the place of `jax.vmap` for a fit without an axis of lanes."""
    return function


class _Record(NamedTuple):
    """What all starts write to: their traces (R, max_steps + 1), and their values at every step."""

    trace: Array
    path: Values


def _recorded(record: _Record, before: Ascent, after: Ascent, place: Array) -> _Record:
    """The record with the steps that were just made by the starts at `place`."""
    step = jnp.where(after.step > before.step, after.step, record.trace.shape[1])
    trace = record.trace.at[place, step].set(after.objective, mode="drop")
    path = {n: p.at[place, step].set(after.belief[n], mode="drop") for n, p in record.path.items()}
    return _Record(trace, path)


def _judge(
    before: Ascent,
    moved: Ascent,
    seen: Expected,
    extrapolated: Array,
    at_end: Array,
    tolerance: Array,
    rows: int,
    kernel: Kernel,
) -> Ascent:
    """The state after a step: accepted or not, its gain, and whether the fit goes on."""
    objective, next_step = seen.objective, before.step + 1
    judged = judge(objective, before.objective, before.gain, tolerance, rows, seen.comparable)
    small = judged.gain <= jnp.maximum(_CALM_SHARE * judged.target, judged.noise)
    calm = jnp.where(small, before.calm + 1, 0)
    # where a climb promised more than came of it, nothing has settled: it could not move
    reached = moved.promised <= judged.target
    settled = judged.settled & reached
    if kernel.accelerator is not None:
        settled &= calm >= _CALM_STEPS
    status = judged.status(settled | seen.settled, at_end)
    stuck = judged.settled & ~reached & (calm >= _PATIENCE) & (status == Status.RUNNING)
    status = jnp.where(stuck, Status.CLIMB_STUCK, status)
    taken = moved._replace(
        step=next_step,
        belief=seen.belief,
        statistics=seen.statistics,
        memory=seen.memory,
        objective=objective,
        gain=judged.gain,
        status=status,
        calm=calm,
    )
    # a step that failed is not taken, unless it is the first: only its status is kept
    stays = before._replace(status=status, proper=moved.proper)
    if kernel.accelerator is not None:
        paced = kernel.accelerator.judge
        taken = taken._replace(pace=paced(moved.pace, jnp.asarray(True)))
        # one that went too far costs a step, and the plain one is next
        again = before._replace(
            step=next_step,
            status=jnp.where(at_end, Status.OUT_OF_STEPS, Status.RUNNING),
            pace=paced(moved.pace, jnp.asarray(False)),
        )
        stays = _chosen(extrapolated, again, stays)
    return _chosen(judged.good | (before.step < 0), taken, stays)


def _chosen(first: Array, one: Fit, other: Fit) -> Fit:
    """One of two states; nothing is computed where they share an array."""
    return jax.tree.map(lambda a, b: a if a is b else jax.lax.select(first, a, b), one, other)
