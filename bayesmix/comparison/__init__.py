"""MAP against full Bayes: several engines on one program and one data set, and what they agree on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.distributions import constraints

from ..families.forms import base_support
from ..posterior.predictive_cdf import NoDistributionFunction, cell_names
from ..program.arguments import Arguments, has_rows
from ..program.errors import ProgramError
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.reading import Program
from ..program.settings import whole
from . import calibration, records
from .calibration import Calibration
from .engines import (
    ENGINES,
    USUAL,
    EngineResult,
    Settings,
    aligned,
    reordered,
    thinned,
)
from .kept_answers import KeptAnswers, run_of
from .mode_weights import weighed_modes
from .result import Comparison
from .runs import Found, Split, run_engines
from .verdict import verdict

_GRID_DRAWS = 200
_SMALLEST_TRAINING = 10
_LARGEST_SEED = 2**63 - 9  # engines add a little to it
_LEAST_DRAWS = 4  # of a chain, for what is said of its convergence


def compare(
    program: Program | Plan,
    *args: Any,
    engines: Sequence[str] = USUAL,
    seed: int = 0,
    restarts: int = 30,
    num_warmup: int = 500,
    num_samples: int = 1000,
    num_chains: int = 4,
    held_out: float = 0.2,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    progress_bar: bool = True,
    announce: Callable[[str], None] | None = None,
    folder: str | Path | None = None,
    **kwargs: Any,
) -> Comparison:
    """Run one program through several engines and set MAP beside full Bayes.

    Each engine is run on all rows (parameters, clusterings, diagnostics) and again without a random
    share of rows, on which its predictions are scored: the plug-in density log p(x | mode) for EM, the
    posterior average log (1/S) sum_s p(x | theta_s) for samplers.

    Args:
        program: a NumPyro program, or a plan of one.
        *args, **kwargs: the program's own arguments; arrays with one entry per row are split.
        engines: which of "MLE-EM", "MAP-EM", "Laplace", "VB", "Gibbs", "NUTS", "SMC" to run. One that
            does not take the program is left out, and the reason is in the table.
        seed: for all random numbers.
        restarts: EM starts. num_warmup, num_samples, num_chains: for the samplers.
        held_out: share of the rows to hold out, in [0, 1); 0 for none.
        columns: names of the observed columns.
        title: a title for the table and the report.
        progress_bar: show progress.
        announce: called with one line when an engine starts.
        folder: where each engine's answer is kept as soon as it is there. The same call with the same
            folder takes up what an earlier one, stopped by whatever, had kept (then without its `fit`);
            what another program, data, settings or versions had left there is not taken up. Writing a
            whole comparison to the folder (:meth:`Comparison.write`) removes what was kept.

    Returns:
        A :class:`Comparison`. Interrupting (Ctrl-C) returns the engines that had finished, and an engine
        that raises an error is left out, with the error in the log.

    Raises:
        ProgramError: where the program or the data cannot be read, or an engine is unknown.
        KeyboardInterrupt: where no engine had finished, or on a second interruption.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     with numpyro.plate("component", 2):
        ...         mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1, 10.4])
        >>> found = bayesmix.compare(program, x, engines=("MAP-EM",), restarts=5, held_out=0)
        >>> sorted(found.engines["MAP-EM"].estimate["mean"].round(1).tolist())
        [0.1, 10.1]
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = bayesmix.load_comparison(found.save(folder))
        >>> again.table() == found.table()
        True
    """
    unknown = [name for name in engines if name not in ENGINES]
    if unknown or not engines:
        asked = f"'{unknown[0]}'" if unknown else "nothing"
        raise ProgramError(f"engines holds {asked}; choose among {', '.join(ENGINES)}")
    if not 0 <= held_out < 1:
        raise ProgramError(f"held_out is {held_out}; give a share of the rows, from 0 to below 1")
    settings = Settings(
        whole("seed", seed, 0, _LARGEST_SEED),
        whole("restarts", restarts),
        whole("num_warmup", num_warmup, 0),
        whole("num_samples", num_samples, _LEAST_DRAWS),
        whole("num_chains", num_chains),
        progress_bar,
    )
    problem = Plans(program).call(args, kwargs)
    plan, observed = problem.plan, problem.observe()
    if observed.weight is not None:
        raise ProgramError(
            "rows have weights (handlers.scale), and compare scores each row once; give every row as "
            "often as its weight says, without handlers.scale"
        )
    given = observed.given  # NaN where something is missing
    data = np.concatenate(
        [np.reshape(given[name], (observed.num_rows, -1)) for name in observed.values], axis=1
    )
    names = _column_names(plan, columns, data.shape[1])
    call = _Call(problem, data, names, title or _title(plan, data.shape[0]), settings)
    say = announce or (lambda line: None)
    run = run_of(problem, settings, held_out, _versions())
    kept = KeptAnswers(folder, run, say)
    split_rows = _split_rows(problem, held_out, settings.seed)
    found = run_engines(problem, settings, split_rows, tuple(dict.fromkeys(engines)), kept, say)
    try:
        return _set_side_by_side(call, found)
    except KeyboardInterrupt:
        say("interrupted: what has finished is set side by side (interrupt again to stop at once)")
        return _set_side_by_side(call, found._replace(interrupted=True))


def _set_side_by_side(call: _Call, found: Found) -> Comparison:
    problem, data, names = call.problem, call.data, call.columns
    plan = problem.plan
    results = _in_one_order(plan, found.engines)
    transforms, note = _calibrated(problem, found, results)
    calibrated = [calibration.record(each, names) for each in transforms]
    scores, agreements = records.scores(results), records.agreements(results)
    diagnostics = records.diagnostics(results)
    modes = weighed_modes(problem, results)
    return Comparison(
        title=call.title,
        plan=plan,
        plan_text=str(plan),
        columns=names,
        data=data,
        num_components=plan.reading.num_components,
        seed=call.settings.seed,
        versions=_versions(),
        engines=results,
        parameters=records.parameters(plan, results, names),
        scores=scores,
        calibration=transforms,
        calibration_scores=calibrated,
        calibration_note=note,
        agreements=agreements,
        modes=modes,
        diagnostics=diagnostics,
        density=_density(problem, data, results),
        verdict=verdict(scores, calibrated, modes, agreements, diagnostics),
        interrupted=found.interrupted,
        evidence=records.evidence(results),
        left_out=found.left_out,
        raised=tuple(found.errors),
    )


class _Call(NamedTuple):
    """What is compared: a program on its arguments; the data (N, D), names of columns, a title."""

    problem: Problem
    data: np.ndarray
    columns: tuple[str, ...]
    title: str
    settings: Settings


def _split_rows(problem: Problem, held_out: float, seed: int) -> Split | None:
    """None where no argument has a row axis, or too few rows are left."""
    size = problem.plan.reading.rows.size
    count = round(size * held_out)
    least = max(_SMALLEST_TRAINING, 2 * problem.plan.reading.num_components)
    if count < 1 or not has_rows(problem.arguments, size) or size - count < least:
        return None
    order = np.random.default_rng(seed).permutation(size)
    train, test = np.sort(order[count:]), np.sort(order[:count])
    # of weight zero, so that no shape changes and what was compiled is used again; copies of training
    # rows, so that priors which a program makes from its data know nothing of the held-out ones
    rows, weight = np.arange(size), np.ones(size)
    rows[test], weight[test] = np.resize(train, count), 0.0
    return Split(problem.take(rows).weighted(weight), test)


def _calibrated(
    problem: Problem, found: Found, results: Mapping[str, EngineResult]
) -> tuple[list[Calibration], str]:
    """Every engine's transforms; or none, and a sentence that says why."""
    transforms = []
    try:
        for name, result in results.items():
            if found.test is not None and name in found.parts:
                part = found.parts[name]
                transforms.append(calibration.held_out(problem, part, found.test))
            alone = calibration.left_out(problem, result)
            transforms += [] if alone is None else [alone]
    except NoDistributionFunction as error:
        return [], (
            f"Calibration is left out: there is no distribution function of {error}; compare "
            "replicated data with the data instead."
        )
    return transforms, ""


