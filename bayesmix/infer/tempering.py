"""From the prior to the posterior by a power of the likelihood, and moves at any power.

p_beta(theta) = p(theta) p(x | theta)^beta is the prior at beta = 0, and the posterior times the evidence
at beta = 1. SMC goes there once; parallel tempering keeps a chain at each of several powers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed

from ..program import row_pass
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.settings import check_fields
from ..program.tracing import sites_of
from .accelerators import free_coordinates
from .coordinates import constrained, potential_energy, unconstrained


class Tuning(NamedTuple):
    """Sizes of Hamiltonian steps: a common factor's logarithm, and one for each unconstrained coordinate
    (P,)."""

    log_size: Array
    scale: Array


@dataclass(frozen=True)
class HamiltonianMoves:
    """Hamiltonian Monte Carlo on p(theta) p(x | theta)^beta, hidden values summed out, in unconstrained
    coordinates.

    Args:
        moves: trajectories in one move.
        steps: leapfrog steps of a trajectory.

    Example:
        >>> from bayesmix.infer.tempering import HamiltonianMoves
        >>> HamiltonianMoves()
        HamiltonianMoves(moves=2, steps=10)

    Source: Neal (2011), *Handbook of Markov Chain Monte Carlo*, chapter 5, and section 5.5.7.
    """

    moves: int = 2
    steps: int = 10

    def __post_init__(self) -> None:
        check_fields(self)

    def move(
        self, rng_key: Array, problem: Problem, values: Values, beta: Array, tuning: Tuning
    ) -> tuple[Values, Array]:
        """New values, and the mean acceptance probability."""
        hmc, plan, sites = blackjax().hmc, problem.plan, problem.plan.reading.parameters

        def tempered(values: Values) -> Array:
            evaluation = problem.evaluate(values)
            found = row_pass.log_likelihood(plan.graph, plan.families, evaluation, problem.blocks)
            return evaluation.log_prior + beta * found

        potential = potential_energy(sites, tempered, values)
        start, unravel = ravel_pytree(unconstrained(sites, values))

        def density(flat: Array) -> Array:
            return -potential(unravel(flat))

        kernel = hmc.build_kernel()
        size = jnp.exp(tuning.log_size)

        def trajectory(state: Any, key: Array) -> tuple[Any, Array]:
            state, said = kernel(key, state, density, size, tuning.scale**2, self.steps)
            return state, said.acceptance_rate

        keys = random.split(rng_key, self.moves)
        state, accepted = jax.lax.scan(trajectory, hmc.init(start, density), keys)
        return constrained(sites, unravel(state.position)), jnp.mean(accepted)


USUAL_MOVES = HamiltonianMoves()
TARGET = 0.8  # acceptance of Hamiltonian moves


def retuned(tuning: Tuning, accepted: Array, rate: Array | float) -> Tuning:
    """Longer steps where more moves were accepted than need be, shorter ones where fewer were."""
    return tuning._replace(log_size=tuning.log_size + rate * (jnp.mean(accepted) - TARGET))


def first_tuning(plan: Plan, values: Values) -> Tuning:
    """Short steps, the same for all coordinates."""
    free = free_coordinates(plan, values)
    return Tuning(jnp.log(jnp.asarray(0.1, free.dtype)), jnp.ones_like(free))


def prior_draws(problem: Problem, rng_keys: Array) -> Values:
    """Draws of all parameters from the program's priors, one for each key.

    Raises :class:`ProgramError` where a parameter has no prior that can be drawn from.
    """
    plan = problem.plan
    for site in plan.reading.parameters:
        if site.family in ("param", "ImproperUniform"):
            raise ProgramError(
                f"'{site.name}' has no prior to draw from, where tempering starts; give it a proper one"
            )

    def one(problem: Problem, key: Array) -> Values:
        args, kwargs = problem.arguments.call()
        sites = sites_of(seed(plan.program, key), args, kwargs)
        return {name: sites[name]["value"] for name in plan.reading.parameter_names}

    return jax.vmap(one, (None, 0))(problem, rng_keys)


def blackjax() -> Any:
    """The blackjax package.

    Raises :class:`ProgramError` where it is not installed.
    """
    try:
        import blackjax
        import blackjax.smc.ess
        import blackjax.smc.resampling
    except ImportError as error:
        raise ProgramError(
            "this needs the package blackjax; install it with: pip install 'bayesmix[tempering]'"
        ) from error
    return blackjax
