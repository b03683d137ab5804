"""Time EM of Gaussian mixtures: `python -m tests.benchmarks.gaussian [--all] [--float32] [--rows 1e5]
[--cores n]`.

One EM iteration of a program without priors, full and diagonal covariances, against scikit-learn's
`GaussianMixture`, and against the fastest kernel that we could write by hand for this one model: blocks
of standardised rows, quadratic features, components first, one jitted loop. Same data, same start, same
precision; turns are taken, and medians compared. Ratios are peer / bayesmix: above 1 means that bayesmix
is faster.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.mixture import GaussianMixture

import bayesmix
from bayesmix.zoo import gaussian_mixture
from tests.benchmarks.timing import REPEATS, STEPS, interleaved, settings, steps_of

CELLS = ((10_000, 2, 3), (10_000, 10, 10), (100_000, 2, 3), (100_000, 10, 10), (100_000, 10, 50))
GRID = tuple(product((10_000, 100_000, 1_000_000), (2, 10, 50), (3, 10, 50)))
BLOCKS = (256, 1024)
Sums = tuple[jax.Array, jax.Array]


def clusters(rows: int, columns: int, components: int, dtype: type) -> np.ndarray:
    """Gaussian clusters about `centres`."""
    rng = np.random.default_rng(1)
    own = centres(columns, components)[rng.integers(components, size=rows)]
    return (own + rng.normal(size=(rows, columns))).astype(dtype)


def centres(columns: int, components: int) -> np.ndarray:
    """Means (K, D) some four standard deviations from each other, however many the columns, so that
    clusters overlap, and EM has steps to make."""
    scale = 2 * np.sqrt(2 / columns)
    return np.random.default_rng(0).normal(scale=scale, size=(components, columns))


def effort(rows: int, columns: int, components: int) -> tuple[int, int]:
    """Steps and turns: fewer where an iteration takes seconds."""
    work = rows * components * columns * max(columns, 4)
    return max(2, min(STEPS, int(4e10 / work))), REPEATS if work < 5e9 else 2


def true_start(columns: int, components: int) -> dict[str, np.ndarray]:
    """Weights and means from which no component shrinks onto a few rows."""
    return {"weights": np.full(components, 1 / components), "mean": centres(columns, components)}


def diagonal_mixture(x: Any, K: int) -> None:
    """Independent columns; priors are taken away."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        variance = dist.InverseGamma(jnp.ones(x.shape[1]), 1.0).to_event(1)
        variance = numpyro.sample("variance", variance)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])).to_event(1), obs=x)


def by_hand(x: np.ndarray, start: dict[str, np.ndarray], size: int) -> Callable[[int], Any]:
    """EM of full covariances by quadratic features of standardised rows, `size` rows at a time; a
    multiple of `size` rows."""
    dtype, dimension = x.dtype, x.shape[1]
    upper = np.triu_indices(dimension)
    twice = np.where(upper[0] == upper[1], 1.0, 2.0).astype(dtype)
    place = np.zeros((dimension, dimension), int)
    place[upper] = np.arange(upper[0].size)
    place = np.maximum(place, place.T)
    x = x[: len(x) // size * size]
    centre, scale = x.mean(0), x.std(0)
    blocks = jnp.asarray(np.moveaxis(((x - centre) / scale).reshape(-1, size, dimension), 2, 1))

    def step(_: Any, now: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weights, mean, covariance, _ = now
        lower, precision = jnp.linalg.cholesky(covariance), jnp.linalg.inv(covariance)
        linear = jnp.einsum("kij,kj->ki", precision, mean)
        constant = jnp.log(weights) - jnp.einsum("ki,ki->k", linear, mean) / 2
        constant -= jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), 1)
        square = -precision[:, upper[0], upper[1]] * twice / 2
        coefficients = jnp.concatenate([constant[:, None], linear, square], 1)

        def block(so_far: Sums, z: jax.Array) -> tuple[Sums, None]:
            phi = jnp.concatenate([jnp.ones_like(z[:1]), z, z[upper[0]] * z[upper[1]]])
            table = coefficients @ phi
            top = jnp.max(table, axis=0)
            terms = jnp.exp(table - top)
            total = jnp.sum(terms, axis=0)
            log_likelihood = so_far[1] + jnp.sum(jnp.log(total) + top)
            return (so_far[0] + terms * (1 / total) @ phi.T, log_likelihood), None

        nothing = (jnp.zeros(coefficients.shape, dtype), jnp.zeros((), dtype))
        (sums, log_likelihood), _ = jax.lax.scan(block, nothing, blocks)
        count = sums[:, 0]
        mean = sums[:, 1 : dimension + 1] / count[:, None]
        second = (sums[:, dimension + 1 :] / count[:, None])[:, place]
        covariance = second - mean[:, :, None] * mean[:, None, :]
        return count / count.sum(), mean, covariance, log_likelihood

    turned = start["covariance"] / (scale[:, None] * scale)
    first = (start["weights"], (start["mean"] - centre) / scale, turned)
    first = tuple(jnp.asarray(each, dtype) for each in (*first, 0.0))
    return jax.jit(lambda steps: jax.lax.fori_loop(0, steps, step, first))


