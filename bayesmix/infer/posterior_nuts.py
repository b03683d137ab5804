"""NUTS on a posterior with everything hidden summed out, for many data sets of one plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, random
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from .coordinates import Potential, constrained, potential_energy


class PosteriorNUTS(MCMCKernel):
    """NumPyro's NUTS, with its usual settings, on log p(x | theta) + log p(theta) of a problem that is
    given in the place of a program's arguments: `MCMC(..., jit_model_args=True).run(key, problem,
    init_params=...)`. A second problem of the plan, of the same shapes, compiles nothing.

    Draws are in unconstrained coordinates; :meth:`to_sites` constrains them.
    """

    sample_field = "z"
    default_fields = ("z", "diverging")

    def __init__(self, plan: Plan) -> None:
        self._sites = plan.reading.parameters
        self._begin, self._step = hmc(potential_fn_gen=self._potential, algo="NUTS")

    def _potential(self, problem: Problem) -> Potential:
        return potential_energy(self._sites, problem.log_posterior(), {})

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values,
        model_args: tuple[Any, ...],
        model_kwargs: dict[str, Any],
    ) -> HMCState:
        """The first state, of one chain or of several, at given unconstrained values."""
        (problem,) = model_args
        static = (self._begin, num_warmup, not is_prng_key(rng_key))
        return problem.run(_begun, init_params, rng_key, static=static)

    def sample(
        self, state: HMCState, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]
    ) -> HMCState:
        """One trajectory of every chain."""
        step = partial(self._step, model_args=model_args)
        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def get_diagnostics_str(self, state: HMCState) -> str:
        """What the progress bar shows."""
        return f"{state.num_steps} steps of size {state.adapt_state.step_size:.2e}"

    def to_sites(self, problem: Problem, drawn: Values) -> Values:
        """Draws (chain, draw, ...) as values of the sites."""
        return problem.run(_constrained, drawn)


def _begun(
    problem: Problem,
    begin: Callable[..., HMCState],
    num_warmup: int,
    several: bool,
    free: Values,
    rng_key: Array,
) -> HMCState:
    def one(free: Values, key: Array) -> HMCState:
        key, _ = random.split(key)  # the other is for a model's own start, as in NumPyro
        return begin(free, num_warmup, rng_key=key, model_args=(problem,))

    return jax.vmap(one)(free, rng_key) if several else one(free, rng_key)


def _constrained(problem: Problem, drawn: Values) -> Values:
    sites = problem.plan.reading.parameters
    return jax.vmap(jax.vmap(partial(constrained, sites)))(drawn)
