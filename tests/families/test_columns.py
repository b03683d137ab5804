"""Independent normal columns by features against sums over cells in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.families.columns import COLUMNS, Columns

K, D, N = 3, 4, 600  # so many cells that features are taken


def components(spread, seed=0):
    rng = np.random.default_rng(seed)
    return Columns(spread * rng.normal(size=(K, D)), np.exp(rng.normal(size=(K, D))))


def cells(parameters, missing):
    """Rows (N, D) of the components, their weights (K, N), and which cells are there, or None."""
    rng = np.random.default_rng(1)
    group = rng.integers(K, size=N)
    x = parameters.mean[group] + parameters.scale[group] * rng.normal(size=(N, D))
    return x, rng.uniform(size=(K, N)), rng.uniform(size=(N, D)) > 0.3 if missing else None


@jax.jit
def kernels(parameters, rows, weights):
    prepared = COLUMNS.prepare(parameters, None)
    sums = COLUMNS.accumulate(prepared, rows, weights, None)
    return COLUMNS.log_prob(prepared, rows), COLUMNS.finish(prepared, sums)


def by_cells(parameters, x, weights, present):
    """Log densities (K, N), and the weight and sums of y and y^2 by column, (K, D)."""
    y = (x - parameters.mean[:, None]) / parameters.scale[:, None]
    there = np.ones((N, D)) if present is None else present
    density = -(y**2 + np.log(2 * np.pi)) / 2 - np.log(parameters.scale)[:, None]
    each = weights[:, :, None] * there
    return (density * there).sum(-1), [(each * y**power).sum(1) for power in range(3)]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("spread", [3.0, 1e9])
def test_kernels_give_what_sums_over_cells_give(spread, missing):
    # with means 1e9 standard deviations away from each other, residuals are whitened after all
    parameters = components(spread)
    x, weights, present = cells(parameters, missing)
    assert bool(COLUMNS.prepare(parameters, None).quadratic.accurate) is (spread < 1e6)
    rows = COLUMNS.arrange(x if present is None else np.where(present, x, 7.0), present)
    density, found = kernels(parameters, rows, weights)
    exact, sums = by_cells(parameters, x, weights, present)
    np.testing.assert_allclose(density, exact, rtol=1e-12, atol=1e-11)
    np.testing.assert_array_equal(found.reference, parameters.mean)
    whitened = (found.count, found.first / parameters.scale, found.second / parameters.scale**2)
    for got, wanted in zip(whitened, sums, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


def test_a_batch_takes_one_branch_and_the_accurate_one():
    good, bad = components(3.0), components(1e9)
    x, weights, _ = cells(good, False)
    rows = COLUMNS.arrange(x, None)
    batch = jax.tree.map(lambda *each: jnp.stack(each), good, bad)
    run = jax.vmap(kernels, (0, None, None))
    assert "cond[" in str(jax.make_jaxpr(run)(batch, rows, weights))
    density, _ = run(batch, rows, weights)
    for i, each in enumerate((good, bad)):
        np.testing.assert_allclose(density[i], by_cells(each, x, weights, None)[0], rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("tightness", [1.0, 0.005])
def test_single_precision_keeps_variances(tightness, offset):
    parameters = components(1.0)
    parameters = Columns(offset + parameters.mean, tightness * parameters.scale)
    x, weights, _ = cells(parameters, False)
    single = partial(jax.tree.map, np.float32)
    told = single(parameters)
    found = kernels(told, COLUMNS.arrange(single(x), None), single(weights))[1]
    _, (count, first, second) = by_cells(jax.tree.map(np.float64, told), single(x), weights, None)
    exact = second / count - (first / count) ** 2
    found = jax.tree.map(np.float64, found)
    mean, square = found.first / found.count, found.second / found.count
    np.testing.assert_allclose((square - mean**2) / told.scale**2, exact, rtol=1e-3)


def test_derivatives_pass_through_features():
    parameters = components(3.0)
    x, weights, _ = cells(parameters, False)
    rows = COLUMNS.arrange(x, None)
    slope = jax.grad(lambda told: jnp.sum(weights * kernels(told, rows, weights)[0]))(parameters)
    y = (x - parameters.mean[:, None]) / parameters.scale[:, None]
    by_mean = np.einsum("kn,knd->kd", weights, y) / parameters.scale
    by_scale = np.einsum("kn,knd->kd", weights, y**2 - 1) / parameters.scale
    np.testing.assert_allclose(slope.mean, by_mean, rtol=1e-10)
    np.testing.assert_allclose(slope.scale, by_scale, rtol=1e-10)
