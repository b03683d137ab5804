"""Parallel tempering: chains at places between prior and posterior that exchange their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from ..program.compiling import compile_lightly
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import number, whole
from .tempering import USUAL_MOVES, HamiltonianMoves, Tuning, first_tuning, prior_draws, retuned


class TemperingState(NamedTuple):
    """State of :class:`ParallelTempering`.

    z: parameters by site at the posterior (the field that MCMC collects); ladder: those of every rung,
    (rungs, ...), the prior first; log_ratios: log likelihood times the step to the next rung's beta, of
    each rung but the last, before the exchange (for the evidence); swapped: the probability of each
    exchange that was tried, NaN elsewhere, (rungs - 1,); i: steps made.
    """

    z: Values
    ladder: Values
    log_ratios: Array
    swapped: Array
    tuning: Tuning
    i: Array
    rng_key: Array


class ParallelTempering(MCMCKernel):
    """Chains at a ladder of temperatures between prior and posterior, neighbours exchanging values.

    Hot chains cross between modes, and the exchanges bring what they find to the posterior. One step
    moves every rung by `moves`, then tries to exchange every other pair of neighbours. Use it as any
    NumPyro kernel; :func:`log_evidence` reads the evidence off a run.

    Args:
        program: a NumPyro program, or a plan of one, with proper priors.
        betas: the ladder: increasing from 0 to 1, or a number of rungs, for ((0 ... T - 1) / (T - 1))^5.
        moves: how chains move, a :class:`~bayesmix.infer.tempering.HamiltonianMoves`.

    Extra fields collected: `log_ratios`, `swapped`.

    Raises:
        ProgramError: when run, where the program cannot be read or a prior cannot be drawn from.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> kernel = bayesmix.ParallelTempering(program, betas=6)
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=400, progress_bar=False)
        >>> mcmc.run(jax.random.key(0), jnp.array([-2.2, -1.9, 2.1, 1.8]))
        >>> bool(abs(mcmc.get_samples()["mean"][:, 0].mean()) < 1.0)  # both orders of the labels
        True
        >>> mcmc.get_extra_fields()["swapped"].shape
        (400, 5)

    Source: Geyer (1991), *Computing Science and Statistics* 23, 156-163; alternating exchanges: Syed et
    al. (2022), *JRSS B* 84, 321-350; the ladder: Friel & Pettitt (2008), *JRSS B* 70, 589-607.
    """

    sample_field = "z"

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        betas: int | Sequence[float] = 12,
        moves: HamiltonianMoves = USUAL_MOVES,
    ) -> None:
        self.plans = Plans(program)
        self.betas = _ladder(betas)
        self.moves = moves
        self._num_warmup = 0

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What MCMC collects besides the parameters."""
        return ("z", "log_ratios", "swapped")

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for these arguments; read once per layout."""
        return self.plans.call(args, kwargs).plan

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple[Any, ...],
        model_kwargs: dict[str, Any],
    ) -> TemperingState:
        """Every rung starts at a draw from the prior."""
        self._num_warmup = num_warmup
        problem = self.plans.call(model_args, model_kwargs).with_rows()
        rungs = len(self.betas)

        def begin(key: Array) -> TemperingState:
            first, next_key = random.split(key)
            ladder = prior_draws(problem, random.split(first, rungs))
            if init_params is not None:
                ladder = {n: value.at[-1].set(init_params[n]) for n, value in ladder.items()}
            tuning = first_tuning(problem.plan, jax.tree.map(lambda x: x[0], ladder))
            tuning = jax.tree.map(lambda x: jnp.broadcast_to(x, (rungs, *jnp.shape(x))), tuning)
            nothing = jnp.full(rungs - 1, jnp.nan, jnp.result_type(float))
            last = jax.tree.map(lambda x: x[-1], ladder)
            return TemperingState(
                last, ladder, nothing, nothing, tuning, jnp.zeros((), int), next_key
            )

        started = compile_lightly(begin if is_prng_key(rng_key) else jax.vmap(begin))
        return started(rng_key)

    def sample(
        self, state: TemperingState, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]
    ) -> TemperingState:
        """Move every rung, then exchange neighbours."""
        problem = self.plans.call(model_args, model_kwargs).with_rows().specialised()
        if is_prng_key(state.rng_key):
            return self._step(problem, state)
        return jax.vmap(lambda state: self._step(problem, state))(state)

    def _step(self, problem: Problem, state: TemperingState) -> TemperingState:
        assert self.moves is not None, "init comes before sample"
        moves, betas = self.moves, jnp.asarray(self.betas, jnp.result_type(float))
        move_key, swap_key, next_key = random.split(state.rng_key, 3)

        def move(key: Array, values: Values, beta: Array, tuning: Tuning) -> tuple[Values, Array]:
            return moves.move(key, problem, values, beta, tuning)

        keys = random.split(move_key, len(betas))
        ladder, accepted = jax.vmap(move)(keys, state.ladder, betas, state.tuning)
        rate = jnp.where(state.i < self._num_warmup, (1.0 + state.i) ** -0.6, 0.0)
        tuning = jax.vmap(retuned, (0, 0, None))(state.tuning, accepted, rate)

        heights, steps = jax.vmap(problem.log_likelihood)(ladder), jnp.diff(betas)
        odds = jnp.nan_to_num(steps * (heights[:-1] - heights[1:]), nan=-jnp.inf)
        chance = jnp.exp(jnp.minimum(odds, 0.0))
        tried = jnp.arange(len(betas) - 1) % 2 == state.i % 2
        taken = tried & (random.uniform(swap_key, chance.shape) < chance)
        # pairs that are tried do not overlap
        place = jnp.arange(len(betas))
        place = place + jnp.pad(taken, (0, 1)) - jnp.pad(taken, (1, 0))
        ladder = jax.tree.map(lambda x: x[place], ladder)
        return TemperingState(
            z=jax.tree.map(lambda x: x[-1], ladder),
            ladder=ladder,
            log_ratios=steps * heights[:-1],
            swapped=jnp.where(tried, chance, jnp.nan),
            tuning=tuning,
            i=state.i + 1,
            rng_key=next_key,
        )

    def get_diagnostics_str(self, state: TemperingState) -> str:
        """What the progress bar shows: the exchange that was least likely."""
        return f"least likely exchange {float(jnp.nanmin(state.swapped)):.2f}"


def _ladder(betas: int | Sequence[float]) -> tuple[float, ...]:
    if np.ndim(betas) == 0:
        rungs = whole("betas", betas, least=2)
        return tuple(float(beta) for beta in np.linspace(0.0, 1.0, rungs) ** 5)
    ladder = tuple(number("betas", beta) for beta in np.asarray(betas).tolist())
    if len(ladder) < 2 or ladder[0] != 0 or ladder[-1] != 1 or (np.diff(ladder) <= 0).any():
        raise ProgramError(f"betas are {ladder}; give numbers that increase from 0 to 1")
    return ladder


def log_evidence(mcmc: Any) -> float:
    """log p(x) from a run of :class:`ParallelTempering`, by stepping stones between neighbours.

    log p(x) = sum_t log E_t[p(x | theta)^(beta_{t+1} - beta_t)].

    Raises:
        ProgramError: where the run was made by another kernel.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> kernel = bayesmix.ParallelTempering(program, betas=4)
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=500, progress_bar=False)
        >>> mcmc.run(jax.random.key(0), jnp.array([1.0]))
        >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(1.0)
        >>> bool(abs(bayesmix.log_evidence(mcmc) - exact) < 0.1)
        True

    Source: Xie et al. (2011), *Systematic Biology* 60, 150-160.
    """
    kernel = mcmc.sampler
    if not isinstance(kernel, ParallelTempering) or kernel.moves is None:
        raise ProgramError("log_evidence reads runs of bayesmix.ParallelTempering; this one is not")
    ratios = np.asarray(mcmc.get_extra_fields()["log_ratios"], float)
    top = ratios.max(axis=0)
    return float(np.sum(top + np.log(np.mean(np.exp(ratios - top), axis=0))))
