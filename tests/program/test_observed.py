"""What a call says of its rows: many patterns of missing cells, no latent, data that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import mask, scale
from numpyro.infer import MCMC
from scipy.stats import multivariate_normal, norm

import bayesmix
from bayesmix import EM, ProgramError
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.checks import assert_never_falls, slopes

K, D = 2, 3


def mixture(x, labels=None, weight=1.0, seen=True):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(D)))
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.zeros(D), 9.0 * covariance))
    with numpyro.plate("rows", len(x)), scale(scale=weight):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        with mask(mask=seen):
            numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def data(N, seed=0):
    """Two clusters with holes: several patterns, and a row with nothing in it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, N)
    turn = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.3, -0.2, 0.9]])
    x = 3.0 * labels[:, None] + rng.normal(size=(N, D)) @ turn.T
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    x[3] = np.nan
    return x, labels


VALUES = {
    "weights": np.array([0.3, 0.7]),
    "mean": np.array([[0.2, -0.1, 0.3], [2.5, 3.0, 2.0]]),
    "covariance": np.array(
        [[[1.0, 0.4, 0.1], [0.4, 1.5, -0.3], [0.1, -0.3, 0.8]], np.diag([0.5, 1.0, 2.0])]
    ),
}


def joint_by_hand(x, values=VALUES):
    """log p(x_i, z_i = k), (N, K), cell by cell."""
    table = np.zeros((len(x), K)) + np.log(values["weights"])
    for i, row in enumerate(x):
        there = ~np.isnan(row)
        if there.any():
            for k in range(K):
                centre, spread = values["mean"][k][there], values["covariance"][k]
                part = multivariate_normal(centre, spread[np.ix_(there, there)])
                table[i, k] += part.logpdf(row[there])
    return table


@functools.cache
def em():
    return EM(mixture, tolerance=1e-13, progress_bar=False)


@pytest.mark.parametrize("N", [50, 3000])
def test_missing_cells_are_integrated_out_whatever_the_order_of_the_rows(N):
    x, _ = data(N)
    plan = bayesmix.plan(mixture, x)
    arguments = bayesmix.program.arguments.split((x,), {})
    blocks = Problem(plan, arguments).with_rows().blocks
    assert blocks.weight.shape[0] >= 7  # one pattern to a block
    (table,) = jax.jit(lambda b, v: Problem(plan, arguments, b).log_factors(v))(blocks, VALUES)
    np.testing.assert_allclose(np.asarray(table).T, joint_by_hand(x), rtol=1e-9, atol=1e-9)


def test_em_on_missing_cells_climbs_to_a_mode_and_sees_new_rows_one_by_one():
    x, _ = data(50)
    fit = em().run(0, x, restarts=3)
    assert_never_falls(fit.objective)
    assert fit.status
    for name, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-3, err_msg=name)
    new, _ = data(50, seed=5)
    shares = fit.responsibilities(new)
    for i in (0, 3, 17, 49):
        np.testing.assert_allclose(fit.responsibilities(new[[i]])[0], shares[i], rtol=1e-9)


def plain_normal(x):
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real_vector, (), (D,)))
    flat = dist.ImproperUniform(dist.constraints.positive_definite, (), (D, D))
    covariance = numpyro.sample("covariance", flat)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=x)


def test_a_program_without_a_latent_has_one_component():
    x = np.nan_to_num(data(50)[0])
    fit = EM(plain_normal, progress_bar=False).run(0, x)
    np.testing.assert_allclose(fit.parameters["mean"], x.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(fit.parameters["covariance"], np.cov(x.T, bias=True), rtol=1e-8)
    assert fit.responsibilities().shape == (50, 1)


def ridge(X, y):
    coefficients = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ coefficients, 0.5), obs=y)


def test_a_regression_without_a_latent_is_ridge_regression_and_skips_missing_answers():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.5 * rng.normal(size=40)
    y[[4, 9]] = np.nan
    there = ~np.isnan(y)
    precision = X[there].T @ X[there] / 0.25 + np.eye(3) / 4.0
    exact = np.linalg.solve(precision, X[there].T @ y[there] / 0.25)
    fit = EM(ridge, progress_bar=False).run(0, X, y)
    np.testing.assert_allclose(fit.parameters["w"], exact, rtol=1e-9)
    mcmc = MCMC(bayesmix.ConjugateGibbs(ridge), num_warmup=5, num_samples=4000, progress_bar=False)
    mcmc.run(jax.random.key(0), X, y)
    draws = np.asarray(mcmc.get_samples()["w"])
    error = np.sqrt(np.diag(np.linalg.inv(precision)) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - exact) < 4 * error)


def repeated(x, dim):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    rows = numpyro.plate("rows", x.shape[0 if dim == -2 else 1], dim=dim)
    times = numpyro.plate("times", x.shape[1 if dim == -2 else 0], dim=-3 - dim)
    with rows:
        z = numpyro.sample("z", dist.Categorical(weights))
        with times:
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


@pytest.mark.parametrize("dim", [-2, -1])
def test_a_plate_inside_a_row_is_an_event(dim):
    x = np.random.default_rng(0).normal(size=(20, 4)) + np.repeat([0.0, 3.0], 10)[:, None]
    x[2, 1] = np.nan
    told = x if dim == -2 else x.T
    plan = bayesmix.plan(repeated, told, dim)
    assert not plan.by_row
    arguments = bayesmix.program.arguments.split((told, dim), {})
    values = {"weights": np.array([0.4, 0.6]), "mean": np.array([0.1, 2.5])}
    (table,) = Problem(plan, arguments, Problem(plan, arguments).with_rows().blocks).log_factors(
        values
    )
    cells = np.nan_to_num(norm(values["mean"], 1.0).logpdf(x[:, :, None]))
    expected = np.log(values["weights"]) + cells.sum(axis=1)
    np.testing.assert_allclose(np.asarray(table).T, expected, rtol=1e-10)


def test_rows_are_looked_at_where_they_are_and_blocks_are_shorter_for_several_fits():
    def means(x):
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([K]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.full(K, 1 / K)))
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=900))
    plan = bayesmix.plan(means, x)
    observed = plan.observe(split((x,), {}))
    assert np.shares_memory(observed.values["x"], np.asarray(x))
    one, several = plan.arrange(observed), plan.arrange(observed, fits=50)
    assert one.weight.shape == (1, 900) and several.weight.shape[1] < 900
    np.testing.assert_array_equal(several.restore(several.rows["x"].values)[0], x)


def test_data_that_cannot_be_taken_are_named():
    x, _ = data(50)
    x[7, 1] = np.inf
    with pytest.raises(ProgramError, match=r"infinite values.*row 7, column 1"):
        bayesmix.plan(mixture, x)
    x[:, 1] = np.nan
    with pytest.raises(ProgramError, match=r"nothing but missing values in column 1"):
        bayesmix.plan(mixture, x)
    x, _ = data(50)
    with pytest.raises(ProgramError, match=r"negative or not finite.*row 4"):
        bayesmix.plan(mixture, x, None, np.where(np.arange(50) == 4, -1.0, 1.0))
