"""Units do not matter: data a million times larger or smaller, and priors with them, give the same fit.

Priors of the zoo are scaled to the data by themselves.
"""

import numpy as np
import pytest

from bayesmix import EM, zoo

RNG = np.random.default_rng(3)
GROUP = np.repeat([0, 1], 60)
POINTS = np.stack([6.0 * GROUP, -3.0 * GROUP], 1) + RNG.normal(size=(120, 2))
COVARIATE = RNG.uniform(1.0, 9.0, (120, 1))
OUTCOME = np.where(GROUP, 20 - COVARIATE[:, 0], 2 * COVARIATE[:, 0]) + 0.5 * RNG.normal(size=120)
# outcomes that the gate can tell from the covariate, to a degree
GATED = np.where(COVARIATE[:, 0] + RNG.normal(size=120) > 5, 20 - COVARIATE[:, 0], OUTCOME)
TIMES = RNG.exponential(np.where(GROUP, 1.0, 30.0))
SERIES = POINTS[:, 0].reshape(12, 10)

# data, all of it scaled; other arguments; columns of outcomes
CASES = {
    zoo.student_mixture: ((POINTS,), {"K": 2}, 2),
    zoo.linear_experts: ((COVARIATE, GATED), {"K": 2}, 1),
    zoo.gaussian_mixture: ((POINTS,), {"K": 2}, 2),
    zoo.gaussian_mixture_tied: ((POINTS,), {"K": 2}, 2),
    zoo.gaussian_mixture_diagonal: ((POINTS,), {"K": 2}, 2),
    zoo.gaussian_mixture_diagonal_tied: ((POINTS,), {"K": 2}, 2),
    zoo.gaussian_mixture_spherical: ((POINTS,), {"K": 2}, 2),
    zoo.gaussian_mixture_spherical_tied: ((POINTS,), {"K": 2}, 2),
    zoo.linear_regression_mixture: ((COVARIATE, OUTCOME), {"K": 2}, 1),
    zoo.student_experts: ((COVARIATE, GATED), {"K": 2}, 1),
    zoo.exponential_mixture: ((TIMES[:, None],), {"K": 2}, 1),
    zoo.hidden_markov_normal: ((SERIES,), {"K": 2}, 10),
}


@pytest.mark.parametrize("program", CASES, ids=lambda program: program.__name__)
def test_units_do_not_matter(program):
    data, others, columns = CASES[program]
    em = EM(program, progress_bar=False)
    fits = {u: em.run(0, *(u * x for x in data), **others) for u in (1.0, 1e-6, 1e6)}
    plain = fits.pop(1.0)
    assert plain.status
    for unit, fit in fits.items():
        assert fit.status
        density = fit.log_density() + columns * np.log(unit)
        np.testing.assert_allclose(density, plain.log_density(), rtol=1e-4, atol=1e-4)
