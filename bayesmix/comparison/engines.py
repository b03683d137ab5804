"""One engine's answer on one data set, in the form that a comparison shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, random
from numpyro.infer import MCMC

from ..infer.coordinates import unconstrained
from ..infer.em import EM
from ..infer.gibbs import ConjugateGibbs, check_draws
from ..infer.laplace import laplace
from ..infer.modes import align
from ..infer.posterior_nuts import PosteriorNUTS
from ..infer.result import EMResult
from ..infer.smc import TemperedSMC
from ..infer.starts import SeedingRows, kmeans_plus_plus, seeding_rows, starting_values
from ..infer.variational import VariationalBayes
from ..posterior import arviz_compat
from ..posterior.convert import gather, to_arviz
from ..posterior.draws import at_draws, average_log_density, component_moments, flatten
from ..posterior.labels import LabelSwitching, label_switching, relabel, renamed_draws
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.labels import LabelGroup, permute_labels
from ..program.plan import Plan, plan_arguments
from ..program.problem import Problem
from ..program.recent import Recent
from ..program.transforms import without_priors

_REPLICATIONS = 50
_LARGEST_RELATIVE_DRAWS = 400
_MOST_MODES = 10  # whose parameters are kept
_LARGEST_ERROR = 0.5  # of a log evidence that is worth comparing


class Settings(NamedTuple):
    """How long and how often each engine runs."""

    seed: int
    restarts: int
    num_warmup: int
    num_samples: int
    num_chains: int
    progress_bar: bool


class Evidence(NamedTuple):
    """log p(x) by one engine: its standard error where that is known, and what kind of value it is."""

    value: float
    error: float | None
    kind: str


@dataclass(frozen=True, eq=False)
class EngineResult:
    """One engine's answer (N rows, D columns, K components); None where it does not apply.

    `estimate` holds the parameters (a mode for EM, posterior means after relabelling for samplers) and
    `interval` the 94% highest-density intervals. `by_latent` are the responsibilities (N, K) of each
    latent of a row; where there is one latent at most they are `responsibilities` too, with hard
    `labels` (N,) and `weights` (K,). `idata` and `raw` are the relabelled and the original draws;
    `plug_in` says whether predictions use the estimate alone. `switching` is None where draws are
    independent ones from an approximation (Laplace, VB), which cannot fail to mix. `seconds` is the time
    on all rows, of which `compiling` were spent on tracing and compiling. `modes` are distinct modes'
    objectives and numbers of starts, and `mode_parameters` the parameters of the first ten. `failed` are
    the statuses of starts that ended elsewhere than in a mode, of `starts`.
    """

    name: str
    estimate: dict[str, np.ndarray]
    by_latent: dict[str, np.ndarray]
    plug_in: bool
    responsibilities: np.ndarray | None = None
    labels: np.ndarray | None = None
    seconds: float = 0.0
    compiling: float = 0.0
    weights: np.ndarray | None = None
    means: np.ndarray | None = None
    covariances: np.ndarray | None = None
    held_out: np.ndarray | None = None
    interval: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    objective: np.ndarray | None = None
    status: str = ""
    modes: list[tuple[float, int]] = field(default_factory=list)
    mode_parameters: list[dict[str, np.ndarray]] = field(default_factory=list)
    starts: int = 0
    failed: tuple[str, ...] = ()
    fit: EMResult | None = None
    raw: Any = None
    idata: Any = None
    switching: LabelSwitching | None = None
    switching_after: LabelSwitching | None = None
    draws: dict[str, np.ndarray] | None = None
    relabelled: dict[str, np.ndarray] | None = None
    label_axis: dict[str, int] = field(default_factory=dict)
    diagnostics: str = ""
    replicated: np.ndarray | None = None
    evidence: Evidence | None = None

    def log_density(self, problem: Problem) -> np.ndarray:
        """log predictive density of each row: plug-in, or averaged over draws by log-sum-exp, (N,)."""
        if self.draws is None:
            values = {name: value[None] for name, value in self._parameters(problem.plan).items()}
        else:
            values = flatten(
                {name: self.draws[name] for name in problem.plan.reading.parameter_names}
            )
        return average_log_density(at_draws(problem, values).log_likelihood)

    def _parameters(self, plan: Plan) -> dict[str, np.ndarray]:
        return {name: self.estimate[name] for name in plan.reading.parameter_names}


RECORDS = (EngineResult, Evidence, LabelSwitching)  # what an answer is made of, in a file


def thinned(draws: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """Evenly spaced draws of (chain, draw, ...), about `most` in all, for what is costly per draw."""
    chains, length = next(iter(draws.values())).shape[:2]
    step = max(1, -(-chains * length // most))
    return {name: value[:, ::step] for name, value in draws.items()}


# the problem; settings; and what an engine makes once for all problems of the plan, such as a sampler
Engine = Callable[[Problem, Settings, Recent], EngineResult]


def maximum_likelihood(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """EM without the priors."""

    def read() -> Plan:
        return plan_arguments(without_priors(problem.plan.program), problem.arguments)

    flat = replace(problem, plan=made.get("without priors", read))
    return _point("MLE-EM", flat, settings)


def maximum_a_posteriori(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """EM on the program as it stands."""
    return _point("MAP-EM", problem, settings)


def gibbs(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """Conjugate Gibbs."""
    mcmc = made.get("sampler", lambda: _mcmc(ConjugateGibbs(problem.plan), settings))
    mcmc.run(random.key(settings.seed + 2), problem.with_rows(fitting=True).specialised())
    drawn = mcmc.get_samples(group_by_chain=True)
    check_draws(drawn)
    raw = _gathered(problem, drawn, mcmc.get_extra_fields(group_by_chain=True), settings)
    return _diagnosed(_relabelled("Gibbs", problem, raw))


def nuts(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """NUTS with the latent summed out, each chain started from a partition of its own."""
    keys = random.split(random.key(settings.seed + 1), settings.num_chains)
    observed = problem.observe(fitting=True)
    arranged = problem.at(problem.plan.arrange(observed))
    rows = seeding_rows(arranged, observed)
    free = arranged.run(_free_starts, rows, keys)
    if settings.num_chains == 1:
        free = {name: value[0] for name, value in free.items()}
    # the same density as that of `marginalize(plan)`, which NumPyro would run outside jit as well
    mcmc = made.get("sampler", lambda: _mcmc(PosteriorNUTS(problem.plan), settings))
    fields = ("num_steps", "accept_prob", "energy")
    key = random.key(settings.seed + 2)
    mcmc.run(key, arranged.specialised(), init_params=free, extra_fields=fields)
    chains = mcmc.sampler.to_sites(problem, mcmc.get_samples(group_by_chain=True))
    raw = _gathered(problem, chains, mcmc.get_extra_fields(group_by_chain=True), settings)
    return _diagnosed(_relabelled("NUTS", problem, raw))


def _free_starts(problem: Problem, rows: SeedingRows, keys: Array) -> Values:
    """Unconstrained values of parameters fitted to partitions about seeds."""
    values = starting_values(problem, kmeans_plus_plus, rows, keys)
    return jax.vmap(partial(unconstrained, problem.plan.reading.parameters))(values)


def laplace_approximation(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """Draws from the normal density about the MAP, in unconstrained coordinates."""
    fit = EM(problem.plan, progress_bar=settings.progress_bar).run_problem(
        random.key(settings.seed), problem, restarts=settings.restarts
    )
    about = laplace(problem.with_rows(), fit.parameters)
    weight = about.log_weight
    if weight.value is None:
        raise ProgramError(f"there is no normal density about the mode: {weight.reason}")
    found = _drawn("Laplace", partial(about.sample, problem.plan), problem, settings)
    return replace(found, evidence=Evidence(weight.value, None, "Laplace, all relabelled copies"))


def variational(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """Draws from the variational posterior."""
    fit = VariationalBayes(problem.plan, progress_bar=settings.progress_bar).run_problem(
        random.key(settings.seed), problem, restarts=settings.restarts
    )
    found = _drawn("VB", fit.sample, problem, settings)
    bound = fit.log_evidence_bound + fit.log_relabellings
    kind = "lower bound, with log K! for copies" if fit.log_relabellings else "lower bound"
    return replace(found, evidence=Evidence(bound, None, kind), status=str(fit.status))


def smc(problem: Problem, settings: Settings, made: Recent) -> EngineResult:
    """Tempered SMC: one run for each chain, one particle for each draw."""
    sampler = TemperedSMC(
        problem.plan,
        num_particles=settings.num_samples,
        num_runs=settings.num_chains,
        progress_bar=settings.progress_bar,
    )
    run = sampler.run(random.key(settings.seed + 2), problem)
    raw = to_arviz(run, rng_key=random.key(settings.seed + 3))
    found = _diagnosed(_relabelled("SMC", problem, raw))
    kind = "estimate"
    if run.standard_error > _LARGEST_ERROR:
        kind += "; the runs disagree, so that it may be far too low: take more particles"
    return replace(found, evidence=Evidence(run.mean_log_evidence, run.standard_error, kind))


ENGINES: dict[str, Engine] = {
    "MLE-EM": maximum_likelihood,
    "MAP-EM": maximum_a_posteriori,
    "Laplace": laplace_approximation,
    "VB": variational,
    "Gibbs": gibbs,
    "NUTS": nuts,
    "SMC": smc,
}
USUAL = ("MLE-EM", "MAP-EM", "Gibbs", "NUTS")


def _point(name: str, problem: Problem, settings: Settings) -> EngineResult:
    fit = EM(problem.plan, progress_bar=settings.progress_bar).run_problem(
        random.key(settings.seed), problem, restarts=settings.restarts
    )
    latents = problem.plan.graph.names
    found = fit.responsibilities()
    by_latent = found if isinstance(found, dict) else dict.fromkeys(latents, found)
    single = {n: v[None] for n, v in fit.parameters.items()}
    modes = [mode for mode in fit.modes if mode.status]
    means, covariances = _moments(problem, single)
    return EngineResult(
        name=name,
        estimate={**fit.parameters, **fit.deterministic},
        plug_in=True,
        **_clustering(problem, by_latent),
        means=means,
        covariances=covariances,
        objective=fit.objective,
        status=str(fit.status),
        modes=[(mode.objective, mode.count) for mode in modes],
        mode_parameters=[mode.parameters for mode in modes[:_MOST_MODES]],
        starts=len(fit.restart_statuses),
        failed=tuple(
            each.name.lower().replace("_", " ") for each in fit.restart_statuses if not each
        ),
        fit=fit,
    )


def _clustering(problem: Problem, by_latent: dict[str, np.ndarray]) -> dict[str, Any]:
    """Responsibilities by latent, and those of a mixture: of its only latent, or of one component."""
    found: dict[str, Any] = {"by_latent": by_latent}
    if len(by_latent) < 2:
        rows = problem.observe().num_rows
        (only,) = by_latent.values() or (np.ones((rows, 1)),)
        found |= _of_one(only)
    return found


def _of_one(responsibilities: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "responsibilities": responsibilities,
        "labels": responsibilities.argmax(axis=1),
        "weights": responsibilities.mean(axis=0),
    }


def _moments(
    problem: Problem, draws: dict[str, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Each component's mean and covariance, averaged over draws; None for several observed sites."""
    if len(problem.plan.families) != 1 or problem.plan.by_row:
        return None, None
    ((means, covariances),) = component_moments(problem, draws).values()
    return means.mean(axis=0), covariances.mean(axis=0)