def full(rows: int, columns: int, components: int, dtype: type) -> str:
    """One iteration with full covariances."""
    x = clusters(rows, columns, components, dtype)
    plan = bayesmix.plan(bayesmix.without_priors(gaussian_mixture), x, components)
    covariance = np.tile(np.eye(columns), (components, 1, 1))
    start = true_start(columns, components) | {"covariance": covariance}
    most, turns = effort(rows, columns, components)
    *mine, more = steps_of(plan, start, x, components, most=most)
    own = [by_hand(x, start, size) for size in BLOCKS]
    hand = [
        lambda run=run, steps=steps: jax.block_until_ready(run(steps))
        for run in own
        for steps in (1, more + 1)
    ]
    precisions = np.linalg.inv(start["covariance"])
    peer = sklearn("full", x, start, (precisions + np.swapaxes(precisions, 1, 2)) / 2, more)
    times = interleaved(*mine, *peer, *hand, repeats=turns)
    return line(f"full     N={rows:.0e} D={columns:2d} K={components:2d}", times, more)


def diagonal(rows: int, columns: int, components: int, dtype: type) -> str:
    """One iteration with independent columns."""
    x = clusters(rows, columns, components, dtype)
    plan = bayesmix.plan(bayesmix.without_priors(diagonal_mixture), x, components)
    start = true_start(columns, components) | {"variance": np.ones((components, columns))}
    most, turns = effort(rows, columns, components)
    *mine, more = steps_of(plan, start, x, components, most=most)
    peer = sklearn("diag", x, start, 1 / start["variance"], more)
    times = interleaved(*mine, *peer, repeats=turns)
    return line(f"diagonal N={rows:.0e} D={columns:2d} K={components:2d}", times, more)


def sklearn(
    kind: str, x: np.ndarray, start: dict[str, np.ndarray], precisions: np.ndarray, more: int
) -> tuple[Callable[[], Any], ...]:
    """Runs of scikit-learn of one step, and of so many more."""

    def run(steps: int) -> Callable[[], Any]:
        return lambda: GaussianMixture(
            len(precisions),
            covariance_type=kind,
            tol=0.0,
            max_iter=steps,
            means_init=start["mean"],
            weights_init=start["weights"] / start["weights"].sum(),
            precisions_init=precisions.astype(x.dtype),
        ).fit(x)

    return run(1), run(more + 1)


def line(name: str, times: list[np.ndarray], more: int) -> str:
    """Milliseconds an iteration, and ratios; `times` are pairs of one step and of so many more."""
    each = [(long - short) / more for short, long in zip(times[::2], times[1::2], strict=True)]
    mine, theirs, *hand = map(np.median, each)
    spread = each[1] / each[0]
    told = f"{name}  {1e3 * mine:9.2f} ms  scikit-learn {theirs / mine:6.1f} times"
    told += f" [{spread.min():.1f}, {spread.max():.1f}]"
    return told + (f"  by hand {min(hand) / mine:5.2f}" if hand else "")


def table(dtype: type, cells: Iterable[tuple[int, int, int]] = CELLS) -> None:
    """Print a line for each cell, full and diagonal."""
    for cell in cells:
        print(full(*cell, dtype), flush=True)
        print(diagonal(*cell, dtype), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every N, D and K: takes an hour")
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    parser.add_argument("--rows", type=float, help="with --all: this N alone")
    parser.add_argument("--cores", type=int, default=1, help="rows are spread over so many devices")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = GRID if asked.all else CELLS
    with settings(asked.float32, asked.cores) as dtype:
        table(dtype, [cell for cell in cells if asked.rows in (None, cell[0])])


if __name__ == "__main__":
    main()
