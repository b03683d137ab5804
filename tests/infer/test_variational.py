"""Variational Bayes: the bound against exact evidences, its ascent, other software, and refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import ndtr
from scipy.special import betaln, gammaln, multigammaln

import bayesmix
from bayesmix import ProgramError, VariationalBayes
from bayesmix.infer.mean_field import Averaged, Factorised, check_points
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.references import reference

QUIET = {"progress_bar": False}


# ------------------------------------------------------------------------------ exact where it can be
def one_of_each(shares, classes, counts, x):
    """Blocks of their own for four columns, and no latent: the bound is the evidence."""
    probability = numpyro.sample("probability", dist.Beta(0.7, 2.0))
    simplex = numpyro.sample("simplex", dist.Dirichlet(jnp.array([0.5, 1.0, 3.0])))
    rate = numpyro.sample("rate", dist.Gamma(1.3, 0.4))
    covariance = numpyro.sample("covariance", dist.InverseWishart(4.5, scale_matrix=jnp.eye(2)))
    mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.ones(2), covariance / 0.3))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("share", dist.Bernoulli(probability), obs=shares)
        numpyro.sample("class", dist.Categorical(simplex), obs=classes)
        numpyro.sample("count", dist.Poisson(rate), obs=counts)
        numpyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=x)


def columns(rng, size):
    x = rng.normal([2.0, -1.0], [1.0, 2.5], (size, 2))
    return rng.integers(0, 2, size), rng.integers(0, 3, size), rng.poisson(3.0, size), x


def log_evidences(shares, classes, counts, x):
    """By hand: beta-binomial, Polya, negative binomial and Student-t."""
    size, ones, total = len(x), shares.sum(), counts.sum()
    prior = np.array([0.5, 1.0, 3.0])
    posterior = prior + np.bincount(classes, minlength=3)
    log_beta = gammaln(posterior).sum() - gammaln(posterior.sum())
    log_beta -= gammaln(prior).sum() - gammaln(prior.sum())
    gamma = 1.3 * math.log(0.4) - gammaln(1.3) + gammaln(1.3 + total)
    gamma -= (1.3 + total) * math.log(0.4 + size) + gammaln(counts + 1).sum()
    away = x - x.mean(axis=0)
    shift = x.mean(axis=0) - 1.0
    scatter = np.eye(2) + away.T @ away + 0.3 * size / (0.3 + size) * np.outer(shift, shift)
    normal = multigammaln((4.5 + size) / 2, 2) - multigammaln(4.5 / 2, 2)
    normal += math.log(0.3 / (0.3 + size)) - size * math.log(math.pi)
    normal -= (4.5 + size) / 2 * np.linalg.slogdet(scatter)[1]
    return betaln(0.7 + ones, 2.0 + size - ones) - betaln(0.7, 2.0), log_beta, gamma, normal


@functools.cache
def exact_fit():
    data = columns(np.random.default_rng(0), 12)
    return VariationalBayes(one_of_each).run(jax.random.key(0), *data), data


def test_the_bound_is_the_evidence_where_blocks_are_independent():
    fit, data = exact_fit()
    assert fit.status
    assert fit.log_evidence_bound == pytest.approx(sum(log_evidences(*data)), rel=1e-12)
    assert fit.log_relabellings == 0.0


def test_means_and_variances_are_those_of_the_posterior_and_of_draws():
    fit, data = exact_fit()
    posterior = fit.distributions["covariance"]
    assert float(posterior.concentration) == pytest.approx(16.5)
    assert fit.mean["mean"] == pytest.approx((12 * data[3].mean(axis=0) + 0.3) / 12.3)
    spread = np.diag(fit.mean["covariance"]) / 12.3  # E[covariance] / kappa
    assert fit.variance["mean"] == pytest.approx(spread)
    draws = fit.sample(jax.random.key(1), 4000)
    for name, mean in fit.mean.items():
        error = np.sqrt(fit.variance[name] / 4000)
        assert np.all(np.abs(draws[name].mean(axis=0) - mean) < 5 * error), name
    assert np.var(draws["mean"], axis=0) == pytest.approx(fit.variance["mean"], rel=0.15)


# ----------------------------------------------------------------------- a mixture, against enumeration
def galaxies(x, alpha, K):
    weights = numpyro.sample("weights", dist.Dirichlet(alpha))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 4.0))
        mean = numpyro.sample("mean", dist.Normal(20.0, jnp.sqrt(variance / 0.05)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def case_of(K, alpha):
    case = reference("exact_small_mixtures")["results"][f"nig1d_K{K}_alpha{alpha:g}"]
    return case["log_evidence"], (np.asarray(case["data"]), np.full(K, float(alpha)), K)


@functools.cache
def variational_of(K):
    return VariationalBayes(bayesmix.plan(galaxies, *case_of(K, 1)[1]))


@pytest.mark.parametrize(("K", "alpha"), [(2, 1), (2, 0.5), (3, 1), (3, 0.5)])
def test_the_bound_is_below_the_exact_evidence(K, alpha):
    exact, arguments = case_of(K, alpha)
    fit = variational_of(K).run(jax.random.key(0), *arguments, restarts=10)
    assert fit.status and fit.log_relabellings == pytest.approx(math.log(math.factorial(K)))
    assert exact - 3.0 < fit.log_evidence_bound < exact
    assert all(bound < exact for bound in fit.restart_bounds)
    assert np.diff(fit.bound).min() > -1e-12 * abs(fit.bound[-1])


def two_far_apart(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_with_relabelled_copies_the_bound_is_the_evidence_of_groups_far_apart():
    rng = np.random.default_rng(0)
    groups = [rng.normal(centre, 1.0, size) for centre, size in ((-15.0, 9), (15.0, 6))]
    exact = math.log(2) + betaln(10, 7)  # two labellings, B(1, 1) = 1
    for x in groups:
        covariance = np.eye(len(x)) + 100.0
        square = x @ np.linalg.solve(covariance, x) + len(x) * math.log(2 * math.pi)
        exact -= (square + np.linalg.slogdet(covariance)[1]) / 2
    fit = VariationalBayes(two_far_apart).run(jax.random.key(0), np.concatenate(groups), K=2)
    assert fit.log_evidence_bound + fit.log_relabellings == pytest.approx(exact, abs=1e-9)


def test_components_that_start_alike_are_said_to():
    x, init = np.linspace(-4.0, 4.0, 15), {"weights": np.full(2, 0.5), "mean": np.zeros(2)}
    fit = VariationalBayes(two_far_apart, **QUIET).run(0, x, K=2, init=init)
    assert fit.status is bayesmix.Status.SYMMETRIC_START
    assert fit.responsibilities() == pytest.approx(np.full((15, 2), 0.5))


# --------------------------------------------------------------------------------- the fixed point
def separate(x, K):
    """Means and precisions in blocks of their own."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 0.8)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], precision[z] ** -0.5).to_event(1), obs=x)