def _mcmc(kernel: Any, settings: Settings) -> MCMC:
    return MCMC(
        kernel,
        num_warmup=settings.num_warmup,
        num_samples=settings.num_samples,
        num_chains=settings.num_chains,
        chain_method="vectorized",
        progress_bar=settings.progress_bar,
        jit_model_args=True,  # so that all problems of a plan share what is compiled
    )


def _drawn(
    name: str,
    sample: Callable[[Any, int], dict[str, np.ndarray]],
    problem: Problem,
    settings: Settings,
) -> EngineResult:
    """The answer that independent draws give, put into as many chains as a sampler would have."""
    lead = (settings.num_chains, settings.num_samples)
    flat = sample(random.key(settings.seed + 2), lead[0] * lead[1])
    chains = {n: np.reshape(value, (*lead, *value.shape[1:])) for n, value in flat.items()}
    return _relabelled(name, problem, _gathered(problem, chains, {}, settings))


def _gathered(problem: Problem, chains: Any, extra: Mapping[str, Any], settings: Settings) -> Any:
    """Draws of the parameters (chain, draw, ...) and what follows from them, for ArviZ."""
    return gather(
        problem,
        chains,
        extra,
        coords={},
        dims={},
        latents=None,
        posterior_predictive=None,
        rng_key=random.key(settings.seed + 3),
    )


