"""Gibbs and NUTS against exact posteriors: every labelling of ten galaxies enumerated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

import bayesmix
from bayesmix import ConjugateGibbs, Plan
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.references import reference

pytestmark = pytest.mark.oracle
CHAINS = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}


def program(x, alpha, K):
    weights = numpyro.sample("weights", dist.Dirichlet(alpha))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 4.0))
        mean = numpyro.sample("mean", dist.Normal(20.0, jnp.sqrt(variance / 0.05)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def case_of(K: int, alpha: float):
    case = reference("exact_small_mixtures")["results"][f"nig1d_K{K}_alpha{alpha:g}"]
    prior = {name: case[name] for name in ("m0", "kappa0", "nu0", "S0")}
    assert prior == {"m0": 20, "kappa0": 0.05, "nu0": 4, "S0": 8}
    return case, (np.asarray(case["data"], float), np.full(K, float(alpha)), K)


@functools.cache
def plan_of(K: int) -> Plan:
    return bayesmix.plan(program, *case_of(K, 1)[1])


@functools.cache
def gibbs_of(K: int) -> MCMC:
    """A sampler that is compiled once for each K."""
    kernel = ConjugateGibbs(plan_of(K))
    return MCMC(kernel, num_warmup=500, num_samples=8000, **CHAINS)


@functools.cache
def gibbs_draws(K: int, alpha: float):
    """Parameters and labels, (chains, draws, ...)."""
    mcmc = gibbs_of(K)
    mcmc.run(jax.random.key(1), *case_of(K, alpha)[1])
    labels = mcmc.get_extra_fields(group_by_chain=True)["latents"]
    return mcmc.get_samples(group_by_chain=True), np.asarray(labels)


@functools.cache
def nuts_draws(K: int, alpha: float):
    """Parameters, (chains, draws, ...)."""
    kernel = NUTS(bayesmix.marginalize(plan_of(K)), target_accept_prob=0.9)
    mcmc = MCMC(kernel, num_warmup=1000, num_samples=4000, **CHAINS)
    mcmc.run(jax.random.key(2), *case_of(K, alpha)[1])
    return mcmc.get_samples(group_by_chain=True)


def z_score(draws: np.ndarray, exact: float) -> float:
    """(chains, draws) against an exact mean, in standard errors from the effective sample size."""
    spread = draws.std()
    if spread < 1e-12:
        return 0.0 if abs(draws.mean() - exact) < 1e-3 else np.inf
    size = min(effective_sample_size(draws), draws.size)
    return abs(draws.mean() - exact) / (spread / np.sqrt(size))


def assert_partitions(together: np.ndarray, occupied: np.ndarray, case) -> None:
    """`together` is (chains, draws, N, N), `occupied` (chains, draws)."""
    exact = np.asarray(case["coclustering"])
    for i in range(len(exact)):
        for j in range(i):
            assert z_score(together[:, :, i, j], exact[i, j]) < 4, (i, j)
    for k, share in enumerate(np.ravel(case["posterior_nonempty"]), start=1):
        assert z_score((occupied == k).astype(float), share) < 4, k


def count_occupied(labels: np.ndarray, K: int) -> np.ndarray:
    return sum((labels == k).any(axis=-1).astype(int) for k in range(K))


CASES = [(2, 1), (2, 0.5), (3, 1), (3, 0.5)]


@pytest.mark.parametrize(("K", "alpha"), CASES)
def test_gibbs_reproduces_the_exact_posterior_of_the_partition(K, alpha):
    case, _ = case_of(K, alpha)
    labels = gibbs_draws(K, alpha)[1]
    together = (labels[..., :, None] == labels[..., None, :]).astype(float)
    assert_partitions(together, count_occupied(labels, K), case)


def responsibilities(K: int, arguments, draws):
    """(chains, draws, K, N)."""
    call, plan = split(arguments, {}), plan_of(K)
    blocks = Problem(plan, call).with_rows().blocks
    (table,) = jax.jit(jax.vmap(jax.vmap(lambda v: Problem(plan, call, blocks).log_factors(v))))(
        draws
    )
    return np.asarray(jax.nn.softmax(table, axis=-2))


@pytest.mark.parametrize(("K", "alpha"), [(2, 1)])
def test_nuts_on_the_marginal_reproduces_the_exact_posterior_of_the_partition(K, alpha):
    case, arguments = case_of(K, alpha)
    r = responsibilities(K, arguments, nuts_draws(K, alpha))
    together = np.einsum("cski,cskj->csij", r, r)
    uniform = np.random.default_rng(0).uniform(size=(*r.shape[:2], 1, r.shape[-1]))
    labels = (np.cumsum(r, axis=2) < uniform).sum(axis=2)
    assert_partitions(together, count_occupied(labels, K), case)


def invariants(draws, r):
    """Functions of the parameters that do not change when components are relabelled."""
    w, m, v = (np.asarray(draws[name]) for name in ("weights", "mean", "variance"))
    centre = (w * m).sum(axis=-1)
    grid = np.array([9.5, 15.0, 20.0, 24.0])[:, None]
    density = w[..., None, :] * np.exp(-0.5 * (grid - m[..., None, :]) ** 2 / v[..., None, :])
    density = (density / np.sqrt(2 * np.pi * v[..., None, :])).sum(axis=-1)
    return {
        "largest weight": w.max(axis=-1),
        "centre": np.clip(centre, 0, 40),
        "log variance": np.log(v).sum(axis=-1),
        **{f"density at {g}": density[..., i] for i, g in enumerate(grid[:, 0])},
        "largest share": r.mean(axis=-1).max(axis=-1),
    }


def test_gibbs_and_nuts_agree_on_everything_that_does_not_depend_on_labels():
    _, arguments = case_of(2, 1)
    found = []
    for draws in (gibbs_draws(2, 1)[0], nuts_draws(2, 1)):
        found.append(invariants(draws, responsibilities(2, arguments, draws)))
    for name, ours in found[0].items():
        theirs = found[1][name]
        error = [v.var() / min(effective_sample_size(v), v.size) for v in (ours, theirs)]
        assert abs(ours.mean() - theirs.mean()) < 4 * np.sqrt(sum(error)), name
