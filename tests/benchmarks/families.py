"""Time EM of several families: `python -m tests.benchmarks.families [--float32] [--cores n]`.

The peer is EM as one would write it by hand for each family: a table of log densities (N, K) by
`numpyro.distributions`, softmax, closed-form updates, all steps in one jitted loop. Same data, same
start, same precision, same answer; turns are taken, and medians compared. Ratios are peer / bayesmix:
above 1 means that bayesmix is faster. The last lines compare data with so many patterns of missing cells
to complete data: there a ratio of 0.5 means that missing cells double the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

import bayesmix
from tests.benchmarks.timing import STEPS, interleaved, line, settings, steps_of

K = 10
Parameters = dict[str, jax.Array]


class Case(NamedTuple):
    """A program, its data, a start, and what EM by hand needs: log densities (N, K) of the rows at
    parameters, and parameters from responsibilities (N, K)."""

    program: Callable[..., Any]
    x: np.ndarray
    start: Parameters
    log_prob: Callable[[Parameters, jax.Array], jax.Array]
    update: Callable[[jax.Array, Parameters, jax.Array], Parameters]


def mixture(x: Any, priors: Callable[[], Any], likelihood: Callable[[Any, Any], Any]) -> None:
    """Rows of `likelihood` at the parameters that `priors` sample for K components."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        parameters = priors()
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", likelihood(parameters, z), obs=x)


def shares(r: jax.Array, x: jax.Array) -> jax.Array:
    """Weighted means of the columns, (K, D)."""
    return r.T @ x / r.sum(0)[:, None]


# ---------------------------------------------------------------------------------------- families
def bernoulli(rows: int, rng: np.random.Generator) -> Case:
    """Twenty columns of yes and no."""

    def program(x):
        prior = lambda: numpyro.sample("share", dist.Beta(1.0, 1.0).expand([20]).to_event(1))
        mixture(x, prior, lambda share, z: dist.Bernoulli(share[z]).to_event(1))

    truth = rng.beta(1.0, 1.0, (K, 20))
    x = (rng.random((rows, 20)) < truth[rng.integers(K, size=rows)]).astype(float)
    return Case(
        program,
        x,
        {"share": rng.uniform(0.3, 0.7, (K, 20))},
        lambda at, x: dist.Bernoulli(at["share"]).to_event(1).log_prob(x[:, None]),
        lambda r, at, x: {"share": shares(r, x)},
    )


def categorical(rows: int, rng: np.random.Generator) -> Case:
    """Ten columns of one of four."""

    def program(x):
        prior = lambda: numpyro.sample("shares", dist.Dirichlet(jnp.ones((10, 4))).to_event(1))
        mixture(x, prior, lambda p, z: dist.Categorical(p[z]).to_event(1))

    truth = rng.dirichlet(np.ones(4), (K, 10)).cumsum(-1)
    x = (rng.random((rows, 10, 1)) > truth[rng.integers(K, size=rows)]).sum(-1).clip(0, 3)
    return Case(
        program,
        x,
        {"shares": rng.dirichlet(np.full(4, 20.0), (K, 10))},
        lambda at, x: dist.Categorical(at["shares"]).to_event(1).log_prob(x[:, None]),
        lambda r, at, x: {
            "shares": jnp.einsum("nk,ndc->kdc", r, jax.nn.one_hot(x, 4, dtype=r.dtype))
            / r.sum(0)[:, None, None]
        },
    )


def poisson(rows: int, rng: np.random.Generator) -> Case:
    """Ten columns of counts."""

    def program(x):
        prior = lambda: numpyro.sample("rate", dist.Gamma(1.0, 1.0).expand([10]).to_event(1))
        mixture(x, prior, lambda rate, z: dist.Poisson(rate[z]).to_event(1))

    truth = 6.0 * np.exp(rng.normal(scale=0.3, size=(K, 10)))
    x = rng.poisson(truth[rng.integers(K, size=rows)]).astype(float)
    return Case(
        program,
        x,
        {"rate": rng.uniform(4.0, 8.0, (K, 10))},
        lambda at, x: dist.Poisson(at["rate"]).to_event(1).log_prob(x[:, None]),
        lambda r, at, x: {"rate": shares(r, x)},
    )


