"""EM's one loop: M and E steps in turn, all starts together, compiled whole.

A fit that is started from data first takes a few M steps from statistics of all rows alike, then one
from the rows partitioned about seeds; they run in the same loop, so that the M step is compiled once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.evaluate import Values
from ..program.plan import Plan
from .status import Status
from .steps import climb_marginal, maximise_blocks, objective_and_statistics


class EMState(NamedTuple):
    """Fits in progress, leading with starts: values and statistics at `step` (-1: before the first
    E step), objectives and their traces (max_steps + 1,). `alike` counts the M steps still to be made
    from statistics of all rows alike, before the first E step."""

    alike: Any
    step: Array
    values: Values
    statistics: row_pass.Statistics
    objective: Array
    gain: Array
    trace: Array
    status: Array
    proper: Array


class Fixed(NamedTuple):
    """What a fit starts from: statistics of the rows partitioned about seeds, and given values."""

    partitioned: Any
    given: Values


class Settings(NamedTuple):
    """Numbers that may change between calls without a new compilation."""

    tolerance: Array
    until: Array


def new_state(
    found: Plan, values: Values, statistics: row_pass.Statistics, max_steps: int, alike: int
) -> EMState:
    """Fits before their first step; `alike` M steps will be made from `statistics` of all rows alike."""
    restarts = jax.tree.leaves(values)[0].shape[0]
    dtype = jnp.result_type(float)
    closed = max(1, sum(block.form is not None for block in found.blocks))
    nothing = jnp.full(restarts, -jnp.inf, dtype)
    return EMState(
        alike=jnp.asarray(alike),
        step=jnp.full(restarts, -1),
        values=values,
        statistics=statistics,
        objective=nothing,
        gain=-nothing,
        trace=jnp.full((restarts, max_steps + 1), jnp.nan, dtype),
        status=jnp.full(restarts, Status.RUNNING),
        proper=jnp.ones((restarts, closed), bool),
    )


def advance(
    found: Plan,
    arguments: Arguments,
    blocks: Blocks,
    states: EMState,
    fixed: Fixed,
    settings: Settings,
    marginal: tuple[str, ...] = (),
) -> EMState:
    """M and E steps in turn, all starts together, until each has stopped or `settings.until` steps.

    Sites in `marginal` are climbed on the objective itself, at the end of each M step.
    """

    def running(states: EMState) -> Array:
        return (states.status == Status.RUNNING) & (states.step < settings.until)

    def m_step(statistics: row_pass.Statistics, values: Values) -> tuple[Values, Array]:
        values, proper = maximise_blocks(found, arguments, statistics, values, left=marginal)
        if marginal:
            values = climb_marginal(found, arguments, blocks, values, marginal)
        return values, proper

    def step(states: EMState) -> EMState:
        values, proper = jax.vmap(m_step)(states.statistics, states.values)
        moved = states._replace(values=values, proper=proper)
        return jax.lax.cond(states.alike > 0, once_more, expected, states, moved)

    def once_more(states: EMState, moved: EMState) -> EMState:
        """Components alike; then, from the partition, each its own."""
        statistics = jax.tree.map(
            partial(jnp.where, states.alike == 1), fixed.partitioned, states.statistics
        )
        return moved._replace(alike=states.alike - 1, statistics=statistics)

    def expected(states: EMState, moved: EMState) -> EMState:
        first = (states.step < 0) if fixed.given else False
        values = {
            name: jnp.where(_wide(first, value), fixed.given[name], value)
            if name in fixed.given
            else value
            for name, value in moved.values.items()
        }
        objective, statistics = jax.vmap(
            lambda values: objective_and_statistics(found, arguments, blocks, values)
        )(values)
        moved = moved._replace(values=values, objective=objective, statistics=statistics)
        judged = jax.vmap(partial(_judge, tolerance=settings.tolerance, rows=blocks.num_rows))
        judged_states = judged(states._replace(alike=None), moved._replace(alike=None))
        stopped = ~running(states)
        kept = jax.tree.map(
            lambda old, new: jnp.where(_wide(stopped, new), old, new),
            states._replace(alike=None),
            judged_states,
        )
        return kept._replace(alike=states.alike)

    return jax.lax.while_loop(lambda states: jnp.any(running(states)), step, states)


def _wide(mask: Array, like: Array) -> Array:
    """A mask over starts, broadcast against an array that leads with starts."""
    return jnp.reshape(mask, jnp.shape(mask) + (1,) * (like.ndim - jnp.ndim(mask)))


def _judge(before: EMState, moved: EMState, tolerance: Array, rows: int) -> EMState:
    """The state after a step: accepted or not, its gain, and whether the fit goes on."""
    objective = moved.objective
    precision = jnp.finfo(objective.dtype).eps
    gain = objective - before.objective
    noise = 64 * precision * (jnp.abs(objective) + rows)
    target = jnp.maximum(tolerance * (1 + jnp.abs(objective)), noise)
    # the gains shrink geometrically: what is still to come is gain * ratio / (1 - ratio)
    ratio = jnp.clip(gain / before.gain, 0.0, 1.0)
    to_come = jnp.where(ratio < 1, gain * ratio / (1 - ratio), jnp.inf)
    settled = (gain <= target) & ((to_come <= target) | (gain <= noise))
    last = before.step + 1 >= before.trace.shape[0] - 1
    finite = jnp.isfinite(objective)
    fell = gain < -noise
    # with nearly collinear columns rounding is worse than the noise of a sum
    loss = jnp.maximum(noise, jnp.sqrt(precision) * (jnp.abs(objective) + rows))
    status = jnp.select(
        [~finite, gain < -loss, fell, settled, last],
        [
            Status.NOT_FINITE,
            Status.OBJECTIVE_FELL,
            Status.ROUNDING,
            Status.CONVERGED,
            Status.OUT_OF_STEPS,
        ],
        Status.RUNNING,
    )
    taken = moved._replace(
        step=before.step + 1,
        gain=gain,
        trace=before.trace.at[before.step + 1].set(objective),
        status=status,
    )
    # a step that failed is not taken, unless it is the first: only its status is kept
    stays = before._replace(status=status, proper=moved.proper)
    return jax.tree.map(partial(jnp.where, (finite & ~fell) | (before.step < 0)), taken, stays)


def last_look(
    found: Plan, arguments: Arguments, blocks: Blocks, states: EMState
) -> tuple[Array, Values]:
    """Whether all components explain every row alike; and deterministic sites at the end."""
    few = blocks.first() if not found.by_row else blocks

    def one(values: Values) -> tuple[Array, Values]:
        evaluation = found.evaluate(arguments, values)
        factors = row_pass.each_factor(found.families, evaluation, few)
        spread = [
            jnp.max(jnp.max(factors[name], axis=0) - jnp.min(factors[name], axis=0))
            for name in found.families
            if found.graph.scope(name)
        ]
        return jnp.max(jnp.stack(spread)) if spread else jnp.inf, evaluation.deterministic

    apart, derived = jax.vmap(one)(states.values)
    tiny = 1e3 * jnp.finfo(apart.dtype).eps
    symmetric = (found.reading.num_components > 1) & (states.step <= 3) & (apart <= tiny)
    return symmetric, derived