def test_the_bound_has_no_slope_at_the_fixed_point(faithful):
    """With the best q(z), in every coefficient of q(theta); away from there it has one."""
    x = (faithful.values - faithful.values.mean(axis=0)) / faithful.values.std(axis=0)
    plan = bayesmix.plan(separate, x, K=2)
    fit = VariationalBayes(plan, tolerance=1e-14, **QUIET).run(jax.random.key(0), x, K=2)
    arguments, blocks = (
        split((x,), {"K": 2}),
        Problem(plan, split((x,), {"K": 2})).with_rows().blocks,
    )

    def bound(coefficients):
        sites = [block.site for block in plan.blocks]
        spreads = [block.form.spread(own) for block, own in zip(plan.blocks, coefficients)]
        points, centre, entropy, proper = zip(*spreads)
        points, centre = dict(zip(sites, points)), dict(zip(sites, centre))
        q = Factorised(coefficients, points, centre, jnp.stack(entropy), jnp.stack(proper))
        return Averaged(fit.scopes)(Problem(plan, arguments, blocks), q, ()).objective

    look = jax.jit(jax.value_and_grad(bound))
    value, slope = look(fit.q.coefficients)
    assert float(value) == pytest.approx(fit.log_evidence_bound, rel=1e-12)
    _, away = look(jax.tree.map(lambda x: 1.1 * x, fit.q.coefficients))
    for here, there in zip(jax.tree.leaves(slope), jax.tree.leaves(away)):
        assert np.max(np.abs(here)) <= 1e-5 * max(1.0, np.max(np.abs(there)))
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(away)) > 1.0


# --------------------------------------------------------------------------------- scikit-learn's
def normal_wishart(x, K, alpha, m0, beta0, nu0, W0):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, alpha)))
    with numpyro.plate("component", K):
        precision = numpyro.sample("precision", dist.Wishart(nu0, scale_matrix=W0))
        prior = dist.MultivariateNormal(m0, precision_matrix=beta0 * precision)
        mean = numpyro.sample("mean", prior)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        each = dist.MultivariateNormal(mean[z], precision_matrix=precision[z])
        numpyro.sample("x", each, obs=x)


def normal_gamma(x, K, alpha, m0, beta0, a0, b0):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, alpha)))
    with numpyro.plate("component", K):
        precision = numpyro.sample("precision", dist.Gamma(a0, b0).to_event(1))
        mean = numpyro.sample("mean", dist.Normal(m0, (beta0 * precision) ** -0.5).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], precision[z] ** -0.5).to_event(1), obs=x)


def scikit_learn(x, K, kind, nu0, covariance_prior):
    from sklearn.mixture import BayesianGaussianMixture

    theirs = BayesianGaussianMixture(
        n_components=K,
        covariance_type=kind,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.7,
        mean_precision_prior=0.05,
        mean_prior=x.mean(axis=0),
        degrees_of_freedom_prior=nu0,
        covariance_prior=covariance_prior,
        tol=1e-15,
        max_iter=5000,
        reg_covar=0.0,
        random_state=0,
    ).fit(x)
    return theirs, {"weights": theirs.weights_, "mean": theirs.means_}