def _in_one_order(plan: Plan, found: Mapping[str, EngineResult]) -> dict[str, EngineResult]:
    """Components by falling weight in the first of MAP, MLE and the others; these aligned to it."""
    ranked = [name for name in ("MAP-EM", *ENGINES) if name in found]
    first = found[ranked[0]]
    groups = plan.labels.hidden
    if not groups or not plan.labels.exchangeable:
        return dict(found)
    weights = [first.by_latent[group.latents[0]].mean(axis=0) for group in groups]
    first = reordered(plan, first, [np.argsort(-each, kind="stable") for each in weights])
    return {
        name: first if name == ranked[0] else aligned(plan, first, result)
        for name, result in found.items()
    }


def _column_names(plan: Plan, columns: Sequence[str] | None, width: int) -> tuple[str, ...]:
    if columns is not None:
        if len(columns) != width:
            raise ProgramError(f"columns names {len(columns)} columns, and the data have {width}")
        return tuple(columns)
    return cell_names(plan)


def _density(
    problem: Problem, data: np.ndarray, results: Mapping[str, EngineResult]
) -> dict[str, Any] | None:
    """Predictive densities on a grid over one or two columns, where one argument has rows: the data."""
    if data.shape[1] > 2 or len(problem.plan.families) != 1:
        return None
    place = [
        i for i, each in enumerate(problem.arguments.arrays) if np.shape(each)[:1] == data.shape[:1]
    ]
    if len(place) != 1 or np.size(problem.arguments.arrays[place[0]]) != data.size:
        return None  # covariates: the density differs from row to row
    if not np.array_equal(
        np.reshape(problem.arguments.arrays[place[0]], data.shape), data, equal_nan=True
    ):
        return None
    axes = [_axis(problem.plan, column, 300 if data.shape[1] == 1 else 70) for column in data.T]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    arrays = list(problem.arguments.arrays)
    shape = (len(points), *np.shape(arrays[place[0]])[1:])
    arrays[place[0]] = jax.numpy.asarray(points.reshape(shape), arrays[place[0]].dtype)
    shapes = tuple((tuple(np.shape(a)), str(a.dtype)) for a in arrays)
    there = Arguments(tuple(arrays), problem.arguments.layout._replace(shapes=shapes))
    size = (len(axes[0]),) if len(axes) == 1 else (len(axes[1]), len(axes[0]))
    log_density = {
        name: _thinned(result).log_density(Problem(problem.plan, there)).reshape(size)
        for name, result in results.items()
    }
    grid = axes[0] if len(axes) == 1 else tuple(axes)
    return {"grid": grid, "log_density": log_density}


def _axis(plan: Plan, column: np.ndarray, count: int) -> np.ndarray:
    """Places on a line for a column of data: beyond it only where any number will do, and whole numbers
    where these are meant."""
    support = base_support(plan.reading.observed[0].support)
    anywhere = support in (constraints.real, constraints.real_vector)
    low, high = np.nanmin(column), np.nanmax(column)
    margin = 0.15 * (high - low) if anywhere else 0.0
    axis = np.linspace(low - margin, high + margin, count)
    return np.unique(axis.round()) if support.is_discrete else axis


def _thinned(result: EngineResult) -> EngineResult:
    some = None if result.draws is None else thinned(result.draws, _GRID_DRAWS)
    return replace(result, draws=some)


def _title(plan: Plan, rows: int) -> str:
    name = getattr(plan.program, "__name__", "program")
    sizes = ", ".join(str(latent.size) for latent in plan.reading.latents) or "1"
    return f"{name}, K = {sizes}, {rows} rows"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("bayesmix", "numpyro", "jax", "arviz", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:  # running from a source tree that is not installed
            found[name] = "not installed"
    return found
