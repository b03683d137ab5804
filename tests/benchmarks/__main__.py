"""Time bayesmix against its peers: `python -m tests.benchmarks [--large] [--float32]`
prints one table.

Same data, same number of iterations, same precision, runs interleaved; the median of several and their
spread. Ratios are peer / bayesmix: above 1 means that bayesmix is faster. Nothing here is a unit test.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from sklearn.mixture import GaussianMixture

import bayesmix
from bayesmix.infer.gibbs import ConjugateGibbs
from bayesmix.program.arguments import split
from bayesmix.zoo import gaussian_mixture
from tests.benchmarks import families, samplers
from tests.benchmarks.timing import STEPS, interleaved, line, steps_of

CELLS = ((10_000, 2, 3), (10_000, 10, 10), (100_000, 2, 3), (100_000, 10, 10), (100_000, 10, 50))
RESTARTS = ((100, 1_000, 2, 5), (20, 10_000, 10, 10))
LARGE = ((100_000, 50, 10), (1_000_000, 2, 3), (1_000_000, 10, 10))


def clusters(rows: int, columns: int, components: int, dtype: type) -> np.ndarray:
    """Overlapping Gaussian clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=2.0, size=(components, columns))
    drawn = centres[rng.integers(components, size=rows)] + rng.normal(size=(rows, columns))
    return drawn.astype(dtype)


def em_iteration(rows: int, columns: int, components: int, dtype: type) -> str:
    """One EM iteration through the zoo's program without priors, against scikit-learn."""
    x = clusters(rows, columns, components, dtype)
    plan = bayesmix.plan(bayesmix.without_priors(gaussian_mixture), x, components)
    values = bayesmix.EM(plan, progress_bar=False, max_steps=1).run(0, x, components).parameters
    short, long = steps_of(plan, values, x, components)

    means = np.asarray(values["mean"], dtype)
    precisions = np.linalg.inv(np.asarray(values["covariance"])).astype(dtype)
    weights = np.asarray(values["weights"], dtype)

    def peer(steps: int) -> Callable[[], None]:
        def run() -> None:
            GaussianMixture(
                components,
                tol=0.0,
                max_iter=steps,
                means_init=means,
                weights_init=weights / weights.sum(),
                precisions_init=(precisions + np.swapaxes(precisions, 1, 2)) / 2,
            ).fit(x)

        return run

    mine, start, theirs, peer_start = interleaved(long, short, peer(STEPS + 1), peer(1))
    return line(
        f"EM N={rows:.0e} D={columns} K={components} {np.dtype(dtype)}",
        (mine - start) / STEPS,
        (theirs - peer_start) / STEPS,
    )


def chain_step(rows: int = 10_000, length: int = 30) -> str:
    """An EM step of a hidden chain of yes and no: sum-product over its states for every row."""

    def chain(x):
        initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(2)))
        following = dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1)
        transition = numpyro.sample("transition", following)
        share = numpyro.sample("share", dist.Beta(1.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = None
            for t in range(x.shape[1]):
                z = numpyro.sample(
                    f"z{t}", dist.Categorical(initial if z is None else transition[z])
                )
                numpyro.sample(f"x{t}", dist.Bernoulli(share[z]), obs=x[:, t])

    x = np.random.default_rng(0).integers(0, 2, (rows, length)).astype(float)
    init = {
        "initial": np.array([0.4, 0.6]),
        "transition": np.array([[0.9, 0.1], [0.3, 0.7]]),
        "share": np.array([0.2, 0.7]),
    }
    started = time.process_time()
    plan = bayesmix.plan(chain, x)
    short, long = steps_of(plan, init, x)
    start, mine = interleaved(short, long)
    return (
        f"hidden chain of {length} steps, N={rows:.0e}: "
        f"{1e3 * np.median(mine - start) / STEPS:.1f} ms an EM step; "
        f"{time.process_time() - started:.0f} CPU s with compiling"
    )


def restarts(count: int, rows: int, columns: int, components: int, dtype: type) -> str:
    """Restarts, each to the same tolerance, against scikit-learn's n_init, a tenth of them timed."""
    x = clusters(rows, columns, components, dtype)
    em = bayesmix.EM(
        bayesmix.without_priors(gaussian_mixture), progress_bar=False, tolerance=1e-6, max_steps=200
    )

    def ours() -> None:
        em.run(random.key(0), x, components, restarts=count)

    def peer() -> None:
        settings = {"tol": 1e-6, "max_iter": 200, "init_params": "k-means++", "random_state": 0}
        GaussianMixture(components, n_init=count // 10, **settings).fit(x)

    mine, theirs = interleaved(ours, peer)
    return line(f"{count} restarts N={rows:.0e} D={columns} K={components}", mine, 10 * theirs)


def gibbs_sweep(dtype: type) -> str:
    """A Gibbs sweep against an EM iteration of the same program, N=1e5, D=10, K=10."""
    x = clusters(100_000, 10, 10, dtype)
    arguments = split((x, 10), {})
    found = bayesmix.plan(gaussian_mixture, x, 10)
    kernel = ConjugateGibbs(found)
    args, kwargs = arguments.call()
    state = kernel.init(random.key(0), 0, None, args, kwargs)

    @jax.jit
    def sweeps(state, arrays):
        args, kwargs = arguments.call(arrays)
        return jax.lax.fori_loop(0, STEPS, lambda i, s: kernel.sample(s, args, kwargs), state)

    def ours() -> None:
        jax.block_until_ready(sweeps(state, arguments.arrays).log_likelihood)

    short, long = steps_of(found, {n: np.asarray(v) for n, v in state.z.items()}, x, 10)
    sweep, start, iterations = interleaved(ours, short, long)
    return line(
        "Gibbs sweep against our EM step, N=1e5 D=10 K=10",
        sweep / STEPS,
        (iterations - start) / STEPS,
    )


def small_fit(dtype: type) -> str:
    """The first and the second fit of one shape, N=272, D=2, K=2."""
    x = clusters(272, 2, 2, dtype)
    em = bayesmix.EM(gaussian_mixture, progress_bar=False)
    started = time.process_time()
    em.run(random.key(0), x, 2)
    cold = time.process_time() - started

    def again() -> None:
        em.run(random.key(1), x, 2)

    (seconds,) = interleaved(again)
    return f"first fit {cold:6.1f} CPU s; second fit {1e3 * np.median(seconds):6.1f} ms (N=272 D=2 K=2)"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also the cells of a million rows")
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", not asked.float32)
    dtype = np.float32 if asked.float32 else np.float64
    warnings.simplefilter("ignore")
    print(small_fit(dtype), flush=True)
    for rows, columns, components in CELLS + (LARGE if asked.large else ()):
        print(em_iteration(rows, columns, components, dtype), flush=True)
    for case in RESTARTS:
        print(restarts(*case, dtype), flush=True)
    print(gibbs_sweep(dtype), flush=True)
    print(chain_step(), flush=True)
    families.table(asked.float32)
    samplers.table(dtype)


if __name__ == "__main__":
    main()
