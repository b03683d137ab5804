"""E steps as parts: what EM does with the hidden causes given parameters.

Passed as `EM(..., e_step=...)`.

An E step is the part :class:`.Latents` of a kernel, whose belief is the values of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from ..program import parts, row_pass
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.settings import check_fields
from ..program.statistics import combine
from .kernel import Expected, Latents

Schedule = Callable[[Array], Array]
EStep = Latents


@dataclass(frozen=True)
class Exact:
    """Posterior probabilities of the latents, r_ik = p(z_i = k | x_i, theta): plain EM.

    The objective is log p(x | theta) + log p(theta).

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.Exact()
        Exact()

    Source: Dempster, Laird & Rubin (1977), *JRSS B* 39, 1-38.
    """

    verb: ClassVar[str] = "expected"

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """Nothing is carried."""
        return ()

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Expected statistics at `values`."""
        return Expected(values, *problem.expected(values), memory=memory)


EXACT = Exact()


@dataclass(frozen=True)
class Hard:
    """The most probable joint values of each row's latents (classification EM; k-means).

    The objective is max_z log p(x, z | theta) + log p(theta): it never falls either, but its mode is not
    that of the posterior. With fixed equal weights and one fixed spherical covariance this is Lloyd's
    algorithm.

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.Hard()
        Hard()

    Source: Celeux & Govaert (1992), *Computational Statistics & Data Analysis* 14, 315-332.
    """

    verb: ClassVar[str] = "maximised"

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """Nothing is carried."""
        return ()

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Statistics of the most probable labels at `values`."""
        objective, found = problem.weigh(values, parts.harden)
        return Expected(values, objective, found.statistics, memory)


@dataclass(frozen=True)
class Geometric:
    """A schedule of inverse temperatures, beta_t = start * rate^t until it reaches 1, and 1 from there.

    Below 1 components share rows more evenly, so that starts matter less. A `start` above 1, with a
    `rate` below 1, anneals from the other side.

    Example:
        >>> import bayesmix
        >>> schedule = bayesmix.e_steps.Geometric(0.25, 2.0)
        >>> [float(schedule(step)) for step in range(4)]
        [0.25, 0.5, 1.0, 1.0]
    """

    start: float = 0.1
    rate: float = 1.1

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.start > 0 and self.rate > 0 and (self.rate - 1) * (1 - self.start) > 0):
            raise ProgramError(
                f"a schedule from {self.start} at rate {self.rate} never reaches 1; start below 1 with "
                "a rate above 1, or above 1 with a rate below 1"
            )

    def __call__(self, step: Array) -> Array:
        """The inverse temperature at a step."""
        beta = self.start * jnp.asarray(self.rate, jnp.result_type(float)) ** step
        return jnp.minimum(beta, 1.0) if self.rate > 1 else jnp.maximum(beta, 1.0)


@dataclass(frozen=True)
class Tempered:
    """Probabilities in proportion to p(x_i, z_i | theta)^beta (deterministic annealing).

    `schedule` is beta: a number, or a function of the step such as :class:`Geometric`. At each beta the
    objective is log sum_z p(x, z)^beta / beta + log p(theta), which never falls while beta stays. At
    beta = 1 this is plain EM, and in the limit of large beta :class:`Hard`. A fit converges once beta
    has come to rest.

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.Tempered(bayesmix.e_steps.Geometric(start=0.2))
        Tempered(schedule=Geometric(start=0.2, rate=1.1))

    Source: Ueda & Nakano (1998), *Neural Networks* 11, 271-282, eq. 20.
    """

    verb: ClassVar[str] = "tempered, expected"

    schedule: float | Schedule = Geometric()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.schedule == 0:
            raise ProgramError(
                "schedule is 0, at which nothing is left of the data; give more than 0"
            )

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """The number of steps made."""
        return jnp.zeros((), int)

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Expected statistics at `values` and this step's temperature."""
        here, before = self._at(memory), self._at(jnp.maximum(memory - 1, 0))
        objective, found = problem.weigh(values, parts.temper(here))
        return Expected(values, objective, found.statistics, memory + 1, here == before)

    def _at(self, step: Array) -> Array:
        beta = self.schedule(step) if callable(self.schedule) else self.schedule
        return jnp.asarray(beta, jnp.result_type(float))


