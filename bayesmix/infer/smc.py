"""Tempered sequential Monte Carlo: draws from posteriors with separated modes, and the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from tqdm.auto import tqdm

from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import key_of, number, whole
from .accelerators import free_coordinates
from .tempering import (
    USUAL_MOVES,
    HamiltonianMoves,
    Tuning,
    blackjax,
    first_tuning,
    prior_draws,
    retuned,
)

_BISECTIONS = 20
_BATCH = 256  # particles moved at a time


class SMCState(NamedTuple):
    """Runs under way, leading with runs: particles by site (runs, particles, ...), beta, log evidence so
    far, acceptance of the last moves, step sizes, and a key."""

    values: Values
    beta: Array
    log_evidence: Array
    acceptance: Array
    tuning: Tuning
    rng_key: Array


class TemperedSMC:
    """Draws of the posterior by particles that go from the prior to it in stages, and the evidence p(x).

    The next beta is where weights still count for `target_ess` of the particles; particles are resampled
    and moved there. All modes that the prior covers are found together, each with its weight, so long as
    there are particles enough at the start. The evidence counts all relabellings of a mode.

    Args:
        program: a NumPyro program, or a plan of one, with proper priors.
        num_particles: particles of a run.
        num_runs: independent runs, which :func:`bayesmix.to_arviz` takes for chains; their evidences
            tell the error of each other.
        target_ess: effective share of the particles after each reweighting.
        moves: how particles move, a :class:`~bayesmix.infer.tempering.HamiltonianMoves`.
        max_stages: stages after which it gives up.
        progress_bar: show progress on runs longer than a second or two.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-2.2, -1.9, 2.1, 1.8])
        >>> run = bayesmix.TemperedSMC(program, num_particles=400).run(jax.random.key(0), x)
        >>> run.get_samples()["mean"].shape, run.log_evidence.shape
        ((800, 2), (2,))
        >>> bool(abs(run.get_samples()["mean"][:, 0].mean()) < 0.5)  # both orders of the labels
        True

    Source: Del Moral, Doucet & Jasra (2006), *JRSS B* 68, 411-436; adaptive stages: Jasra et al. (2011),
    *Scandinavian Journal of Statistics* 38, 1-22.
    """

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        num_particles: int = 1000,
        num_runs: int = 2,
        target_ess: float = 0.5,
        moves: HamiltonianMoves = USUAL_MOVES,
        max_stages: int = 500,
        progress_bar: bool = True,
    ) -> None:
        self.plans = Plans(program)
        self.num_particles = whole("num_particles", num_particles)
        self.num_runs = whole("num_runs", num_runs)
        self.target_ess = number("target_ess", target_ess, 0.0, 1.0)
        self.moves = moves
        self.max_stages = whole("max_stages", max_stages)
        self.progress_bar = progress_bar

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for these arguments; read once per layout."""
        return self.plans.call(args, kwargs).plan

    def run(self, rng_key: Array, *args: Any, **kwargs: Any) -> SMCResult:
        """Walk from the prior to the posterior.

        Args:
            rng_key: a JAX random key (or an integer seed).
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.

        Raises:
            ProgramError: where the program cannot be read, a prior cannot be drawn from, or the
                posterior was not reached in `max_stages`.
        """
        blackjax()
        key = key_of(rng_key)
        problem = self.plans.call(args, kwargs)
        observed = problem.observe(fitting=True)
        problem = problem.specialised().at(problem.plan.arrange(observed))
        walk = _Walk(self.num_particles, self.num_runs, self.target_ess, self.moves)
        state = problem.run(_begin, key, static=(walk,))
        betas, accepted = [np.asarray(state.beta)], []
        with tqdm(
            total=1.0, desc="SMC", delay=2.0, disable=not self.progress_bar, bar_format=_BAR
        ) as bar:
            for _ in range(self.max_stages):
                state = problem.run(_advance, state, static=(walk,), fully=True)
                betas.append(np.asarray(state.beta))
                accepted.append(np.asarray(state.acceptance))
                bar.update(float(betas[-1].min()) - bar.n)
                if not np.isfinite(np.asarray(state.log_evidence)).all():
                    raise ProgramError(
                        "no particle explains the data at all; look for a prior that rules them out"
                    )
                if betas[-1].min() >= 1:
                    break
            else:
                raise ProgramError(
                    f"the posterior was not reached in {self.max_stages} stages (beta is "
                    f"{betas[-1].min():.2g}); raise max_stages or num_particles, or lower target_ess"
                )
        samples = jax.tree.map(np.asarray, state.values)
        evidence = np.asarray(state.log_evidence)
        return SMCResult(self, args, kwargs, samples, evidence, np.stack(betas), np.stack(accepted))


_BAR = "{l_bar}{bar}| beta {n:.3f} [{elapsed}]"


