"""Monte Carlo EM by chains: modes of programs whose rows hide values without an exact conditional."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize
from scipy.special import gammaln, log_expit, logsumexp

import bayesmix
from bayesmix import MonteCarloEM, ProgramError
from bayesmix.infer.m_steps import ClimbObjective

_rng = np.random.default_rng(3)
TRIALS = 12


def intercepts(y):
    """A binomial with a normal intercept in every row."""
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        u = numpyro.sample("u", dist.Normal(centre, jnp.sqrt(variance)))
        numpyro.sample("y", dist.Binomial(TRIALS, logits=u), obs=y)


Y = _rng.binomial(TRIALS, 1 / (1 + np.exp(-(0.5 + 1.2 * _rng.normal(size=80)))))


def log_posterior_by_quadrature(centre: float, variance: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    u = centre + np.sqrt(variance) * nodes
    heads, tails = Y[:, None], TRIALS - Y[:, None]
    rows = heads * log_expit(u) + tails * log_expit(-u)
    rows = rows + gammaln(TRIALS + 1) - gammaln(heads + 1) - gammaln(tails + 1)
    evidence = logsumexp(rows, b=weights / weights.sum(), axis=1).sum()
    return evidence - centre**2 / 8 - 3 * np.log(variance) - 1 / variance


def test_a_random_intercept_has_the_mode_that_quadrature_finds():
    best = minimize(
        lambda v: -log_posterior_by_quadrature(v[0], np.exp(v[1])), [0.0, 0.0], method="Nelder-Mead"
    )
    fit = MonteCarloEM(intercepts, "u", num_steps=300, num_chains=30, progress_bar=False).run(0, Y)
    assert fit.status
    for name, value in (("centre", best.x[0]), ("variance", np.exp(best.x[1]))):
        error = float(fit.standard_error[name])
        assert error < 0.02
        assert float(fit.parameters[name]) == pytest.approx(value, abs=5 * error)
    assert 0.4 < fit.acceptance[-50:].mean() < 0.75


def two_groups(x, y):
    """A latent class of each row beside its hidden rate, which is positive."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    log_rate = numpyro.sample("log_rate", dist.Normal(1.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        rate = numpyro.sample("rate", dist.LogNormal(log_rate[z], 0.4))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_discrete_latents_are_summed_out_beside_the_chains():
    """Its path wanders about the maximum of a likelihood that a grid over the rate gives."""
    rng = np.random.default_rng(0)
    z = rng.uniform(size=150) < 0.4
    x, y = rng.normal(4.0 * z), rng.poisson(np.exp(0.5 + 1.5 * z + 0.4 * rng.normal(size=150)))
    em = MonteCarloEM(two_groups, "rate", num_steps=150, progress_bar=False)
    init = {"share": 0.5, "mean": np.array([0.0, 4.0]), "log_rate": np.array([0.5, 2.0])}
    fit = em.run(1, x, y, init=init)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def height(v):
        share, mean, log_rate = 1 / (1 + np.exp(-v[0])), v[1:3], v[3:5]
        told = log_rate[:, None] + 0.4 * nodes  # (2, nodes)
        poisson = y[:, None, None] * told - np.exp(told) - gammaln(y + 1)[:, None, None]
        counts = logsumexp(poisson, b=weights / weights.sum(), axis=2)
        classes = counts - (x[:, None] - mean) ** 2 / 2 + np.log([1 - share, share])
        prior = np.log(share * (1 - share)) - (mean**2).sum() / 18 - ((log_rate - 1) ** 2).sum() / 2
        return -(logsumexp(classes, axis=1).sum() + prior)

    best = minimize(height, [0.0, 0.0, 4.0, 0.5, 2.0], method="BFGS").x
    found = fit.parameters
    ours = np.concatenate(
        [[np.log(found["share"] / (1 - found["share"]))], found["mean"], found["log_rate"]]
    )
    np.testing.assert_allclose(ours, best, atol=0.06)
    assert fit.hidden["rate"].shape == (20, 150) and (fit.hidden["rate"] > 0).all()


def test_what_cannot_be_hidden_is_said():
    cases = [
        ("v", "'v', which is no unobserved site"),
        ("y", "'y', which is no unobserved site"),
        ("centre", "'centre', which is not in the plate of the rows"),
    ]
    for name, message in cases:
        with pytest.raises(ProgramError, match=message):
            MonteCarloEM(intercepts, ("u", name)).run(0, Y)
    with pytest.raises(ProgramError, match="'z' is discrete"):
        MonteCarloEM(two_groups, "z").run(jax.random.key(0), np.ones(5), np.ones(5, int))
    with pytest.raises(ProgramError, match="use Climb in the place"):
        MonteCarloEM(intercepts, "u", m_step=ClimbObjective("centre")).run(0, Y)
    with pytest.raises(ProgramError, match="MonteCarloEM"):
        bayesmix.EM(intercepts).run(0, Y)
