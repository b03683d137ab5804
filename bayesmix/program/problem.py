"""A program with its data: what every engine is given, and what it asks for densities."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import row_pass
from .arguments import Arguments, split, take_rows
from .blocks import Blocks
from .compiling import compile_fully, compile_lightly
from .elimination import Tables
from .errors import ProgramError
from .evaluate import Evaluation, Values
from .loops import Unrolled
from .mixtures import Opened
from .modules import ArrayParameters
from .observed import Observed
from .parts import Part, expect
from .plan import Plan, Program, plan_arguments
from .recent import Recent
from .statistics import Statistics, expected_factors
from .tracing import one_at_a_time

_PLANS = 64  # that an engine remembers for calls of different shapes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Problem:
    """A pytree: its leaves are the arrays of a call and the rows arranged in blocks; the plan, and how
    arrays and other arguments are laid out, are its structure. Data of the same shape are other leaves,
    and `jax.vmap` goes over several data sets.

    Attributes:
        plan: what the program says.
        arguments: the program's arguments.
        arranged: the observed rows in blocks, or None where nothing asks for rows.
        weight: how often each row counts, (N,), besides what the program says of it; or None.
    """

    plan: Plan = field(metadata={"static": True})
    arguments: Arguments
    arranged: Blocks | None = None
    weight: Any = None

    @property
    def blocks(self) -> Blocks:
        """The observed rows."""
        assert self.arranged is not None, "no rows have been arranged"
        return self.arranged

    def at(self, blocks: Blocks) -> Problem:
        """The same program and priors with other rows."""
        return replace(self, arranged=blocks)

    def take(self, index: Any) -> Problem:
        """The program called with some of its rows; see :func:`bayesmix.program.arguments.take_rows`."""
        size = self.plan.reading.rows.size
        weight = None if self.weight is None else self.weight[index]
        return Problem(self.plan, take_rows(self.arguments, size, index), weight=weight)

    def completed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Another call of the program, in the form of this one, and with what it leaves out taken from
        this one, but for what leads with rows.

        Raises :class:`ProgramError` where rows are given in part.
        """
        own_args, own_kwargs = self.arguments.call()
        try:
            signature = inspect.signature(_written(self.plan.program))
            given = signature.bind_partial(*args, **kwargs).arguments
            fitted = signature.bind(*own_args, **own_kwargs).arguments
        except (TypeError, ValueError):  # no signature, or another: the program will say
            return args, kwargs
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            return args, kwargs
        size = self.plan.reading.rows.size

        def has_rows(value: Any) -> bool:
            return any(np.shape(leaf)[:1] == (size,) for leaf in jax.tree.leaves(value))

        rest = {name: value for name, value in fitted.items() if not has_rows(value)}
        found = {**rest, **given}
        in_order = list(signature.parameters)[: len(own_args)]
        for name, parameter in signature.parameters.items():
            if name not in found and parameter.default is inspect.Parameter.empty:
                raise ProgramError(
                    f"the call lacks '{name}', which belongs to the rows; give it for these rows too, "
                    "NaN where it is observed and not known"
                )
        if not set(in_order) <= set(found):
            return args, kwargs
        placed = tuple(found.pop(name) for name in in_order)
        return placed, found

    def weighted(self, weight: Any) -> Problem:
        """The same rows, each counted `weight` (N,) times as often: 0 leaves a row out (a fold), draws
        of a multinomial are a bootstrap replicate. No shape changes, so that nothing is compiled anew.

        Raises :class:`ProgramError` where weights are not finite, negative, or not one for each row.
        """
        size, weight = self.plan.reading.rows.size, np.asarray(weight, float)
        if weight.shape != (size,) or not np.all(np.isfinite(weight) & (weight >= 0)):
            raise ProgramError(
                f"row weights have shape {weight.shape}, or are negative or not finite; give {size} "
                "finite weights of at least 0"
            )
        weight = weight if self.weight is None else weight * self.weight
        if not weight.any():
            raise ProgramError("every row has weight 0, so that nothing is observed")
        return Problem(self.plan, self.arguments, weight=weight)

    def observe(self, fitting: bool = False) -> Observed:
        """What the call says of its rows; see :meth:`Plan.observe`."""
        return self.counted(self.plan.observe(self.arguments, fitting))

    def counted(self, observed: Observed) -> Observed:
        """Rows with the problem's own weights; those that are all one say nothing."""
        traced = isinstance(self.weight, jax.core.Tracer)
        if self.weight is None or (not traced and np.all(np.asarray(self.weight) == 1)):
            return observed
        own = 1.0 if observed.weight is None else observed.weight
        return observed._replace(weight=own * self.weight)

    def recounted(self, weight: Any) -> Problem:
        """The problem whose arranged rows count `weight` (N,) times as often; None: as they do."""
        if weight is None:
            return self
        blocks, weight = self.blocks, jnp.asarray(weight, self.blocks.weight.dtype)
        return self.at(replace(blocks, weight=blocks.weight * blocks.distribute(weight)))

    def with_rows(self, fitting: bool = False) -> Problem:
        """The problem with its rows arranged, once for any number of passes; `fitting` as in
        :meth:`Plan.observe`."""
        return self.at(self.plan.arrange(self.observe(fitting)))

    def on_device(self) -> Problem:
        """The call alone, with JAX's arrays."""
        return replace(self, arguments=self.arguments.on_device(), arranged=None)

    def specialised(self) -> Problem:
        """The problem with what depends on its arrays alone computed once; see
        :meth:`Plan.specialise`."""
        return replace(self, arguments=self.plan.specialise(self.arguments))

    def run(
        self,
        function: Callable[..., Any],
        *rest: Any,
        static: tuple[Any, ...] = (),
        fully: bool = False,
    ) -> Any:
        """`function(problem, *static, *rest)`, compiled once for a plan and shapes of data; with
        `fully=True` as what runs long is."""
        return self.compiled(function, *static, fully=fully)(self.arguments, self.arranged, *rest)

    def compiled(
        self, function: Callable[..., Any], *static: Any, fully: bool = False
    ) -> Callable[..., Any]:
        """`function(problem, *static, *rest)` as a compiled function of (arguments, blocks, *rest), the
        same one for all problems of a plan."""
        plan = self.plan

        def make() -> Callable[..., Any]:
            def run(arguments: Arguments, blocks: Blocks | None, *rest: Any) -> Any:
                return function(Problem(plan, arguments, blocks), *static, *rest)

            return (compile_fully if fully else compile_lightly)(run)

        return plan.remember((function, static, fully), make)

    # ------------------------------------------------------------------ densities, all to be jitted
    def evaluate(self, values: Values) -> Evaluation:
        """Every factor of the log joint at parameter `values`."""
        return self.plan.evaluate(self.arguments, values)

    def log_prior(self, values: Values) -> Array:
        """log p(theta), in the constrained space (no Jacobian)."""
        return self.evaluate(values).log_prior

    def log_likelihood(self, values: Values) -> Array:
        """sum_i w_i log p(x_i | theta) with the latents summed out, a scalar."""
        plan = self.plan
        return row_pass.log_likelihood(
            plan.graph, plan.families, self.evaluate(values), self.blocks
        )

    def log_evidence(self, values: Values) -> Array:
        """log p(x_i | theta) of every row with the latents summed out, (N,)."""
        plan = self.plan
        return row_pass.log_evidence(plan.graph, plan.families, self.evaluate(values), self.blocks)

    def log_factors(self, values: Values) -> Tables:
        """The sum of the log factors of each clique of latents for every row, (K, N)."""
        plan = self.plan
        return row_pass.log_factors(plan.graph, plan.families, self.evaluate(values), self.blocks)

    def log_posterior(self) -> Callable[[Values], Array]:
        """log p(x | theta) + log p(theta), all hidden values summed out, as a function of theta."""
        plan = self.plan

        # under jit the program is traced once, however often the function is differentiated
        @jax.jit
        def density(values: Values) -> Array:
            evaluation = self.evaluate(values)
            found = row_pass.log_likelihood(plan.graph, plan.families, evaluation, self.blocks)
            return found + evaluation.log_prior

        return density

    def expected_log_joint(self, statistics: Statistics) -> Callable[[Values], Array]:
        """Q(theta) + log p(theta) as a function of theta, at fixed statistics."""

        # under jit the program is traced once, however often a conditional is read from it
        @jax.jit
        def log_joint(values: Values) -> Array:
            evaluation = self.evaluate(values)
            factors = expected_factors(self.plan.families, evaluation, statistics)
            return sum(factors.values(), evaluation.log_prior)

        return log_joint

    def weigh(
        self, values: Values, part: Part = expect, told: Any = None
    ) -> tuple[Array, row_pass.Pass]:
        """One pass over the rows with a part (see :mod:`bayesmix.program.parts`), and the objective that
        it raises: the pass's log likelihood, or what stands in its place, plus the log prior."""
        plan, evaluation = self.plan, self.evaluate(values)
        found = row_pass.passes(plan.graph, plan.families, evaluation, self.blocks, part, told)
        return found.log_likelihood + evaluation.log_prior, found

    def expected(self, values: Values) -> tuple[Array, Statistics]:
        """The exact E step: log p(x | theta) + log p(theta), and the expected statistics."""
        objective, found = self.weigh(values)
        return objective, found.statistics


