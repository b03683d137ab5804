"""Search against the best of many starts of mclust's M steps (R), and on problems with poor modes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln

import bayesmix
from bayesmix import Search, strategies, zoo
from tests.checks import slopes
from tests.oracles.models import MODELS
from tests.oracles.test_multistart import reference_of

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("key", ["faithful_FR_K3", "faithful_FR_K4", "galaxies_FR_K5"])
def test_the_best_known_optimum_is_found(key):
    fit, arguments = reference_of(key)
    members = (strategies.Restarts(48), strategies.Genetic(16, 4), strategies.SplitAndMerge(8))
    search = Search(MODELS["VVV"], members, progress_bar=False)
    found = search.run(jax.random.key(0), *arguments)
    assert found.best.status
    # theirs leaves out the density of the flat Dirichlet, gamma(K)
    best = found.modes[0].objective - gammaln(fit["K"])
    theirs = fit["best_logpost_incl_normalised_NIW"]
    assert best >= theirs - 1e-6 * abs(theirs)
    assert 0 < found.modes[0].frequencies["Genetic"] < 1


def row_of_groups(x, K):
    mean = numpyro.sample("mean", dist.Normal(0.0, 30.0).expand([K]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_annealing_reaches_the_best_mode_more_often_than_random_starts():
    """Equal cost, and the intervals are disjoint."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(4.0 * k, 1.0, 10) for k in range(10)])
    found = bayesmix.compare_strategies(
        row_of_groups,
        [strategies.Restarts(8, strategies.random_rows), strategies.DeterministicAnnealing(2)],
        7,
        x,
        K=10,
        budget=120,
        repeats=40,
        batch=8,
        progress_bar=False,
    ).to_dataframe()
    assert found.lower["DeterministicAnnealing"] > found.upper["Restarts"]


RNG = np.random.default_rng(0)
LABEL = RNG.choice(3, 60)
GROUPS = np.array([[-4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])[LABEL] + RNG.normal(size=(60, 2))
ITEMS = (RNG.random((60, 6)) < np.array([0.1, 0.5, 0.9])[LABEL][:, None]).astype(float)
COUNTS = RNG.poisson(np.array([1.0, 8.0, 25.0])[LABEL])[:, None]
LINE = RNG.normal(size=(60, 1))
OUTCOME = np.array([-3.0, 0.0, 3.0])[LABEL] * LINE[:, 0] + 0.2 * RNG.normal(size=60)
PROGRAMS = {
    "gaussian": (zoo.gaussian_mixture, (GROUPS, 3)),
    "bernoulli": (zoo.bernoulli_mixture, (ITEMS, 3)),
    "poisson": (zoo.poisson_mixture, (COUNTS, 3)),
    "regression": (zoo.linear_regression_mixture, (LINE, OUTCOME, 3)),
    "chain": (zoo.hidden_markov_poisson, (RNG.poisson(COUNTS, (60, 3)), 3)),
}
STRATEGIES = (
    strategies.Restarts(8),
    strategies.DeterministicAnnealing(4),
    strategies.SimulatedAnnealing(4),
    strategies.Genetic(4, 2),
    strategies.SplitAndMerge(2, 2, 4),
    strategies.ConvexExemplar(exemplars=60),
)


@functools.cache
def plan_of(name):
    program, arguments = PROGRAMS[name]
    return bayesmix.plan(program, *arguments)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_strategy_ends_at_a_mode_of_any_program(name, strategy):
    search = Search(plan_of(name), (strategy,), batch=4, tolerance=1e-12, progress_bar=False)
    arguments = PROGRAMS[name][1]
    if isinstance(strategy, strategies.ConvexExemplar) and name in ("regression", "chain"):
        with pytest.raises(bayesmix.ProgramError, match="ConvexExemplar"):
            search.run(0, *arguments)
        return
    found = search.run(0, *arguments)
    assert found.best.status
    for site, slope in slopes(found.best).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-3, err_msg=site)
    assert found.modes[0].log_weight.value is not None
    first = found.climbs[type(strategy).__name__].scores
    assert found.modes[0].objective == first.max()


def test_maximum_likelihood_with_singular_ends_is_ranked_by_modes():
    """Where the likelihood has no bound, ends at a singular covariance are listed after the modes."""
    x = np.concatenate([[0.0, 0.0, 0.0], RNG.normal(5.0, 1.0, 20)])[:, None]
    program = bayesmix.without_priors(zoo.gaussian_mixture)
    found = Search(program, (strategies.Restarts(16),), progress_bar=False).run(0, x, 3)
    sound = [bool(mode.status) for mode in found.modes]
    assert not all(sound)
    assert sound == sorted(sound, reverse=True)
    assert found.best.status or not any(sound)
