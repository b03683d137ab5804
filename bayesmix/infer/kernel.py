"""An engine as a line of a table: what is done with each kind of unknown, and in which order.

    Kernel(latents, parameters, rows, accelerator)

What is believed of the parameters is one value (EM: a mode; Gibbs: a draw), or a density as points of
equal weight (variational Bayes). What is believed of the latents are weights over their values, from
which statistics are made. A step reads the parameters off the statistics, and weighs the latents given
the parameters, one after the other. Any choice of parts is an engine.

A part is a small frozen record, hashable, so that what it is chosen for is compiled once; all of its
methods are traced.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

from jax import Array

from ..program.batches import Batches
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.statistics import Statistics
from .accelerators import Accelerator


class Expected(NamedTuple):
    """What is found of the latents.

    belief: of the parameters, to go on from (that which was given, unless it went back); objective: what
    both parts raise; statistics: for the parameters; memory: what is carried to the next call;
    comparable: whether the objective measures what it measured at the step before; settled: whether the
    part itself finds that the fit has converged.
    """

    belief: Any
    objective: Array
    statistics: Statistics
    memory: Any
    comparable: Array | bool = True
    settled: Array | bool = False


class Visited(NamedTuple):
    """What is found of the parameters: the belief; for each closed block of the plan, whether it was
    proper; the most that the slope promised where a climb began; for each parameter the smallest
    curvature along an unconstrained coordinate there, infinite where it was not climbed; and what is
    carried to the next call."""

    belief: Any
    proper: Any = True
    promised: Any = 0.0
    curvature: Any = float("inf")
    memory: Any = None


class Latents(Protocol):
    """What is done with the latents given parameters: an E step, or its like.

    verb: what the table of algorithms says.
    """

    verb: ClassVar[str]

    def begin(self, problem: Problem, belief: Any, rng_key: Array, /) -> Any:
        """What is carried from step to step, at the belief that a fit starts from."""

    def __call__(self, problem: Problem, belief: Any, memory: Any, /) -> Expected:
        """Weigh the latents of all rows."""


class Parameters(Protocol):
    """What is done with the parameters given statistics: an M step, or its like."""

    @property
    def verb(self) -> str: ...
    def __call__(
        self, problem: Problem, statistics: Statistics, belief: Any, memory: Any = None, /
    ) -> Visited:
        """The belief that statistics leave; those that draw are given a key as their memory."""

    def with_values(self, belief: Any, values: Values, /) -> Any:
        """The belief with some sites at given values, where a fit starts from them."""
        return {**belief, **values}


class Rows(Protocol):
    """In which order the rows are visited, where a step does not visit all of them; see
    :mod:`bayesmix.infer.orders`."""

    verb: ClassVar[str]

    def count(self, num_rows: int) -> int: ...
    def begin(
        self, problem: Problem, kernel: Kernel, batches: Batches, values: Values, proper: Array, /
    ) -> tuple[Array, Any]: ...
    def sweep(
        self, problem: Problem, kernel: Kernel, batches: Batches, order: Array, fitted: Any, /
    ) -> Any: ...
    def estimate(self, problem: Problem, kernel: Kernel, fitted: Any, /) -> Values: ...
    def statistics(self, problem: Problem, fitted: Any, /) -> Statistics: ...


class Kernel(NamedTuple):
    """What an engine is made of; hashable. Without an order of the rows, each step visits all."""

    latents: Latents
    parameters: Parameters
    rows: Rows | None = None
    accelerator: Accelerator | None = None

    @property
    def order(self) -> Rows:
        """The order of the rows, of kernels that have one."""
        assert self.rows is not None, "each step visits all rows"
        return self.rows