def run_each(
    problems: Sequence[Problem],
    function: Callable[..., Any],
    *rest: Any,
    static: tuple[Any, ...] = (),
    fully: bool = False,
) -> Any:
    """`function(problem, *static, *rest)` of several problems of one plan, side by side in one compiled
    call. Arrays of `rest`, but for single numbers, and what is returned lead with problems; arrays that
    are one and the same object in all problems are not copied."""
    first, *others = ((p.arguments, p.arranged) for p in problems)
    leaves, tree = jax.tree.flatten(first)
    beside = [jax.tree.leaves(other) for other in others]
    axes: list[int | None] = []
    for i, leaf in enumerate(leaves):
        same = all(other[i] is leaf for other in beside)
        axes.append(None if same else 0)
        if not same:
            leaves[i] = jnp.stack([leaf, *(other[i] for other in beside)])
    stacked: tuple[Arguments, Blocks | None] = jax.tree.unflatten(tree, leaves)
    problem = Problem(problems[0].plan, *stacked)
    return problem.run(_side_by_side, *rest, static=(function, tuple(axes), static), fully=fully)


def _side_by_side(
    problem: Problem,
    function: Callable[..., Any],
    axes: tuple[int | None, ...],
    static: tuple[Any, ...],
    *rest: Any,
) -> Any:
    leaves, tree = jax.tree.flatten(problem)

    def one(leaves: list[Any], rest: tuple[Any, ...]) -> Any:
        return function(jax.tree.unflatten(tree, leaves), *static, *rest)

    beside = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, rest)
    return jax.vmap(one, in_axes=(list(axes), beside))(leaves, rest)


