"""Approximations and tempered samplers in a comparison, and engines that do not take a program."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import ProgramError

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
