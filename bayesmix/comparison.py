"""MAP against full Bayes: several engines on one program and one data set, and what they agree on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .posterior import tables
from .posterior.engines import ENGINES, USUAL, EngineResult, Settings, aligned, reordered
from .program.arguments import Arguments, split, take_rows
from .program.errors import ProgramError
from .program.plan import Plan, plan_arguments
from .program.reading import Program

_GRID_DRAWS = 200
_SMALLEST_TRAINING = 10


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` found; print it, or `write` it to a folder.

    Attributes:
        engines: each engine's :class:`EngineResult`, components in one common order.
        parameters, scores, diagnostics: tables as lists of records; `agreement` the names and the matrix
            of adjusted Rand indices between the clusterings.
        density: the predictive density of each engine on a grid, for one or two columns.
        evidence: log p(x) by the engines that give it. left_out: engines that do not take the program,
            each with the reason.
        verdict: in plain words, whether plugging in the mode is safe here.
        interrupted: whether the run was stopped before all engines had finished.
    """

    title: str
    plan: Plan
    plan_text: str
    columns: tuple[str, ...]
    data: np.ndarray
    num_components: int
    seed: int
    versions: dict[str, str]
    engines: dict[str, EngineResult]
    parameters: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    agreement: tuple[list[str], np.ndarray] | None
    diagnostics: list[dict[str, Any]]
    density: dict[str, Any] | None
    verdict: str
    interrupted: bool
    evidence: list[dict[str, Any]]
    left_out: dict[str, str]

    def table(self) -> str:
        """The whole comparison as text."""
        return tables.render(self)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, in types that JSON holds."""
        return tables.record(self)

    def write(self, folder: str | Path) -> Path:
        """Write `report.html`, `posterior.nc` (and `posterior_nuts.nc`) and `summary.json`.

        Each file is written in full or not at all. Raises `OSError` where the folder cannot be written.
        """
        from .report import write_comparison

        return write_comparison(self, folder)


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

    Returns:
        A :class:`Comparison`. Interrupting (Ctrl-C) returns the engines that had finished.

    Raises:
        ProgramError: where the program or the data cannot be read, or an engine is unknown.

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
    """
    unknown = [name for name in engines if name not in ENGINES]
    if unknown or not engines:
        asked = f"'{unknown[0]}'" if unknown else "nothing"
        raise ProgramError(f"engines holds {asked}; choose among {', '.join(ENGINES)}")
    if not 0 <= held_out < 1:
        raise ProgramError(f"held_out is {held_out}; give a share of the rows, from 0 to below 1")
    arguments = split(args, kwargs)
    plan = program if isinstance(program, Plan) else plan_arguments(program, arguments)
    if len(plan.reading.latents) > 1:
        several = ", ".join(f"'{name}'" for name in plan.graph.names)
        raise ProgramError(
            f"compare lists the components of one latent, and the program has several ({several}); run "
            "EM, ConjugateGibbs and NUTS on marginalize(program), and read each with to_arviz"
        )
    settings = Settings(seed, restarts, num_warmup, num_samples, num_chains, progress_bar)
    train, test = _split_rows(plan, arguments, held_out, seed)
    found, left_out, interrupted = _run(plan, arguments, train, test, engines, settings, announce)
    observed = plan.observe(arguments).values
    data = np.concatenate([np.reshape(v, (v.shape[0], -1)) for v in observed.values()], axis=1)
    names = _column_names(plan, columns, data.shape[1])
    results = _in_one_order(plan, found)
    scores = tables.scores(results)
    agreement = tables.agreement(results)
    return Comparison(
        title=title or _title(plan, data.shape[0]),
        plan=plan,
        plan_text=str(plan),
        columns=names,
        data=data,
        num_components=plan.reading.num_components,
        seed=seed,
        versions=_versions(),
        engines=results,
        parameters=tables.parameters(plan, results, names),
        scores=scores,
        agreement=agreement,
        diagnostics=tables.diagnostics(results),
        density=_density(plan, arguments, data, results),
        verdict=tables.verdict(plan, results, scores, agreement),
        interrupted=interrupted,
        evidence=tables.evidence(results),
        left_out=left_out,
    )


def _split_rows(
    plan: Plan, arguments: Arguments, held_out: float, seed: int
) -> tuple[Arguments | None, Arguments | None]:
    """Training and held-out rows; None where no argument has a row axis, or too few rows are left."""
    size = plan.reading.rows.size
    count = round(size * held_out)
    leading = [shape[0] for shape, _ in arguments.layout.shapes if shape]
    least = max(_SMALLEST_TRAINING, 2 * plan.reading.num_components)
    if count < 1 or size not in leading or size - count < least:
        return None, None
    order = np.random.default_rng(seed).permutation(size)
    train, test = np.sort(order[count:]), np.sort(order[:count])
    return take_rows(arguments, size, train), take_rows(arguments, size, test)


