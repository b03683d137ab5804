"""Simulation-based calibration of Gibbs sweeps for a few families (see sbc.py; it runs them all)."""

import functools

import jax
import numpy as np
import pytest

from bayesmix.infer import mixed
from tests.oracles.families import FEW, SEVERAL
from tests.oracles.sbc import SMALL, Calibration, p_values

pytestmark = pytest.mark.oracle
# about ten functions of each family's parameters are looked at
LEVEL = 0.01 / (10 * len(FEW))


@functools.cache
def calibration_of(name: str) -> Calibration:
    return Calibration(FEW[name], SMALL)


@pytest.mark.parametrize("name", FEW)
def test_ranks_of_the_truth_among_draws_are_uniform(name):
    found = p_values(calibration_of(name).ranks(jax.random.key(0)), SMALL)
    assert min(found.values()) > LEVEL, found


def test_a_prior_that_is_not_the_programs_shows():
    name = "Poisson, Bernoulli, categorical, t"
    other = (*SEVERAL, np.asarray(2.0))
    found = p_values(calibration_of(name).ranks(jax.random.key(0), truth=other), SMALL)
    assert found["largest mean"] < 1e-6
    assert found["smallest share"] > LEVEL


def test_a_step_of_nuts_on_another_density_shows(monkeypatch):
    """Without the Jacobian of its coordinates the degrees of freedom are drawn from another density."""

    def bare(sites, log_density, values):
        return lambda free: -log_density({**values, **mixed.constrained(sites, free)})

    name = "gate and Student-t, by NUTS"
    monkeypatch.setattr(mixed, "potential_energy", bare)
    found = p_values(Calibration(FEW[name], SMALL).ranks(jax.random.key(0)), SMALL)
    assert found["largest df"] < 1e-6
