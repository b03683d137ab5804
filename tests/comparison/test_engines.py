"""Approximations and tempered samplers in a comparison, and engines that do not take a program."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import bayesmix
from bayesmix import ProgramError
from bayesmix.comparison.report import render_report

SHORT = {"num_samples": 200, "num_chains": 2, "num_warmup": 100, "restarts": 3}


def program(x, K):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def heavy(x, K):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.StudentT(4.0, mean[z], 1.0), obs=x)


X = np.concatenate([np.linspace(-6.0, -4.0, 25), np.linspace(4.0, 6.0, 25)])


@functools.cache
def compared():
    engines = ("MAP-EM", "Laplace", "VB", "SMC")
    return bayesmix.compare(
        program, X, 2, engines=engines, held_out=0.2, progress_bar=False, **SHORT
    )


def test_separated_groups_have_one_answer_whatever_the_engine():
    found = compared()
    mode = np.sort(found.engines["MAP-EM"].estimate["mean"])
    for result in found.engines.values():
        np.testing.assert_allclose(np.sort(result.estimate["mean"]), mode, atol=0.05)
    low, high = found.engines["VB"].interval["mean"]
    np.testing.assert_allclose(high - low, 2 * 1.88 / 5, rtol=0.25)  # 25 rows of variance 1
    assert len(found.scores) == 4


def test_evidences_agree_and_are_shown():
    found = compared()
    values = {record["engine"]: record["value"] for record in found.evidence}
    assert values["Laplace"] == pytest.approx(values["VB"], abs=1e-3)
    assert values["SMC"] == pytest.approx(values["VB"], abs=0.5)
    text = found.table()
    for words in ("Log evidence", "lower bound", "relabelled copies", "estimate"):
        assert words in text
    assert found.to_dict()["evidence"][0]["engine"] == "Laplace"


def test_an_engine_that_does_not_take_the_program_is_left_out_with_the_reason():
    found = bayesmix.compare(
        heavy, X, 2, engines=("MAP-EM", "VB"), held_out=0.0, progress_bar=False, **SHORT
    )
    assert list(found.engines) == ["MAP-EM"]
    assert "hidden values" in found.left_out["VB"]
    assert "VB was left out" in found.table()
    with pytest.raises(ProgramError, match=r"no engine takes the program.*hidden values"):
        bayesmix.compare(heavy, X, 2, engines=("VB",), progress_bar=False, **SHORT)


# ------------------------------------------------------------------------- two modes, several latents
def test_two_modes_that_mirror_each_other_have_half_of_the_weight_each():
    """Three components for two wide groups: either may be the one that is split."""
    group = np.concatenate([np.linspace(2.0, 4.0, 15), np.linspace(7.0, 9.0, 15)])
    x = np.concatenate([-group, group])
    found = bayesmix.compare(
        program, x, 3, engines=("MAP-EM", "Gibbs"), held_out=0.0, progress_bar=False,
        num_samples=200, num_chains=2, num_warmup=100, restarts=20,
    )  # fmt: skip
    first, second = found.modes[:2]
    assert first["objective"] == pytest.approx(second["objective"], abs=1e-6)
    assert first["weight"] == pytest.approx(0.5, abs=1e-3) == second["weight"]
    assert first["copies"] == 6
    shares = [mode["draws"]["Gibbs"] for mode in found.modes]
    assert sum(shares) == pytest.approx(1.0)
    assert "is not safe" in found.verdict and "50% of the weight" in found.verdict
    assert re.search(r"best +\d+ +0\.500 +6 +\d+%", found.table())


def chain(x):
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(2)))
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z0 = numpyro.sample("z0", dist.Categorical(start))
        numpyro.sample("x0", dist.Normal(mean[z0], 1.0), obs=x[:, 0])
        z1 = numpyro.sample("z1", dist.Categorical(move[z0]))
        numpyro.sample("x1", dist.Normal(mean[z1], 1.0), obs=x[:, 1])


def test_several_latents_are_compared_each_by_itself(tmp_path):
    random = np.random.default_rng(0)
    first = random.integers(2, size=50)
    second = np.where(random.uniform(size=50) < 0.8, first, 1 - first)
    x = 6.0 * np.stack([first, second], axis=1) - 3.0 + random.normal(size=(50, 2))
    found = bayesmix.compare(
        chain, x, engines=("MAP-EM", "Gibbs"), held_out=0.2, progress_bar=False, **SHORT
    )
    assert set(found.agreements) == {"z0", "z1"}
    mode = found.engines["MAP-EM"]
    for latent in ("z0", "z1"):
        assert found.agreements[latent].adjusted_rand[0, 1] > 0.9
    assert mode.by_latent["z0"].mean(axis=0)[0] > 0.5  # components by falling weight
    gibbs = found.engines["Gibbs"]
    for name in ("start", "move", "mean"):
        np.testing.assert_allclose(gibbs.estimate[name], mode.estimate[name], atol=0.15)
        np.testing.assert_allclose(gibbs.relabelled[name].mean((0, 1)), gibbs.estimate[name])
    assert [record["cells"] for record in found.calibration_scores] == [20, 20, 100]
    assert "move[0, 1]" in found.table() and "Least agreement" in found.table()
    again = bayesmix.load_comparison(found.save(tmp_path))
    assert again.table() == found.table() and render_report(again) == render_report(found)


def test_transforms_of_held_out_rows_are_uniform_where_the_program_is_right():
    """Rows from the program itself: no p-value is extreme, and intervals hold what they say."""
    random = np.random.default_rng(5)
    x = np.where(random.uniform(size=400) < 0.5, -3.0, 3.0) + random.normal(size=400)
    found = bayesmix.compare(
        program, x, 2, engines=("MAP-EM", "Gibbs"), held_out=0.5, progress_bar=False, **SHORT
    )
    for record in found.calibration_scores:
        assert record["p_value"] > 0.01
        assert record["inside_90"] == pytest.approx(0.9, abs=0.06)
    narrow = bayesmix.compare(
        program, 3.0 * x, 2, engines=("MAP-EM", "Gibbs"), held_out=0.5, progress_bar=False, **SHORT
    )
    assert all(record["p_value"] < 1e-4 for record in narrow.calibration_scores)
    assert "the model is at fault" in narrow.verdict


def lines(x, y):
    with numpyro.plate("component", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(slope[z] * x, 1.0), obs=y)


def test_densities_that_differ_from_row_to_row_are_not_drawn_and_all_else_is_there():
    random = np.random.default_rng(0)
    x = random.uniform(2.0, 4.0, 40)
    y = np.where(np.arange(40) % 2, 3.0, -3.0) * x + random.normal(size=40)
    found = bayesmix.compare(lines, x, y, engines=("MAP-EM",), progress_bar=False, restarts=3)
    assert found.density is None and found.columns == ("y",)
    np.testing.assert_allclose(
        np.sort(found.engines["MAP-EM"].estimate["slope"]), [-3, 3], atol=0.3
    )
    assert found.calibration_scores[0]["cells"] == len(found.engines["MAP-EM"].held_out) == 8


def test_counts_have_densities_at_whole_numbers_that_are_there():
    def counts(x):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Poisson(rate), obs=x)

    x = np.random.default_rng(0).poisson(3.0, 40)
    found = bayesmix.compare(counts, x, engines=("MAP-EM",), progress_bar=False, restarts=2)
    grid, rate = found.density["grid"], found.engines["MAP-EM"].estimate["rate"]
    np.testing.assert_array_equal(grid, np.arange(x.min(), x.max() + 1))
    exact = stats.poisson.logpmf(grid, rate)
    np.testing.assert_allclose(found.density["log_density"]["MAP-EM"], exact, rtol=1e-10)
    assert "<img" in render_report(found)


@pytest.mark.parametrize("num_chains", [1, 2])
def test_nuts_draws_param_sites_under_a_flat_density_on_their_support(num_chains):
    def scaled(x):
        scale = numpyro.param("scale", jnp.array(1.0), constraint=dist.constraints.positive)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(0.0, scale), obs=x)

    settings = SHORT | {"num_chains": num_chains, "num_samples": 1000}
    found = bayesmix.compare(
        scaled, X, engines=("MAP-EM", "NUTS"), held_out=0.2, progress_bar=False, **settings
    )
    # then scale^-2 is gamma with shape (N - 1) / 2 and rate sum x^2 / 2
    exact = np.sqrt(np.sum(X**2) / 2) * np.exp(
        special.gammaln(len(X) / 2 - 1) - special.gammaln((len(X) - 1) / 2)
    )
    np.testing.assert_allclose(found.engines["NUTS"].estimate["scale"], exact, atol=0.06)