def _run(
    plan: Plan,
    arguments: Arguments,
    train: Arguments | None,
    test: Arguments | None,
    engines: Sequence[str],
    settings: Settings,
    announce: Callable[[str], None] | None,
) -> tuple[dict[str, EngineResult], dict[str, str], bool]:
    """Each engine's answer, those that do not take the program and why, and whether it was stopped."""
    found: dict[str, EngineResult] = {}
    left_out: dict[str, str] = {}
    say = announce or (lambda line: None)
    try:
        for name in engines:
            size = plan.reading.rows.size
            say(f"{name}: {size} rows")
            try:
                result = ENGINES[name](plan, arguments, settings)
            except ProgramError as error:
                if name in (
                    "MLE-EM",
                    "MAP-EM",
                ):  # these take every program: something else is wrong
                    raise
                say(f"{name}: left out")
                left_out[name] = str(error)
                continue
            if train is not None and test is not None:
                say(f"{name}: again without the held-out rows")
                part = ENGINES[name](plan, train, settings)
                result = replace(result, held_out=part.log_density(plan, test))
            found[name] = result
    except KeyboardInterrupt:
        if not found:
            raise
        return found, left_out, True
    if not found:
        raise ProgramError("no engine takes the program: " + " ".join(left_out.values()))
    return found, left_out, False


def _in_one_order(plan: Plan, found: Mapping[str, EngineResult]) -> dict[str, EngineResult]:
    """Components by falling weight in the first of MAP, MLE and the others; these aligned to it."""
    ranked = [name for name in ("MAP-EM", *ENGINES) if name in found]
    first = found[ranked[0]]
    if not plan.labels.hidden or not plan.labels.exchangeable:
        return dict(found)
    (group,) = plan.labels.hidden
    assert first.weights is not None
    first = reordered(first, group, np.argsort(-first.weights, kind="stable"))
    return {
        name: first if name == ranked[0] else aligned(plan, first, result)
        for name, result in found.items()
    }


def _column_names(plan: Plan, columns: Sequence[str] | None, width: int) -> tuple[str, ...]:
    if columns is not None:
        if len(columns) != width:
            raise ProgramError(f"columns names {len(columns)} columns, and the data have {width}")
        return tuple(columns)
    names = []
    for site in plan.reading.observed:
        size = int(np.prod(site.shape[1:], dtype=int))
        names += [site.name] if size == 1 else [f"{site.name}[{j}]" for j in range(size)]
    return tuple(names)


def _density(
    plan: Plan, arguments: Arguments, data: np.ndarray, results: Mapping[str, EngineResult]
) -> dict[str, Any] | None:
    """Predictive densities on a grid over one or two columns, where an argument holds the data."""
    if data.shape[1] > 2 or len(plan.families) != 1:
        return None
    place = [
        i
        for i, array in enumerate(arguments.arrays)
        if np.shape(array)[:1] == data.shape[:1]
        and np.size(array) == data.size
        and np.array_equal(np.reshape(array, data.shape), data)
    ]
    if not place:
        return None
    low, high = data.min(axis=0), data.max(axis=0)
    margin = 0.15 * (high - low)
    axes = [
        np.linspace(a, b, 300 if data.shape[1] == 1 else 70)
        for a, b in zip(low - margin, high + margin, strict=True)
    ]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    arrays = list(arguments.arrays)
    shape = (len(points), *np.shape(arrays[place[0]])[1:])
    arrays[place[0]] = jax.numpy.asarray(points.reshape(shape), arrays[place[0]].dtype)
    shapes = tuple((tuple(np.shape(a)), str(a.dtype)) for a in arrays)
    there = Arguments(tuple(arrays), arguments.layout._replace(shapes=shapes))
    size = (len(axes[0]),) if len(axes) == 1 else (len(axes[1]), len(axes[0]))
    log_density = {
        name: result.thinned(_GRID_DRAWS).log_density(plan, there).reshape(size)
        for name, result in results.items()
    }
    grid = axes[0] if len(axes) == 1 else tuple(axes)
    return {"grid": grid, "log_density": log_density}


def _title(plan: Plan, rows: int) -> str:
    name = getattr(plan.program, "__name__", "program")
    return f"{name}, K = {plan.reading.num_components}, {rows} rows"


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
