"""Stepwise EM on a stream: batch after batch, each seen once, none kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm.auto import tqdm

from ..program.arguments import Arguments, shapes_of, split
from ..program.batches import arrange_batches, padded
from ..program.blocks import Blocks
from ..program.errors import ProgramError
from ..program.evaluate import Evaluation, Values
from ..program.problem import OfProblem, Plans, Problem
from ..program.settings import number, whole
from .em import EM
from .fingerprint import Run, arguments_in_words
from .keep import ANY, Checkpoint, read
from .kernel import Kernel
from .orders import Fitted, Stepwise
from .passes import begin, check_statistics, first_values
from .result import EMResult
from .starts import Seeding
from .status import Status

_FIRST_STEPS = 200  # of EM on the first batch: more would fit what is its own


@dataclass(frozen=True, eq=False)
class Stream(OfProblem):
    """A fit to the batches of a stream so far; :meth:`partial_fit` gives the next one.

    Priors that a program computes from its data are those of the first batch, in which the stream's
    other arguments are kept too.

    Attributes:
        problem: the program with the first batch.
        log_density: mean log p(x_i | theta) per row (by weight) of the last batch, at the parameters
            before it was absorbed: a fall says that the stream has changed.
        num_batches: how many batches have been absorbed, the first included.

    Example:
        >>> import jax, numpy as np, bayesmix
        >>> from bayesmix import zoo
        >>> rng = np.random.default_rng(0)
        >>> def batch(size):
        ...     return rng.normal(size=(size, 1)) + 4.0 * rng.integers(2, size=(size, 1))
        >>> order = bayesmix.orders.Stepwise(batch_size=500)
        >>> online = bayesmix.OnlineEM(zoo.gaussian_mixture, order=order)
        >>> stream = online.start(jax.random.key(0), batch(500), K=2)
        >>> for size in (500, 437, 500, 12, 500):
        ...     stream = stream.partial_fit(batch(size), K=2)
        >>> sorted(stream.result().parameters["mean"].ravel().round(0).tolist())
        [0.0, 4.0]

    Source: Cappe & Moulines (2009), *JRSS B* 71, 593-613.
    """

    problem: Problem
    log_density: Array
    num_batches: int
    _leading: tuple[int, ...]
    _kernel: Kernel
    _settings: dict[str, str]
    _fitted: Fitted
    _known: bool

    @property
    def rows(self) -> float:
        """The rows that priors are held against, by weight: those seen so far, or `num_rows`."""
        return float(self._fitted.memory.rows)

    def partial_fit(self, *args: Any, **kwargs: Any) -> Stream:
        """The fit after one more batch, given as the program's own arguments.

        Batches may differ in the number of their rows; what is compiled serves all of about one size.
        Missing cells, known labels and row weights are honoured as in fits.

        Raises:
            ProgramError: where the batch cannot be taken; the fit so far is as it was.
        """
        problem = self.problem
        problem = problem.at(rows_of_batch(problem, self._leading, split(args, kwargs)))
        grows = jnp.asarray(0.0 if self._known else 1.0)
        fitted, density = problem.run(
            _absorbed, self._fitted, grows, static=(self._kernel,), fully=True
        )
        count = self.num_batches + 1
        return replace(self, _fitted=fitted, log_density=density, num_batches=count)

    def result(self) -> EMResult:
        """The fit so far. Its methods answer for the first batch, unless given other rows.

        `objective` is an estimate from the last batch alone, before it was absorbed.
        """
        values, evaluation = self.problem.run(
            _estimate, self._fitted, static=(self._kernel,), fully=True
        )
        values, derived = jax.tree.map(np.asarray, (values, evaluation.deterministic))
        prior = float(evaluation.log_prior)
        objective = np.atleast_1d(float(self.log_density) * self.rows + prior)
        finite = all(np.isfinite(value).all() for value in values.values())
        status = Status.OUT_OF_STEPS if finite else Status.NOT_FINITE
        return EMResult(
            parameters=values,
            deterministic=derived,
            objective=objective,
            status=status,
            modes=(),
            restart_objectives=objective,
            restart_statuses=(status,),
            restart_steps=np.array([self.num_batches]),
            problem=self.problem,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of the fit to one `.npz` file, from which :meth:`OnlineEM.load` goes on.

        Nothing is pickled, and the file takes the place of an older one only when it is complete.
        """
        words = _in_words(self.arguments, self._settings)
        arrays, density = self.arguments.arrays, self.log_density
        state = {"arrays": arrays, "fitted": self._fitted, "density": density}
        kept = Checkpoint(path, Run(words, self.problem))
        kept.write(state, batches=self.num_batches, known=self._known)


