"""Monte Carlo EM where rows hide values that have no exact conditional: Markov chains draw them.

The program with these values told is a program like any other: its plan gives the M step, and the
density of every row. Chains of all rows move side by side, one short run at each step, and go on from
where they were; Q is averaged over the chains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import condition, seed, trace
from tqdm.auto import tqdm

from ..program import graph as eliminate
from ..program.arguments import Arguments, Layout, compile_lightly, split
from ..program.blocks import Blocks, Observed
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan, plan_arguments
from ..program.reading import Site
from .m_steps import USUAL, ClimbObjective, MPart, resolve, visit
from .predict import as_program, rows_first
from .starts import seeding_rows, starting_values
from .status import Status
from .steps import objective_and_statistics

_CHUNK = 20
_BATCHES = 10
_ACCEPTANCE = 0.57  # of Langevin moves: Roberts & Rosenthal (1998)
_ADAPTING = 0.2
_SURE = 4.0  # standard errors


_TEXTS = {
    True: "the third and the fourth quarter of the path agree.",
    False: "the third and the fourth quarter of the path differ; raise num_steps.",
}


class ChainState(NamedTuple):
    """The fit between two steps: parameters; every chain's hidden values in unconstrained coordinates,
    (chains, N, d); log step sizes of the moves (N,); a key."""

    values: Values
    hidden: Array
    log_size: Array
    rng_key: Array


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
        progress_bar: bool = True,
    ) -> None:
        self.program = program
        self.hidden = tuple(sorted((hidden,) if isinstance(hidden, str) else hidden))
        self.num_chains = num_chains
        self.num_moves = num_moves
        self.num_steps = num_steps
        self.m_step = m_step
        self.progress_bar = progress_bar
        self._plans: dict[Layout, Plan] = {}

    def run(
        self, rng_key: Array, *args: Any, init: Values | None = None, **kwargs: Any
    ) -> MonteCarloResult:
        """Fit, with the program's own arguments.

        Args:
            rng_key: a JAX random key (or an integer seed).
            *args, **kwargs: the program's own arguments, as in `numpyro.infer.MCMC.run`.
            init: initial values of all parameters, by site; found from the data where None.

        Raises:
            ProgramError: where a hidden site is none of the rows', or the program cannot be read.
        """
        key = random.key(rng_key) if isinstance(rng_key, int) else rng_key
        first_key, start_key, run_key = random.split(key, 3)
        told = first_values(self.program, self.hidden, first_key, args, kwargs)
        arguments = split((told, *args), kwargs)
        if arguments.layout not in self._plans:
            completed = _Completed(self.program)
            self._plans[arguments.layout] = plan_arguments(completed, arguments)
        plan = self._plans[arguments.layout]
        chains = _Chains(plan, arguments, self.hidden, self.num_moves, self._parts(plan))
        observed = plan.observe(arguments, fitting=True)
        state = chains.begin(observed, start_key, run_key, self.num_chains, init)

        def make() -> Callable[..., Any]:
            return jax.jit(chains.advance, static_argnums=4)

        advance = plan.remember(("chains", arguments.layout, self.num_moves, chains.parts), make)
        paths = []
        with tqdm(
            total=self.num_steps, desc="EM", unit="step", delay=2.0, disable=not self.progress_bar
        ) as bar:
            for done in range(0, self.num_steps, _CHUNK):
                steps = min(_CHUNK, self.num_steps - done)
                # sizes that went on moving with the draws would bias them
                adapting = jnp.asarray(_ADAPTING if done < self.num_steps // 2 - _CHUNK else 0.0)
                state, path = advance(arguments.arrays, observed, state, adapting, steps)
                paths.append(jax.tree.map(np.asarray, path))
                bar.update(steps)
        path, acceptance = jax.tree.map(lambda *parts: np.concatenate(parts), *paths)
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


class _Completed:
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
    sites = trace(seed(program, rng_key)).get_trace(*args, **kwargs)
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


class _Chains:
    """The functions of one fit, all traced: moves of the chains, and EM's steps."""

    def __init__(
        self,
        plan: Plan,
        arguments: Arguments,
        names: tuple[str, ...],
        num_moves: int,
        parts: tuple[MPart, ...],
    ) -> None:
        self.plan, self.layout, self.num_moves, self.parts = (
            plan,
            arguments.layout,
            num_moves,
            parts,
        )
        self._arrays = arguments.arrays
        sites = {site.name: site for site in plan.reading.observed}
        for name in names:
            if name not in sites:
                raise ProgramError(f"hidden names '{name}', which is not in the plate of the rows")
        self.sites: tuple[Site, ...] = tuple(sites[name] for name in names)
        free = {s.name: self._free(s, arguments.arrays[i]) for i, s in enumerate(self.sites)}
        self._one, self._unravel = ravel_pytree(jax.tree.map(lambda x: x[0], free))

    def _free(self, site: Site, value: Array) -> Array:
        """A site's values in unconstrained coordinates, rows first."""
        rows = rows_first(site, self.plan.reading, value)
        return jax.vmap(biject_to(site.support).inv)(rows)

    def told(self, hidden: Array) -> Values:
        """One chain's values (N, d) as the program has them."""
        free = jax.vmap(self._unravel)(hidden)
        return {
            s.name: as_program(s, self.plan.reading, jax.vmap(biject_to(s.support))(free[s.name]))
            for s in self.sites
        }

    def _call(
        self, arrays: tuple[Array, ...], observed: Observed, hidden: Array
    ) -> tuple[Arguments, Blocks]:
        """The program's arguments and rows with one chain's values told."""
        told = self.told(hidden)
        rest = arrays[len(self.sites) :]
        arguments = Arguments((*(told[site.name] for site in self.sites), *rest), self.layout)
        rows = {s.name: rows_first(s, self.plan.reading, told[s.name]) for s in self.sites}
        return arguments, self.plan.arrange(observed._replace(values={**observed.values, **rows}))

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
            arguments = Arguments(self._arrays, self.layout)
            rows = seeding_rows(self.plan, arguments, self.plan.arrange(observed), observed)
            found = compile_lightly(
                lambda arrays, rows, keys: starting_values(
                    self.plan, Arguments(arrays, self.layout), rows, keys
                )
            )(arguments.arrays, rows, start_key[None])
            init = {name: value[0] for name, value in found.items()}
        values = {name: jnp.asarray(value, float) for name, value in init.items()}
        return ChainState(values, hidden, jnp.full(num_rows, jnp.log(0.5)), run_key)

    def _density(
        self, arrays: tuple[Array, ...], observed: Observed, values: Values
    ) -> Callable[[Array], tuple[Array, Array]]:
        """log p(row, hidden values), (N,), and its slope (N, d), in unconstrained coordinates."""

        def each(hidden: Array) -> Array:
            arguments, blocks = self._call(arrays, observed, hidden)
            found = eliminate.sum_out(
                self.plan.graph, self.plan.log_factors(arguments, blocks, values)
            )

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
        arrays: tuple[Array, ...],
        observed: Observed,
        state: ChainState,
        adapting: Array,
        steps: int,
    ) -> tuple[ChainState, tuple[Values, Array]]:
        """Some steps of EM, and what there was after each; step sizes move at the rate `adapting`."""

        def step(state: ChainState, _: None) -> tuple[ChainState, tuple[Values, Array]]:
            move_key, next_key = random.split(state.rng_key)
            density = self._density(arrays, observed, state.values)
            hidden, size, acceptance = self._move(density, state, move_key, adapting)
            values = self._maximise(arrays, observed, hidden, state.values)
            return ChainState(values, hidden, size, next_key), (values, acceptance)

        return jax.lax.scan(step, state, length=steps)

    def _maximise(
        self, arrays: tuple[Array, ...], observed: Observed, hidden: Array, values: Values
    ) -> Values:
        """The M step on Q averaged over chains."""

        def expected(hidden: Array) -> Any:
            arguments, blocks = self._call(arrays, observed, hidden)
            return objective_and_statistics(self.plan, arguments, blocks, values)[1]

        statistics = jax.vmap(expected)(hidden)

        @jax.jit
        def log_joint(values: Values) -> Array:
            def one(hidden: Array, statistics: Any) -> Array:
                arguments = self._call(arrays, observed, hidden)[0]
                return self.plan.expected_log_joint(arguments, statistics)(values)

            return jnp.mean(jax.vmap(one)(hidden, statistics))

        return visit(self.plan, self.parts, lambda objective: log_joint, values)[0]


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
