"""Stacking of chains: its weights are those that a search finds, and copies of a mode predict alike."""

import numpy as np
import pytest
from scipy.special import logsumexp

import bayesmix
from bayesmix import ProgramError, stack_chains
from bayesmix.posterior import arviz_compat


def chains(places: list[np.ndarray], seed: int = 0):
    """Draws of log p(x_i) about `places`, (N,) for each chain, and a parameter that tells the chains."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.normal(place, 0.02, size=(1000, len(place))) for place in places])
    mode = np.repeat(np.arange(len(places), dtype=float)[:, None], 1000, axis=1)
    return arviz_compat.make({"posterior": {"mode": mode}, "log_likelihood": {"x": rows}})


rng = np.random.default_rng(1)
FIRST, SECOND = -1.0 - rng.uniform(size=40), -1.0 - rng.uniform(size=40)


def test_weights_are_those_of_a_search_over_a_grid():
    found = stack_chains(chains([FIRST, SECOND]))
    grid = np.linspace(0.0, 1.0, 2001)
    table = np.stack([FIRST, SECOND], axis=1)
    with np.errstate(divide="ignore"):
        weights = np.log(np.stack([grid, 1 - grid], axis=1))
    score = logsumexp(table[None] + weights[:, None], axis=2).sum(axis=1)
    assert found.weights[0] == pytest.approx(grid[score.argmax()], abs=0.01)
    assert found.stacked_elpd >= found.elpd.max() - 1e-9
    assert found.stacked_elpd == pytest.approx(score.max(), abs=0.05)
    assert "not by posterior mass" in str(found)


def test_a_poor_chain_gets_nothing_and_is_not_drawn_from():
    idata = chains([FIRST, FIRST - 3.0, SECOND])
    found = stack_chains(idata)
    assert found.weights[1] < 1e-6
    taken = arviz_compat.dataset(found.resample(idata), "posterior")
    assert dict(taken.sizes) == {"chain": 1, "draw": 1000}
    shares = np.bincount(taken["mode"].values.astype(int).ravel(), minlength=3) / 1000
    np.testing.assert_allclose(shares, found.weights, atol=0.0015)
    assert "weights" in taken.attrs["stacked"]


def test_one_chain_is_refused():
    with pytest.raises(ProgramError, match="there is one chain"):
        bayesmix.stack_chains(chains([FIRST]))
