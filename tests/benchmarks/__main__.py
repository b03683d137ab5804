"""Time bayesmix against its peers: `python -m tests.benchmarks [--float32]` prints one table.

Same data, same number of iterations, same precision, runs interleaved; the median of several and their
spread. Ratios are peer / bayesmix: above 1 means that bayesmix is faster. Nothing here is a unit test.
"""

from __future__ import annotations

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from sklearn.mixture import GaussianMixture

import bayesmix
from bayesmix import datasets
from bayesmix.infer.gibbs import ConjugateGibbs
from bayesmix.program.arguments import split
from bayesmix.zoo import gaussian_mixture
from tests.benchmarks import families, gaussian, samplers
from tests.benchmarks.gaussian import clusters
from tests.benchmarks.timing import STEPS, interleaved, line, settings, steps_of

RESTARTS = ((100, 1_000, 2, 5), (20, 10_000, 10, 10))


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
    short, long, more = steps_of(plan, init, x)
    start, mine = interleaved(short, long)
    return (
        f"hidden chain of {length} steps, N={rows:.0e}: "
        f"{1e3 * np.median(mine - start) / more:.1f} ms an EM step; "
        f"{time.process_time() - started:.0f} CPU s with compiling"
    )


def restarts(count: int, rows: int, columns: int, components: int, dtype: type) -> str:
    """Restarts against scikit-learn's n_init, a quarter of them timed.

    At most 200 steps each, and to the same gain, 1e-6 a row: scikit-learn stops where the last step
    gained less, bayesmix where less is still to come, which is stricter. Steps of a start are told.
    """
    x = clusters(rows, columns, components, dtype)
    plan = bayesmix.plan(bayesmix.without_priors(gaussian_mixture), x, components)
    settings = {"tol": 1e-6, "max_iter": 200, "init_params": "k-means++"}
    some = count // 4

    def one(state: np.random.RandomState) -> GaussianMixture:
        return GaussianMixture(components, random_state=state, **settings).fit(x)

    stream = np.random.RandomState(0)  # as n_init goes through it
    alone = [one(stream) for _ in range(some)]
    best = max(each.lower_bound_ for each in alone)
    em = bayesmix.EM(plan, progress_bar=False, tolerance=1e-6 / abs(best), max_steps=200)
    fit = em.run(random.key(0), x, components, restarts=count)

    def ours() -> None:
        em.run(random.key(0), x, components, restarts=count)

    def peer() -> None:
        GaussianMixture(components, n_init=some, random_state=0, **settings).fit(x)

    mine, theirs = interleaved(ours, peer)
    steps = np.mean(fit.restart_steps), np.mean([each.n_iter_ for each in alone])
    theirs = theirs * count / some
    a_step = np.median(theirs) / np.median(mine) * steps[0] / steps[1]
    return (
        line(f"{count} restarts N={rows:.0e} D={columns} K={components}", mine, theirs)
        + f"\n    steps of a start {steps[0]:.0f}, peer {steps[1]:.0f}, ratio of one {a_step:.1f}; "
        + f"best log likelihood a row {np.max(fit.restart_objectives) / rows:.4f}, peer {best:.4f}"
    )


def gibbs_sweep(dtype: type) -> str:
    """A Gibbs sweep against an EM iteration of the same program, N=1e5, D=10, K=10."""
    x = clusters(100_000, 10, 10, dtype)
    arguments = split((x, 10), {})
    plan = bayesmix.plan(gaussian_mixture, x, 10)
    kernel = ConjugateGibbs(plan)
    args, kwargs = arguments.call()
    state = kernel.init(random.key(0), 0, None, args, kwargs)

    @jax.jit
    def sweeps(state, arrays):
        args, kwargs = arguments.call(arrays)
        return jax.lax.fori_loop(0, STEPS, lambda i, s: kernel.sample(s, args, kwargs), state)

    def ours() -> None:
        jax.block_until_ready(sweeps(state, arguments.arrays).log_likelihood)

    init = {name: np.asarray(value) for name, value in state.z.items()}
    short, long, more = steps_of(plan, init, x, 10)
    sweep, start, iterations = interleaved(ours, short, long)
    return line(
        "Gibbs sweep against our EM step, N=1e5 D=10 K=10",
        sweep / STEPS,
        (iterations - start) / more,
    )


def small_fit(dtype: type) -> str:
    """The first and the second fit of one shape: the Old Faithful data, N=272, D=2, K=2."""
    x = datasets.load("faithful").values.astype(dtype)
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
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with settings(asked.float32) as dtype:
        print(small_fit(dtype), flush=True)
        gaussian.table(dtype)
        for case in RESTARTS:
            print(restarts(*case, dtype), flush=True)
        print(gibbs_sweep(dtype), flush=True)
        print(chain_step(), flush=True)
        families.table(dtype)
        samplers.table(dtype)


if __name__ == "__main__":
    main()
