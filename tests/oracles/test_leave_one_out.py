"""Leave-one-out densities by importance sampling against refits: exact ones, and by Gibbs sampling."""

import functools
import itertools
import warnings

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from scipy.special import betaln, gammaln, logsumexp

import bayesmix
from bayesmix import ConjugateGibbs
from bayesmix.posterior import arviz_compat
from tests.oracles.test_exact import CHAINS, case_of, gibbs_of

pytestmark = pytest.mark.oracle
BATCHES = 16


# ------------------------------------------------------------- evidences, by running through labellings
def normal_evidence(ones, x):
    """log p of the rows that each labelling puts into one component, (labellings,): normal-inverse-gamma
    with mean 20, 0.05 rows, shape 2 and rate 4."""
    count, total, square = (ones @ values for values in (np.ones_like(x), x, x * x))
    middle = total / np.maximum(count, 1)
    rate = 4 + (square - count * middle**2) / 2
    rate += 0.05 * count * (middle - 20) ** 2 / (2 * (0.05 + count))
    found = 0.5 * np.log(0.05 / (0.05 + count)) + 2 * np.log(4) - (2 + count / 2) * np.log(rate)
    return found + gammaln(2 + count / 2) - gammaln(2.0) - count / 2 * np.log(2 * np.pi)


def bernoulli_evidence(ones, x):
    """The same for independent columns of zeros and ones under Beta(1, 1)."""
    count, total = ones.sum(1)[:, None], ones @ x
    return betaln(1 + total, 1 + count - total).sum(1)


def log_evidence(evidence, x, K, alpha):
    labels = np.array(list(itertools.product(range(K), repeat=len(x))))
    ones = [(labels == k).astype(float) for k in range(K)]
    found = gammaln(K * alpha) - gammaln(K * alpha + len(x))
    found = found + sum(gammaln(alpha + o.sum(1)) - gammaln(alpha) + evidence(o, x) for o in ones)
    return logsumexp(found)


def exact_densities(evidence, x, K, alpha):
    """log p(x_i | all other rows), (N,)."""
    whole = log_evidence(evidence, x, K, alpha)
    return np.array(
        [whole - log_evidence(evidence, np.delete(x, i, 0), K, alpha) for i in range(len(x))]
    )


# ---------------------------------------------------------------------------------------------- draws
def bernoullis(x, alpha, K):
    weights = numpyro.sample("weights", dist.Dirichlet(alpha))
    with numpyro.plate("component", K):
        share = numpyro.sample("share", dist.Beta(1.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(share[z]).to_event(1), obs=x)


# twelve of the carcinoma ratings by four pathologists; their evidence by enumeration in R
RATINGS = "0000 0000 0000 0100 1010 1100 1101 1110 1110 1111 1111 1111"
RATINGS_EVIDENCE = -33.047207317988


def items():
    x = np.array([[float(cell) for cell in row] for row in RATINGS.split()])
    return {"log_evidence": RATINGS_EVIDENCE}, (x, np.ones(2), 2)


CASES = {
    "normal": (normal_evidence, lambda: case_of(2, 1.0), lambda: gibbs_of(2)),
    "bernoulli": (
        bernoulli_evidence,
        items,
        lambda: MCMC(ConjugateGibbs(bernoullis), num_warmup=500, num_samples=8000, **CHAINS),
    ),
}


@functools.cache
def log_likelihoods(name):
    """Of each row at each draw, as ArviZ gets them, (4, 8000, N)."""
    _, case, sampler = CASES[name]
    mcmc = sampler()
    mcmc.run(jax.random.key(3), *case()[1])
    idata = bayesmix.to_arviz(mcmc, latents=False, posterior_predictive=False)
    return arviz_compat.dataset(idata, "log_likelihood")["x"].values


def by_importance(rows):
    """Estimates (N,), their standard errors from batches of the draws, and rows that are warned of."""

    def loo(part):
        return arviz_compat.loo_by_row(arviz_compat.make({"log_likelihood": {"x": part}}))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, pareto_k = loo(rows)
        shown = [str(w.message) for w in said if "Pareto" in str(w.message)]
        length = rows.shape[1] * len(rows) // BATCHES
        parts = rows.reshape(BATCHES, 1, length, -1)
        each = np.array([loo(part)[0] for part in parts])
    return found, each.std(0, ddof=1) / np.sqrt(BATCHES), pareto_k, shown


@pytest.mark.parametrize("name", CASES)
def test_enumeration_gives_the_evidence_of_the_reference(name):
    evidence, case, _ = CASES[name]
    stored, (x, alpha, K) = case()
    found = log_evidence(evidence, x, K, alpha[0])
    assert found == pytest.approx(stored["log_evidence"], abs=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_densities_are_those_of_exact_refits_unless_their_row_is_named(name):
    evidence, case, _ = CASES[name]
    x, alpha, K = case()[1]
    exact = exact_densities(evidence, x, K, alpha[0])
    found, error, pareto_k, said = by_importance(log_likelihoods(name))
    named = pareto_k > 0.7
    assert (error[~named] < 0.1).all()
    assert (np.abs(found - exact)[~named] < 4 * error[~named] + 1e-3).all(), (found - exact) / error
    assert bool(said) == named.any()
    for i in np.flatnonzero(named):
        assert f"{i} (k = {pareto_k[i]:.2f})" in said[0]
    assert (~named).sum() > len(x) / 2  # and the test says something
