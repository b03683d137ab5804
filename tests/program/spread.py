"""Programs on rows that are spread over devices, and on one: `python -m tests.program.spread CASE...`.

Prints a line for each case: how far numbers that are to be the same are apart, relative to their size.
A process has a fixed number of devices, so that tests with other numbers, or with several processes, run
this by itself.
"""

import json
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.infer import MCMC
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import ProgramError, zoo
from bayesmix.infer.starts import rough_values
from bayesmix.program import row_pass
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.parts import expect
from bayesmix.program.problem import Problem

ROWS = 203  # no multiple of anything


def gaussians(x):
    """Full covariances, missing cells, and rows that count several times."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("component", 2):
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.zeros(2), covariance / 0.1))
    counts = 1.0 + jnp.arange(x.shape[0]) % 3
    with numpyro.plate("rows", x.shape[0]), numpyro.handlers.scale(scale=counts):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def bernoullis(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("component", 2):
        share = numpyro.sample("share", dist.Beta(2.0, 2.0).expand([5]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(share[z]).to_event(1), obs=x)


def lines(u, y, labels):
    """A regression: parameters of every row by itself; some labels are known."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("component", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 1.0))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        mean = slope[z, ..., 0] + slope[z, ..., 1] * u
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[z])), obs=y)


def chain(x):
    """Four hidden states in a row of data."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(2)))
    following = dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1)
    transition = numpyro.sample("transition", following)
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = None
        for t in range(x.shape[1]):
            z = numpyro.sample(f"z{t}", dist.Categorical(initial if z is None else transition[z]))
            numpyro.sample(f"x{t}", dist.Normal(mean[z], 1.0), obs=x[:, t])


def cases() -> dict:
    """Programs, and their data."""
    rng = np.random.default_rng(0)
    x = np.array([[-2.0, 0.0], [2.0, 1.0]])[rng.integers(0, 2, ROWS)] + rng.normal(size=(ROWS, 2))
    holes = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    y = np.where(rng.random(ROWS) < 0.5, 1 + 2 * x[:, 0], -x[:, 0]) + rng.normal(size=ROWS) / 2
    labels = np.where(rng.random(ROWS) < 0.9, -1, rng.integers(0, 2, ROWS))
    return {
        "gaussians": (gaussians, holes),
        "bernoullis": (bernoullis, rng.random((ROWS, 5)) < 0.4),
        "lines": (lines, x[:, 0], y, labels),
        "chain": (chain, np.hstack([x, x])),
        "students": (zoo.student_mixture, holes, 2),
    }


def numbers(plan: bayesmix.Plan, data: tuple) -> dict:
    """Sums over rows and what is kept of each, at some parameters, in the blocks of this context."""
    arguments = split(data, {})
    blocks = Problem(plan, arguments).with_rows().blocks

    def run(arrays, blocks, values, key):
        told = arguments.with_arrays(arrays)
        evaluation = plan.evaluate(told, values)
        seen = row_pass.passes(plan.graph, plan.families, evaluation, blocks, expect)
        drawn = row_pass.drawn_pass(plan.graph, plan.families, evaluation, blocks, key)
        gradient = jax.grad(lambda values: Problem(plan, told, blocks).log_likelihood(values))
        slope, bend = jax.jvp(gradient, (values,), (values,))
        return {
            "log likelihood": seen.log_likelihood,
            "statistics": seen.statistics,
            "log likelihood of a sweep": drawn.log_likelihood,
            "gradient": slope,
            "curvature": bend,
            "log factors": Problem(plan, told, blocks).log_factors(values),
        }

    used = set(jax.devices()) if blocks.mesh else {jax.devices()[0]}
    assert blocks.weight.sharding.device_set == used
    return compile_lightly(run)(arguments.arrays, blocks, rough_values(plan), jax.random.key(0))


def engines(plan: bayesmix.Plan, data: tuple) -> dict:
    """Whole fits, what NUTS moves on, and the first of a few sweeps from one place (the draws themselves
    depend on how rows are blocked)."""
    em = bayesmix.EM(plan, max_steps=25, tolerance=-1.0, progress_bar=False)
    fit = em.run(0, *data, restarts=2)
    marginal = bayesmix.marginalize(plan)
    density = jax.value_and_grad(lambda values: log_density(marginal, data, {}, values)[0])
    kernel = bayesmix.ConjugateGibbs(plan)
    sweeps = MCMC(kernel, num_warmup=0, num_samples=3, progress_bar=False)
    sweeps.run(
        jax.random.key(0), *data, init_params=fit.parameters, extra_fields=("log_likelihood",)
    )
    height = np.asarray(sweeps.get_extra_fields()["log_likelihood"])
    assert np.isfinite(height).all() and np.ptp(height) > 0
    return {
        "fit": (fit.objective, fit.parameters),
        "responsibilities": fit.responsibilities(),
        "marginal density": density({n: jnp.asarray(v) for n, v in fit.parameters.items()}),
        "sweep": height[0],
    }


def apart(one, other) -> float:
    """The largest difference, relative to the largest finite number."""
    one, other = (np.asarray(ravel_pytree(jax.tree.map(jnp.asarray, x))[0]) for x in (one, other))
    differ = one != other  # -inf is the same as -inf
    largest = np.max(np.abs(one[np.isfinite(one)]))
    return float(np.max(np.abs(one[differ] - other[differ]), initial=0.0) / largest)


def compare(name: str, look: Callable[..., dict]) -> dict[str, float]:
    """How far apart what `look` finds on one device and on all of them is, by what it is."""
    program, *data = cases()[name]
    plan = bayesmix.plan(program, *data)
    alone = look(plan, tuple(data))
    with bayesmix.rows_on():
        spread = look(plan, tuple(data))
    return {key: apart(alone[key], spread[key]) for key in alone}


def check_refusal() -> None:
    """Data of which each process has a piece are refused with the cure."""
    mesh = jax.make_mesh((2,), ("anything",))
    sharding = NamedSharding(mesh, PartitionSpec("anything"))
    pieces = jax.make_array_from_process_local_data(sharding, np.zeros((3, 5)))
    with pytest.raises(ProgramError, match="give every process the whole"):
        bayesmix.plan(bernoullis, pieces)


def main(asked: list[str]) -> None:
    """Print, for each case, the number of devices and how far apart the numbers are.

    Before the cases may stand `engines`, for whole fits in place of single passes; and before that, for
    one of two processes with a device each, `process RANK ADDRESS`.
    """
    numpyro.enable_x64()
    alone = asked[0] != "process"
    numpyro.set_host_device_count(4 if alone else 1)
    if not alone:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(asked[2], num_processes=2, process_id=int(asked[1]))
        check_refusal()
        asked = asked[3:]
    look, names = (engines, asked[1:]) if asked[0] == "engines" else (numbers, asked)
    for name in names:
        found = {"case": name, "devices": len(jax.devices()), "apart": compare(name, look)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