def clusters(rows: int, columns: int, rng: np.random.Generator) -> tuple[np.ndarray, Parameters]:
    """Overlapping clusters, and a start."""
    centres = rng.normal(scale=2.0, size=(K, columns))
    x = centres[rng.integers(K, size=rows)] + rng.normal(size=(rows, columns))
    start = centres + rng.normal(size=centres.shape)
    return x, {"mean": start, "covariance": np.tile(2.0 * np.eye(columns), (K, 1, 1))}


def normal_priors(columns: int) -> Callable[[], Any]:
    def priors():
        wide = dist.Normal(0.0, 10.0).expand([columns]).to_event(1)
        return numpyro.sample("mean", wide), numpyro.sample(
            "covariance", dist.InverseWishart(columns + 2.0, jnp.eye(columns))
        )

    return priors


def scatter(r: jax.Array, x: jax.Array, mean: jax.Array) -> jax.Array:
    """Weighted scatter matrices about means, (K, D, D)."""
    centred = x[:, None] - mean
    return jnp.einsum("nk,nki,nkj->kij", r, centred, centred)


def student(rows: int, rng: np.random.Generator, columns: int = 5, freedom: float = 4.0) -> Case:
    """Vectors with heavy tails of known weight."""

    def at_rows(mean, covariance):
        return dist.MultivariateStudentT(freedom, mean, jnp.linalg.cholesky(covariance))

    def program(x):
        mixture(x, normal_priors(columns), lambda at, z: at_rows(at[0][z], at[1][z]))

    def update(r, at, x):
        lower = jnp.linalg.cholesky(at["covariance"])
        centred = jnp.moveaxis(x[:, None] - at["mean"], 0, -1)
        whitened = jax.scipy.linalg.solve_triangular(lower, centred, lower=True)
        u = (freedom + columns) / (freedom + jnp.sum(whitened**2, axis=1).T)
        mean = shares(r * u, x)
        return {"mean": mean, "covariance": scatter(r * u, x, mean) / r.sum(0)[:, None, None]}

    x, start = clusters(rows, columns, rng)
    x = x * np.sqrt(freedom / rng.chisquare(freedom, rows))[:, None]
    log_prob = lambda at, x: at_rows(at["mean"], at["covariance"]).log_prob(x[:, None])
    return Case(program, x, start, log_prob, update)


def normal(rows: int, rng: np.random.Generator, columns: int = 10, patterns: int = 1) -> Case:
    """Vectors with full covariances, their missing cells in so many patterns; each row by itself."""

    def program(x):
        mixture(
            x, normal_priors(columns), lambda at, z: dist.MultivariateNormal(at[0][z], at[1][z])
        )

    def completed(at, row):
        """Log density of the cells that are there, and the moments of the whole row, by component."""
        there = ~jnp.isnan(row)
        centred = jnp.where(there, row - at["mean"], 0.0)
        eye = jnp.eye(columns)
        observed = jnp.where(there[:, None] & there, at["covariance"], eye)
        lower = jnp.linalg.cholesky(observed)
        half = jax.scipy.linalg.solve_triangular(lower, centred[..., None], lower=True)[..., 0]
        height = -jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), -1)
        height -= jnp.sum(half**2, -1) / 2 + there.sum() * jnp.log(2 * jnp.pi) / 2
        cross = jnp.where(there[:, None], at["covariance"], 0.0)
        gain = jnp.swapaxes(jax.scipy.linalg.cho_solve((lower, True), cross), 1, 2)
        mean = at["mean"] + (gain @ centred[..., None])[..., 0]
        return height, mean, at["covariance"] - gain @ cross

    def update(r, at, x):
        _, filled, spread = jax.vmap(lambda row: completed(at, row))(x)
        mean = jnp.einsum("nk,nkd->kd", r, filled) / r.sum(0)[:, None]
        centred = filled - mean
        second = jnp.einsum("nk,nki,nkj->kij", r, centred, centred)
        second += jnp.einsum("nk,nkij->kij", r, spread)
        return {"mean": mean, "covariance": second / r.sum(0)[:, None, None]}

    x, start = clusters(rows, columns, rng)
    missing = rng.random((patterns, columns)) < 0.2
    missing[0] = False
    x = np.where(missing[rng.integers(patterns, size=rows)], np.nan, x)
    log_prob = lambda at, x: jax.vmap(lambda row: completed(at, row)[0])(x)
    return Case(program, x, start, log_prob, update)


