"""From a NumPyro run to ArviZ, with the latent summed out where it should be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import random

from ..infer.answer import Answer
from ..infer.gibbs import check_draws
from ..infer.predict import check_drawable
from ..infer.variational_result import VariationalResult
from ..program.errors import ProgramError
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from . import arviz_compat
from .draws import at_draws, flatten, replicate
from .imputation import impute_draws

# entries of one group beyond which it is left out, with a warning, unless asked for
_LARGEST_GROUP = 60_000_000
_STATISTICS = {
    "diverging": "diverging",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
    "adapt_state.step_size": "step_size",
}


def to_arviz(
    mcmc: Any,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    latents: bool | None = None,
    log_likelihood: bool | None = None,
    posterior_predictive: bool | None = None,
    rng_key: Any = None,
) -> Any:
    """A run of `ConjugateGibbs` or `MixedGibbs`, or of NUTS on `marginalize(program)`, for ArviZ; a fit
    of `VariationalBayes`, as one chain of independent draws from it; a :class:`bayesmix.Posterior`; or
    a fit by EM, as one draw.

    Groups: `posterior` (parameters and deterministic sites); `log_likelihood`, log p(x_i | theta_s) with
    the latent summed out, so that `az.loo` leaves out rows; `latents`, p(z_i = k | x_i, theta_s) as
    `<latent>_probability`, and the labels themselves where they were drawn; `posterior_predictive`, one
    replicated data set per draw; `sample_stats`; `observed_data`. Dimensions are named after the
    program's plates; the dimension of component labels is recorded in `posterior.attrs["label_dims"]`.
    A likelihood written with `numpyro.factor` is in `log_likelihood`; it has no data to draw, and there
    is no `posterior_predictive` beside it.

    A row of weight w (`handlers.scale`) stands for w equal rows. In `log_likelihood` it has w entries,
    along `<rows>_copy`, whose coordinate is the row's number: leaving out one of them is leaving out one
    observation, so `az.loo` and `az.compare` are those of the rows written out. Where weights are not
    whole numbers, there are no copies to leave out, and the group is not there (a warning says so).

    Args:
        mcmc: a `numpyro.infer.MCMC` that has run, or an answer: an `EMResult`, a `VariationalResult`, a
            `Posterior`.
        coords, dims: names for coordinates and dimensions, as in ArviZ; they win over the program's.
        latents, log_likelihood, posterior_predictive: whether to compute these groups; by default where
            they are not too large (a warning says when they were left out).
        rng_key: for the replicated data, and for draws from a `VariationalResult`; fixed by default.

    Returns:
        An `InferenceData` (ArviZ 0.23) or a `DataTree` (ArviZ 1.x).

    Raises:
        ProgramError: where the run was not made by one of these, or a group that was asked for is not
            to be had.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     with numpyro.plate("component", 2):
        ...         mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> mcmc = MCMC(bayesmix.ConjugateGibbs(program), num_warmup=50, num_samples=100,
        ...             progress_bar=False)
        >>> mcmc.run(jax.random.key(0), jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1]))
        >>> idata = bayesmix.to_arviz(mcmc)
        >>> idata["posterior"]["mean"].dims
        ('chain', 'draw', 'component')
        >>> idata["log_likelihood"]["x"].dims
        ('chain', 'draw', 'rows')
    """
    rng_key = random.key(0) if rng_key is None else rng_key
    extra: Mapping[str, Any] = {}
    if isinstance(mcmc, VariationalResult):
        problem = mcmc.problem
        rng_key, own = random.split(rng_key)
        samples = {name: drawn[None] for name, drawn in mcmc.sample(own).items()}
    elif isinstance(mcmc, Answer):
        problem = mcmc.problem
        samples = {name: drawn[None] for name, drawn in mcmc.draws.items()}
    else:
        problem = origin(mcmc)
        samples = mcmc.get_samples(group_by_chain=True)
        check_draws(samples)
        extra = mcmc.get_extra_fields(group_by_chain=True)
    return gather(
        problem,
        samples,
        extra,
        coords=coords or {},
        dims=dims or {},
        latents=latents,
        log_likelihood=log_likelihood,
        posterior_predictive=posterior_predictive,
        rng_key=rng_key,
    )


def origin(mcmc: Any) -> Problem:
    """The program with the arguments of a run.

    Raises :class:`ProgramError` where it was not made by one of our samplers, or has not run.
    """
    kernel = mcmc.sampler
    source = next((s for s in (kernel, getattr(kernel, "model", None)) if hasattr(s, "plan")), None)
    if source is None:
        raise ProgramError(
            "to_arviz reads runs of bayesmix's samplers, or of a kernel on "
            "bayesmix.marginalize(program); this run has another kernel or model"
        )
    if getattr(mcmc, "_args", None) is None:
        raise ProgramError("this MCMC has not run yet; call mcmc.run(rng_key, ...) first")
    plan = source.plan(*mcmc._args, **mcmc._kwargs)
    return replace(Plans(plan).call(mcmc._args, mcmc._kwargs), arranged=None)


def gather(
    problem: Problem,
    samples: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    coords: Mapping[str, Sequence[Any]],
    dims: Mapping[str, Sequence[str]],
    latents: bool | None,
    posterior_predictive: bool | None,
    rng_key: Any,
    log_likelihood: bool | None = None,
    imputed_data: bool | None = None,
) -> Any:
    """Build every group from draws (chain, draw, ...) of the plan's parameters."""
    plan = problem.plan
    reading = plan.reading
    draws = {name: np.asarray(samples[name]) for name in reading.parameter_names}
    lead = next(iter(draws.values())).shape[:2]
    flat = flatten(draws)

    def grouped(array: Any) -> np.ndarray:
        return np.reshape(array, (*lead, *np.shape(array)[1:]))

    observed = problem.observe()
    num_rows = observed.num_rows
    size = int(np.prod(lead)) * num_rows
    values = sum(latent.size for latent in reading.latents)
    wanted = bool(reading.latents) and _wanted(latents, size * values, "latents")
    at = at_draws(problem, flat, probabilities=wanted)
    posterior = {**draws, **{name: grouped(value) for name, value in at.deterministic.items()}}
    site = "+".join(s.name for s in reading.data)
    weight = observed.row_weights
    counted = np.where(weight > 0, at.log_likelihood, 0.0)  # of no weight are impossible rows too
    groups: dict[str, dict[str, Any]] = {
        "posterior": posterior,
        "sample_stats": {"lp": grouped(at.log_prior + counted @ weight), **_statistics(extra)},
    }
    rows = reading.rows.name
    names = {name: list(plan.dims(name)) for name in posterior}
    labels = {latent.name: plan.label_dim(latent.name) for latent in reading.latents}
    if wanted:
        groups["latents"] = {f"{n}_probability": grouped(at.probabilities[n]) for n in labels}
        names |= {f"{name}_probability": [rows, label] for name, label in labels.items()}
        drawn_labels = _drawn_labels(plan, extra.get("latents", ()))
        groups["latents"] |= drawn_labels
        names |= {name: [rows] for name in drawn_labels}
    copies = _copies(observed, int(np.prod(lead)), log_likelihood)
    if copies is not None:
        along = rows if observed.weight is None else f"{rows}_copy"
        groups["log_likelihood"] = {site: grouped(at.log_likelihood[:, copies])}
        names[site] = [along]
    if posterior_predictive:
        check_drawable(reading)
    width = sum(math.prod(s.shape[1:]) for s in reading.data)
    if not reading.factors and _wanted(posterior_predictive, size * width, "posterior_predictive"):
        drawn = replicate(problem, flat, rng_key)
        groups["posterior_predictive"] = {name: grouped(value) for name, value in drawn.items()}
    given = {name: v for name, v in observed.given.items() if name not in reading.factors}
    if given:
        groups["observed_data"] = given
    gaps = any(there is not None for there in observed.present.values())
    if gaps and _wanted(imputed_data, size * width, "imputed_data"):
        filled = impute_draws(problem, flat, rng_key)
        groups["imputed_data"] = {n: grouped(v) for n, v in filled.items() if n in given}
    hidden = plan.labels.hidden
    swapped = [f"{n}={labels[group.latents[0]]}" for group in hidden for n in group.complements]
    bound = [name for group in hidden for name in group.bound if name in posterior]
    attrs = {
        "posterior": {
            "label_dims": ", ".join(_label_dims(plan)),
            "label_complements": ", ".join(swapped),
            "label_bound": ", ".join(dict.fromkeys(bound)),
            "exchangeable": "yes" if plan.labels.exchangeable else "no",
            "relabelled": "no",
        }
    }
    index: dict[str, Sequence[Any]] = {rows: list(range(num_rows))}
    for latent in reading.latents:
        index[labels[latent.name]] = list(range(latent.size))
    for dim in _label_dims(plan):
        first, *tied = dim.split("=")
        index |= dict.fromkeys(tied, index[first])
    index |= coords
    if copies is not None:
        index.setdefault(along, np.asarray(index[rows])[copies])
    return _assemble(plan, groups, index, {**names, **dims}, attrs)