@dataclass(frozen=True)
class MeanField:
    """Independent latents in every row, q(z_i) = prod_j q_j(z_ij), improved one after another
    (variational EM).

    The objective is the bound E_q[log p(x, z | theta)] + H(q) + log p(theta), which never falls; the
    factors of every row are carried from step to step, (values, N) for each latent. With one latent in a
    row it is plain EM. It is of use where latents are joined more densely than can be summed out fast.

    Args:
        sweeps: updates of every factor at each E step.

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.MeanField(sweeps=2)
        MeanField(sweeps=2)

    Source: Neal & Hinton (1998), in *Learning in Graphical Models*, 355-368; Jordan et al. (1999),
    *Machine Learning* 37, 183-233, section 6.
    """

    verb: ClassVar[str] = "expected, each given the others"

    sweeps: int = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """Every value of a latent alike."""
        graph = problem.plan.graph
        if not graph.names:
            raise ProgramError("the program has no latent to expect; use the exact E step")
        return tuple(jnp.full((size, problem.blocks.num_rows), 1.0 / size) for size in graph.sizes)

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Statistics expected under the improved factors."""
        told = tuple(problem.blocks.distribute(factor) for factor in memory)
        part = parts.mean_field(self.sweeps)
        objective, found = problem.weigh(values, part, told)
        return Expected(values, objective, found.statistics, found.rows)


class _Draws(NamedTuple):
    """What :class:`MonteCarlo` carries: its key, the number of steps made, and the statistics so far
    where they are averaged."""

    rng_key: Array
    step: Array
    statistics: Any


@dataclass(frozen=True)
class MonteCarlo:
    """Labels drawn from p(z_i | x_i, theta), their shares in place of probabilities.

    One draw is stochastic EM; infinitely many (`math.inf`) are plain EM. The objective that is traced,
    log p(x | theta) + log p(theta), is exact, and may fall from step to step. A fit runs for all of its
    `max_steps`; :class:`AscentMonteCarlo` chooses the number of draws and stops by itself.

    Args:
        num_draws: a number, or a function of the step (`lambda step: 1 + step`).
        gain: how far statistics move to those of the new draws, a number in (0, 1] or a function of the
            step; falling gains average the draws of all steps (SAEM), and let the fit settle.

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.MonteCarlo(num_draws=5)
        MonteCarlo(num_draws=5, gain=1.0)

    Source: Wei & Tanner (1990), *JASA* 85, 699-704; one draw: Celeux & Diebolt (1985), *Computational
    Statistics Quarterly* 2, 73-82; gains: Delyon, Lavielle & Moulines (1999), *Annals of Statistics* 27,
    94-128.
    """

    verb: ClassVar[str] = "drawn, averaged"

    num_draws: float | Schedule = 1
    gain: float | Schedule = 1.0

    def __post_init__(self) -> None:
        check_fields(self, num_draws=1)

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """A key, and no step made."""
        like: Any = ()
        if self.gain != 1.0:
            like = jax.eval_shape(lambda: problem.expected(values)[1])
            if like.responsibilities:
                names = ", ".join(f"'{name}'" for name in like.responsibilities)
                raise ProgramError(
                    f"factors that differ from row to row ({names}) have no statistics to average over "
                    "steps; leave the gain at 1 and raise num_draws instead"
                )
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return _Draws(rng_key, jnp.zeros((), int), nothing)

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Statistics of labels drawn at `values`."""
        key, next_key = random.split(memory.rng_key)
        if self.num_draws == math.inf:
            objective, found = problem.weigh(values, parts.expect)
        else:
            count = self.num_draws(memory.step) if callable(self.num_draws) else self.num_draws
            objective, found = _draws(problem, values, key, jnp.asarray(count))
        kept: Any = ()
        statistics = found.statistics
        if self.gain != 1.0:
            gain = self.gain(memory.step) if callable(self.gain) else self.gain
            gain = jnp.where(memory.step == 0, 1.0, gain)
            kept = statistics = combine(
                problem.plan.families, memory.statistics, statistics, 1 - gain, gain
            )
        memory = _Draws(next_key, memory.step + 1, kept)
        return Expected(values, objective, statistics, memory, comparable=False)


def _draws(
    problem: Problem, values: Values, key: Array, count: Array
) -> tuple[Array, row_pass.Pass]:
    keys = random.split(key, problem.blocks.weight.shape[0])
    return problem.weigh(values, parts.draw_often(count), keys)


class _Ascent(NamedTuple):
    """What :class:`AscentMonteCarlo` carries: its key, draws in each group, the values that they were
    made at, each group's statistics, their objective, and whether there are any yet."""

    rng_key: Array
    count: Array
    values: Values
    groups: row_pass.Statistics
    objective: Array
    begun: Array


