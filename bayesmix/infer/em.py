"""EM for any program that `plan` can read: MAP, or MLE where the priors are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.statistics import Statistics
from .accelerators import Accelerator
from .ascent import AscentEngine, Run
from .e_steps import EXACT, EStep
from .ending import Ended, result_of
from .kernel import Kernel
from .last_look import Look, last_look
from .loop import Ascent, new_state
from .m_steps import USUAL, MPart, MStep, resolve
from .result import EMResult
from .run import Progress
from .separation import LEAST_INFORMATION, least_information
from .starts import (
    ALIKE_STEPS,
    Seeding,
    SeedingRows,
    kmeans_plus_plus,
    rough_values,
    starting_statistics,
)


class EM(AscentEngine[EMResult]):
    """Maximum a posteriori estimates by EM and its variants, from many starts in one compiled call.

    E step: responsibilities r_ik = p(z_i = k | x_i, theta) and the expected statistics they weight.
    M step: every block of parameters at its mode given the others, in closed form where the program has
    one (see :func:`bayesmix.plan`), else climbed. Q depends on K sets of statistics, not on the rows.
    The objective is log p(x | theta) + log p(theta), in the constrained space: a mode is a mode of the
    density of the parameters themselves (no Jacobian). It never falls; if it did, the status would say.

    For maximum likelihood leave the priors out: ``EM(bayesmix.without_priors(program))``.

    Variants are a choice of parts, each by itself: see :mod:`bayesmix.e_steps` (hard, tempered, mean
    field, Monte Carlo), :mod:`bayesmix.m_steps` (conditional and generalised M steps) and
    :mod:`bayesmix.accelerators`. Some raise another objective, and say which.

    Args:
        program: a NumPyro program, or a plan of one.
        max_steps: largest number of EM steps.
        tolerance: converged when the gain still to come, estimated from the last two gains (Aitken), is
            below `tolerance` times (1 + |objective|), or below rounding.
        seeding: how starts are seeded: a function of (key, points (N, D), K) giving K row indices.
        e_step: what is done with the hidden causes given parameters.
        m_step: what is done with the parameters given statistics: one part or several, in order.
        accelerator: where to go after an M step; none: where it went.
        keep_path: keep the parameters of every step, as `fit.path`.
        callback: called with a :class:`Progress` every `report_every` steps; where it returns True, the
            fit stops.
        report_every: steps in one compiled call.
        progress_bar: show progress on fits longer than a second or two.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, jax.numpy as jnp
        >>> import bayesmix
        >>> def program(x, K):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1])
        >>> fit = bayesmix.EM(program).run(jax.random.key(0), x, K=2, restarts=5)
        >>> bool(fit.status), sorted(fit.parameters["mean"].round(2).tolist())
        (True, [0.07, 9.9])

    Source: Dempster, Laird & Rubin (1977), *JRSS B* 39, 1-38; conditional M steps: Meng & Rubin (1993),
    *Biometrika* 80, 267-278; parts chosen freely: Neal & Hinton (1998), in *Learning in Graphical
    Models*, 355-368.
    """

    name = "EM"

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        max_steps: int = 2000,
        tolerance: float = 1e-10,
        seeding: Seeding = kmeans_plus_plus,
        e_step: EStep = EXACT,
        m_step: MPart | Sequence[MPart] = USUAL,
        accelerator: Accelerator | None = None,
        keep_path: bool = False,
        callback: Callable[[Progress], bool | None] | None = None,
        report_every: int = 100,
        progress_bar: bool = True,
    ) -> None:
        super().__init__(
            program, max_steps, tolerance, seeding, callback, report_every, progress_bar
        )
        self.e_step = e_step
        self.m_step = m_step
        self.accelerator = accelerator
        self.keep_path = keep_path

    def kernel(self, problem: Problem, given: bool = False) -> Kernel:
        parameters = MStep(resolve(problem.plan, self.m_step))
        return Kernel(self.e_step, parameters, accelerator=self.accelerator)

    def run(
        self,
        rng_key: Array,
        *args: Any,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> EMResult:
        """Fit from `restarts` starts and keep the best.

        Args:
            rng_key: a JAX random key (or an integer seed), for the starts.
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.
            restarts: number of starts, all run in one compiled call.
            init: initial values of some or all parameters, by site name (as in `fit.parameters` or
                `fit.site_values`); `numpyro.param` sites start at the program's own values, the others
                from data. Values lead with an axis of `restarts` starts, or are shared by all.
            checkpoint: a file (.npz) in which the state is kept every `report_every` steps. Where it is
                there already, the fit goes on from it; it is left there at the end.

        Returns:
            An :class:`EMResult`: `parameters`, `objective` (the trace), `status`, `modes`, and more.

        Raises:
            ProgramError: where the program or its data cannot be read; the message names the cure.
        """
        # rows are used where they lie: a copy of them on the device would be the third
        problem = self.plans.call(args, kwargs, on_device=False)
        return self.run_problem(
            rng_key, problem, restarts=restarts, init=init, checkpoint=checkpoint
        )

    def _seeded(self, problem: Problem, given: Values) -> bool:
        return set(given) != set(problem.plan.reading.parameter_names)

    def _start(
        self, run: Run, kernel: Kernel, given: Values, rows: SeedingRows | None, keys: Array
    ) -> tuple[Ascent, Any]:
        if rows is None:
            return run(_given, given, static=(self.max_steps,))
        return run(_start, rows, keys, static=(self.seeding, self.max_steps))

    def _values(self, belief: Any) -> Values:
        return dict(belief)

    def _look(self, run: Run, state: Ascent) -> tuple[Look, Array]:
        return run(_last, _ended(state))

    def _result(
        self, problem: Problem, call: Problem, kernel: Kernel, state: Ascent, look: Any
    ) -> EMResult:
        found, information = look
        steps = np.asarray(state.step)
        traces = [each[: steps[i] + 1] for i, each in enumerate(np.asarray(state.trace))]
        steep = information < LEAST_INFORMATION
        ended = _ended(state)
        return result_of(problem, call, ended, found, traces, steep=steep, paths=state.path)


def _ended(state: Ascent) -> Ended:
    return Ended(
        state.belief,
        state.statistics,
        state.proper,
        state.curvature,
        state.objective,
        state.step,
        state.status,
    )


# --------------------------------------------------------------------------------- to be compiled
def _start(
    problem: Problem,
    seeding: Seeding,
    max_steps: int,
    rows: SeedingRows,
    keys: Array,
) -> tuple[Ascent, Any]:
    """Fits that will start from data, and the statistics that tell their components apart."""
    rough = rough_values(problem.plan)
    made = starting_statistics(problem, rows, rough, keys, seeding)
    state = new_state(problem.plan, made.values, made.alike, max_steps, ALIKE_STEPS)
    return state, made.partitioned


def _given(problem: Problem, max_steps: int, values: Values) -> tuple[Ascent, Any]:
    """Fits that start from given values, and statistics in the shape of theirs."""
    one = jax.tree.map(lambda x: x[0], values)
    shapes = jax.eval_shape(lambda: problem.expected(one)[1])
    restarts = jax.tree.leaves(values)[0].shape[0]
    nothing = jax.tree.map(lambda s: jnp.ones((restarts, *s.shape), s.dtype), shapes)
    return new_state(problem.plan, values, nothing, max_steps, 0), nothing


def _last(problem: Problem, ended: Ended) -> tuple[Look, Array]:
    """What is looked at where fits have ended."""

    def one(state: tuple[Statistics, Values]) -> Array:
        return least_information(problem, *state)

    information = jax.lax.map(one, (ended.statistics, ended.values))
    return last_look(problem, ended), information