def start_stream(
    problem: Problem,
    kernel: Kernel,
    settings: dict[str, str],
    rng_key: Array,
    num_rows: float | None,
    restarts: int,
    init: dict[str, Any] | None,
    seeding: Seeding,
) -> Stream:
    """A fit to the first batch of a stream."""
    plan, observed = problem.plan, problem.observe(fitting=True)
    if set(init or {}) < set(plan.reading.parameter_names):
        em = EM(plan, seeding=seeding, max_steps=_FIRST_STEPS, progress_bar=False)
        init = em.run_problem(rng_key, problem, restarts=restarts, init=init).parameters
    values = first_values(problem, observed, rng_key[None], init, seeding)
    whole = arrange_batches(plan, observed, np.zeros(observed.num_rows, int))
    progress = problem.run(begin, whole, values, static=(kernel,), fully=True)
    fitted = jax.tree.map(lambda x: x[0], progress.fitted)
    weight = fitted.memory.rows
    if num_rows is not None:
        if not 0 < number("num_rows", num_rows) < np.inf:
            raise ProgramError(f"num_rows is {num_rows:g}; give a number of rows above 0")
        rows = jnp.asarray(float(num_rows), weight.dtype)
        fitted = fitted._replace(memory=fitted.memory._replace(rows=rows))
    density = (progress.objective[0] - problem.log_prior(fitted.values)) / weight
    leading = _leading(problem.arguments, observed.num_rows)
    return Stream(problem, density, 1, leading, kernel, settings, fitted, num_rows is not None)


def load_stream(
    plans: Plans,
    kernel_of: Callable[[Problem], Kernel],
    settings: dict[str, str],
    path: str | os.PathLike[str],
    batch: Arguments,
) -> Stream:
    """A saved fit, with the structure of its arguments taken from a batch."""
    saved, words = read(path), _in_words(batch, settings)
    saved.check(Run(words))
    told = saved.fill({"arrays": (ANY,) * len(batch.arrays)}, "state")
    arrays = tuple(map(jnp.asarray, told["arrays"]))
    arguments = Arguments(arrays, batch.layout._replace(shapes=shapes_of(arrays)))
    problem = plans.of(arguments)
    plan = problem.plan
    check_statistics(plan)
    kernel = kernel_of(problem)
    saved.check(Run(words, problem))
    observed = problem.observe()
    whole = arrange_batches(plan, observed, np.zeros(observed.num_rows, int))
    values = {site.name: jnp.zeros((1, *site.shape)) for site in plan.reading.parameters}
    shaped = jax.eval_shape(partial(begin, problem, kernel), whole, values)
    fitted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shaped.fitted)
    density = jax.ShapeDtypeStruct((), shaped.objective.dtype)
    fitted = saved.fill({"fitted": fitted}, "state")["fitted"]
    density = saved.fill({"density": density}, "state")["density"]
    leading, notes = _leading(problem.arguments, observed.num_rows), saved.header
    known = notes["known"]
    return Stream(problem, density, notes["batches"], leading, kernel, settings, fitted, known)


def run_stream(
    start: Callable[..., Stream],
    batches: Iterable[Any],
    num_passes: int,
    progress_bar: bool,
    kwargs: dict[str, Any],
) -> Stream:
    """A fit to all batches of an iterable, which is gone through so many times."""
    num_passes = whole("num_passes", num_passes)
    if num_passes > 1 and iter(batches) is batches:
        raise ProgramError(
            "an iterator can be gone through once; for several passes give what can be gone through "
            "again: a list, or bayesmix.tables.read_batches(path)"
        )
    stream: Stream | None = None
    with tqdm(desc="EM", unit="batch", delay=2.0, disable=not progress_bar) as bar:
        for _ in range(num_passes):
            for batch in batches:
                args = batch if isinstance(batch, tuple) else (batch,)
                stream = (
                    start(*args, **kwargs)
                    if stream is None
                    else stream.partial_fit(*args, **kwargs)
                )
                bar.update()
    if stream is None:
        raise ProgramError("the stream had no batch; give at least one")
    return stream


