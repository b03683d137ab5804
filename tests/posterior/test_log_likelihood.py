"""The group of log likelihoods: rows with weights, and likelihoods written with a factor."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from scipy.special import logsumexp
from scipy.stats import norm, poisson

import bayesmix
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.convert import gather
from bayesmix.posterior.labelled_draws import log_likelihood
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem


def groups_of(program, draws, *args, **options):
    settings = {"coords": {}, "dims": {}, "latents": None, "posterior_predictive": None} | options
    plan = bayesmix.plan(program, *args)
    draws = {name: np.asarray(value)[None] for name, value in draws.items()}
    return gather(Problem(plan, split(args, {})), draws, {}, **settings, rng_key=random.key(0))


def counted(y, weight):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]), numpyro.handlers.scale(scale=weight):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


RATES = np.random.default_rng(0).gamma(3.0, size=(50, 2))
VALUES, WEIGHT = np.arange(6), np.array([3.0, 0.0, 2.0, 0.0, 1.0, 4.0])


def test_a_row_has_an_entry_for_each_of_its_copies():
    idata = groups_of(counted, {"rate": RATES}, VALUES, WEIGHT)
    written = np.repeat(VALUES, WEIGHT.astype(int))
    joint = poisson.logpmf(written[:, None], RATES[:, None]) + np.log([0.7, 0.3])
    expected = logsumexp(joint, axis=-1)
    found = arviz_compat.dataset(idata, "log_likelihood")["y"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    assert found.dims[2] == "rows_copy" and found["rows_copy"].values.tolist() == written.tolist()
    np.testing.assert_allclose(log_likelihood(idata)[0], expected.sum(-1), rtol=1e-12)
    alone = arviz_compat.make({"log_likelihood": {"y": expected[None]}})
    with pytest.warns(UserWarning, match="Pareto"):  # fifty draws are few
        ours, theirs = arviz_compat.loo(idata), arviz_compat.loo(alone)
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-12)
    lp = arviz_compat.dataset(idata, "sample_stats")["lp"][0]
    prior = dist.Gamma(2.0, 0.5).log_prob(RATES).sum(-1)
    np.testing.assert_allclose(lp, expected.sum(-1) + prior, rtol=1e-12)
    assert arviz_compat.dataset(idata, "latents").sizes["rows"] == VALUES.size


def test_weights_that_are_not_whole_have_no_copies():
    draws, weight = {"rate": RATES[:4]}, WEIGHT / 2
    with pytest.warns(UserWarning, match="not whole numbers are no copies"):
        idata = groups_of(counted, draws, VALUES, weight)
    assert "log_likelihood" not in arviz_compat.groups(idata)
    with pytest.raises(bayesmix.ProgramError, match="not whole numbers are no copies"):
        groups_of(counted, draws, VALUES, weight, log_likelihood=True)


def test_a_factor_is_a_likelihood_without_data():
    low = np.array([-2.0, -1.0, 0.0, 4.0, 5.0])

    def program(low):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        with numpyro.plate("rows", low.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            d = dist.Normal(mean[z], 1.0)
            numpyro.factor("between", jnp.log(d.cdf(low + 1) - d.cdf(low)))

    mean = np.array([[0.0, 5.0], [-1.0, 4.0]])
    idata = groups_of(program, {"mean": mean}, low)
    inside = norm.cdf(low[:, None] + 1, mean[:, None]) - norm.cdf(low[:, None], mean[:, None])
    found = arviz_compat.dataset(idata, "log_likelihood")["between"][0]
    np.testing.assert_allclose(found, np.log((inside * [0.6, 0.4]).sum(-1)), rtol=1e-6)
    assert not {"observed_data", "posterior_predictive"} & set(arviz_compat.groups(idata))
    with pytest.raises(bayesmix.ProgramError, match=r"is a numpyro\.factor"):
        groups_of(program, {"mean": mean}, low, posterior_predictive=True)