@dataclass(frozen=True)
class AscentMonteCarlo:
    """Monte Carlo EM that goes on only from steps that have raised Q beyond doubt, and stops by itself.

    Draws are made in groups, whose spread tells the error of the gain Q(theta', theta) - Q(theta, theta)
    of an M step. A step whose gain is not above its error by `normal_accept` standard errors is not
    taken: as many draws again are added at the old parameters instead. The number of draws is raised
    where the last gain shows that the next will need more. The fit has converged when the gain plus
    `normal_stop` standard errors is below `tolerance` (1 + |objective|).

    Args:
        first_draws: draws in each group at the start.
        num_groups: groups from which errors are estimated.
        normal_accept, normal_stop: normal quantiles (0.67 and 1.64: risks of 0.25 and 0.05).
        tolerance: gains below which steps are not worth taking.
        most_draws: draws in each group beyond which their number no longer grows.

    Example:
        >>> import bayesmix
        >>> bayesmix.e_steps.AscentMonteCarlo(tolerance=1e-5).num_groups
        10

    Source: Caffo, Jank & Jones (2005), *JRSS B* 67, 235-251, sections 2 and 3.
    """

    verb: ClassVar[str] = "drawn until the gain is sure, averaged"

    first_draws: int = 5
    num_groups: int = 10
    normal_accept: float = 0.67
    normal_stop: float = 1.64
    tolerance: float = 1e-4
    most_draws: int = 10_000

    def __post_init__(self) -> None:
        check_fields(self, num_groups=2)

    def begin(self, problem: Problem, values: Values, rng_key: Array) -> Any:
        """Room for groups of draws at `values`."""
        like = jax.eval_shape(lambda: self._groups(problem, values, rng_key, jnp.asarray(1)))
        objective, groups = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        count = jnp.asarray(self.first_draws)
        return _Ascent(rng_key, count, values, groups, objective, jnp.asarray(False))

    def __call__(self, problem: Problem, values: Values, memory: Any) -> Expected:
        """Draws at `values`; or more of them at the values before, if the step there was not sure."""
        gains = jax.vmap(self._gain(problem, values, memory.values))(memory.groups)
        gain = jnp.mean(gains)
        error = jnp.std(gains, ddof=1) / math.sqrt(self.num_groups)
        taken = ~memory.begun | (gain > self.normal_accept * error)
        target = self.tolerance * (1 + jnp.abs(memory.objective))
        settled = memory.begun & (gain + self.normal_stop * error < target)

        wanted = memory.count * (2 * self.normal_accept * error / gain) ** 2
        wanted = jnp.nan_to_num(jnp.ceil(wanted), nan=0.0, posinf=self.most_draws)
        first = jnp.maximum(memory.count, jnp.minimum(wanted, self.most_draws).astype(int))
        more = jnp.minimum(memory.count, jnp.maximum(self.most_draws - memory.count, 1))
        count = jnp.where(memory.begun, jnp.where(taken, first, more), memory.count)

        here = jax.tree.map(lambda new, old: jnp.where(taken, new, old), values, memory.values)
        key, next_key = random.split(memory.rng_key)
        objective, groups = self._groups(problem, here, key, count)
        share = jnp.where(taken, 1.0, count / (memory.count + count))
        groups = jax.tree.map(
            lambda new, old: share * new + (1 - share) * old, groups, memory.groups
        )
        total = jnp.where(taken, count, memory.count + count)
        statistics = jax.tree.map(lambda x: jnp.mean(x, axis=0), groups)
        memory = _Ascent(next_key, total, here, groups, objective, jnp.asarray(True))
        return Expected(here, objective, statistics, memory, comparable=False, settled=settled)

    def _gain(
        self, problem: Problem, values: Values, before: Values
    ) -> Callable[[row_pass.Statistics], Array]:
        def gain(statistics: row_pass.Statistics) -> Array:
            log_joint = problem.expected_log_joint(statistics)
            return log_joint(values) - log_joint(before)

        return gain

    def _groups(
        self,
        problem: Problem,
        values: Values,
        key: Array,
        count: Array,
    ) -> tuple[Array, row_pass.Statistics]:
        """The objective, and the statistics of every group of draws."""

        def one(key: Array) -> tuple[Array, row_pass.Statistics]:
            objective, found = _draws(problem, values, key, count)
            return objective, found.statistics

        objective, groups = jax.lax.map(one, random.split(key, self.num_groups))
        return objective[0], groups
