"""Time samplers against hand-written NumPyro: `python -m tests.benchmarks.samplers [--float32]`.

Effective draws per second of CPU time, compiled and warmed up, of the quantity that mixes worst among
some that labels do not matter for: log likelihood, log joint, mean and mean square of a new row. The
peer is NUTS on `MixtureSameFamily` with the priors of `zoo.gaussian_mixture`. NUTS on the marginal has
the same density in the same coordinates, which is checked. Its adapted state is therefore handed to the
peer: same step size, same trajectories, so that draws of both are equally good and their time alone
differs. Runs are taken in turn, and the least time of each counts: other jobs on the machine cost the
peer most, whose factorisations wait for each other's threads. Ratios are bayesmix / peer: above 1 means
that bayesmix is faster.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import NUTS, DiscreteHMCGibbs, init_to_value
from numpyro.infer.util import log_density

import bayesmix
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from bayesmix.zoo import gaussian_mixture
from bayesmix.zoo.priors import matrix_prior
from tests.benchmarks.timing import settings

CELLS = ((1_000, 2, 3), (10_000, 2, 3), (1_000, 10, 5))
REPEATS = 9

Data = tuple[Any, ...]
Values = dict[str, Any]


def by_hand(x, K):
    """What a user of NumPyro writes for `zoo.gaussian_mixture`."""
    m0, nu0, S0 = matrix_prior(x, K, None, None, None)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(nu0, scale_matrix=S0))
        mean = numpyro.sample("mean", dist.MultivariateNormal(m0, covariance / 0.01))
    components = dist.MultivariateNormal(mean, covariance)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)


def rows_of(rows: int, columns: int, components: int, dtype: type) -> jax.Array:
    """Gaussian clusters that overlap a little."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=6.0, size=(components, columns))
    drawn = centres[rng.integers(components, size=rows)] + rng.normal(size=(rows, columns))
    return jnp.asarray(drawn.astype(dtype))


class Chain:
    """Draws of a NumPyro kernel, compiled once; `run` goes on from where the last run ended."""

    def __init__(self, kernel: Any, data: Data, start: Values, draws: int, warmup: int) -> None:
        self.kernel, self.draws = kernel, draws
        self.state = kernel.init(random.key(0), warmup, start, data, {})
        gradients = isinstance(kernel, NUTS)

        def step(state: Any, _: None) -> tuple[Any, Any]:
            state = kernel.sample(state, data, {})
            return state, (state.z, state.num_steps if gradients else jnp.ones((), int))

        # as `MCMC` does, which would trace and compile every run anew
        self._run = jax.jit(lambda state: jax.lax.scan(step, state, length=draws))
        constrain = kernel.postprocess_fn(data, {}) if gradients else lambda z: z
        self._constrain = jax.jit(jax.vmap(constrain))

    def run(self) -> tuple[float, Values, float]:
        """CPU seconds, the draws, and the mean number of gradients (sweeps) of one."""
        started = time.process_time()
        self.state, (drawn, steps) = jax.block_until_ready(self._run(self.state))
        seconds = time.process_time() - started
        return seconds, self._constrain(drawn), float(jnp.mean(steps))


def label_free(plan: bayesmix.Plan, data: tuple[Any, ...], draws: dict[str, Any]) -> np.ndarray:
    """log likelihood, log joint, mean and mean square of a new row, by draw: (draws, quantities)."""
    arguments = split(data, {})
    blocks = Problem(plan, arguments).with_rows().blocks

    def one(values):
        evaluation = plan.evaluate(arguments, values)
        likelihood = Problem(plan, arguments, blocks).log_likelihood(values)
        weights, mean = values["weights"], values["mean"]
        squares = jnp.diagonal(values["covariance"], axis1=-2, axis2=-1) + mean**2
        heights = jnp.stack([likelihood, likelihood + evaluation.log_prior])
        return jnp.concatenate([heights, weights @ mean, weights @ squares])

    return np.asarray(jax.lax.map(one, draws, batch_size=16))


def effective(quantities: np.ndarray) -> float:
    """The smallest number of effective draws."""
    return float(np.min(effective_sample_size(quantities[None])))


def same_density(data: Data, values: Values) -> None:
    """Both programs are the same function of the parameters."""
    heights = [
        jax.jit(lambda v, p=program: log_density(p, data, {}, v)[0])(values)
        for program in (bayesmix.marginalize(gaussian_mixture), by_hand)
    ]
    np.testing.assert_allclose(*heights, rtol=1e-4 if data[0].dtype == jnp.float32 else 1e-9)


