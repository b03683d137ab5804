"""Search for modes: exact limits, planted poor modes, resuming, weights of modes, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import binomtest, norm

import bayesmix
from bayesmix import EM, ProgramError, Search, plots, strategies
from bayesmix.infer.laplace import laplace_log_weight, log_copies
from bayesmix.infer.search_comparison import StrategyComparison, wilson_interval
from bayesmix.infer.search_moves import _crossed
from bayesmix.infer.search_problem import join

K, CENTRES, BATCH = 3, np.array([0.0, 6.0, 20.0]), 4
ROWS = np.concatenate([np.random.default_rng(0).normal(centre, 1.0, 10) for centre in CENTRES])


def row_of_groups(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 20.0).expand([K]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


@functools.cache
def plan():
    return bayesmix.plan(row_of_groups, ROWS)


def search(*members, **options):
    return Search(plan(), members, batch=BATCH, progress_bar=False, **options)


@functools.cache
def landscape():
    engine = search(strategies.Restarts())
    return engine.landscape(engine.plans.call((ROWS,), {}))


def two_in_the_last_group(rng_key, points, num_seeds):
    """Seeds from which EM ends in a poor mode: one component on two groups, two on the third."""
    return jnp.array([5, 25, 29])


POOR = strategies.Restarts(1, seeding=two_in_the_last_group)


class Idle:
    """A strategy that makes no start."""

    def step(self, *_):
        return None


# ------------------------------------------------------------------------------------ exact limits
def test_annealing_from_temperature_one_is_plain_em():
    annealing = strategies.DeterministicAnnealing(BATCH, start_temperature=1.0)
    key = jax.random.key(3)
    found = annealing.step(landscape(), key, ())
    plain = EM(plan(), seeding=strategies.random_rows, progress_bar=False)
    fit = plain.run(key, ROWS, restarts=BATCH)
    np.testing.assert_allclose(found.objectives, fit.restart_objectives, rtol=1e-12)
    np.testing.assert_array_equal(found.costs, fit.restart_steps + 1)
    np.testing.assert_allclose(found.values["mean"], fit.restart_parameters["mean"], rtol=1e-6)


def test_stochastic_annealing_of_no_steps_is_plain_em():
    key = jax.random.key(3)
    none = strategies.SimulatedAnnealing(BATCH, steps=0).step(landscape(), key, ())
    plain = strategies.Restarts(BATCH, strategies.random_rows).step(landscape(), key, ())
    for one, other in zip(jax.tree.leaves(none), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_genetic_algorithm_of_no_generations_is_restarts():
    found = search(strategies.Genetic(6, generations=0)).run(1, ROWS).climbs["Genetic"]
    plain = landscape()
    key = jax.random.fold_in(jax.random.split(jax.random.key(1), 1)[0], 0)
    expected = plain.climb(plain.seeds(key, 6, strategies.kmeans_plus_plus))
    np.testing.assert_array_equal(found.objectives, expected.objectives)
    np.testing.assert_array_equal(found.costs, expected.costs)


def test_a_solution_is_crossed_with_its_relabelled_self_into_itself():
    shares = np.random.default_rng(0).dirichlet(np.ones(K), (1, 30)).swapaxes(1, 2)
    both = {"z": np.concatenate([shares, shares[:, [2, 0, 1]]])}
    for seed in range(5):
        child = _crossed(landscape(), both, 0, 1, np.random.default_rng(seed))["z"]
        np.testing.assert_allclose(child, shares[0], atol=1e-5)


# ------------------------------------------------------------------------- out of a planted poor mode
@pytest.mark.parametrize(
    "strategy",
    [
        strategies.SplitAndMerge(1, seeding=two_in_the_last_group, candidates=BATCH),
        strategies.Genetic(BATCH, 2, mutation=1.0, seeding=two_in_the_last_group),
        strategies.DeterministicAnnealing(2, seeding=two_in_the_last_group),
        strategies.ConvexExemplar(),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_it_leaves_a_poor_mode_for_the_best(strategy):
    poor = POOR.step(landscape(), jax.random.key(0), ()).objectives[0]
    found = search(strategy).run(0, ROWS)
    assert found.best.status
    np.testing.assert_allclose(np.sort(found.best.parameters["mean"]), CENTRES, atol=1.0)
    assert found.best.objective[-1] == pytest.approx(found.modes[0].objective, rel=1e-12)
    assert found.modes[0].objective > poor + 10
    assert found.modes[0].objective == join(list(found.climbs.values())).scores.max()


# ------------------------------------------------------------------------------ what is reported
def test_modes_are_counted_by_strategy():
    found = search(POOR, strategies.Restarts(6)).run(0, ROWS)
    first = "Restarts(count=1, seeding=two_in_the_last_group)"
    second = "Restarts(count=6, seeding=kmeans_plus_plus)"
    assert list(found.climbs) == [first, second]
    frame = found.to_dataframe()
    assert len(frame) == len(found.modes) == len(found.best.modes) >= 2
    np.testing.assert_allclose(frame[[first, second]].sum(), 1.0)
    poor = next(mode for mode in found.modes if first in mode.found_by)
    assert poor.frequencies[first] == 1.0 and poor.objective < found.modes[0].objective - 10
    assert np.all(np.diff([mode.objective for mode in found.modes]) < 0)
    assert found.costs[first] == found.climbs[first].costs.sum() >= 2
    text = str(found)
    assert f"A  {first}: 1 starts" in text and f"{found.modes[0].objective:.4f}" in text
    figure = plots.plot_search(found)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "share of starts that ended at each mode",
        "what it cost",
    ]


def test_a_second_run_traces_nothing():
    calls = []

    def counted(x):
        calls.append(1)
        row_of_groups(x)

    told = Search(counted, (strategies.Restarts(2),), batch=2, progress_bar=False)
    told.run(0, ROWS)
    before = len(calls)
    assert before > 0
    assert told.run(1, ROWS[::-1] + 1.0).best.status
    assert len(calls) == before


# ----------------------------------------------------------------------------- weights of modes
def test_the_weight_of_separated_groups_is_the_evidence():
    """With groups far apart each labelling's posterior is normal, and Laplace exact: evidence of
    normal rows with a normal prior on their mean, in each of K! labellings."""
    found = search(strategies.Restarts(1)).run(0, ROWS)
    evidence = len(ROWS) * math.log(1 / K) + math.lgamma(K + 1)
    for group in ROWS.reshape(K, -1):
        covariance = np.eye(len(group)) + 20.0**2
        gap = group @ np.linalg.solve(covariance, group)
        evidence -= 0.5 * (gap + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert found.modes[0].log_weight.value == pytest.approx(evidence, abs=1e-3)


def test_a_constrained_mode_is_weighed_in_unconstrained_coordinates():
    """A gamma-Poisson rate for each group has a closed evidence; Laplace in log rate is close to it."""
    x = np.repeat([[1.0], [40.0]], 30, axis=0) + np.arange(60)[:, None] % 2

    def counts(x):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            numpyro.sample("x", dist.Poisson(rate[z]).to_event(0), obs=x[:, 0])

    found = Search(counts, (strategies.Restarts(1),), batch=1, progress_bar=False).run(0, x)
    evidence = 60 * math.log(0.5) + math.lgamma(3)
    for group in x.reshape(2, -1):
        total, count = group.sum(), len(group)
        evidence += 2 * math.log(0.1) + math.lgamma(2 + total)
        evidence -= (2 + total) * math.log(0.1 + count) + sum(map(math.lgamma, group + 1))
    assert found.modes[0].log_weight.value == pytest.approx(evidence, abs=3e-3)


def test_copies_are_fewer_where_components_are_the_same():
    assert log_copies(plan(), {"mean": np.array([0.0, 1.0, 2.0])}) == pytest.approx(math.log(6))
    assert log_copies(plan(), {"mean": np.array([0.0, 2.0, 2.0])}) == pytest.approx(math.log(3))
    assert log_copies(plan(), {"mean": np.array([2.0, 2.0, 2.0])}) == pytest.approx(0.0)


def test_a_saddle_has_no_weight():
    same = {"mean": np.full(K, ROWS.mean())}
    told = laplace_log_weight(landscape().problem, same)
    assert told.value is None and "positive definite" in told.reason


# -------------------------------------------------------------------------- stopping and resuming
LONG = (strategies.Restarts(3 * BATCH), strategies.Genetic(BATCH, 2, mutation=1.0))


def test_a_stopped_search_goes_on_and_ends_as_it_would_have(tmp_path):
    whole = search(*LONG).run(5, ROWS)
    told = []

    def stop(progress):
        told.append(progress)
        return len(told) in (2, 3)

    path = tmp_path / "search.npz"
    parts = [search(*LONG, callback=stop).run(5, ROWS, checkpoint=path) for _ in range(3)]
    assert [part.stopped for part in parts] == ["callback", "callback", ""]
    assert [each.strategy for each in told] == ["Restarts"] * 3 + ["Genetic"] * 3
    assert told[-1].cost == sum(whole.costs.values())
    assert told[-1].best == whole.modes[0].objective
    assert str(parts[-1]) == str(whole)
    for one, other in zip(
        jax.tree.leaves(parts[-1].climbs), jax.tree.leaves(whole.climbs), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert [each.name for each in tmp_path.iterdir()] == ["search.npz"]
    with pytest.raises(ProgramError, match="is of another run"):
        search(*LONG).run(6, ROWS, checkpoint=path)
    with pytest.raises(ProgramError, match="is of another run"):
        search(*LONG).run(5, ROWS + 1e-9, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ProgramError, match="not saved by bayesmix"):
        search(*LONG).run(5, ROWS, checkpoint=path)


def test_patience_ends_a_search_that_finds_nothing_better():
    found = search(strategies.Restarts(100, two_in_the_last_group), patience=6).run(0, ROWS)
    assert found.stopped == "patience"
    assert len(found.climbs["Restarts"].costs) == 2 * BATCH


# ------------------------------------------------------------------------------- equal cost
def test_runs_are_counted_within_the_budget():
    costs = {"A": [np.array([3.0, 9.0]), np.array([4.0, 12.0])], "B": [np.array([5.0])] * 2}
    best, poor = -1.0, -2.0
    objectives = {
        "A": [np.array([poor, best]), np.array([-np.inf, best])],
        "B": [np.array([best + 1e-9]), np.array([poor])],
    }
    told = StrategyComparison(best + 1e-9, 10.0, costs, objectives)
    assert told.successes == {"A": 1, "B": 1}
    np.testing.assert_array_equal(told.passes_needed("A"), [9.0, 12.0])
    np.testing.assert_array_equal(told.passes_needed("B"), [5.0, np.inf])
    assert "50%" in str(told)
    labels = plots.plot_strategies(told).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["A", "B"]


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 7), (50, 50)])
def test_wilsons_interval_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    found = wilson_interval(successes, trials, z=norm.ppf(0.975))
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-12)


# --------------------------------------------------------------------------------------- refusals
def nothing_hidden(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def two_lines(u, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(slope[z] * u, 1.0), obs=y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search(), "at least one"),
        (lambda: search(POOR, POOR), "given twice"),
        (lambda: search(strategies.Restarts), "is no strategy"),
        (lambda: search(Idle()).run(0, ROWS), "no start at all"),
        (lambda: strategies.Genetic(0), "population is 0"),
        (
            lambda: search(strategies.DeterministicAnnealing(start_temperature=0.5)).run(0, ROWS),
            "start_temperature of DeterministicAnnealing is 0.5",
        ),
        (lambda: search(strategies.DeterministicAnnealing(rate=0.999)).run(0, ROWS), "cool faster"),
        (lambda: Search(nothing_hidden).run(0, ROWS), "no latent"),
        (lambda: Search(plan(), batch=0), "batch is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ProgramError, match=message):
        make()


def test_strategies_say_which_programs_they_are_not_for():
    lines = Search(two_lines, (strategies.SplitAndMerge(),), progress_bar=False)
    with pytest.raises(ProgramError, match="three values"):
        lines.run(0, ROWS, ROWS)
    lines.strategies = {"exemplars": strategies.ConvexExemplar()}
    with pytest.raises(ProgramError, match="is a regression"):
        lines.run(0, ROWS, ROWS)
