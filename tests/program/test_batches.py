"""Rows in batches: every row once, in its own batch, among rows with the same cells missing."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import Plan
from bayesmix.program.arguments import split
from bayesmix.program.batches import arrange_batches, padded

N = 101


def program(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], jnp.eye(2)), obs=x)


@functools.cache
def plan() -> Plan:
    return bayesmix.plan(program, np.arange(40.0).reshape(20, 2))


def rows(holes: bool) -> np.ndarray:
    x = np.arange(2.0 * N).reshape(N, 2)
    if holes:
        x[::3, 0] = np.nan
        x[1::7, 1] = np.nan  # some rows have nothing
    return x


@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("count", [1, 4, 13])
def test_every_row_is_in_its_batch_once(holes, count):
    x = rows(holes)
    batch = np.random.default_rng(0).permutation(np.arange(N) * count // N)
    found = arrange_batches(plan(), plan().observe(split((x,), {})), batch)
    assert found.count == count
    index = np.asarray(found.blocks.index).reshape(count, -1)
    for number in range(count):
        inside = index[number][index[number] < N]
        assert sorted(inside) == np.flatnonzero(batch == number).tolist()
        # what a compiled function takes out is that batch
        taken = found.take(number)
        weight, values = np.asarray(taken.weight), np.asarray(taken.rows["x"])
        says = ~np.isnan(x).all(axis=1)
        assert weight.sum() == says[inside].sum()
        filled = np.nan_to_num(values.transpose(0, 2, 1)[weight > 0])
        there = np.ones_like(filled, bool)
        if holes:
            patterns = np.asarray(taken.patterns["x"])[np.asarray(taken.pattern)]
            there = np.broadcast_to(patterns[:, None], (*weight.shape, 2))[weight > 0]
        expected = x[inside[says[inside]]]
        np.testing.assert_array_equal(
            np.sort(filled[there]), np.sort(expected[~np.isnan(expected)])
        )


def test_what_is_added_to_a_batch_has_no_weight():
    blocks = arrange_batches(
        plan(), plan().observe(split((rows(True),), {})), np.zeros(N, int)
    ).blocks
    wide = padded(blocks, 40, 8)
    assert wide.weight.shape[0] == wide.rows["x"].shape[0] == wide.pattern.shape[0] == 40
    assert wide.patterns["x"].shape == (8, 2)
    assert wide.weight.sum() == blocks.weight.sum() > 0
    np.testing.assert_array_equal(wide.weight[: len(blocks.weight)], blocks.weight)
