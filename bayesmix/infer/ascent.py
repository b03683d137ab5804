"""What EM and variational Bayes have in common: a kernel that raises an objective, from many starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, random

from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Plans, Problem, run_each
from ..program.settings import key_of, tolerance_of, whole
from .keep import Checkpoint, checkpoint_at
from .kernel import Kernel
from .loop import Ascent, Fixed, Settings, advance, begin_parts
from .run import Progress, run_in_chunks
from .starts import Seeding, SeedingRows, seeding_rows, told_values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PARTS_STREAM = 0x70617274
# starts, and log densities of rows, in a step beyond which more starts in it make none cheaper
_MOST_LANES, _ENTRIES_AT_A_TIME = 20, 400_000


Result = TypeVar("Result", bound="DataclassInstance")  # with the problem as its `problem`
Run = Callable[..., Any]  # of functions of one problem, or of several side by side


class AscentEngine(ABC, Generic[Result]):
    """The settings that any ascent has, and its runs, on one problem or on several."""

    name: ClassVar[str]  # at the bar that shows progress
    keep_path = False

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

    @abstractmethod
    def kernel(self, problem: Problem, given: bool = False) -> Kernel:
        """What a step is made of; `given` where starts are values, in whole or in part."""

    def run_problem(
        self,
        rng_key: Array,
        problem: Problem,
        *,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Result:
        """As `run`, for a program with its data; rows that are arranged already are taken so."""
        restarts, rng_key = whole("restarts", restarts), key_of(rng_key)
        call = problem
        kept = checkpoint_at(checkpoint, self, problem, rng_key, restarts=restarts, init=init)
        observed = None
        if problem.arranged is None:
            observed = problem.observe(fitting=True)
            lanes = num_lanes(problem.plan, observed.num_rows, restarts)
            problem = problem.at(problem.plan.arrange(observed, lanes))
        self._check(problem)
        given, rows, keys = self._starts(problem, observed, init, rng_key, restarts)
        kernel = self.kernel(problem, bool(given))
        problem = problem.specialised()
        state = self._ascend(problem, problem.run, kernel, given, rows, keys, rng_key, kept)
        result = self._result(problem, call, kernel, state, self._look(problem.run, state))
        del observed, rows, problem  # before their room is needed for the result's own copy
        return replace(result, problem=call.on_device())

    def run_many(
        self,
        rng_key: Array,
        problems: Sequence[Problem],
        *,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
    ) -> list[Result]:
        """Fits of several problems of one plan, all in one compiled call: each that of
        :meth:`run_problem` with a key of its own.

        Args:
            rng_key: a JAX random key (or an integer seed), split into one for each problem.
            problems: of :meth:`problem`, whose data have one shape; those that differ in their
                `weighted` rows alone share their data.
            restarts, init: as in `run`, the same for all problems.

        Raises:
            ProgramError: as `run`; and where problems are not of one plan.

        Example:
            >>> import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
            >>> import bayesmix
            >>> def program(x):
            ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
            ...     with numpyro.plate("rows", x.shape[0]):
            ...         numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)
            >>> em = bayesmix.EM(program, progress_bar=False)
            >>> problem = em.problem(np.array([1.0, 2.0, 6.0]))
            >>> without_one = [problem.weighted(np.arange(3) != i) for i in range(3)]
            >>> fits = em.run_many(0, without_one)
            >>> [round(float(fit.parameters["mean"]), 2) for fit in fits]
            [3.98, 3.48, 1.49]
        """
        restarts, keys = whole("restarts", restarts), random.split(key_of(rng_key), len(problems))
        arranged, observed = _arranged(problems, restarts)
        for problem in arranged:
            self._check(problem)
        starts = [
            self._starts(problem, rows, init, key, restarts)
            for problem, rows, key in zip(arranged, observed, keys, strict=True)
        ]
        given, rows, start_keys = jax.tree.map(lambda *all: jnp.stack(all), *starts)
        run, kernel = partial(run_each, arranged), self.kernel(problems[0], bool(given))
        states = self._ascend(arranged[0], run, kernel, given, rows, start_keys, keys)
        last = self._look(run, states)
        results = []
        for i, (problem, call) in enumerate(zip(arranged, problems, strict=True)):
            state, look = jax.tree.map(lambda x, i=i: x[i], (states, last))
            result = self._result(problem, call, kernel, state, look)
            results.append(replace(result, problem=call.on_device()))
        return results

    def _check(self, problem: Problem) -> None:
        """Raise :class:`ProgramError` where the engine does not take a problem."""

    def _seeded(self, problem: Problem, given: Values) -> bool:
        """Do starts with these values need seeds?"""
        return True

    @abstractmethod
    def _start(
        self, run: Run, kernel: Kernel, given: Values, rows: SeedingRows | None, keys: Array
    ) -> tuple[Ascent, Any]:
        """Fits before their first step, and statistics of the rows partitioned about seeds."""

    @abstractmethod
    def _values(self, belief: Any) -> Values:
        """The values that a callback is told."""

    def _look(self, run: Run, state: Ascent) -> Any:
        """What is looked at where fits have ended."""

    @abstractmethod
    def _result(
        self, problem: Problem, call: Problem, kernel: Kernel, state: Ascent, look: Any
    ) -> Result:
        """The best of the starts; `call` is the problem as it was given."""

    def _starts(
        self,
        problem: Problem,
        observed: Observed | None,
        init: dict[str, Any] | None,
        rng_key: Array,
        restarts: int,
    ) -> tuple[Values, SeedingRows | None, Array]:
        """Given values, the rows that seeds are chosen among where starts need any, and keys."""
        keys = random.split(rng_key, restarts)
        given = told_values(problem, init, keys)
        if not self._seeded(problem, given):
            return given, None, keys
        return given, seeding_rows(problem, observed or problem.observe(fitting=True)), keys

    def _ascend(
        self,
        problem: Problem,
        run: Run,
        kernel: Kernel,
        given: Values,
        rows: SeedingRows | None,
        keys: Array,
        rng_key: Array,
        checkpoint: Checkpoint | None = None,
    ) -> Ascent:
        """Fits brought from their starts to their ends.

        `run(function, *rest)` calls compiled functions of the problem; or of several like it, and then
        states and keys lead with problems.
        """
        state, partitioned = self._start(run, kernel, given, rows, keys)
        fixed = Fixed(partitioned, given)
        lanes = num_lanes(problem.plan, problem.blocks.num_rows, state.step.shape[-1])

        def advanced(states: Ascent, limit: int) -> Ascent:
            settings = Settings(jnp.asarray(self.tolerance), jnp.asarray(limit))
            static = (kernel, lanes)
            return run(advance, states, fixed, settings, static=static, fully=True)

        return run_in_chunks(
            _carrying(problem, run, kernel, self.keep_path, state, rng_key),
            advanced,
            name=self.name,
            max_steps=self.max_steps,
            every=self.report_every,
            progress_bar=self.progress_bar,
            checkpoint=checkpoint,
            watch=self.callback
            and (self.callback, lambda s: (s.objective, self._values(s.belief))),
        )


def num_lanes(plan: Plan, num_rows: int, restarts: int) -> int:
    """How many starts are stepped at a time: so many that what a step costs beyond its arithmetic is
    shared, and no more, since lanes stand idle when the last starts are under way."""
    entries = num_rows * sum(plan.graph.table_sizes)
    return min(restarts, _MOST_LANES, -(-_ENTRIES_AT_A_TIME // entries))


def _carrying(
    problem: Problem,
    run: Run,
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


def _arranged(problems: Sequence[Problem], restarts: int) -> tuple[list[Problem], list[Observed]]:
    """Problems with their rows arranged, those of one call once, and what calls say of their rows.

    Raises :class:`ProgramError` where problems are not of one plan and one shape of data.
    """
    calls: dict[int, tuple[Problem, Observed]] = {}
    found, observed = [], []
    for problem in problems:
        if problem.plan is not problems[0].plan:
            raise ProgramError(
                "problems are of several plans; make all of them by one engine's `problem`, of data of "
                "one shape"
            )
        here = calls.get(id(problem.arguments))
        if here is None:
            call = Problem(problem.plan, problem.arguments)
            rows = call.observe(fitting=True)
            lanes = num_lanes(problem.plan, rows.num_rows, restarts * len(problems))
            here = call.specialised().at(problem.plan.arrange(rows, lanes)), rows
            calls[id(problem.arguments)] = here
        found.append(here[0].recounted(problem.weight))
        observed.append(problem.counted(here[1]))
    return found, observed