def stepwise(order: Any) -> Stepwise:
    """The order; raises :class:`ProgramError` where it is none for streams."""
    if not isinstance(order, Stepwise):
        raise ProgramError(
            "a stream is not visited again, which an incremental order needs; use "
            "order=bayesmix.orders.Stepwise(...)"
        )
    return order


def _in_words(arguments: Arguments, settings: dict[str, str]) -> dict[str, str]:
    """What a saved fit must share with what goes on from it: of the arrays, not which rows they hold."""
    outline = tuple(f"{dtype} (rows, *{shape[1:]})" for shape, dtype in arguments.layout.shapes)
    words = arguments_in_words(Arguments(outline, arguments.layout))
    return {"the engine": "OnlineEM, on a stream", **settings, **words}


def _absorbed(
    problem: Problem, kernel: Kernel, fitted: Fitted, grows: Array
) -> tuple[Fitted, Array]:
    """The fit after a batch, and the batch's mean log density before."""
    evidence, fitted = stepwise(kernel.rows).absorb(problem, kernel, problem.blocks, fitted)
    weight = jnp.sum(problem.blocks.weight)
    memory = fitted.memory._replace(rows=fitted.memory.rows + grows * weight)
    return fitted._replace(memory=memory), evidence / weight


def _estimate(problem: Problem, kernel: Kernel, fitted: Fitted) -> tuple[Values, Evaluation]:
    """Where the fit is, and the program there."""
    values = kernel.order.estimate(problem, kernel, fitted)
    return values, problem.evaluate(values)


# --------------------------------------------------------------------------- batches of about one size
def _leading(arguments: Arguments, num_rows: int) -> tuple[int, ...]:
    """Which arrays of a call lead with its rows."""
    shapes = enumerate(arguments.layout.shapes)
    return tuple(i for i, (shape, _) in shapes if shape and shape[0] == num_rows)


def rows_of_batch(problem: Problem, leading: tuple[int, ...], batch: Arguments) -> Blocks:
    """A batch as blocks of one of few shapes; what is added has no weight. On the host.

    `leading` are the arrays of a call that lead with its rows.

    Raises :class:`ProgramError` where the batch is not of the reference's kind or cannot be taken.
    """
    plan = problem.plan
    size, filled = _filled(problem.arguments, leading, batch)
    try:
        observed = plan.observe(filled)
    except ProgramError:
        plan.observe(batch)  # says which of the batch's own rows it is
        raise
    weight = observed.row_weights
    observed = observed._replace(weight=np.where(np.arange(observed.num_rows) < size, weight, 0.0))
    found = arrange_batches(plan, observed, np.zeros(observed.num_rows, int)).blocks
    if not found.patterns:
        return found
    kinds = max(len(table) for table in found.patterns.values())
    return padded(found, _bucket(found.weight.shape[0]), 1 << (kinds - 1).bit_length())


def _filled(
    reference: Arguments, leading: tuple[int, ...], batch: Arguments
) -> tuple[int, Arguments]:
    """The number of rows, and the batch with its last row repeated to one of few numbers of rows."""
    if batch.layout[:2] != reference.layout[:2]:
        raise ProgramError(
            "a batch has other arguments than the first one; give all batches alike but for their rows"
        )
    sizes = {batch.arrays[i].shape[0] for i in leading}
    if len(sizes) != 1 or 0 in sizes:
        raise ProgramError(
            f"the arrays of a batch have {sorted(sizes)} rows; give all of them the same number, at "
            "least one"
        )
    (size,) = sizes
    last = np.minimum(np.arange(_bucket(size)), size - 1)
    arrays = tuple(
        jnp.asarray(np.asarray(array)[last]) if i in leading else array
        for i, array in enumerate(batch.arrays)
    )
    shapes = tuple((tuple(array.shape), str(array.dtype)) for array in arrays)
    return size, Arguments(arrays, batch.layout._replace(shapes=shapes))


def _bucket(size: int) -> int:
    """The next of four sizes in each octave: at most a quarter more."""
    step = max(1, (1 << (size - 1).bit_length()) // 8)
    return -(-size // step) * step
