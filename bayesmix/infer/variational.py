"""Variational Bayes for any program whose blocks all have a closed form, derived from the plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program import row_pass
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.labels import LabelGroup
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import key_of, tolerance_of, whole
from .convergence import judge
from .keep import checkpoint_at
from .mean_field import (
    Factorised,
    Scope,
    bound_and_statistics,
    check_points,
    find_scopes,
    point_masses,
    update_all,
    with_points_at,
)
from .modes import gather_modes
from .run import Progress, run_in_chunks
from .starts import (
    Seeding,
    SeedingRows,
    kmeans_plus_plus,
    rough_values,
    seeding_rows,
    starting_statistics,
    told_values,
)
from .status import Status
from .variational_checks import check_complete, check_program, check_proper
from .variational_result import VariationalResult

_PARTITION_STEPS = 4


class VariationalBayes:
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
        self.plans = Plans(program)
        self.max_steps = whole("max_steps", max_steps)
        self.tolerance = tolerance_of(tolerance)
        self.seeding = seeding
        self.callback = callback
        self.report_every = whole("report_every", report_every)
        self.progress_bar = progress_bar

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
        restarts = whole("restarts", restarts)
        key = key_of(rng_key)
        problem = self.plans.call(args, kwargs)
        plan = problem.plan
        plan.remember("variational check", lambda: check_program(problem))
        scopes = plan.remember("scopes", lambda: find_scopes(problem))
        kept = checkpoint_at(checkpoint, self, problem, key, restarts=restarts, init=init)
        observed = problem.observe(fitting=True)
        problem = problem.at(plan.arrange(observed))
        check_complete(problem.blocks)
        keys = random.split(key, restarts)
        given = told_values(problem, init, keys)
        rows = seeding_rows(problem, observed)
        at_data = problem.specialised()
        state = at_data.run(_start, rows, keys, static=(scopes, self.seeding, self.max_steps))

        def advance(state: _State, limit: int) -> _State:
            settings = (self.tolerance, limit)
            return at_data.run(_advance, settings, given, state, static=(scopes,), fully=True)

        state = run_in_chunks(
            state,
            advance,
            name="VB",
            max_steps=self.max_steps,
            every=self.report_every,
            progress_bar=self.progress_bar,
            checkpoint=kept,
            watch=self.callback and (self.callback, lambda state: (state.bound, state.q.centre)),
        )
        return _result(problem, scopes, jax.tree.map(np.asarray, state))


class _State(NamedTuple):
    """An ascent in progress: q and what was expected under it at `step`. Steps below -1 are made from
    the partition that a start begins with; step -1 takes the first responsibilities."""

    step: Array
    q: Factorised
    statistics: row_pass.Statistics
    bound: Array
    gain: Array
    trace: Array
    status: Array
    proper: Array


def _start(
    problem: Problem,
    scopes: tuple[Scope, ...],
    seeding: Seeding,
    max_steps: int,
    rows: SeedingRows,
    keys: Array,
) -> _State:
    """Ascents before their first step."""
    rough = rough_values(problem.plan)
    made = starting_statistics(problem, rows, rough, keys, seeding)
    return jax.vmap(partial(_new_state, problem, scopes, max_steps, rough))(made.partitioned)


def _advance(
    problem: Problem, scopes: tuple[Scope, ...], settings: Any, given: Values, state: _State
) -> _State:
    """All ascents, each until it has stopped or has made a number of steps."""
    return jax.vmap(partial(_ascend, problem, scopes, settings))(given, state)


def _new_state(
    problem: Problem,
    scopes: tuple[Scope, ...],
    max_steps: int,
    values: Values,
    statistics: row_pass.Statistics,
) -> _State:
    plan = problem.plan
    q = point_masses(problem, scopes, statistics, values)
    check_points(plan, scopes, tuple(q.points[b.site].shape[0] for b in plan.blocks))
    dtype = jnp.result_type(float)
    return _State(
        step=jnp.asarray(-1 - _PARTITION_STEPS),
        q=q,
        statistics=statistics,
        bound=jnp.asarray(-jnp.inf, dtype),
        gain=jnp.asarray(jnp.inf, dtype),
        trace=jnp.full(max_steps + 1, jnp.nan, dtype),
        status=jnp.asarray(Status.RUNNING),
        proper=jnp.ones(len(plan.blocks), bool),
    )


def _ascend(
    problem: Problem,
    scopes: tuple[Scope, ...],
    settings: tuple[Array, Array],
    given: Values,
    state: _State,
) -> _State:
    """Update all blocks, then the latents, until the bound has converged or the limit of steps."""
    tolerance, limit = settings

    def step(state: _State) -> _State:
        early = state.step + 1 < 0
        q = update_all(problem, scopes, state.statistics, state.q)
        q = with_points_at(q, given, early)
        bound, statistics = bound_and_statistics(problem, scopes, q)
        kept = jax.tree.map(partial(jnp.where, state.step + 1 < -1), state.statistics, statistics)
        moved = state._replace(
            step=state.step + 1,
            q=q,
            statistics=kept,
            bound=bound,
            trace=state.trace.at[state.step + 1].set(bound),
            proper=q.proper,
        )
        # before step 0 there is no bound
        judged = _judge(state, moved, tolerance, problem.blocks.num_rows)
        unjudged = state._replace(step=state.step + 1, q=q, statistics=kept)
        return jax.tree.map(partial(jnp.where, early), unjudged, judged)

    def running(state: _State) -> Array:
        return (state.status == Status.RUNNING) & (state.step < limit)

    return jax.lax.while_loop(running, step, state)


def _judge(before: _State, moved: _State, tolerance: Array, rows: int) -> _State:
    """The state after a step: taken unless the bound fell or is not finite; has it converged?"""
    judged = judge(moved.bound, before.bound, before.gain, tolerance, rows)
    judged = judged._replace(finite=judged.finite & jnp.all(moved.proper))
    status = judged.status(judged.settled, moved.step >= moved.trace.size - 1)
    taken = moved._replace(gain=judged.gain, status=status)
    kept = before._replace(status=status, proper=moved.proper)
    return jax.tree.map(partial(jnp.where, judged.good), taken, kept)


def _result(problem: Problem, scopes: tuple[Scope, ...], state: _State) -> VariationalResult:
    plan = problem.plan
    statuses = [_status(plan, state, start) for start in range(state.status.size)]
    bounds = np.where(np.isfinite(state.bound), state.bound, -np.inf)
    best = max(range(len(statuses)), key=lambda i: (bool(statuses[i]), bounds[i]))
    check_proper(plan, state.proper[best])
    if not np.isfinite(bounds[best]):
        raise ProgramError(
            "the bound is not finite at the first step of any start; look for a prior whose "
            "concentration is so close to zero (below 0.005, say) that values underflow, and raise it"
        )
    q, statistics = jax.tree.map(lambda x: x[best], (state.q, state.statistics))
    return VariationalResult(
        bound=state.trace[best][: int(state.step[best]) + 1],
        status=statuses[best],
        modes=gather_modes(plan, state.q.centre, bounds, statuses),
        restart_bounds=bounds,
        restart_statuses=tuple(statuses),
        restart_steps=state.step,
        problem=Problem(plan, problem.arguments),
        q=q,
        statistics=statistics,
        scopes=scopes,
    )


def _status(plan: Plan, state: _State, start: int) -> Status:
    status = Status(int(state.status[start]))
    if status is Status.CONVERGED and state.step[start] <= 3:
        centre = {name: value[start] for name, value in state.q.centre.items()}
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
