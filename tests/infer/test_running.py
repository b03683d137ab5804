"""Many fits in one process: chains on several devices, fits in threads, tables of many sizes."""

import gc
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from threadpoolctl import threadpool_info

import bayesmix
from bayesmix.infer.run import _one_thread_for_matrices
from bayesmix.program import compiling

X = np.concatenate([np.linspace(-4.0, -2.0, 15), np.linspace(2.0, 5.0, 15)])


def known_scale(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def one_scale(x):
    """The scale has no closed form."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("x", dist.Normal(mean[z], scale), obs=x)


@pytest.mark.parametrize(
    ("kernel", "program"),
    [
        (bayesmix.ConjugateGibbs, known_scale),
        (bayesmix.CollapsedGibbs, known_scale),
        (bayesmix.MixedGibbs, one_scale),
    ],
)
def test_chains_on_several_devices_draw_what_they_draw_one_after_another(kernel, program):
    assert jax.local_device_count() > 1
    plan = bayesmix.plan(program, X)

    def draws(method):
        settings = {"num_warmup": 5, "num_samples": 5, "num_chains": 2, "progress_bar": False}
        mcmc = MCMC(kernel(plan), chain_method=method, **settings)
        mcmc.run(jax.random.key(0), X)
        return mcmc.get_samples(group_by_chain=True)

    found, expected = draws("parallel"), draws("sequential")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def fit(x):
    return float(bayesmix.EM(known_scale, progress_bar=False).run(0, x).objective[-1])


def test_fits_in_threads_are_those_of_one_thread():
    tables = [X[i:] for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit, tables))
    np.testing.assert_allclose(found, [fit(x) for x in tables], rtol=1e-12)


def test_a_limit_of_openblas_ends_with_the_last_fit_that_needs_it():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before, first, second = threads(), _one_thread_for_matrices(), _one_thread_for_matrices()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)
    assert threads() == before


def num_executables():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def executables_after_each(sizes):
    """Fits of tables of these sizes by one engine, and how many executables there are after each."""
    engine, counts = bayesmix.EM(known_scale, progress_bar=False), []
    for size in sizes:
        assert engine.run(0, np.resize(X, size)).status
        counts.append(num_executables())
    return counts


def test_tables_of_many_sizes_leave_no_more_code_than_a_few(monkeypatch):
    monkeypatch.setattr(compiling, "MOST_KEPT", 12)  # of two fits
    counts = executables_after_each(range(30, 36))
    assert counts[-1] <= counts[2] + 6  # JAX itself compiles something small for every new shape


def test_a_thousand_tables_of_other_sizes_are_fitted_in_one_process():
    before = num_executables()
    counts = executables_after_each(np.random.default_rng(0).permutation(3000)[:1000] + 20)
    assert max(counts) <= before + compiling.MOST_KEPT + 2 * len(counts)