class SMCResult:
    """Draws and evidence of :class:`TemperedSMC`; :func:`bayesmix.to_arviz` takes it like an MCMC.

    Attributes:
        log_evidence: log p(x) of each run, (runs,).
        betas: each run's stages, (stages + 1, runs).
        acceptance: mean acceptance of the moves, (stages, runs).
    """

    def __init__(
        self,
        sampler: TemperedSMC,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        samples: dict[str, np.ndarray],
        log_evidence: np.ndarray,
        betas: np.ndarray,
        acceptance: np.ndarray,
    ) -> None:
        self.sampler, self._args, self._kwargs = sampler, args, kwargs
        self._samples = samples
        self.log_evidence, self.betas, self.acceptance = log_evidence, betas, acceptance

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Draws by site, (runs * particles, ...), or (runs, particles, ...)."""
        if group_by_chain:
            return dict(self._samples)
        return {name: value.reshape(-1, *value.shape[2:]) for name, value in self._samples.items()}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Nothing besides the draws."""
        return {}

    @property
    def mean_log_evidence(self) -> float:
        """log of the runs' average of p(x), which is unbiased."""
        top = self.log_evidence.max()
        return float(top + np.log(np.mean(np.exp(self.log_evidence - top))))

    @property
    def standard_error(self) -> float:
        """Of `mean_log_evidence`, from the spread of the runs; NaN of one run."""
        runs = len(self.log_evidence)
        return float(np.std(self.log_evidence, ddof=1) / math.sqrt(runs)) if runs > 1 else math.nan

    def __str__(self) -> str:
        runs, particles = next(iter(self._samples.values())).shape[:2]
        return (
            f"tempered SMC: {runs} runs of {particles} particles, {len(self.acceptance)} stages\n"
            f"log evidence: {self.mean_log_evidence:.3f} (standard error {self.standard_error:.2g})"
        )

    __repr__ = __str__


class _Walk(NamedTuple):
    """The settings of a walk; hashable."""

    num_particles: int
    num_runs: int
    target_ess: float
    moves: HamiltonianMoves

    def over(self, function: Callable[..., Any], *particles: Any) -> Any:
        """A function of each particle, some at a time."""
        # a remainder would be compiled a second time
        batch = max(size for size in range(1, _BATCH + 1) if self.num_particles % size == 0)
        return jax.lax.map(lambda each: function(*each), particles, batch_size=batch)


def _begin(problem: Problem, walk: _Walk, rng_key: Array) -> SMCState:
    """All runs at the prior."""

    def one(key: Array) -> SMCState:
        first, next_key = random.split(key)
        values = prior_draws(problem, random.split(first, walk.num_particles))
        tuning = first_tuning(problem.plan, jax.tree.map(lambda x: x[0], values))
        return SMCState(values, jnp.zeros(()), jnp.zeros(()), jnp.ones(()), tuning, next_key)

    return jax.vmap(one)(random.split(rng_key, walk.num_runs))


def _advance(problem: Problem, walk: _Walk, states: SMCState) -> SMCState:
    """One stage of all runs."""
    return jax.lax.map(lambda state: _stage(problem, walk, state), states)


def _stage(problem: Problem, walk: _Walk, state: SMCState) -> SMCState:
    """One stage: the next beta, particles weighed and drawn, then moved."""
    resample_key, move_key, next_key = random.split(state.rng_key, 3)
    heights = walk.over(problem.log_likelihood, state.values)

    def log_weights(beta: Array) -> Array:
        return jnp.where(jnp.isfinite(heights), (beta - state.beta) * heights, -jnp.inf)

    def enough(beta: Array) -> Array:
        wanted = jnp.log(walk.target_ess * walk.num_particles)
        return blackjax().smc.ess.log_ess(log_weights(beta)) >= wanted

    def halve(i: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.where(i == 0, high, (low + high) / 2)  # all the way, if weights stand it
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    bounds = (state.beta, jnp.ones(()))
    _, beta = jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)
    weights = log_weights(beta)
    evidence = state.log_evidence + jax.nn.logsumexp(weights) - math.log(walk.num_particles)
    taken = blackjax().smc.resampling.systematic(
        resample_key, jax.nn.softmax(weights), walk.num_particles
    )
    values = {name: value[taken] for name, value in state.values.items()}
    spread = jnp.std(walk.over(lambda v: free_coordinates(problem.plan, v), values), axis=0)
    tuning = state.tuning._replace(scale=jnp.where(spread > 0, spread, 1.0))

    def moved(key: Array, values: Values) -> tuple[Values, Array]:
        return walk.moves.move(key, problem, values, beta, tuning)

    values, accepted = walk.over(moved, random.split(move_key, walk.num_particles), values)
    tuning = retuned(tuning, accepted, 1.0)
    new = SMCState(values, beta, evidence, jnp.mean(accepted), tuning, next_key)
    return jax.tree.map(lambda old, new: jnp.where(state.beta >= 1, old, new), state, new)