# ----------------------------------------------------------------------------------------- running
def ours(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Runs of one step and of STEPS more from the start."""
    init = {**case.start, "weights": np.full(K, 1 / K)}
    plan = bayesmix.plan(bayesmix.without_priors(case.program), case.x)
    short, long, more = steps_of(plan, init, case.x)
    assert more == STEPS
    return short, long


def by_hand(case: Case) -> Callable[[], jax.Array]:
    """A run of STEPS steps that gives the log likelihoods, (STEPS,)."""
    x = jnp.asarray(case.x)

    @jax.jit
    def run(weights: jax.Array, at: Parameters) -> jax.Array:
        def step(state: Any, _: None) -> tuple[Any, jax.Array]:
            weights, at = state
            table = jnp.log(weights) + case.log_prob(at, x)
            evidence = logsumexp(table, axis=1)
            r = jnp.exp(table - evidence[:, None])
            return (r.mean(0), case.update(r, at, x)), evidence.sum()

        return jax.lax.scan(step, (weights, at), length=STEPS)[1]

    start = jax.tree.map(jnp.asarray, (np.full(K, 1 / K), case.start))
    return lambda: jax.block_until_ready(run(*start))


def against_hand(name: str, case: Case, rounding: float) -> str:
    """One EM step against the same by hand."""
    short, long = ours(case)
    peer = by_hand(case)
    np.testing.assert_allclose(long().objective[:STEPS], peer(), rtol=rounding)
    mine, start, theirs = interleaved(long, short, peer)
    return line(name, (mine - start) / STEPS, theirs / STEPS)


def against_complete(rows: int, patterns: int) -> str:
    """One EM step on data with missing cells against one on complete data."""
    complete, holes = (
        ours(normal(rows, np.random.default_rng(0), patterns=count)) for count in (1, patterns)
    )
    start, end, other_start, other_end = interleaved(*holes, *complete)
    return line(
        f"normal D=10, {patterns} patterns, against complete",
        (end - start) / STEPS,
        (other_end - other_start) / STEPS,
    )


def table(dtype: type) -> None:
    """Print the table."""
    rounding = 1e-4 if dtype is np.float32 else 1e-8
    rng = np.random.default_rng(0)
    rows = 100_000
    for name, case in (
        ("Bernoulli D=20", bernoulli(rows, rng)),
        ("categorical D=10 C=4", categorical(rows, rng)),
        ("Poisson D=10", poisson(rows, rng)),
        ("Student-t D=5", student(rows, rng)),
        ("normal D=5, 20 patterns, N=1e4", normal(10_000, rng, columns=5, patterns=20)),
    ):
        print(against_hand(f"EM {name} K={K}", case, rounding), flush=True)
    for patterns in (10, 50):
        print(against_complete(rows, patterns), flush=True)


def main() -> None:
    """Print the table in the precision asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float32", action="store_true", help="single precision throughout")
    parser.add_argument("--cores", type=int, default=1, help="rows are spread over so many devices")
    asked = parser.parse_args()
    with settings(asked.float32, asked.cores) as dtype:
        table(dtype)


if __name__ == "__main__":
    main()
