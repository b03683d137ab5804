"""The second run of each engine, without the held-out rows, uses what the first one compiled."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import bayesmix
from bayesmix import ProgramError
from bayesmix.comparison import _split_rows, runs
from bayesmix.comparison.engines import Settings
from bayesmix.comparison.kept_answers import KeptAnswers
from bayesmix.program.problem import Plans


def rates(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


def one_rate(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Poisson(rate), obs=x)


X = np.r_[np.random.default_rng(0).poisson(2.0, 60), np.random.default_rng(1).poisson(15.0, 40)]


def test_nothing_is_compiled_a_second_time(capfd, monkeypatch):
    # there NumPyro shows no progress, and loops that show none it makes anew for every run
    for name in ("CI", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    problem = Plans(rates).call((X,), {})
    rows = _split_rows(problem, 0.2, 0)
    settings = Settings(0, 2, 20, 30, 2, progress_bar=True)
    names = ("MLE-EM", "MAP-EM", "VB", "Gibbs", "NUTS")
    kept = KeptAnswers(None, {}, lambda line: None)
    found = runs.run_engines(problem, settings, rows, names, kept, lambda line: None)
    assert not found.left_out
    first = {name: engine.compiling for name, engine in found.engines.items()}
    again = {name: engine.compiling for name, engine in found.parts.items()}
    assert min(first.values()) > 0
    assert again == dict.fromkeys(names, 0.0)
    for engine in found.parts.values():
        assert engine.held_out is None
    for engine in found.engines.values():
        assert engine.held_out.shape == (20,)


def test_held_out_rows_tell_nothing():
    """Whatever they are, the training problem is the same."""
    other = X.copy()
    rows = _split_rows(Plans(rates).call((X,), {}), 0.2, 0)
    other[rows.test] += 1000
    train = _split_rows(Plans(rates).call((other,), {}), 0.2, 0).train
    np.testing.assert_array_equal(train.arguments.arrays[0], rows.train.arguments.arrays[0])
    assert train.weight.sum() == 80 and np.all(train.weight[rows.test] == 0)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("kernel", [bayesmix.ConjugateGibbs, bayesmix.MixedGibbs])
def test_chains_run_on_a_weighted_problem(kernel, traced):
    x = X[:60]
    weight = np.where(np.arange(60) % 3, 2.0, 0.0)
    problem = Plans(one_rate).call((x,), {}).weighted(weight)
    options = {"progress_bar": False, "jit_model_args": traced}
    mcmc = MCMC(kernel(one_rate), num_warmup=5, num_samples=4000, **options)
    mcmc.run(jax.random.key(0), problem)
    drawn = mcmc.get_samples()["rate"]
    shape, per = 2 + weight @ x, 1 + weight.sum()
    assert float(drawn.mean()) == pytest.approx(shape / per, abs=5 * shape**0.5 / per / 4000**0.5)
    assert float(drawn.std()) == pytest.approx(shape**0.5 / per, rel=0.06)
    density = bayesmix.to_arviz(mcmc)["log_likelihood"]["x"]
    assert density.shape == (1, 4000, 80)


def test_a_problem_of_another_program_is_refused():
    problem = Plans(one_rate).call((X,), {})
    with pytest.raises(ProgramError, match="of another program than the engine"):
        MCMC(bayesmix.ConjugateGibbs(rates), num_warmup=1, num_samples=1).run(0, problem)
