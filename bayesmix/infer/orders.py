"""In which order EM visits the rows: parts of them at a time, in one of two ways.

Both keep statistics of all rows and visit one batch at a time: an M step from what is kept, then an E
step on the batch at the new values, whose statistics take the place of older ones. With all rows in one
batch both are EM, step by step.

`Incremental` keeps the statistics of every batch and exchanges those of the batch that is visited. With
entropies H_b = log p(x_b | theta_b) - Q_b(theta_b) at the visits, the bound

    F = sum_b H_b + sum_b Q_b(theta) + log p(theta)  <=  log p(x | theta) + log p(theta)

never falls (Neal & Hinton 1998, in *Learning in Graphical Models*, 355-368, theorem 2).

`Stepwise` keeps one running mean, in which older rows count less and less:

    mean <- (1 - eta_t) mean + eta_t statistics(batch) / rows(batch)

(Cappe & Moulines 2009, *JRSS B* 71, 593-613; Liang & Klein 2009, NAACL, 611-619.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..program.batches import Batches
from ..program.blocks import Blocks
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.settings import check_fields
from ..program.statistics import Statistics, combine, scaled
from .kernel import Kernel

Rate = Callable[[Array], Array]


def _combine(
    problem: Problem, one: Statistics, other: Statistics, first: Any = 1.0, second: Any = 1.0
) -> Statistics:
    """first * one + second * other."""
    return combine(problem.plan.families, one, other, first, second)


def _scaled(problem: Problem, statistics: Statistics, factor: Array) -> Statistics:
    """The statistics of so many times the rows."""
    return scaled(problem.plan.families, statistics, factor)


class Fitted(NamedTuple):
    """One fit in progress: values, whether each closed block's mode was proper, and what the order keeps
    of the rows."""

    values: Values
    proper: Array
    memory: Any


# -------------------------------------------------------------------------------------- incremental
class Kept(NamedTuple):
    """Statistics and entropy of every batch, leading with batches, and the sum of the statistics."""

    each: Statistics
    entropy: Array
    total: Statistics


@dataclass(frozen=True)
class Incremental:
    """Statistics of every batch are kept, and exchanged when the batch is visited again.

    Args:
        num_batches: how many batches the rows are put into, at random, once.

    >>> Incremental(num_batches=20).count(num_rows=100)
    20

    Source: Neal & Hinton (1998), in *Learning in Graphical Models*, 355-368.
    """

    verb: ClassVar[str] = "a batch at a time, its statistics exchanged"

    num_batches: int = 20

    def __post_init__(self) -> None:
        check_fields(self)

    def count(self, num_rows: int) -> int:
        """The number of batches."""
        if self.num_batches > num_rows:
            raise ProgramError(
                f"{self.num_batches} batches need at least as many rows, and there are {num_rows}; "
                "lower num_batches"
            )
        return self.num_batches

    def begin(
        self, problem: Problem, kernel: Kernel, batches: Batches, values: Values, proper: Array
    ) -> tuple[Array, Fitted]:
        """The objective and what is kept, after one visit to every batch at the same values."""

        def visit(number: Array) -> tuple[Array, Array, Statistics]:
            return _entropy(problem, kernel, batches.take(number), values)

        evidence, entropy, each = jax.lax.map(visit, jnp.arange(batches.count))
        total = jax.tree.map(lambda x: x[-1], _sums_from(problem, each))
        objective = jnp.sum(evidence) + problem.log_prior(values)
        return objective, Fitted(values, proper, Kept(each, entropy, total))

    def sweep(
        self, problem: Problem, kernel: Kernel, batches: Batches, order: Array, fitted: Fitted
    ) -> Fitted:
        """Visit every batch once, in this order: before each visit an M step from all statistics."""
        old = jax.tree.map(lambda x: x[order], fitted.memory.each)
        # what is still to be visited, so that nothing needs to be subtracted
        backwards = jax.tree.map(lambda x: x[::-1], old)
        ahead = jax.tree.map(lambda x: x[::-1], _sums_from(problem, backwards))

        def visit(carry: Any, at: tuple[Array, Statistics]) -> Any:
            values, done, first, _ = carry
            number, ahead = at
            total = _combine(problem, done, ahead, jnp.where(first, 0.0, 1.0), 1.0)
            values, proper, *_ = kernel.parameters(problem, total, values)
            _, entropy, new = _entropy(problem, kernel, batches.take(number), values)
            done = _combine(problem, done, new, jnp.where(first, 0.0, 1.0), 1.0)
            return (values, done, False, proper), (entropy, new)

        start = (fitted.values, fitted.memory.total, True, fitted.proper)
        (values, total, _, proper), (entropy, new) = jax.lax.scan(visit, start, (order, ahead))
        places = jnp.argsort(order)
        each, entropy = jax.tree.map(lambda x: x[places], (new, entropy))
        return Fitted(values, proper, Kept(each, entropy, total))

    def estimate(self, problem: Problem, kernel: Kernel, fitted: Fitted) -> Values:
        """The values that a pass ends at."""
        return fitted.values

    def statistics(self, problem: Problem, fitted: Fitted) -> Statistics:
        """What the next M step sees."""
        return fitted.memory.total

    def bound(self, problem: Problem, fitted: Fitted) -> Array:
        """F, the bound that never falls."""
        found = problem.expected_log_joint(fitted.memory.total)(fitted.values)
        return jnp.sum(fitted.memory.entropy) + found


def _entropy(
    problem: Problem, kernel: Kernel, blocks: Blocks, values: Values
) -> tuple[Array, Array, Statistics]:
    """log p(x_b | theta), H_b = log p(x_b | theta) - Q_b(theta), and the statistics of a batch."""
    _, objective, statistics, *_ = kernel.latents(problem.at(blocks), values, ())
    entropy = objective - problem.expected_log_joint(statistics)(values)
    return objective - problem.log_prior(values), entropy, statistics


def _sums_from(problem: Problem, each: Statistics) -> Statistics:
    """Running sums of statistics that lead with batches."""
    first, rest = jax.tree.map(lambda x: x[0], each), jax.tree.map(lambda x: x[1:], each)

    def add(total: Statistics, one: Statistics) -> tuple[Statistics, Statistics]:
        total = _combine(problem, total, one)
        return total, total

    _, sums = jax.lax.scan(add, first, rest)
    return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, sums)


# ----------------------------------------------------------------------------------------- stepwise
@dataclass(frozen=True)
class PowerDecay:
    """eta_t = (offset + t)^-kappa, for t = 0, 1, ... batches.

    Raises :class:`ProgramError` unless 0.5 < kappa <= 1: with less the noise of batches stays, with more
    the estimate may stop on its way (Robbins & Monro 1951). An offset below 1 would step too far.

    >>> PowerDecay(kappa=1.0, offset=2.0)(jnp.array([0.0, 2.0])).tolist()
    [0.5, 0.25]
    """

    kappa: float = 0.6
    offset: float = 2.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.5 < self.kappa <= 1.0:
            raise ProgramError(
                f"kappa is {self.kappa:g}, and the stepwise mean settles for 0.5 < kappa <= 1 alone; "
                "0.6 forgets the start soonest, 1 averages longest"
            )
        if not self.offset >= 1.0:
            raise ProgramError(
                f"offset is {self.offset:g}; give at least 1, so that no rate exceeds 1"
            )

    def __call__(self, time: Array) -> Array:
        """The rate at a time in batches."""
        return (self.offset + time) ** -self.kappa


@dataclass(frozen=True)
class ConstantRate:
    """The same rate at all times: 1 forgets all rows but the last batch's.

    A small one follows a stream whose distribution drifts, and never settles.

    >>> float(ConstantRate(0.1)(jnp.array(5.0)))
    0.1
    """

    rate: float

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 < self.rate <= 1.0:
            raise ProgramError(f"rate is {self.rate:g}; give more than 0 and at most 1")

    def __call__(self, time: Array) -> Array:
        """The rate, whatever the time."""
        return jnp.full_like(time, self.rate)


class Mean(NamedTuple):
    """Statistics per row: the running mean, and the average of running means; the time in batches; and
    the total weight of rows seen (on a stream; given data count once)."""

    mean: Statistics
    average: Statistics
    time: Array
    rows: Array


@dataclass(frozen=True)
class Stepwise:
    """One running mean of the statistics of batches, in which older rows count less and less.

    A batch of B rows (by weight) moves the mean by 1 - (1 - eta_t)^(B / batch_size), and the time t by
    B / batch_size, so that two halves of a batch move it as far as the whole. The M step sees the mean
    times the number of rows, which is what priors are held against.

    Args:
        batch_size: rows to a batch.
        rate: eta as a function of the time t: :class:`PowerDecay`, :class:`ConstantRate`, or any
            function (an optax schedule, say).
        averaging: the fit is made from an average of the running means with weights t^averaging; 0 is
            Polyak and Ruppert's, larger ones forget the start. None takes the last mean.

    >>> Stepwise(batch_size=1000, rate=PowerDecay(kappa=0.7)).count(num_rows=4500)
    5

    Source: Cappe & Moulines (2009), *JRSS B* 71, 593-613, equations 11 and 22; Liang & Klein (2009),
    NAACL, 611-619; averages with weights t^p: Shamir & Zhang (2013), ICML, 71-79, section 4.
    """

    verb: ClassVar[str] = "a batch at a time, into a running mean"

    batch_size: int = 1000
    rate: Rate = PowerDecay()
    averaging: float | None = 3.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.averaging is not None and math.isinf(self.averaging):
            raise ProgramError(f"averaging is {self.averaging}; give a number, or None for none")

    def count(self, num_rows: int) -> int:
        """The number of batches, which are of about equal size."""
        if self.batch_size > num_rows:
            raise ProgramError(
                f"batch_size is {self.batch_size}, and there are {num_rows} rows; lower it, or use "
                "bayesmix.EM, which takes all rows at a time"
            )
        return -(-num_rows // self.batch_size)

    def begin(
        self, problem: Problem, kernel: Kernel, batches: Batches, values: Values, proper: Array
    ) -> tuple[Array, Fitted]:
        """The objective and the mean of all rows' statistics at these values."""
        _, objective, statistics, *_ = kernel.latents(problem.at(batches.blocks), values, ())
        rows = jnp.sum(batches.blocks.weight)
        mean = _scaled(problem, statistics, 1 / rows)
        return objective, Fitted(values, proper, Mean(mean, mean, jnp.zeros_like(rows), rows))

    def sweep(
        self, problem: Problem, kernel: Kernel, batches: Batches, order: Array, fitted: Fitted
    ) -> Fitted:
        """Visit every batch once, in this order."""

        def visit(fitted: Fitted, number: Array) -> tuple[Fitted, None]:
            return self.absorb(problem, kernel, batches.take(number), fitted)[1], None

        return jax.lax.scan(visit, fitted, order)[0]

    def absorb(
        self, problem: Problem, kernel: Kernel, blocks: Blocks, fitted: Fitted
    ) -> tuple[Array, Fitted]:
        """M step from the mean, E step on a batch, and the mean moved; with log p(x_b | theta), to which
        the batch has not yet contributed."""
        memory = fitted.memory
        kept = self.statistics(problem, fitted)
        values, proper, *_ = kernel.parameters(problem, kept, fitted.values)
        _, objective, statistics, *_ = kernel.latents(problem.at(blocks), values, ())
        weight = jnp.sum(blocks.weight)
        passed = weight / self.batch_size
        move = 1 - (1 - self.rate(memory.time)) ** passed
        mean = _combine(
            problem, memory.mean, statistics, 1 - move, move / jnp.where(weight > 0, weight, 1.0)
        )
        time, average = memory.time + passed, mean
        if self.averaging is not None:
            old = (memory.time / jnp.where(time > 0, time, 1.0)) ** (self.averaging + 1)
            average = _combine(problem, memory.average, mean, old, 1 - old)
        evidence = objective - problem.log_prior(values)
        return evidence, Fitted(values, proper, Mean(mean, average, time, memory.rows))

    def estimate(self, problem: Problem, kernel: Kernel, fitted: Fitted) -> Values:
        """The values that a pass ends at: those made from the average, where there is one."""
        if self.averaging is None:
            return fitted.values
        statistics = _scaled(problem, fitted.memory.average, fitted.memory.rows)
        return kernel.parameters(problem, statistics, fitted.values).belief

    def statistics(self, problem: Problem, fitted: Fitted) -> Statistics:
        """What the next M step sees: the mean times the number of rows."""
        return _scaled(problem, fitted.memory.mean, fitted.memory.rows)
