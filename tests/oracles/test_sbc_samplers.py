"""Whole runs of every sampler are calibrated; variational Bayes is where it is exact, and only there.

sbc_samplers.py runs all at full size.
"""

import jax
import pytest

from tests.oracles.samplers import NORMALS
from tests.oracles.sbc import p_values
from tests.oracles.sbc_samplers import SMALL, all_ranks, ranks_of_approximations

pytestmark = pytest.mark.oracle
CASES = all_ranks(SMALL)
# about eight functions of each program's parameters are looked at
LEVEL = 0.01 / (8 * len(CASES))


@pytest.mark.parametrize("name", CASES)
def test_ranks_of_the_truth_among_draws_are_uniform(name):
    found = p_values(CASES[name](jax.random.key(0)), SMALL)
    assert min(found.values()) > LEVEL, found


def test_densities_that_are_independent_between_blocks_are_too_narrow():
    """Means and weights lean on the labels: the truth is outside of all draws too often."""
    found = ranks_of_approximations(NORMALS, SMALL, jax.random.key(0))
    assert min(p_values(found, SMALL).values()) < 1e-6
    outside = (found["largest weights"] == 0) | (found["largest weights"] == SMALL.states)
    assert outside.mean() > 0.2  # a tenth where calibrated