def _copies(observed: Observed, draws: int, asked: bool | None) -> np.ndarray | None:
    """The row of each entry of a log likelihood, each row as often as its weight says; None for none.

    Raises :class:`ProgramError` where it is asked for and weights are not whole numbers.
    """
    if asked is False:
        return None
    weight = np.asarray(observed.row_weights)
    if (weight != np.round(weight)).any():
        reason = (
            "row weights (handlers.scale) that are not whole numbers are no copies of a row, of which "
            "one could be left out: there is no group 'log_likelihood'; for log densities of the rows "
            "use bayesmix.predictive_log_density"
        )
        if asked:
            raise ProgramError(reason)
        warnings.warn(reason, stacklevel=4)
        return None
    wanted = _wanted(asked, draws * int(weight.sum()), "log_likelihood")
    return np.repeat(np.arange(observed.num_rows), weight.astype(int)) if wanted else None


def _drawn_labels(plan: Plan, latents: Any) -> dict[str, np.ndarray]:
    """Labels that Gibbs kept, by latent, (chain, draw, rows)."""
    if isinstance(latents, Mapping):
        return {name: np.asarray(value) for name, value in latents.items()}
    return {plan.graph.names[0]: np.asarray(latents)} if np.ndim(latents) == 3 else {}


def _label_dims(plan: Plan) -> list[str]:
    """Dimensions of labels, one for each group; further ones that go with it follow an equals sign."""
    found = []
    for group in plan.labels.hidden:
        first = plan.label_dim(group.latents[0])
        deepest = max(len(axes) for axes in group.axes.values())
        found.append("=".join(first + "_next" * position for position in range(deepest)))
    return found