def cell(rows: int, columns: int, components: int, dtype: type) -> str:
    """Effective draws per second of three samplers on one data set."""
    data = (rows_of(rows, columns, components, dtype), components)
    plan = bayesmix.plan(gaussian_mixture, *data)
    fit = bayesmix.EM(plan, progress_bar=False).run(random.key(0), *data)
    start = {name: jnp.asarray(value, dtype) for name, value in fit.parameters.items()}
    same_density(data, start)

    begin = {"init_strategy": init_to_value(values=start)}
    gibbs = Chain(bayesmix.ConjugateGibbs(plan, keep_latents=False), data, start, 1000, 0)
    nuts = Chain(NUTS(bayesmix.marginalize(plan), **begin), data, None, 300, 300)
    peer = Chain(NUTS(by_hand, **begin), data, None, 10, 300)
    for chain in (gibbs, nuts):
        chain.run()
    peer.state = nuts.state  # adapted: the same density in the same coordinates
    peer.run()

    seconds, kept = [], []
    for _ in range(REPEATS):
        found = [chain.run() for chain in (gibbs, nuts, peer)]
        taken = zip((gibbs, nuts, peer), found, strict=True)
        seconds.append([time / chain.draws / steps for chain, (time, _, steps) in taken])
        kept.append([*(draws for _, draws, _ in found[:2]), found[1][2]])
    by_gibbs, by_nuts = (
        label_free(plan, data, jax.tree.map(lambda *x: jnp.concatenate(x), *each))
        for each in list(zip(*kept, strict=True))[:2]
    )
    gradients = np.mean([each[2] for each in kept])
    quality = effective(by_nuts) / len(by_nuts) / gradients
    qualities = np.array([effective(by_gibbs) / len(by_gibbs), quality, quality])
    cost = np.min(seconds, axis=0)
    rates = qualities / cost
    names = ("Gibbs", "NUTS on the marginal", "NUTS by hand")
    lines = [
        f"N={rows} D={columns} K={components} {np.dtype(dtype)}: {gradients:.1f} gradients a draw, "
        f"{effective(by_nuts) / len(by_nuts):.2f} effective; a sweep {qualities[0]:.2f}; "
        f"means apart by {apart(by_gibbs, by_nuts):.1f} standard errors at most"
    ]
    for name, each, rate in zip(names, cost, rates, strict=True):
        unit = "sweep" if name == "Gibbs" else "gradient"
        lines.append(
            f"    {name:22s} {1e6 * each:10.0f} us a {unit:8s} {rate:10.1f} effective draws a second"
            f"   ratio {rate / rates[-1]:7.1f}"
        )
    return "\n".join(lines)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of means, in its standard errors."""
    square = sum(
        found.var(0) / np.array([effective(column[:, None]) for column in found.T])
        for found in (one, other)
    )
    return float(np.max(np.abs(one.mean(0) - other.mean(0)) / np.sqrt(square)))


def discrete_gibbs(rows: int = 1_000, columns: int = 2, components: int = 3) -> str:
    """A sweep of ConjugateGibbs against one of NumPyro's DiscreteHMCGibbs, which takes rows in turn."""
    data = (rows_of(rows, columns, components, float), components)
    gibbs = bayesmix.ConjugateGibbs(gaussian_mixture, keep_latents=False)
    theirs = DiscreteHMCGibbs(NUTS(gaussian_mixture, max_tree_depth=3))
    chains = Chain(gibbs, data, None, 2000, 0), Chain(theirs, data, None, 2, 0)
    for chain in chains:
        chain.run()
    taken = [[chain.run()[0] / chain.draws for chain in chains] for _ in range(REPEATS)]
    mine, peer = np.min(taken, axis=0)
    return (
        f"a sweep of ConjugateGibbs {1e6 * mine:.0f} us, of DiscreteHMCGibbs {1e3 * peer:.1f} ms "
        f"(N={rows} D={columns} K={components}): ratio {peer / mine:.0f}"
    )


def table(dtype: type, cells: tuple[tuple[int, int, int], ...] = CELLS) -> None:
    """Print effective draws per second in each cell, and the time of a sweep."""
    for each in cells:
        print(cell(*each, dtype), flush=True)
    print(discrete_gibbs(), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    parser.add_argument("--cells", default="0,1,2", help="which cells; all of them by default")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    chosen = tuple(CELLS[int(i)] for i in asked.cells.split(","))
    with settings(asked.float32) as dtype:
        table(dtype, chosen)


if __name__ == "__main__":
    main()
