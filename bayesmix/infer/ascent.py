"""What EM and variational Bayes have in common: a kernel that raises an objective, from many starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random

from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import tolerance_of, whole
from .keep import Checkpoint
from .kernel import Kernel
from .loop import Ascent, Fixed, Settings, advance, begin_parts
from .run import Progress, run_in_chunks
from .starts import Seeding

_PARTS_STREAM = 0x70617274
# starts, and log densities of rows, in a step beyond which more starts in it make none cheaper
_MOST_LANES, _ENTRIES_AT_A_TIME = 20, 400_000


class AscentEngine:
    """The settings of :class:`bayesmix.EM` that any ascent has, and the run of a kernel."""

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        max_steps: int,
        tolerance: float,
        seeding: Seeding,
        callback: Callable[[Progress], bool | None] | None,
        report_every: int,
        progress_bar: bool,
    ) -> None:
        self.plans = Plans(program)
        self.max_steps = whole("max_steps", max_steps)
        self.tolerance = tolerance_of(tolerance)
        self.seeding = seeding
        self.callback = callback
        self.report_every = whole("report_every", report_every)
        self.progress_bar = progress_bar

    def problem(self, *args: Any, **kwargs: Any) -> Problem:
        """The program with these arguments, for :meth:`run_problem` and :meth:`run_many`."""
        return self.plans.call(args, kwargs)

    def _ascend(
        self,
        problem: Problem,
        run: Callable[..., Any],
        kernel: Kernel,
        state: Ascent,
        fixed: Fixed,
        rng_key: Array,
        *,
        name: str,
        values: Callable[[Any], Any],
        keep_path: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> Ascent:
        """Fits brought to their ends; `name` is the bar's, and `values(belief)` what a callback sees.

        `run(function, *rest)` calls compiled functions of the problem; or of several like it, and then
        states and keys lead with problems.
        """
        lanes = num_lanes(problem.plan, problem.blocks.num_rows, state.step.shape[-1])

        def advanced(states: Ascent, limit: int) -> Ascent:
            settings = Settings(jnp.asarray(self.tolerance), jnp.asarray(limit))
            static = (kernel, lanes)
            return run(advance, states, fixed, settings, static=static, fully=True)

        return run_in_chunks(
            _carrying(problem, run, kernel, keep_path, state, rng_key),
            advanced,
            name=name,
            max_steps=self.max_steps,
            every=self.report_every,
            progress_bar=self.progress_bar,
            checkpoint=checkpoint,
            watch=self.callback and (self.callback, lambda s: (s.objective, values(s.belief))),
        )


def num_lanes(plan: Plan, num_rows: int, restarts: int) -> int:
    """How many starts are stepped at a time: so many that what a step costs beyond its arithmetic is
    shared, and no more, since lanes stand idle when the last starts are under way."""
    entries = num_rows * sum(plan.graph.table_sizes)
    return min(restarts, _MOST_LANES, -(-_ENTRIES_AT_A_TIME // entries))


def _carrying(
    problem: Problem,
    run: Callable[..., Any],
    kernel: Kernel,
    keep_path: bool,
    states: Ascent,
    rng_key: Array,
) -> Ascent:
    """Fits with what their parts carry; nothing is compiled where that is nothing."""

    def carried() -> Ascent:
        one = partial(_begin, problem, kernel, keep_path)
        several = states.step.ndim > 1
        return jax.eval_shape(jax.vmap(one) if several else one, states, rng_key)

    like = problem.plan.remember(("carried", kernel, keep_path, states.step.shape), carried)
    if jax.tree.leaves((like.memory, like.pace, like.path)):
        return run(_begin, states, rng_key, static=(kernel, keep_path))
    return states._replace(memory=like.memory, pace=like.pace, path=like.path)


def _begin(
    problem: Problem, kernel: Kernel, keep_path: bool, states: Ascent, rng_key: Array
) -> Ascent:
    """Fits with what their parts carry."""
    keys = random.split(rng_key, states.status.shape[0])
    # keys of their own, so that starts are the same whatever the parts
    streams = jax.vmap(lambda key: random.fold_in(key, _PARTS_STREAM))(keys)
    return begin_parts(problem, kernel, states, streams, keep_path)