def _assemble(
    plan: Plan,
    groups: dict[str, dict[str, Any]],
    coords: Mapping[str, Sequence[Any]],
    names: Mapping[str, Sequence[str]],
    attrs: Mapping[str, Mapping[str, str]],
) -> Any:
    """Observed values have more axes than their log likelihood of the same name: name them apart."""
    wide = {s.name: [plan.reading.rows.name, *_columns(s, coords)] for s in plan.reading.data}
    by_value = {**names, **wide}
    of_values = {"observed_data", "posterior_predictive", "imputed_data"}
    first = {g: v for g, v in groups.items() if g not in of_values}
    idata = arviz_compat.make(first, coords=coords, dims=names, attrs=attrs)
    other = {g: v for g, v in groups.items() if g in of_values}
    values = arviz_compat.make(other, coords=coords, dims=by_value)
    for group in other:
        idata = arviz_compat.replace_group(idata, group, arviz_compat.dataset(values, group))
    return idata


def _columns(site: Any, coords: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of an observed site's own axes; a coordinate of the right length called 'column' is used."""
    sizes = site.shape[1:]
    if len(sizes) == 1 and len(coords.get("column", ())) == sizes[0]:
        return ["column"]
    return [f"{site.name}_dim_{axis}" for axis in range(1, len(sizes) + 1)]


def _statistics(extra: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {new: np.asarray(extra[old]) for old, new in _STATISTICS.items() if old in extra}
    return found


def _wanted(asked: bool | None, entries: int, group: str) -> bool:
    if asked is None and entries > _LARGEST_GROUP:
        warnings.warn(
            f"group '{group}' would hold {entries:.1e} numbers and was left out; ask for it with "
            f"{group}=True, or thin the draws",
            stacklevel=3,
        )
        return False
    return asked is not False