def _relabelled(name: str, problem: Problem, raw: Any) -> EngineResult:
    """A sampler's answer from its draws before and after relabelling."""
    idata = relabel(raw) if problem.plan.labels.hidden else raw
    before = _arrays(raw, "posterior")
    after = _arrays(idata, "posterior")
    latents = _arrays(idata, "latents") if problem.plan.graph.names else {}
    by_latent = {n: latents[f"{n}_probability"].mean(axis=(0, 1)) for n in problem.plan.graph.names}
    flat = flatten({n: after[n] for n in problem.plan.reading.parameter_names})
    every = max(1, len(next(iter(flat.values()))) // _LARGEST_RELATIVE_DRAWS)
    means, covariances = _moments(problem, {n: v[::every] for n, v in flat.items()})
    axes = {n: axis for n, axis in problem.plan.labels.axes.items() if n in after}
    return EngineResult(
        name=name,
        estimate={n: value.mean(axis=(0, 1)) for n, value in after.items()},
        plug_in=False,
        **_clustering(problem, by_latent),
        means=means,
        covariances=covariances,
        interval={n: arviz_compat.hdi(value, 0.94) for n, value in after.items()},
        raw=raw,
        idata=idata,
        draws=before,
        relabelled=after,
        label_axis=axes,
        replicated=_replicated(raw, problem.plan),
    )


def _diagnosed(result: EngineResult) -> EngineResult:
    """A sampler's answer with what its chains say of convergence: independent draws from an
    approximation would say that it converged, wherever it is."""
    before, after = label_switching(result.raw), label_switching(result.idata)
    return replace(result, switching=before, switching_after=after, diagnostics=before.sentence)


def _arrays(idata: Any, group: str) -> dict[str, np.ndarray]:
    found = arviz_compat.dataset(idata, group)
    return {str(name): np.asarray(found[name].values) for name in found.data_vars}


def _replicated(raw: Any, plan: Plan) -> np.ndarray | None:
    if "posterior_predictive" not in arviz_compat.groups(raw) or len(plan.families) != 1:
        return None
    (drawn,) = _arrays(raw, "posterior_predictive").values()
    flat = drawn.reshape(-1, *drawn.shape[2:])
    chosen = np.linspace(0, len(flat) - 1, min(_REPLICATIONS, len(flat))).astype(int)
    found = flat[chosen]
    return found if found.ndim == 3 else found.reshape(*found.shape[:2], -1)


def aligned(plan: Plan, reference: EngineResult, result: EngineResult) -> EngineResult:
    """The same answer with its components in the order that is closest to another engine's."""
    theirs, own = (
        {name: each.estimate[name] for name in plan.reading.parameter_names}
        for each in (reference, result)
    )
    groups = plan.labels.hidden
    return reordered(plan, result, [align(plan, group, theirs, own) for group in groups])


def reordered(plan: Plan, result: EngineResult, orders: Sequence[np.ndarray]) -> EngineResult:
    """Put component `order[k]` at label k, everywhere; one order for each group of hidden labels."""
    for group, order in zip(plan.labels.hidden, orders, strict=True):
        result = _reordered_estimates(result, group, order)
    if result.idata is None:
        return result
    permutations = {}
    shape = next(iter((result.draws or {}).values())).shape[:2]
    for group, order in zip(plan.labels.hidden, orders, strict=True):
        dim = plan.label_dim(group.latents[0])
        permutations[dim] = np.broadcast_to(order, (*shape, group.size))
    idata = renamed_draws(result.idata, permutations)
    return replace(result, idata=idata, relabelled=_arrays(idata, "posterior"))


def _reordered_estimates(
    result: EngineResult, group: LabelGroup, order: np.ndarray
) -> EngineResult:
    def moved(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        turned = permute_labels(values, group.axes, order, group.complements)
        return {n: np.asarray(v) for n, v in turned.items()}

    ends = [moved({n: ends[i] for n, ends in result.interval.items()}) for i in range(2)]
    low, high = (
        {n: end(ends[0][n], ends[1][n]) for n in ends[0]} for end in (np.minimum, np.maximum)
    )
    by_latent = {
        name: each[:, order] if name in group.latents else each
        for name, each in result.by_latent.items()
    }
    of_one: dict[str, Any] = {}
    if len(by_latent) == 1:
        of_one |= _of_one(*by_latent.values())
        for name, each in (("means", result.means), ("covariances", result.covariances)):
            of_one[name] = None if each is None else each[order]
    return replace(
        result,
        estimate=moved(result.estimate),
        interval={name: (low[name], high[name]) for name in low},
        by_latent=by_latent,
        **of_one,
    )
