"""Roads from the prior to the posterior, and moves that leave every place on a road as it is.

A road is a family of densities p_beta(theta) = p(theta) exp(height(theta, beta)): at beta = 0 the prior,
times a known constant, and at beta = 1 the posterior, times the evidence. SMC walks it once; parallel
tempering keeps a chain at each of several places. Both need moves at any beta. There are two roads:

- :class:`HamiltonianMoves`: height = beta sum_i log p(x_i | theta), for any program.
- :class:`GibbsMoves`: height = sum_i log sum_z p(x_i, z | theta)^beta. Given z, statistics count beta
  times, so that every conditional has the form that it has at beta = 1. For few rows only: below beta
  of about 1/2 the K^N labellings outweigh the likelihood, and components lie on each other; the barrier
  on the way to components that are apart grows with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import seed

from ..program import parts, row_pass
from ..program.elimination import Graph, Tables
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.parts import Weighed
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.settings import check_fields
from ..program.statistics import scaled
from ..program.tracing import sites_of
from .accelerators import free_coordinates
from .coordinates import constrained, potential_energy, unconstrained
from .gibbs import draw_blocks
from .variational_checks import check_program as check_complete_data


class Tuning(NamedTuple):
    """Sizes of Hamiltonian steps: a common factor's logarithm, and one for each unconstrained coordinate
    (P,)."""

    log_size: Array
    scale: Array


class Moves(Protocol):
    """What both kinds of moves offer. All of it but `check` is traced."""

    def check(self, problem: Problem) -> None: ...
    def reference(self, problem: Problem) -> Array: ...
    def height(self, problem: Problem, values: Values, beta: Array) -> Array: ...
    def move(
        self, rng_key: Array, problem: Problem, values: Values, beta: Array, tuning: Tuning
    ) -> tuple[Values, Array]: ...


@dataclass(frozen=True)
class GibbsMoves:
    """Sweeps of conjugate Gibbs at any beta, for a few dozen rows at most.

    With many rows, particles or rungs do not pass beta of about 1/2 in equilibrium, and evidences come
    out too low: by 50 nats for the 272 rows of the Old Faithful data and 1,000 particles.

    Args:
        sweeps: sweeps in one move.

    Raises:
        ProgramError: when run, where some site has no closed form, rows have hidden values besides
            finite latents (the scale of a Student-t, missing cells of a vector), or count not once.

    Example:
        >>> from bayesmix.infer.tempering import GibbsMoves
        >>> GibbsMoves(sweeps=3)
        GibbsMoves(sweeps=3)

    Source: powers of the complete-data density: Behrens, Friel & Hurn (2012), *Statistics and Computing*
    22, 65-78, section 4.
    """

    sweeps: int = 3

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self, problem: Problem) -> None:
        """Refuse programs of which sweeps do not leave the road's densities as they are."""
        counted = np.isin(np.asarray(problem.blocks.weight), (0.0, 1.0)).all()
        try:
            if problem.blocks.patterns or not counted:
                raise ProgramError("rows lack cells of a vector, or do not count once")
            key = "complete data"
            problem.plan.remember(key, lambda: check_complete_data(problem))
        except ProgramError as error:
            names = ", ".join(f"'{name}'" for name in problem.plan.reading.parameter_names)
            raise ProgramError(
                f"GibbsMoves cannot move {names} at every power of the likelihood: they need closed "
                "forms of all sites, rows that count once, and no hidden values of a row but its "
                "latents; use HamiltonianMoves() instead"
            ) from error

    def reference(self, problem: Problem) -> Array:
        """log of the number of values that all latents of all rows may have."""
        plan, blocks = problem.plan, problem.blocks

        def count(graph: Graph, tables: Tables, told: None) -> Weighed:
            return parts.expect(graph, _powered(tables, jnp.zeros(())))

        rough = {
            s.name: biject_to(s.support)(jnp.zeros(_free_shape(s))) for s in plan.reading.parameters
        }
        evaluation = problem.evaluate(rough)
        return row_pass.passes(plan.graph, plan.families, evaluation, blocks, count).log_likelihood

    def height(self, problem: Problem, values: Values, beta: Array) -> Array:
        """sum_i log sum_z p(x_i, z | theta)^beta."""

        def powered(graph: Graph, tables: Tables, told: None) -> Weighed:
            return parts.expect(graph, _powered(tables, beta))

        plan = problem.plan
        evaluation = problem.evaluate(values)
        return row_pass.passes(
            plan.graph, plan.families, evaluation, problem.blocks, powered
        ).log_likelihood

    def move(
        self, rng_key: Array, problem: Problem, values: Values, beta: Array, tuning: Tuning
    ) -> tuple[Values, Array]:
        """New values, and 1: every draw is taken."""
        plan = problem.plan

        def drawn(graph: Graph, tables: Tables, told: parts.Lots) -> Weighed:
            return parts.draw(graph, _powered(tables, beta), told)

        def sweep(values: Values, key: Array) -> tuple[Values, None]:
            label_key, block_key = random.split(key)
            evaluation = problem.evaluate(values)
            found = row_pass.drawn_pass(
                plan.graph, plan.families, evaluation, problem.blocks, label_key, drawn
            ).statistics
            counted = scaled(plan.families, found, beta)
            return draw_blocks(problem, counted, values, block_key), None

        keys = random.split(rng_key, self.sweeps)
        return jax.lax.scan(sweep, values, keys)[0], jnp.ones(())


def _powered(tables: Tables, beta: Array) -> Tables:
    """log p^beta; what is impossible stays so, also at beta = 0."""
    return tuple(jnp.where(jnp.isneginf(table), table, beta * table) for table in tables)


def _free_shape(site: Any) -> tuple[int, ...]:
    return biject_to(site.support).inverse_shape(site.shape)


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

    def check(self, problem: Problem) -> None:
        """Any program will do."""

    def reference(self, problem: Problem) -> Array:
        """0: at beta = 0 there is the prior itself."""
        return jnp.zeros(())

    def height(self, problem: Problem, values: Values, beta: Array) -> Array:
        """beta sum_i log p(x_i | theta)."""
        return beta * problem.log_likelihood(values)

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