def assert_as_scikit_learn(fit, theirs, x):
    assert fit.status
    concentration = np.asarray(fit.distributions["weights"].concentration)
    np.testing.assert_allclose(concentration, theirs.weight_concentration_, rtol=1e-6)
    np.testing.assert_allclose(fit.mean["mean"], theirs.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fit.responsibilities(), theirs.predict_proba(x), atol=1e-6)


@pytest.mark.oracle
def test_scikit_learns_mixture_of_full_covariances(faithful):
    x = (faithful.values - faithful.values.mean(axis=0)) / faithful.values.std(axis=0)
    scale = np.array([[0.4, 0.1], [0.1, 0.3]])
    theirs, init = scikit_learn(x, 2, "full", 4.5, scale)
    prior = (0.7, x.mean(axis=0), 0.05, 4.5, np.linalg.inv(scale))
    engine = VariationalBayes(normal_wishart, tolerance=1e-15, **QUIET)
    init["precision"] = theirs.precisions_
    fit = engine.run(jax.random.key(0), x, 2, *prior, init=init)
    assert_as_scikit_learn(fit, theirs, x)
    posterior = fit.distributions["precision"]
    np.testing.assert_allclose(posterior.concentration, theirs.degrees_of_freedom_, rtol=1e-6)
    np.testing.assert_allclose(fit.mean["precision"], theirs.precisions_, rtol=1e-5)


@pytest.mark.oracle
def test_scikit_learns_mixture_of_diagonal_covariances(faithful):
    """Of one column: with several, theirs takes E[log|precision|] of a whole Wishart matrix."""
    x = (faithful.values[:, 1:] - faithful.values[:, 1].mean()) / faithful.values[:, 1].std()
    theirs, init = scikit_learn(x, 2, "diag", 4.5, np.array([0.4]))
    prior = (0.7, x.mean(axis=0), 0.05, np.full(1, 2.25), np.array([0.2]))
    engine = VariationalBayes(normal_gamma, tolerance=1e-15, **QUIET)
    init["precision"] = theirs.precisions_
    fit = engine.run(jax.random.key(0), x, 2, *prior, init=init)
    assert_as_scikit_learn(fit, theirs, x)


# ------------------------------------------------------------------------------------ what is refused
def line(x, y, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([K]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Poisson(jnp.exp(slope[z] * x)), obs=y)


def test_what_has_no_closed_form_is_refused():
    x = np.linspace(-1.0, 1.0, 20)
    with pytest.raises(ProgramError, match=r"no closed-form conditional of 'slope'.*bayesmix\.EM"):
        VariationalBayes(line).run(0, x, np.arange(20) % 3, K=2)


def heavy(x, K):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([K]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.StudentT(4.0, mean[z], 1.0), obs=x)


def probit(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(ndtr(x @ slope)), obs=y)


@pytest.mark.parametrize(
    ("program", "data"),
    [
        (heavy, (np.linspace(-4.0, 4.0, 20), 2)),
        (probit, (np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2)),
    ],
    ids=["Student-t", "probit"],
)
def test_hidden_values_of_rows_are_refused(program, data):
    with pytest.raises(ProgramError, match=r"the rows of '[xy]' have hidden values.*bayesmix\.EM"):
        VariationalBayes(program).run(0, *data)


def test_missing_cells_of_a_vector_are_refused():
    fit, (*others, x) = exact_fit()
    x = np.where(np.arange(24).reshape(12, 2) == 5, np.nan, x)
    with pytest.raises(ProgramError, match=r"'x' has rows of which some cells are missing"):
        VariationalBayes(fit.plan).run(0, *others, x)


def rare(x):
    simplex = numpyro.sample("simplex", dist.Dirichlet(jnp.array([1.0, 1.0, 1e-4])))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Categorical(simplex), obs=x)


def test_values_that_underflow_are_refused():
    with pytest.raises(ProgramError, match=r"the bound is not finite.*close to zero"):
        VariationalBayes(rare).run(0, np.array([0, 1, 1, 0]))


def test_too_many_points_are_refused():
    fit, _ = exact_fit()
    sizes = tuple(5000 if "mean" in block.sites else 2 for block in fit.plan.blocks)
    check_points(fit.plan, fit.scopes, (2,) * len(sizes))
    with pytest.raises(ProgramError, match=r"depend on 'mean', 'covariance' at once.*5000 points"):
        check_points(fit.plan, fit.scopes, sizes)


def flat(x):
    mean = numpyro.param("mean", 0.0)
    precision = numpyro.param("precision", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Normal(mean, precision**-0.5), obs=x)


def test_a_posterior_that_does_not_integrate_is_refused():
    fit = VariationalBayes(flat).run(0, np.array([1.0, 2.0, 4.0]))  # flat priors, proper posterior
    assert fit.mean["mean"] == pytest.approx(7 / 3)
    with pytest.raises(ProgramError, match=r"does not integrate to one.*proper prior"):
        VariationalBayes(flat).run(0, np.array([1.0]))