class OfProblem:
    """What was made of a problem: it has the problem's plan and arguments."""

    problem: Problem

    @property
    def plan(self) -> Plan:
        """The plan that was used."""
        return self.problem.plan

    @property
    def arguments(self) -> Arguments:
        """The program's arguments."""
        return self.problem.arguments


def _written(program: Program) -> Program:
    """The program as its author wrote it, of one that was made for reading."""
    while isinstance(program, (Opened, Unrolled, ArrayParameters)):
        program = program.program
    return program


class Plans:
    """A program's plans, each read when a layout of arguments first needs it; or the one plan that was
    given in the program's place."""

    def __init__(self, program: Program | Plan) -> None:
        self.given = program if isinstance(program, Plan) else None
        self.program = program.program if isinstance(program, Plan) else program
        # by the layout of a call: what has to be held, and the plan where that is held
        self._held, self._read = Recent(_PLANS), Recent(_PLANS)

    def of(self, arguments: Arguments) -> Problem:
        """The program with these arguments, as its plan for them takes them.

        Raises :class:`ProgramError` as :func:`plan` does.
        """
        if self.given is not None:
            return Problem(self.given, arguments.hold(self.given.held))
        with one_at_a_time:  # or another thread would read the same plan
            held = self._held.get(arguments.layout, lambda: self._first(arguments).held)
            arguments = arguments.hold(held)
            plan = self._read.get(
                arguments.layout, lambda: plan_arguments(self.program, arguments, held)
            )
            return Problem(plan, arguments)

    def call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, on_device: bool = True
    ) -> Problem:
        """As :meth:`of`, for a call of the program; or the problem that is given in its place.

        NumPy's arrays go to the device, or stay where they are.
        """
        if len(args) == 1 and isinstance(args[0], Problem) and not kwargs:
            if _written(args[0].plan.program) is not _written(self.program):
                raise ProgramError(
                    "the problem is of another program than the engine; make it by `problem` of this "
                    "engine, or of one for the same plan"
                )
            return args[0]
        return self.of(split(args, kwargs or {}, on_device))

    def _first(self, arguments: Arguments) -> Plan:
        """The plan where it is not known yet what has to be held."""
        made = plan_arguments(self.program, arguments)
        return self._read.get(arguments.hold(made.held).layout, lambda: made)
