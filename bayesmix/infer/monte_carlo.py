"""Monte Carlo EM where rows hide values that have no exact conditional: Markov chains draw them.

The program with these values told is a program like any other: its plan gives the M step, and the
density of every row. Chains of all rows move side by side, one short run at each step, and go on from
where they were; Q is averaged over the chains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.distributions import biject_to

from ..program.compiling import compile_fully
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans
from ..program.settings import key_of, whole
from .chains import Chains, ChainState, Completed, first_values
from .keep import checkpoint_at
from .m_steps import USUAL, ClimbObjective, MPart, resolve
from .run import Progress, run_in_chunks
from .status import Status

_CHUNK = 20
_BATCHES = 10
_ADAPTING = 0.2
_SURE = 4.0  # standard errors

_TEXTS = {
    True: "the third and the fourth quarter of the path agree.",
    False: "the third and the fourth quarter of the path differ; raise num_steps.",
}


@dataclass(frozen=True, eq=False)
class MonteCarloResult:
    """The end of a Monte Carlo EM fit.

    Attributes:
        parameters: the average of the second half of the path, in unconstrained coordinates: a mode of
            the density in the constrained space, to within `standard_error`.
        standard_error: of that average, from batches of steps, by site, in the site's own units.
        path: the parameters after every step, (steps, ...).
        acceptance: share of the chains' moves that were accepted, (steps,).
        hidden: the chains' last values of the hidden sites, (chains, ...), draws from their posterior at
            the last step's parameters.
        status: converged where the third and the fourth quarter of the path agree to within 4 of their
            standard errors.
    """

    parameters: dict[str, np.ndarray]
    standard_error: dict[str, np.ndarray]
    path: dict[str, np.ndarray]
    acceptance: np.ndarray
    hidden: dict[str, np.ndarray]
    status: Status

    def __str__(self) -> str:
        lines = [f"Monte Carlo EM, {len(self.acceptance)} steps: {_TEXTS[bool(self.status)]}"]
        for name, value in self.parameters.items():
            error = np.max(self.standard_error[name], initial=0.0)
            text = np.array2string(value, precision=4, suppress_small=True, prefix="    ")
            lines.append(f"{name} (standard error at most {error:.2g}):\n    {text}")
        return "\n".join(lines)

    __repr__ = __str__


class MonteCarloEM:
    """EM for programs whose rows hide continuous values that no rule integrates out.

    Such as a random intercept in a logistic regression. At each step every row's values are moved by
    Langevin steps that leave p(values | row, theta) as it is, discrete latents summed out; then the M
    step of the program with these values told raises Q, averaged over the chains. The path does not
    settle but wanders about a mode of log p(x | theta) + log p(theta); its second half is averaged.

    Args:
        program: a NumPyro program.
        hidden: names of the hidden sites in its rows.
        num_chains: chains of every row.
        num_moves: moves of each chain at each step.
        num_steps: steps of EM.
        m_step: as for :class:`EM`, but for `ClimbObjective`: the objective is not known here.
        callback: called with a :class:`Progress` every 20 steps; where it returns True, the fit stops.
            The objective is not known.
        progress_bar: show progress on fits longer than a second or two.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(y, trials):
        ...     centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
        ...     variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        ...     with numpyro.plate("rows", len(y)):
        ...         u = numpyro.sample("u", dist.Normal(centre, jnp.sqrt(variance)))
        ...         numpyro.sample("y", dist.Binomial(trials, logits=u), obs=y)
        >>> y, trials = jnp.array([2, 5, 8, 9, 4]), jnp.array([10, 10, 10, 10, 10])
        >>> em = bayesmix.MonteCarloEM(program, hidden="u", num_steps=60)
        >>> fit = em.run(jax.random.key(0), y, trials)
        >>> sorted(fit.parameters), fit.hidden["u"].shape
        (['centre', 'variance'], (20, 5))

    Source: Wei & Tanner (1990), *JASA* 85, 699-704; McCulloch (1997), *JASA* 92, 162-170 (chains in
    place of exact draws); Roberts & Tweedie (1996), *Bernoulli* 2, 341-363 (Langevin moves).
    """

    def __init__(
        self,
        program: Callable[..., Any],
        hidden: str | Sequence[str],
        *,
        num_chains: int = 20,
        num_moves: int = 5,
        num_steps: int = 200,
        m_step: MPart | Sequence[MPart] = USUAL,
        callback: Callable[[Progress], bool | None] | None = None,
        progress_bar: bool = True,
    ) -> None:
        self.program = program
        self.hidden = tuple(sorted((hidden,) if isinstance(hidden, str) else hidden))
        self.num_chains = whole("num_chains", num_chains)
        self.num_moves = whole("num_moves", num_moves)
        self.num_steps = whole("num_steps", num_steps)
        self.m_step = m_step
        self.callback = callback
        self.progress_bar = progress_bar
        self.plans = Plans(Completed(program))

    def run(
        self,
        rng_key: Array,
        *args: Any,
        init: Values | None = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> MonteCarloResult:
        """Fit, with the program's own arguments.

        Args:
            rng_key: a JAX random key (or an integer seed).
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.
            init: initial values of all parameters, by site; found from the data where None.
            checkpoint: a file in which the fit is kept, and from which it goes on, as in :class:`EM`.

        Raises:
            ProgramError: where a hidden site is none of the rows', or the program cannot be read.
        """
        key = key_of(rng_key)
        first_key, start_key, run_key = random.split(key, 3)
        told = first_values(self.program, self.hidden, first_key, args, kwargs)
        problem = self.plans.call((told, *args), kwargs)
        plan = problem.plan
        kept = checkpoint_at(checkpoint, self, problem, key, init=init)
        chains = Chains(problem, self.hidden, self.num_moves, self._parts(plan))
        observed = problem.observe(fitting=True)
        state = chains.begin(observed, start_key, run_key, self.num_chains, init)

        def make() -> Callable[..., Any]:
            return compile_fully(chains.advance, static_argnums=(4,))

        called = ("chains", problem.arguments.layout, self.num_moves, chains.parts)
        advance = plan.remember(called, make)

        def advanced(far: _SoFar, until: int) -> _SoFar:
            done = int(far.step[0])
            # sizes that went on moving with the draws would bias them
            adapting = jnp.asarray(_ADAPTING if done < self.num_steps // 2 - _CHUNK else 0.0)
            state, said = advance(problem, observed, far.state, adapting, until - done)
            for kept_room, part in zip(
                jax.tree.leaves(far.said), jax.tree.leaves(said), strict=True
            ):
                kept_room[done:until] = part
            return far._replace(state=state, step=np.array([until]))

        far = run_in_chunks(
            _so_far(state, self.num_steps),
            advanced,
            name="EM",
            max_steps=self.num_steps,
            every=_CHUNK,
            progress_bar=self.progress_bar,
            checkpoint=kept,
            watch=self.callback and (self.callback, _seen),
        )
        path, acceptance = jax.tree.map(lambda whole: whole[: int(far.step[0])], far.said)
        state = far.state
        hidden = jax.vmap(chains.told)(state.hidden)
        return _result(plan, path, acceptance, jax.tree.map(np.asarray, hidden))

    def _parts(self, plan: Plan) -> tuple[MPart, ...]:
        parts = resolve(plan, self.m_step)
        if any(isinstance(part, ClimbObjective) for part in parts):
            raise ProgramError(
                "the objective is not known where hidden values are drawn by chains; use Climb in the "
                "place of ClimbObjective"
            )
        return parts


class _SoFar(NamedTuple):
    """A fit under way: the chains; the parameters and the acceptance after each step, of which the first
    `step` are there; it runs until all are."""

    state: ChainState
    said: tuple[dict[str, np.ndarray], np.ndarray]
    step: np.ndarray
    status: np.ndarray


def _so_far(state: ChainState, num_steps: int) -> _SoFar:
    def room(like: Array) -> np.ndarray:
        return np.zeros((num_steps, *like.shape), like.dtype)

    path = {name: room(value) for name, value in state.values.items()}
    running = np.array([int(Status.RUNNING)])
    return _SoFar(state, (path, room(state.log_size[0])), np.zeros(1, int), running)


def _seen(far: _SoFar) -> tuple[np.ndarray, Values]:
    """What a callback is told: there is no objective."""
    return np.full(1, np.nan), {n: value[None] for n, value in far.state.values.items()}


def _result(plan: Plan, path: Values, acceptance: np.ndarray, hidden: Values) -> MonteCarloResult:
    """Averages of the second half, their errors, and whether its halves agree."""
    steps = len(acceptance)
    parameters, errors, apart = {}, {}, 0.0
    for site in plan.reading.parameters:
        bijection = biject_to(site.support)
        free = np.asarray(jax.vmap(bijection.inv)(path[site.name][steps // 2 :]))
        parameters[site.name] = np.asarray(bijection(free.mean(axis=0)))
        errors[site.name] = _batch_mean(path[site.name][steps // 2 :])[1]
        middle = len(free) // 2
        (third, one), (fourth, other) = (_batch_mean(x) for x in (free[:middle], free[middle:]))
        gap = np.abs(third - fourth) / np.maximum(np.hypot(one, other), 1e-12)
        apart = max(apart, float(np.max(gap, initial=0.0)))
    settled = np.isfinite(apart) and apart < _SURE
    status = Status.CONVERGED if settled else Status.OUT_OF_STEPS
    return MonteCarloResult(parameters, errors, dict(path), acceptance, dict(hidden), status)


def _batch_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over steps, and its standard error from means of batches."""
    batches = np.array_split(values, min(_BATCHES, len(values)))
    means = np.stack([batch.mean(axis=0) for batch in batches])
    return values.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(len(means))
