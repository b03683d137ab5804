"""Markov chains for values that rows hide: Langevin moves of all rows of all chains side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import condition, seed

from ..program import elimination
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.problem import Problem
from ..program.reading import Site
from ..program.statistics import Statistics
from ..program.tracing import sites_of
from .m_steps import MPart, visit
from .predict import as_program, rows_first
from .starts import kmeans_plus_plus, seeding_rows, starting_values

_ACCEPTANCE = 0.57  # of Langevin moves: Roberts & Rosenthal (1998)


class ChainState(NamedTuple):
    """The fit between two steps: parameters; every chain's hidden values in unconstrained coordinates,
    (chains, N, d); log step sizes of the moves (N,); a key."""

    values: Values
    hidden: Array
    log_size: Array
    rng_key: Array


class Completed:
    """A program whose hidden sites are told by its first argument."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program

    def __call__(self, hidden: Values, *args: Any, **kwargs: Any) -> Any:
        return condition(self.program, data=hidden)(*args, **kwargs)


def first_values(
    program: Callable[..., Any],
    names: tuple[str, ...],
    rng_key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Values:
    """Values of the hidden sites to begin with: uniform on (-1, 1) in unconstrained coordinates.

    Raises :class:`ProgramError` where a name is no unobserved continuous site of the program.
    """
    sites = sites_of(seed(program, rng_key), args, kwargs)
    found = {}
    for i, name in enumerate(names):
        site = sites.get(name)
        if site is None or site["type"] != "sample" or site["is_observed"]:
            raise ProgramError(f"hidden names '{name}', which is no unobserved site of the program")
        if site["fn"].support.is_discrete:
            raise ProgramError(f"'{name}' is discrete, and is summed out: leave it out of hidden")
        bijection = biject_to(site["fn"].support)
        shape = bijection.inverse_shape(jnp.shape(site["value"]))
        found[name] = bijection(random.uniform(random.fold_in(rng_key, i), shape, minval=-1.0))
    return found


class Chains:
    """The functions of one fit, all traced: moves of the chains, and EM's steps."""

    def __init__(
        self,
        problem: Problem,
        names: tuple[str, ...],
        num_moves: int,
        parts: tuple[MPart, ...],
    ) -> None:
        self.problem, self.num_moves, self.parts = problem, num_moves, parts
        sites = {site.name: site for site in problem.plan.reading.observed}
        for name in names:
            if name not in sites:
                raise ProgramError(f"hidden names '{name}', which is not in the plate of the rows")
        self.sites: tuple[Site, ...] = tuple(sites[name] for name in names)
        free = {
            s.name: self._free(s, problem.arguments.arrays[i]) for i, s in enumerate(self.sites)
        }
        self._one, self._unravel = ravel_pytree(jax.tree.map(lambda x: x[0], free))

    def _free(self, site: Site, value: Array) -> Array:
        """A site's values in unconstrained coordinates, rows first."""
        rows = rows_first(site, self.problem.plan.reading, value)
        return jax.vmap(biject_to(site.support).inv)(rows)

    def told(self, hidden: Array) -> Values:
        """One chain's values (N, d) as the program has them."""
        free = jax.vmap(self._unravel)(hidden)
        return {
            s.name: as_program(
                s, self.problem.plan.reading, jax.vmap(biject_to(s.support))(free[s.name])
            )
            for s in self.sites
        }

    def _told(self, problem: Problem, observed: Observed, hidden: Array) -> Problem:
        """The problem with one chain's values told."""
        told, plan = self.told(hidden), problem.plan
        rest = problem.arguments.arrays[len(self.sites) :]
        arguments = problem.arguments.with_arrays((*(told[s.name] for s in self.sites), *rest))
        rows = {s.name: rows_first(s, plan.reading, told[s.name]) for s in self.sites}
        blocks = plan.arrange(observed._replace(values={**observed.values, **rows}))
        return Problem(plan, arguments, blocks)

    def begin(
        self,
        observed: Observed,
        start_key: Array,
        run_key: Array,
        num_chains: int,
        init: Values | None,
    ) -> ChainState:
        """Chains spread out, and parameters from the values told first."""
        num_rows, noise_key = observed.num_rows, random.fold_in(start_key, 1)
        shape = (num_chains, num_rows, self._one.size)
        hidden = random.uniform(noise_key, shape, minval=-1.0, maxval=1.0)
        if init is None:
            problem = self.problem.at(self.problem.plan.arrange(observed))
            rows = seeding_rows(problem, observed)
            static = (kmeans_plus_plus,)
            found = problem.run(starting_values, rows, start_key[None], static=static)
            init = {name: value[0] for name, value in found.items()}
        values = {name: jnp.asarray(value, float) for name, value in init.items()}
        return ChainState(values, hidden, jnp.full(num_rows, jnp.log(0.5)), run_key)

    def _density(
        self, problem: Problem, observed: Observed, values: Values
    ) -> Callable[[Array], tuple[Array, Array]]:
        """log p(row, hidden values), (N,), and its slope (N, d), in unconstrained coordinates."""

        def each(hidden: Array) -> Array:
            told = self._told(problem, observed, hidden)
            found = elimination.sum_out(told.plan.graph, told.log_factors(values))

            def jacobian(row: Array) -> Array:
                free = self._unravel(row)
                return sum(
                    jnp.sum(b.log_abs_det_jacobian(free[s.name], b(free[s.name])))
                    for s in self.sites
                    for b in [biject_to(s.support)]
                )

            return found + jax.vmap(jacobian)(hidden)

        def both(hidden: Array) -> tuple[Array, Array]:
            found, pull = jax.vjp(each, hidden)
            return found, pull(jnp.ones_like(found))[0]

        return both

    def _move(
        self,
        density: Callable[[Array], tuple[Array, Array]],
        state: ChainState,
        key: Array,
        adapting: Array,
    ) -> tuple[Array, Array, Array]:
        """A few Langevin moves of every row of every chain; their step sizes, one for each row, move
        towards the usual acceptance while adapting."""
        densities = jax.vmap(density)

        def one(carry: Any, key: Array) -> tuple[Any, Array]:
            here, height, slope, log_size = carry
            noise_key, accept_key = random.split(key)
            size = jnp.exp(log_size)
            drift = size[:, None] ** 2 / 2
            ahead = here + drift * slope
            noise = random.normal(noise_key, here.shape, here.dtype)
            there = ahead + size[:, None] * noise
            new_height, new_slope = densities(there)
            back = there + drift * new_slope
            turn = jnp.sum(noise**2, axis=-1) - jnp.sum((here - back) ** 2, axis=-1) / size**2
            odds = new_height - height + turn / 2
            chance = jnp.where(jnp.isfinite(odds), jnp.exp(jnp.minimum(odds, 0.0)), 0.0)
            taken = random.uniform(accept_key, chance.shape) < chance
            wide = taken[..., None]
            log_size += adapting * (jnp.mean(chance, axis=0) - _ACCEPTANCE)
            carry = (
                jnp.where(wide, there, here),
                jnp.where(taken, new_height, height),
                jnp.where(wide, new_slope, slope),
                log_size,
            )
            return carry, jnp.mean(chance)

        carry = (state.hidden, *densities(state.hidden), state.log_size)
        (hidden, _, _, log_size), chance = jax.lax.scan(
            one, carry, random.split(key, self.num_moves)
        )
        return hidden, log_size, jnp.mean(chance)

    def advance(
        self,
        problem: Problem,
        observed: Observed,
        state: ChainState,
        adapting: Array,
        steps: int,
    ) -> tuple[ChainState, tuple[Values, Array]]:
        """Some steps of EM, and what there was after each; step sizes move at the rate `adapting`."""

        def step(state: ChainState, _: None) -> tuple[ChainState, tuple[Values, Array]]:
            move_key, next_key = random.split(state.rng_key)
            density = self._density(problem, observed, state.values)
            hidden, size, acceptance = self._move(density, state, move_key, adapting)
            values = self._maximise(problem, observed, hidden, state.values)
            return ChainState(values, hidden, size, next_key), (values, acceptance)

        return jax.lax.scan(step, state, length=steps)

    def _maximise(
        self, problem: Problem, observed: Observed, hidden: Array, values: Values
    ) -> Values:
        """The M step on Q averaged over chains."""

        def expected(hidden: Array) -> Statistics:
            return self._told(problem, observed, hidden).expected(values)[1]

        statistics = jax.vmap(expected)(hidden)

        @jax.jit
        def log_joint(values: Values) -> Array:
            def one(hidden: Array, statistics: Statistics) -> Array:
                told = self._told(problem, observed, hidden)
                return told.expected_log_joint(statistics)(values)

            return jnp.mean(jax.vmap(one)(hidden, statistics))

        return visit(problem.plan, self.parts, lambda objective: log_joint, values).belief
