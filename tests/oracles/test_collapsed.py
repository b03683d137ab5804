"""Collapsed Gibbs against exact posteriors, by its effective sample size, and by invariance: a sweep
from an exact draw of parameters, labels and data leaves an exact draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC
from scipy.stats import ks_2samp

from bayesmix import CollapsedGibbs
from bayesmix.infer.gibbs import GibbsState
from bayesmix.program import row_pass
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.observed import Observed
from bayesmix.program.problem import Problem
from tests.infer import test_collapsed as few
from tests.oracles.families import Family
from tests.oracles.sbc import Calibration, Size
from tests.oracles.simulate import invariants
from tests.oracles.test_exact import (
    CHAINS,
    assert_partitions,
    case_of,
    count_occupied,
    gibbs_draws,
    plan_of,
)

pytestmark = pytest.mark.oracle


@functools.cache
def draws_of(K: int, alpha: float, permute: bool = False):
    """Parameters and labels, (chains, draws, ...)."""
    kernel = CollapsedGibbs(plan_of(K), permute_labels=permute)
    mcmc = MCMC(kernel, num_warmup=200, num_samples=6000, **CHAINS)
    mcmc.run(jax.random.key(3), *case_of(K, alpha)[1])
    labels = mcmc.get_extra_fields(group_by_chain=True)["latents"]
    return mcmc.get_samples(group_by_chain=True), np.asarray(labels)


def together(labels):
    return (labels[..., :, None] == labels[..., None, :]).astype(float)


@pytest.mark.parametrize(("K", "alpha", "permute"), [(2, 1, False), (3, 0.5, True)])
def test_the_exact_posterior_of_the_partition(K, alpha, permute):
    case, _ = case_of(K, alpha)
    labels = draws_of(K, alpha, permute)[1]
    assert_partitions(together(labels), count_occupied(labels, K), case)
    if permute:  # every name is as frequent as every other
        shares = [(labels == k).mean() for k in range(K)]
        np.testing.assert_allclose(shares, 1 / K, atol=0.02)


def test_draws_are_less_dependent_than_those_of_a_sweep_with_parameters():
    def effective(labels):
        pairs = together(labels)
        rows = range(labels.shape[-1])
        sizes = [effective_sample_size(pairs[:, :, i, j]) for i in rows for j in range(i)]
        return np.median(sizes) / pairs[..., 0, 0].size

    assert effective(draws_of(2, 1)[1]) > 2 * effective(gibbs_draws(2, 1)[1])


SIZE = Size(datasets=2000, states=0, thin=0)


@pytest.mark.parametrize("name", ["several columns", "priors of their own"])
def test_a_sweep_leaves_exact_draws_exact(name):
    """Several sweeps on each of many data sets; half of these are compared with the other half, which
    no sweep has touched."""
    case = few.CASES[name]
    arguments = tuple(np.concatenate([x, x]) for x in case.arguments)
    calibration = Calibration(Family(case.program, arguments), SIZE)
    plan, call, count = calibration.plan, calibration.call, SIZE.datasets
    kernel = CollapsedGibbs(plan)
    kernel.collapse(*arguments)
    keys = jax.random.split(jax.random.key(5), count)
    parameters, data = calibration._draw(call.arrays, keys)
    data = {name: np.asarray(value) for name, value in data.items()}
    arranged = [
        plan.arrange(Observed({n: x[i] for n, x in data.items()}, calibration.present))
        for i in range(count)
    ]
    blocks = jax.tree.map(lambda *parts: np.stack(parts), *arranged)
    arrays = tuple(data[name] for name in calibration.sites)

    def run(arrays, blocks, values, key, swept):
        told = call.with_arrays(arrays)
        label_key, *sweep_keys = jax.random.split(key, 5)
        evaluation = plan.evaluate(told, values)
        drawn = row_pass.drawn_pass(plan.graph, plan.families, evaluation, blocks, label_key)
        state = GibbsState(values, drawn.rows[0], jnp.zeros(()), key)

        def sweep(state, key):
            return kernel._sweep(Problem(plan, told, blocks), state._replace(rng_key=key))[0], None

        moved, _ = jax.lax.scan(sweep, state, jnp.stack(sweep_keys))
        state = jax.tree.map(
            lambda x, y: jnp.where(swept, x, y), moved._replace(rng_key=key), state
        )
        density = Problem(plan, told, blocks).log_likelihood(state.z)
        share = jnp.mean(state.latents == 0)
        return {"log likelihood": density, "share": share, **invariants(plan, state.z)}

    swept = np.arange(count) % 2 == 0
    found = compile_lightly(jax.vmap(run))(arrays, blocks, parameters, keys, swept)
    for what, value in found.items():
        value = np.asarray(value)
        assert np.isfinite(value).all()
        assert ks_2samp(value[swept], value[~swept]).pvalue > 1e-4, what
