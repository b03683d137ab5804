"""SMC and parallel tempering: exact evidences, and both modes of a posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import bayesmix
from bayesmix import ParallelTempering, ProgramError, TemperedSMC, datasets, zoo
from bayesmix.infer.laplace import laplace_log_weight
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.references import reference


def program(x, alpha, K):
    weights = numpyro.sample("weights", dist.Dirichlet(alpha))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 4.0))
        mean = numpyro.sample("mean", dist.Normal(20.0, jnp.sqrt(variance / 0.05)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


CASE = reference("exact_small_mixtures")["results"]["nig1d_K2_alpha1"]
ROWS = (np.asarray(CASE["data"], float), np.ones(2), 2)


@functools.cache
def plan():
    return bayesmix.plan(program, *ROWS)


def test_particles_give_the_evidence_that_enumeration_gives():
    smc = TemperedSMC(plan(), num_particles=1500, num_runs=6, progress_bar=False)
    run = smc.run(0, *ROWS)
    error = max(run.standard_error, 0.01)
    assert error < 0.12
    assert run.mean_log_evidence == pytest.approx(CASE["log_evidence"], abs=4 * error)
    weights = run.get_samples()["weights"]
    np.testing.assert_allclose(weights.mean(axis=0), 0.5, atol=0.05)  # labels are exchangeable


def test_exchanging_chains_give_the_evidence_that_enumeration_gives():
    kernel = ParallelTempering(plan(), betas=10)
    mcmc = MCMC(kernel, num_warmup=500, num_samples=4000, progress_bar=False)
    mcmc.run(jax.random.key(0), *ROWS)
    assert bayesmix.log_evidence(mcmc) == pytest.approx(CASE["log_evidence"], abs=0.15)
    # a mean without rows has the tails of its prior, whose average would need many more draws
    means = np.sort(np.clip(mcmc.get_samples()["mean"], 10.0, 30.0), axis=1)
    smc = TemperedSMC(plan(), num_particles=1500, progress_bar=False).run(1, *ROWS)
    theirs = np.sort(np.clip(smc.get_samples()["mean"], 10.0, 30.0), axis=1)
    np.testing.assert_allclose(means.mean(0), theirs.mean(0), atol=0.25)
    assert np.nanmean(np.asarray(mcmc.get_extra_fields()["swapped"])) > 0.3


def separated(x):
    """Two clusters far apart, whose labels a plain sampler never exchanges."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_exchanges_cross_between_modes_that_gibbs_never_leaves():
    x = np.random.default_rng(0).normal(size=60) + np.repeat([-5.0, 5.0], 30)
    alone, tempered = (
        MCMC(kernel(separated), num_warmup=200, num_samples=1500, progress_bar=False)
        for kernel in (bayesmix.ConjugateGibbs, ParallelTempering)
    )
    crossings = []
    for mcmc in (alone, tempered):
        mcmc.run(jax.random.key(3), x)
        first = np.asarray(mcmc.get_samples()["mean"])[:, 0]
        crossings.append(np.sum(first[1:] * first[:-1] < 0))
    assert crossings[0] == 0
    assert crossings[1] > 20
    assert bayesmix.to_arviz(tempered)["posterior"]["mean"].shape == (1, 1500, 2)


def test_draws_of_particles_go_to_arviz_with_runs_as_chains():
    run = TemperedSMC(separated, num_particles=64, progress_bar=False).run(0, np.ones(5))
    idata = bayesmix.to_arviz(run)
    assert idata["posterior"]["mean"].dims[:2] == ("chain", "draw")
    assert idata["posterior"]["mean"].shape == (2, 64, 2)
    assert idata["log_likelihood"]["x"].shape == (2, 64, 5)
    assert "log evidence" in str(run)


def test_the_evidence_of_many_rows_is_that_of_the_normal_density_at_the_mode():
    """Old Faithful: a posterior so sharp that Laplace's evidence is right to a fraction of a nat."""
    x = datasets.load("faithful").values
    plan = bayesmix.plan(zoo.PROGRAMS["full"], x, 2)
    run = TemperedSMC(plan, num_particles=500, num_runs=4, progress_bar=False).run(0, x, 2)
    arguments = split((x, 2), {})
    mode = bayesmix.EM(plan, progress_bar=False).run(jax.random.key(0), x, 2, restarts=5)
    blocks = Problem(plan, arguments).with_rows().blocks
    weight = laplace_log_weight(Problem(plan, arguments, blocks), mode.parameters)
    assert run.standard_error < 0.5
    assert run.mean_log_evidence == pytest.approx(weight.value, abs=0.5 + 3 * run.standard_error)


def test_what_tempering_cannot_start_from_is_said():
    flat = bayesmix.without_priors(separated)
    with pytest.raises(ProgramError, match="'mean' has no prior to draw from"):
        TemperedSMC(flat).run(0, np.array([0.0, 1.0, 5.0]))
    with pytest.raises(ProgramError, match="increase from 0 to 1"):
        ParallelTempering(separated, betas=(0.1, 1.0))
    with pytest.raises(ProgramError, match="at least two rungs"):
        ParallelTempering(separated, betas=1)
    with pytest.raises(ProgramError, match="not reached in 1 stages"):
        smc = TemperedSMC(separated, num_particles=50, max_stages=1, progress_bar=False)
        smc.run(0, np.linspace(-9.0, 9.0, 40))
