"""EM that visits part of the rows at a time: any order over data in memory, and streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import Array, random

from ..program.arguments import split
from ..program.batches import arrange_batches
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import key_of, tolerance_of, whole
from .e_steps import EXACT, EStep
from .ending import result_of
from .fingerprint import in_words
from .keep import ANY, checkpoint_at
from .kernel import Kernel
from .m_steps import USUAL, MPart, MStep, resolve
from .orders import Incremental, Stepwise
from .passes import (
    Underway,
    advance,
    batch_of_row,
    begin,
    check_memoryless,
    check_statistics,
    first_values,
    last,
)
from .result import EMResult
from .run import Progress, run_in_chunks
from .starts import (
    Seeding,
    kmeans_plus_plus,
)
from .status import Status
from .stream import Stream, load_stream, run_stream, start_stream, stepwise


class OnlineEM:
    """EM that visits a batch of the rows at a time: M step, E step on the batch, M step, ...

    Large data are fitted in a few passes, since parameters move many times in each. `order` says what is
    kept of the rows that are not visited: their statistics (`Incremental`), or a running mean of them in
    which they count less and less (`Stepwise`). The priors are those of the program called on all rows.

    Args:
        program: a NumPyro program, or a plan of one. All its factors must be the same for every row: a
            regression or a gate needs all rows in every M step, which is :class:`bayesmix.EM`.
        order: :class:`Stepwise` (the default, with its defaults) or :class:`Incremental`.
        tolerance: converged when a look at the objective finds a gain, and an estimated gain still to
            come, below `tolerance` times (1 + |objective|).
        look_every: passes between looks at the objective over all rows, each of which costs about as
            much as a pass.
        callback: called after each look with a :class:`Progress`, whose steps are passes; where it
            returns True, the fit ends.
        seeding, m_step: as in :class:`bayesmix.EM`.
        e_step: as in :class:`bayesmix.EM`, one that carries nothing from step to step: `Exact` or
            `Hard` (k-means in batches).
        progress_bar: show progress on fits longer than a second or two.

    Example:
        >>> import jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", len(x)):
        ...         z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = np.random.default_rng(0).normal(size=4000) + np.repeat([-3.0, 3.0], 2000)
        >>> online = bayesmix.OnlineEM(program, order=bayesmix.orders.Stepwise(batch_size=200))
        >>> fit = online.run(0, x, num_passes=3)
        >>> len(fit.objective), sorted(fit.parameters["mean"].round(1).tolist())
        (4, [-3.0, 3.0])

    Source: see :mod:`bayesmix.infer.orders`.
    """

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        order: Stepwise | Incremental | None = None,
        tolerance: float = 1e-8,
        look_every: int = 1,
        callback: Callable[[Progress], bool | None] | None = None,
        seeding: Seeding = kmeans_plus_plus,
        e_step: EStep = EXACT,
        m_step: MPart | Sequence[MPart] = USUAL,
        progress_bar: bool = True,
    ) -> None:
        self.plans = Plans(program)
        self.order = Stepwise() if order is None else order
        self.tolerance = tolerance_of(tolerance)
        self.look_every = whole("look_every", look_every)
        self.callback = callback
        self.seeding = seeding
        self.e_step = e_step
        self.m_step = m_step
        self.progress_bar = progress_bar

    def kernel(self, problem: Problem) -> Kernel:
        """What a step is made of."""
        parameters = MStep(resolve(problem.plan, self.m_step))
        return Kernel(self.e_step, parameters, rows=self.order)

    def run(
        self,
        rng_key: Array,
        *args: Any,
        num_passes: int = 10,
        restarts: int = 1,
        init: dict[str, Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> EMResult:
        """Fit rows in memory from `restarts` starts, and keep the best.

        Args:
            rng_key: a JAX random key (or an integer seed): for the starts, which are those of
                :class:`bayesmix.EM`, for the batches and for the order in which they are visited.
            *args, **kwargs: the program's own arguments.
            num_passes: largest number of passes over the rows.
            restarts: number of starts, all run in one compiled call and through the same batches.
            init: initial values of some or all parameters, by site name, as in :class:`bayesmix.EM`.
            checkpoint: a file to which all of the fit is written after each look, and from which it goes
                on where the file is there: to the same result as without a break.

        Returns:
            An :class:`EMResult`. `objective` is exact: at the start, and at each look.

        Raises:
            ProgramError: where the program or its data cannot be read, where a factor differs from row
                to row, or where there are fewer rows than the order asks for.
        """
        restarts, num_passes = whole("restarts", restarts), whole("num_passes", num_passes)
        key = key_of(rng_key)
        problem = self._problem(args, kwargs)
        kept = checkpoint_at(checkpoint, self, problem, key, restarts=restarts, init=init)
        observed = problem.observe(fitting=True)
        count = self.order.count(observed.num_rows)
        order_key = random.fold_in(key, restarts)  # splitting is folding in 0, 1, ...
        batches = arrange_batches(
            problem.plan, observed, batch_of_row(order_key, observed.num_rows, count)
        )
        keys = random.split(key, restarts)
        values = first_values(problem, observed, keys, init, self.seeding)
        static = (self.kernel(problem),)
        fits = problem.run(begin, batches, values, static=static, fully=True)

        def advanced(fits: Underway, until: int) -> Underway:
            told = (batches, fits._replace(trace=()), order_key, self.tolerance, until)
            moved = problem.run(advance, *told, static=static, fully=True)
            trace = np.column_stack([fits.trace, moved.objective])
            return moved._replace(trace=trace)

        if kept is not None:  # there are as many objectives as looks were made
            fits = kept.resume(fits._replace(trace=ANY)) if kept.saved is not None else fits
        fits = run_in_chunks(
            fits,
            advanced,
            name="EM",
            unit="pass",
            max_steps=num_passes,
            every=self.look_every,
            progress_bar=self.progress_bar,
            checkpoint=kept,
            watch=self.callback and (self.callback, lambda fits: (fits.objective, fits.values)),
        )
        arranged = problem.at(batches.blocks)
        ended, look = arranged.run(last, fits, static=static)
        looks = zip(np.asarray(fits.trace), np.asarray(fits.looks), strict=True)
        traces = [trace[: count + 1] for trace, count in looks]
        return result_of(arranged, problem, ended, look, traces, prefer=_finite)

    def start(
        self,
        rng_key: Array,
        *args: Any,
        num_rows: float | None = None,
        restarts: int = 5,
        init: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Stream:
        """Start on a stream from its first batch, and give a :class:`Stream` that takes the next ones.

        Args:
            rng_key: a JAX random key (or an integer seed), for the start.
            *args, **kwargs: the program's own arguments, with the rows of the first batch.
            num_rows: how many rows priors are held against, by weight: all that will come, where that
                is known; else those that have come so far.
            restarts: the first batch is fitted by :class:`bayesmix.EM` from so many starts.
            init: initial values, as in :meth:`run`; with all parameters given there is no such fit.

        Raises:
            ProgramError: as :meth:`run`; and where the order is not :class:`Stepwise`.
        """
        key = key_of(rng_key)
        problem = self._problem(args, kwargs)
        stepwise(self.order)
        return start_stream(
            problem,
            self.kernel(problem),
            self._settings(),
            key,
            num_rows,
            restarts,
            init,
            self.seeding,
        )

    def load(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Stream:
        """The fit to a stream that :meth:`Stream.save` wrote, to go on as if it had never stopped.

        Args:
            path: the file.
            *args, **kwargs: any batch, as the program's own arguments: only its structure is used.

        Raises:
            ProgramError: where the file cannot be read, or was saved with another order or program.
        """
        stepwise(self.order)
        return load_stream(self.plans, self.kernel, self._settings(), path, split(args, kwargs))

    def run_stream(
        self,
        rng_key: Array,
        batches: Iterable[Any],
        *,
        num_passes: int = 1,
        num_rows: float | None = None,
        restarts: int = 5,
        init: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Stream:
        """Start on the first of many batches, and take all others in turn.

        Args:
            rng_key, num_rows, restarts, init: as in :meth:`start`.
            batches: each the program's positional arguments: a tuple of them, or the only one.
            num_passes: how often `batches` are gone through.
            **kwargs: the program's other arguments, the same for all batches.

        Returns:
            The :class:`Stream` after the last batch; its `result()` is the fit.
        """
        start = partial(self.start, rng_key, num_rows=num_rows, restarts=restarts, init=init)
        return run_stream(start, batches, num_passes, self.progress_bar, kwargs)

    def _settings(self) -> dict[str, str]:
        """What a saved stream must share with the engine that goes on from it, in words."""
        return {name: in_words(getattr(self, name)) for name in ("order", "e_step", "m_step")}

    def _problem(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
        problem = self.plans.call(args, kwargs)
        check_statistics(problem.plan)
        check_memoryless(problem, self.e_step)
        return problem


def _finite(status: Status) -> bool:
    return status is not Status.NOT_FINITE
