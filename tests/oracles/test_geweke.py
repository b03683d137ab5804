"""Joint-distribution tests of every sampler's step (see geweke.py, which runs them at full size)."""

import pytest

from bayesmix.infer import mixed
from tests.oracles.geweke import CASES, SMALL, p_values
from tests.oracles.samplers import normals

pytestmark = pytest.mark.oracle
# four groups of moments of each sampler are looked at
LEVEL = 0.01 / (4 * len(CASES))


@pytest.mark.parametrize("name", CASES)
def test_a_step_leaves_the_joint_density_as_it_is(name):
    found = p_values(*CASES[name], SMALL)
    assert min(found.values()) > LEVEL, found


def one_more(x, shape):
    """The program, but for one degree of freedom of the variances."""
    normals(x, shape + 0.5)


@pytest.mark.parametrize("name", ["ConjugateGibbs", "CollapsedGibbs", "NUTS"])
def test_a_conditional_with_another_degree_of_freedom_shows(name):
    found = p_values(*CASES[name], SMALL, source=one_more)
    assert found["parameters"] < 1e-6


def test_nuts_on_a_density_without_its_jacobian_shows(monkeypatch):
    def bare(sites, log_density, values):
        return lambda free: -log_density({**values, **mixed.constrained(sites, free)})

    monkeypatch.setattr(mixed, "potential_energy", bare)
    found = p_values(*CASES["MixedGibbs"], SMALL)
    assert found["parameters"] < 1e-6
