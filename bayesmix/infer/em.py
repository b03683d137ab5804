"""EM for any program that `plan` can read: MAP, or MLE where the priors are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..program import rows as row_pass
from ..program.arguments import Arguments, Layout, split
from ..program.blocks import Blocks
from ..program.compiling import compile_fully, compile_lightly
from ..program.evaluate import Values
from ..program.modules import array_values
from ..program.plan import Plan, Plans
from ..program.settings import key_of, tolerance_of, whole
from .accelerators import Accelerator
from .chunks import Progress, run_in_chunks
from .e_steps import EXACT, EStep
from .keep import checkpoint_at
from .last_look import last_look, marks_of
from .loop import EMState, Fixed, Parts, Settings, advance, begin_parts, new_state
from .m_steps import USUAL, MPart, resolve
from .modes import gather_modes
from .outcome import Marks, outcome_of
from .result import EMResult
from .separation import LEAST_INFORMATION, least_information
from .starts import (
    ALIKE_STEPS,
    Seeding,
    SeedingRows,
    given_values,
    has_own_starts,
    kmeans_plus_plus,
    own_starts,
    rough_values,
    seeding_rows,
    starting_statistics,
)
from .steps import objective_and_statistics

_PARTS_STREAM = 0x70617274
# starts, and log densities of rows, in a step beyond which more starts in it make none cheaper
_MOST_LANES, _ENTRIES_AT_A_TIME = 20, 400_000


class EM:
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
        self.plans = Plans(program)
        self.max_steps = whole("max_steps", max_steps)
        self.tolerance = tolerance_of(tolerance)
        self.seeding = seeding
        self.e_step = e_step
        self.m_step = m_step
        self.accelerator = accelerator
        self.keep_path = keep_path
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
        arguments = split(args, kwargs, on_device=False)
        return self.run_arguments(
            rng_key, arguments, restarts=restarts, init=init, checkpoint=checkpoint
        )

    def run_arguments(
        self,
        rng_key: Array,
        arguments: Arguments,
        *,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
    ) -> EMResult:
        """As :meth:`run`, for arguments already split into arrays and static ones."""
        restarts, rng_key = whole("restarts", restarts), key_of(rng_key)
        found, arguments = self.plans.of(arguments)
        compiled = self._compile(found, arguments.layout)
        kept = checkpoint_at(
            checkpoint, self, found, arguments, rng_key, restarts=restarts, init=init
        )
        observed = found.observe(arguments, fitting=True)
        lanes = _num_lanes(found, observed.num_rows, restarts)
        blocks = found.arrange(observed, lanes)
        given = given_values(found, array_values(found.program, init or {}), restarts)
        if has_own_starts(found):
            keys = random.split(rng_key, restarts)
            given = {**own_starts(found, arguments, keys), **given}
        at_data = found.specialise(arguments)
        if set(given) == set(found.reading.parameter_names):
            state, partitioned = compiled.given(at_data.arrays, blocks, given)
        else:
            rows = seeding_rows(found, arguments, blocks, observed)
            state, partitioned = compiled.start(at_data.arrays, rows, rng_key, restarts)
        state = compiled.begin(at_data.arrays, blocks, state, rng_key)
        state = run_in_chunks(
            state,
            compiled.advancing(at_data, blocks, Fixed(partitioned, given), self.tolerance, lanes),
            name="EM",
            max_steps=self.max_steps,
            every=self.report_every,
            progress_bar=self.progress_bar,
            checkpoint=kept,
            watch=self.callback and (self.callback, lambda state: (state.objective, state.values)),
        )
        look, information = compiled.last(at_data.arrays, blocks, state)
        marks = marks_of(found, at_data, blocks, state, look)
        marks = marks._replace(steep=np.asarray(information) < LEAST_INFORMATION)
        del observed, blocks, at_data  # before their room is needed for the result's own copy
        return self._result(found, arguments.on_device(), state, marks, look.derived)

    def _compile(self, found: Plan, layout: Layout) -> _Compiled:
        parts = Parts(self.e_step, resolve(found, self.m_step), self.accelerator)
        options = (self.max_steps, self.seeding, parts, self.keep_path)
        return found.remember(("EM", layout, *options), lambda: _Compiled(found, layout, *options))

    def _result(
        self,
        found: Plan,
        arguments: Arguments,
        state: EMState,
        marks: Marks,
        derived: Values,
    ) -> EMResult:
        host = jax.tree.map(np.asarray, state._replace(memory=(), pace=()))
        derived = {name: np.asarray(value) for name, value in derived.items()}
        outcomes = [outcome_of(found, host, i, marks) for i in range(len(host.objective))]
        statuses = [outcome.status for outcome in outcomes]
        order = sorted(
            range(len(statuses)),
            key=lambda i: (bool(statuses[i]), _finite(host.objective[i])),
            reverse=True,
        )
        best = order[0]
        parameters = {name: value[best] for name, value in host.values.items()}
        return EMResult(
            parameters=parameters,
            deterministic={name: value[best] for name, value in derived.items()},
            objective=host.trace[best][: int(host.step[best]) + 1],
            status=statuses[best],
            status_sites=outcomes[best].sites,
            modes=gather_modes(found, host.values, host.objective, statuses),
            restart_objectives=host.objective,
            restart_statuses=tuple(statuses),
            restart_steps=host.step,
            restart_parameters=host.values,
            path={
                name: value[best][: int(host.step[best]) + 1] for name, value in host.path.items()
            },
            plan=found,
            arguments=arguments,
        )


class _Compiled:
    """The compiled functions of a fit, for one layout of arguments."""

    def __init__(
        self,
        found: Plan,
        layout: Layout,
        max_steps: int,
        seeding: Seeding,
        parts: Parts,
        keep_path: bool,
    ) -> None:
        self.plan, self.parts = found, parts

        def call(arrays: tuple[Array, ...]) -> Arguments:
            return Arguments(arrays, layout._replace(specialised=True))

        def start(
            arrays: Any, rows: SeedingRows, rng_key: Array, restarts: int
        ) -> tuple[EMState, Any]:
            keys = random.split(rng_key, restarts)
            rough = rough_values(found)
            made = starting_statistics(found, call(arrays), rows, rough, keys, seeding)
            state = new_state(found, made.values, made.alike, max_steps, ALIKE_STEPS)
            return state, made.partitioned

        def given(arrays: Any, blocks: Blocks, values: Values) -> tuple[EMState, Any]:
            one = jax.tree.map(lambda x: x[0], values)
            shapes = jax.eval_shape(
                lambda: objective_and_statistics(found, call(arrays), blocks, one)[1]
            )
            restarts = jax.tree.leaves(values)[0].shape[0]
            nothing = jax.tree.map(lambda s: jnp.ones((restarts, *s.shape), s.dtype), shapes)
            return new_state(found, values, nothing, max_steps, 0), nothing

        self.start = compile_lightly(start, static_argnums=(3,))
        self.given = compile_lightly(given)
        self.advance = compile_fully(
            lambda arrays, blocks, states, fixed, settings, lanes: advance(
                found, call(arrays), blocks, states, fixed, settings, parts, lanes
            ),
            static_argnums=(5,),
        )

        def begin(arrays: Any, blocks: Blocks, states: EMState, rng_key: Array) -> EMState:
            keys = random.split(rng_key, states.status.shape[0])
            # keys of their own, so that starts are the same whatever the parts
            streams = jax.vmap(lambda key: random.fold_in(key, _PARTS_STREAM))(keys)
            return begin_parts(found, call(arrays), blocks, parts, states, streams, keep_path)

        self._begin = compile_lightly(begin)
        self._nothing: EMState | None = None

        def last(arrays: Any, blocks: Blocks, states: EMState) -> Any:
            def one(state: tuple[row_pass.Statistics, Values]) -> Array:
                return least_information(found, call(arrays), *state)

            information = jax.lax.map(one, (states.statistics, states.values))
            return last_look(found, call(arrays), blocks, states), information

        self.last = compile_lightly(last)

    def advancing(
        self, arguments: Arguments, blocks: Blocks, fixed: Fixed, tolerance: float, lanes: int
    ) -> Callable[[EMState, int], EMState]:
        """A function that brings fits to a limit of steps, so many of them at a time."""

        def advance(states: EMState, limit: int) -> EMState:
            settings = Settings(jnp.asarray(tolerance), jnp.asarray(limit))
            return self.advance(arguments.arrays, blocks, states, fixed, settings, lanes)

        return advance

    def begin(self, arrays: Any, blocks: Blocks, states: EMState, rng_key: Array) -> EMState:
        """The fits with what their parts carry; nothing is compiled where that is nothing."""
        if self._nothing is None:
            like = jax.eval_shape(self._begin, arrays, blocks, states, rng_key)
            if jax.tree.leaves((like.memory, like.pace, like.path)):
                return self._begin(arrays, blocks, states, rng_key)
            self._nothing = like
        like = self._nothing
        return states._replace(memory=like.memory, pace=like.pace, path=like.path)


def _num_lanes(found: Plan, num_rows: int, restarts: int) -> int:
    """How many starts are stepped at a time: so many that what a step costs beyond its arithmetic is
    shared, and no more, since lanes stand idle when the last starts are under way."""
    entries = num_rows * sum(found.graph.table_sizes)
    return min(restarts, _MOST_LANES, -(-_ENTRIES_AT_A_TIME // entries))


def _finite(objective: float) -> float:
    return float(objective) if np.isfinite(objective) else -np.inf
