"""to_arviz, and ConjugateGibbs as a NumPyro kernel: shapes, names, and numbers against brute force."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy.special import logsumexp
from scipy.stats import norm

import bayesmix
from bayesmix.posterior import arviz_compat

X = np.concatenate([np.random.default_rng(0).normal(-2, 1, 20), [4.0, 5.0, 5.5, 4.7, 6.1]])


def program(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("component", 2):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        numpyro.deterministic("sd", 1 / jnp.sqrt(tau))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1 / jnp.sqrt(tau[z])), obs=x)


def run(kernel, **options):
    settings = {"num_warmup": 50, "num_samples": 60, "num_chains": 2} | options
    mcmc = MCMC(kernel, chain_method="vectorized", progress_bar=False, **settings)
    mcmc.run(random.key(0), X)
    return mcmc


@pytest.fixture(scope="module")
def plan():
    return bayesmix.plan(program, X)


@pytest.fixture(scope="module")
def gibbs(plan):
    return run(bayesmix.ConjugateGibbs(plan))


@pytest.fixture(scope="module")
def nuts(plan):
    return run(NUTS(bayesmix.marginalize(plan)))


@pytest.mark.parametrize("which", ["gibbs", "nuts"])
def test_groups_dimensions_and_numbers(which, request):
    idata = bayesmix.to_arviz(request.getfixturevalue(which))
    expected = {"posterior", "log_likelihood", "latents", "posterior_predictive", "observed_data"}
    assert expected < set(arviz_compat.groups(idata))
    posterior = arviz_compat.dataset(idata, "posterior")
    assert posterior["mean"].dims == ("chain", "draw", "component")
    assert posterior["weights"].dims == ("chain", "draw", "component")
    np.testing.assert_allclose(posterior["sd"], posterior["tau"] ** -0.5, rtol=1e-12)
    assert posterior.attrs["label_dims"] == "component"
    assert posterior.attrs["exchangeable"] == "yes"
    table = norm.logpdf(
        X[:, None], posterior["mean"].values[:, :, None], posterior["sd"].values[:, :, None]
    ) + np.log(posterior["weights"].values[:, :, None])
    found = arviz_compat.dataset(idata, "log_likelihood")["x"]
    assert found.dims == ("chain", "draw", "rows")
    np.testing.assert_allclose(found, logsumexp(table, axis=-1), rtol=1e-9)
    latents = arviz_compat.dataset(idata, "latents")
    probability = np.exp(table - logsumexp(table, axis=-1, keepdims=True))
    np.testing.assert_allclose(latents["z_probability"], probability, atol=1e-9)
    assert ("z" in latents) == (which == "gibbs")
    replicated = arviz_compat.dataset(idata, "posterior_predictive")["x"]
    assert replicated.shape == (2, 60, X.size)
    assert not np.allclose(replicated[0, 0], replicated[0, 1])
    prior = norm.logpdf(posterior["mean"].values, 0, 5).sum(axis=-1)
    tau = posterior["tau"].values
    prior += (2 * np.log(2) + np.log(tau) - 2 * tau).sum(
        axis=-1
    )  # Gamma(2, 2); Dirichlet(1, 1) is 0
    lp = arviz_compat.dataset(idata, "sample_stats")["lp"]
    np.testing.assert_allclose(lp, prior + found.values.sum(axis=-1), rtol=1e-9)


@pytest.mark.parametrize("which", ["gibbs", "nuts"])
def test_arvizs_own_conversion_has_one_log_likelihood_for_each_row(which, request):
    mcmc = request.getfixturevalue(which)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    theirs = arviz.from_numpyro(mcmc, log_likelihood=True)
    (found,) = arviz_compat.dataset(theirs, "log_likelihood").data_vars.values()
    ours = arviz_compat.dataset(bayesmix.to_arviz(mcmc), "log_likelihood")["x"]
    assert found.name == "x" and found.dims == ("chain", "draw", "rows")
    np.testing.assert_allclose(found, ours, rtol=1e-12)
    np.testing.assert_array_equal(arviz_compat.dataset(theirs, "observed_data")["x"], X)


# sixty draws a chain are too few for every row's importance weights, and ArviZ says so
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_leave_one_out_is_about_rows(gibbs):
    elpd, se, pareto_k = arviz_compat.loo(bayesmix.to_arviz(gibbs))
    assert pareto_k.shape == (X.size,) and np.isfinite([elpd, se]).all()


def test_drawn_labels_follow_their_probabilities(gibbs):
    """The labels of a state were drawn from the parameters of the state before."""
    latents = arviz_compat.dataset(bayesmix.to_arviz(gibbs), "latents")
    probability = latents["z_probability"].values[:, :-1, :, 1]
    drawn = latents["z"].values[:, 1:] == 1
    error = np.sqrt((probability * (1 - probability)).sum())
    assert abs((drawn - probability).sum()) < 4 * error


def test_names_given_by_the_user_win(gibbs):
    idata = bayesmix.to_arviz(gibbs, dims={"mean": ["group"]}, coords={"group": ["a", "b"]})
    assert list(arviz_compat.dataset(idata, "posterior")["mean"]["group"].values) == ["a", "b"]


def test_other_runs_are_refused_with_the_cure(plan):
    with pytest.raises(bayesmix.ProgramError, match="reads runs of bayesmix's samplers"):
        bayesmix.to_arviz(MCMC(NUTS(program), num_warmup=1, num_samples=1))
    with pytest.raises(bayesmix.ProgramError, match="has not run"):
        bayesmix.to_arviz(MCMC(bayesmix.ConjugateGibbs(plan), num_warmup=1, num_samples=1))


def test_gibbs_keeps_numpyros_habits(plan, capsys):
    mcmc = MCMC(
        bayesmix.ConjugateGibbs(plan, keep_latents=False),
        num_warmup=20,
        num_samples=40,
        thinning=2,
        progress_bar=False,
    )
    mcmc.run(random.key(1), X, extra_fields=("log_likelihood",))
    assert mcmc.get_samples()["mean"].shape == (20, 2)
    assert set(mcmc.get_extra_fields()) == {"log_likelihood"}
    mcmc.print_summary()
    assert "weights[0]" in capsys.readouterr().out
    kernel = pickle.loads(pickle.dumps(mcmc.sampler))
    again = MCMC(kernel, num_warmup=20, num_samples=40, thinning=2, progress_bar=False)
    again.run(random.key(1), X)
    np.testing.assert_array_equal(again.get_samples()["mean"], mcmc.get_samples()["mean"])


def test_gibbs_starts_from_given_values(plan):
    start = {"weights": [0.5, 0.5], "tau": [1.0, 1.0], "mean": [5.0, -2.0]}
    mcmc = MCMC(bayesmix.ConjugateGibbs(plan), num_warmup=0, num_samples=5, progress_bar=False)
    mcmc.run(random.key(0), X, init_params={n: jnp.array(v) for n, v in start.items()})
    mean = mcmc.get_samples()["mean"]
    assert (mean[:, 0] > mean[:, 1]).all()


def test_gibbs_in_single_precision():
    with jax.enable_x64(False):
        mcmc = MCMC(
            bayesmix.ConjugateGibbs(program), num_warmup=50, num_samples=200, progress_bar=False
        )
        mcmc.run(random.key(0), X.astype(np.float32))
        mean = mcmc.get_samples()["mean"]
        assert mean.dtype == jnp.float32 and bool(jnp.isfinite(mean).all())
        low, high = np.sort(np.asarray(mean).mean(axis=0))
    assert abs(low + 2) < 0.6 and abs(high - 5) < 0.8
