"""Variational Bayes for any program whose blocks all have a closed form, derived from the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.labels import LabelGroup
from ..program.plan import Plan
from ..program.problem import Problem
from .ascent import AscentEngine, Run
from .kernel import Kernel
from .loop import Ascent, new_state
from .mean_field import Averaged, Scope, Spread, check_points, find_scopes, point_masses
from .modes import gather_modes
from .run import Progress
from .starts import (
    Seeding,
    SeedingRows,
    kmeans_plus_plus,
    rough_values,
    starting_statistics,
)
from .status import Status
from .variational_checks import check_complete, check_program, check_proper
from .variational_result import VariationalResult

_PARTITION_STEPS = 3  # before the step whose bound is the first


class VariationalBayes(AscentEngine[VariationalResult]):
    r"""A density of the latents and of all parameters that is as close to the posterior as one can be
    that is independent between rows and between blocks of parameters.

    Coordinate ascent on the evidence lower bound, from many starts in one compiled call:

    .. math::
        L(q) = E_q[\log p(x, z, \theta)] + H(q(z)) + \sum_b H(q(\theta_b)) \le \log p(x).

    The latents of one row stay dependent, however many there are (they are summed out exactly given
    expected tables), and so do the sites of a joint block (normal-inverse-Wishart, say). The bound has
    all constants and never falls. Nothing is derived by hand: expectations are means over a few values
    of each block (see :mod:`bayesmix.families.forms`).

    Args:
        program: a NumPyro program, or a plan of one.
        max_steps: largest number of steps.
        tolerance: converged when the gain still to come, estimated from the last two gains (Aitken), is
            below `tolerance` times (1 + |bound|), or below rounding.
        seeding: how starts are seeded, as in :class:`EM`.
        callback, report_every: as in :class:`EM`; the objectives it is told are bounds, and the values
            central ones of each site.
        progress_bar: show progress on fits longer than a second or two.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x, K):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1])
        >>> fit = bayesmix.VariationalBayes(program).run(jax.random.key(0), x, K=2, restarts=5)
        >>> bool(fit.status), sorted(fit.mean["weights"].round(3).tolist())
        (True, [0.429, 0.571])
        >>> round(fit.log_evidence_bound + fit.log_relabellings, 2)  # groups far apart: the evidence
        -14.08

    Sources: Attias (2000), *NIPS* 12, 209-215; Bishop (2006), *Pattern Recognition and Machine
    Learning*, Springer, section 10.2; conjugate models in general: Ghahramani & Beal (2001), *NIPS* 13,
    507-513.
    """

    name = "VB"

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        max_steps: int = 2000,
        tolerance: float = 1e-10,
        seeding: Seeding = kmeans_plus_plus,
        callback: Callable[[Progress], bool | None] | None = None,
        report_every: int = 100,
        progress_bar: bool = True,
    ) -> None:
        super().__init__(
            program, max_steps, tolerance, seeding, callback, report_every, progress_bar
        )

    def kernel(self, problem: Problem, given: bool = False) -> Kernel:
        scopes = _scopes(problem)
        return Kernel(Averaged(scopes, given), Spread(scopes))

    def run(
        self,
        rng_key: Array,
        *args: Any,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> VariationalResult:
        """Ascend from `restarts` starts and keep the best.

        Args:
            rng_key: a JAX random key (or an integer seed), for the starts.
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.
            restarts: number of starts, all run in one compiled call.
            init: values of some or all parameters, by site name; the first responsibilities are those
                at these values. Values lead with an axis of `restarts` starts, or are shared by all.
            checkpoint: a file in which the fit is kept, and from which it goes on, as in :class:`EM`.

        Returns:
            A :class:`VariationalResult`: `bound` (the trace), `status`, `mean`, `variance`, `sample`,
            and more.

        Raises:
            ProgramError: where the program or its data cannot be read, where some site has no closed
                form, where a row has hidden values besides finite latents (Student-t, probit, missing
                cells of a vector), where a posterior is not proper, or where values underflow (a
                concentration next to zero). The message names the cure.
        """
        problem = self.plans.call(args, kwargs, on_device=False)
        return self.run_problem(
            rng_key, problem, restarts=restarts, init=init, checkpoint=checkpoint
        )

    def _check(self, problem: Problem) -> None:
        check_complete(problem.blocks)

    def _start(
        self, run: Run, kernel: Kernel, given: Values, rows: SeedingRows | None, keys: Array
    ) -> tuple[Ascent, Any]:
        static = (_averaged(kernel).scopes, self.seeding, self.max_steps)
        return run(_start, rows, keys, static=static)

    def _values(self, belief: Any) -> Values:
        return belief.centre

    def _result(
        self, problem: Problem, call: Problem, kernel: Kernel, state: Ascent, look: Any
    ) -> VariationalResult:
        state = jax.tree.map(np.asarray, state)
        plan, latents = problem.plan, _averaged(kernel)
        statuses = [_status(plan, state, start) for start in range(state.status.size)]
        bounds = np.where(np.isfinite(state.objective), state.objective, -np.inf)
        best = max(range(len(statuses)), key=lambda i: (bool(statuses[i]), bounds[i]))
        check_proper(plan, state.proper[best])
        if not np.isfinite(bounds[best]):
            raise ProgramError(
                "the bound is not finite at the first step of any start; look for a prior whose "
                "concentration is so close to zero (below 0.005, say) that values underflow, and "
                "raise it"
            )
        q, statistics = jax.tree.map(lambda x: x[best], (state.belief, state.statistics))
        return VariationalResult(
            # where a start is given, the first is the bound of no density
            bound=state.trace[best][int(latents.given) : int(state.step[best]) + 1],
            status=statuses[best],
            modes=gather_modes(plan, state.belief.centre, bounds, statuses),
            restart_bounds=bounds,
            restart_statuses=tuple(statuses),
            restart_steps=state.step,
            problem=call,
            q=q,
            statistics=statistics,
            scopes=latents.scopes,
        )


def _averaged(kernel: Kernel) -> Averaged:
    assert isinstance(kernel.latents, Averaged)
    return kernel.latents


def _scopes(problem: Problem) -> tuple[Scope, ...]:
    """Which factors are averaged over which blocks.

    Raises :class:`ProgramError` where the program has no mean-field posterior in closed form.
    """
    plan = problem.plan
    plan.remember("variational check", lambda: check_program(problem))
    return plan.remember("scopes", lambda: find_scopes(problem))


def _start(
    problem: Problem,
    scopes: tuple[Scope, ...],
    seeding: Seeding,
    max_steps: int,
    rows: SeedingRows,
    keys: Array,
) -> tuple[Ascent, Any]:
    """Ascents before their first step, which is made from the rows partitioned about seeds."""
    plan, rough = problem.plan, rough_values(problem.plan)
    made = starting_statistics(problem, rows, rough, keys, seeding).partitioned
    q = jax.vmap(lambda statistics: point_masses(problem, scopes, statistics, rough))(made)
    check_points(plan, scopes, tuple(q.points[b.site].shape[1] for b in plan.blocks))
    return new_state(plan, q, made, max_steps, _PARTITION_STEPS), made


def _status(plan: Plan, state: Ascent, start: int) -> Status:
    status = Status(int(state.status[start]))
    if status is Status.CONVERGED and state.step[start] <= 3:
        centre = {name: value[start] for name, value in state.belief.centre.items()}
        if any(_all_alike(group, centre) for group in plan.labels.hidden):
            return Status.SYMMETRIC_START
    return status


def _all_alike(group: LabelGroup, centre: dict[str, np.ndarray]) -> bool:
    """Does no site tell one label of a group from another?"""
    sites = [(centre[name], axes[0]) for name, axes in group.axes.items() if name in centre]
    return all(
        np.max(np.ptp(value, axis=axis)) <= 1e3 * np.finfo(value.dtype).eps * np.max(np.abs(value))
        for value, axis in sites
    )
