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

from ..program import rows as row_pass
from ..program.arguments import Arguments, split
from ..program.blocks import Blocks
from ..program.compiling import compile_fully, compile_lightly
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.labels import LabelGroup
from ..program.modules import array_values
from ..program.plan import Plan, Plans
from ..program.settings import key_of, tolerance_of, whole
from .chunks import Progress, run_in_chunks
from .convergence import judge
from .keep import checkpoint_at
from .mean_field import (
    Factorised,
    Scope,
    bound_and_statistics,
    check_points,
    find_scopes,
    point_masses,
    proper,
    update_all,
    with_points_at,
)
from .modes import gather_modes
from .starts import (
    Seeding,
    SeedingRows,
    given_values,
    kmeans_plus_plus,
    own_starts,
    rough_values,
    seeding_rows,
    starting_statistics,
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
    of each block (see :mod:`bayesmix.families.averages`).

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
        arguments = split(args, kwargs)
        found, arguments = self.plans.of(arguments)
        compiled = self._compile(found, arguments)
        kept = checkpoint_at(checkpoint, self, found, arguments, key, restarts=restarts, init=init)
        observed = found.observe(arguments, fitting=True)
        blocks = found.arrange(observed)
        check_complete(blocks)
        keys = random.split(key, restarts)
        given = given_values(found, array_values(found.program, init or {}), restarts)
        given = {**own_starts(found, arguments, keys), **given}
        rows = seeding_rows(found, arguments, blocks, observed)
        at_data = found.specialise(arguments)
        state = compiled.start(at_data.arrays, rows, keys)

        def advance(state: _State, limit: int) -> _State:
            return compiled.advance(at_data.arrays, blocks, (self.tolerance, limit), given, state)

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
        return _result(compiled, arguments, blocks, jax.tree.map(np.asarray, state))

    def _compile(self, found: Plan, arguments: Arguments) -> _Compiled:
        layout = arguments.layout
        found.remember("variational check", lambda: check_program(found, arguments))
        options = (self.max_steps, self.seeding)
        return found.remember(
            ("variational", layout, *options), lambda: _Compiled(found, arguments, *options)
        )


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


class _Compiled:
    """The compiled functions of an ascent, for one layout of arguments."""

    def __init__(self, found: Plan, arguments: Arguments, max_steps: int, seeding: Seeding) -> None:
        self.plan, layout = found, arguments.layout._replace(specialised=True)
        self.scopes = scopes = find_scopes(found, arguments)

        def call(arrays: tuple[Array, ...]) -> Arguments:
            return Arguments(arrays, layout)

        def start(arrays: Any, rows: SeedingRows, keys: Array) -> _State:
            rough = rough_values(found)
            made = starting_statistics(found, call(arrays), rows, rough, keys, seeding)
            return jax.vmap(
                lambda statistics: _new_state(
                    found, call(arrays), scopes, max_steps, rough, statistics
                )
            )(made.partitioned)

        def ascend(
            arrays: Any, blocks: Blocks, settings: Any, given: Values, state: _State
        ) -> _State:
            one = partial(_ascend, found, call(arrays), blocks, scopes, settings)
            return jax.vmap(one)(given, state)

        self.start = compile_lightly(start)
        self.advance = compile_fully(ascend)


def _new_state(
    found: Plan,
    arguments: Arguments,
    scopes: tuple[Scope, ...],
    max_steps: int,
    values: Values,
    statistics: row_pass.Statistics,
) -> _State:
    q = point_masses(found, arguments, scopes, statistics, values)
    check_points(found, scopes, tuple(q.points[b.site].shape[0] for b in found.blocks))
    dtype = jnp.result_type(float)
    return _State(
        step=jnp.asarray(-1 - _PARTITION_STEPS),
        q=q,
        statistics=statistics,
        bound=jnp.asarray(-jnp.inf, dtype),
        gain=jnp.asarray(jnp.inf, dtype),
        trace=jnp.full(max_steps + 1, jnp.nan, dtype),
        status=jnp.asarray(Status.RUNNING),
        proper=jnp.ones(len(found.blocks), bool),
    )


def _ascend(
    found: Plan,
    arguments: Arguments,
    blocks: Blocks,
    scopes: tuple[Scope, ...],
    settings: tuple[Array, Array],
    given: Values,
    state: _State,
) -> _State:
    """Update all blocks, then the latents, until the bound has converged or the limit of steps."""
    tolerance, limit = settings

    def step(state: _State) -> _State:
        early = state.step + 1 < 0
        q = update_all(found, arguments, scopes, state.statistics, state.q)
        q = with_points_at(q, given, early)
        bound, statistics = bound_and_statistics(found, arguments, blocks, scopes, q)
        kept = jax.tree.map(partial(jnp.where, state.step + 1 < -1), state.statistics, statistics)
        moved = state._replace(
            step=state.step + 1,
            q=q,
            statistics=kept,
            bound=bound,
            trace=state.trace.at[state.step + 1].set(bound),
            proper=proper(found, q),
        )
        # before step 0 there is no bound
        judged = _judge(state, moved, tolerance, blocks.num_rows)
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


def _result(
    compiled: _Compiled, arguments: Arguments, blocks: Blocks, state: _State
) -> VariationalResult:
    found = compiled.plan
    statuses = [_status(found, state, start) for start in range(state.status.size)]
    bounds = np.where(np.isfinite(state.bound), state.bound, -np.inf)
    best = max(range(len(statuses)), key=lambda i: (bool(statuses[i]), bounds[i]))
    check_proper(found, state.proper[best])
    if not np.isfinite(bounds[best]):
        raise ProgramError(
            "the bound is not finite at the first step of any start; look for a prior whose "
            "concentration is so close to zero (below 0.005, say) that values underflow, and raise it"
        )
    q, statistics = jax.tree.map(lambda x: x[best], (state.q, state.statistics))
    return VariationalResult(
        bound=state.trace[best][: int(state.step[best]) + 1],
        status=statuses[best],
        modes=gather_modes(found, state.q.centre, bounds, statuses),
        restart_bounds=bounds,
        restart_statuses=tuple(statuses),
        restart_steps=state.step,
        plan=found,
        arguments=arguments,
        q=q,
        statistics=statistics,
        scopes=compiled.scopes,
    )


def _status(found: Plan, state: _State, start: int) -> Status:
    status = Status(int(state.status[start]))
    if status is Status.CONVERGED and state.step[start] <= 3:
        centre = {name: value[start] for name, value in state.q.centre.items()}
        if any(_all_alike(group, centre) for group in found.labels.hidden):
            return Status.SYMMETRIC_START
    return status


def _all_alike(group: LabelGroup, centre: dict[str, np.ndarray]) -> bool:
    """Does no site tell one label of a group from another?"""
    sites = [(centre[name], axes[0]) for name, axes in group.axes.items() if name in centre]
    return all(
        np.max(np.ptp(value, axis=axis)) <= 1e3 * np.finfo(value.dtype).eps * np.max(np.abs(value))
        for value, axis in sites
    )
