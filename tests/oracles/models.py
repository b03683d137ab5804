"""mclust's covariance models as NumPyro programs, with Fraley and Raftery's conjugate prior.

`prior` holds `shrinkage`, `mean` (D,), `dof` and `scale`; without priors the programs are mclust's
maximum likelihood models. Weights have a flat prior, as mclust's.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesmix
from bayesmix import EM, Plan
from bayesmix.infer.m_steps import maximise_blocks
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.references import reference


def rows_plate(x):
    return numpyro.plate("rows", x.shape[0])


def wishart(x, prior, K, tied):
    """VVV, and EEE where `tied`."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    shape = () if tied else (K,)
    scatter = dist.InverseWishart(prior["dof"], prior["scale"]).expand(shape).to_event(len(shape))
    covariance = numpyro.sample("covariance", scatter)
    centre = dist.MultivariateNormal(prior["mean"], covariance / prior["shrinkage"])
    mean = numpyro.sample("mean", centre.expand((K,)).to_event(1))
    with rows_plate(x):
        z = numpyro.sample("z", dist.Categorical(weights))
        chosen = covariance if tied else covariance[z]
        numpyro.sample("x", dist.MultivariateNormal(mean[z], chosen), obs=x)


def columns(x, prior, K, tied, spherical):
    """VVI, EEI, VII and EII; V and E for one column."""
    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    shape = (1 if tied else K, 1 if spherical else D)
    gamma = dist.InverseGamma(prior["dof"] / 2, jnp.ravel(prior["scale"])[0] / 2)
    variance = numpyro.sample("variance", gamma.expand(shape).to_event(2))
    deviation = jnp.sqrt(variance / prior["shrinkage"])
    mean = numpyro.sample("mean", dist.Normal(prior["mean"], deviation).expand((K, D)).to_event(2))
    with rows_plate(x):
        z = numpyro.sample("z", dist.Categorical(weights))
        chosen = variance[0] if tied else variance[z]
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(chosen)).to_event(1), obs=x)


MODELS = {
    "VVV": functools.partial(wishart, tied=False),
    "EEE": functools.partial(wishart, tied=True),
    "VVI": functools.partial(columns, tied=False, spherical=False),
    "EEI": functools.partial(columns, tied=True, spherical=False),
    "VII": functools.partial(columns, tied=False, spherical=True),
    "EII": functools.partial(columns, tied=True, spherical=True),
    "V": functools.partial(columns, tied=False, spherical=False),
    "E": functools.partial(columns, tied=True, spherical=False),
}


def stored(dataset: str, model: str, K: int, kind: str) -> dict[str, Any]:
    """mclust's fit; `kind` is 'fits' (maximum likelihood) or 'prior_fits'."""
    return reference(f"mclust_{dataset}")[kind][f"{model}_{K}"]


def arguments_of(dataset: str, model: str, K: int) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """The program's arguments: rows, prior, K."""
    prior = stored(dataset, model, K, "prior_fits")["prior"]
    x = np.asarray(reference(f"mclust_{dataset}")["data"], float)
    return x, {name: np.asarray(value, float) for name, value in prior.items()}, K


@functools.cache
def plan_of(dataset: str, model: str, K: int, kind: str) -> Plan:
    """The plan of a model with (`prior_fits`) or without (`fits`) its prior."""
    program = MODELS[model]
    program = program if kind == "prior_fits" else bayesmix.without_priors(program)
    return bayesmix.plan(program, *arguments_of(dataset, model, K))


@functools.cache
def em_of(dataset: str, model: str, K: int, kind: str) -> EM:
    """EM, compiled once for a model and K."""
    plan = plan_of(dataset, model, K, kind)
    return EM(plan, max_steps=1500, tolerance=1e-11, progress_bar=False)


def parameters_of(model: str, fit: dict[str, Any]) -> dict[str, np.ndarray]:
    """mclust's estimates as values of the program's sites."""
    mean, sigma = np.asarray(fit["mean"]), np.asarray(fit["sigma"])
    weights = np.asarray(fit["pro"])
    common = {"weights": weights / weights.sum(), "mean": mean}
    if model == "VVV":
        return {**common, "covariance": sigma}
    if model == "EEE":
        return {**common, "covariance": sigma[0]}
    variance = np.diagonal(sigma, axis1=1, axis2=2)
    variance = variance[:1] if model[0] == "E" else variance
    return {**common, "variance": variance[:, :1] if model in ("VII", "EII") else variance}


def one_step(plan: Plan, arguments: tuple[Any, ...], values: dict[str, Any]):
    """The objective at `values`, and the values after one EM step from there."""
    call = split(arguments, {})

    @compile_lightly
    def step(arrays, blocks, values):
        told = call.with_arrays(arrays)
        objective, statistics = Problem(plan, told, blocks).expected(values)
        return objective, maximise_blocks(Problem(plan, told), statistics, values)[0]

    told = {name: jnp.asarray(value) for name, value in values.items()}
    return step(call.arrays, Problem(plan, call).with_rows().blocks, told)
