"""Predictive distribution functions against enumeration, integration and scipy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, stats

import bayesmix
from bayesmix.comparison.calibration import uniform_scores
from bayesmix.infer.cells import by_cell, distribution_function
from bayesmix.posterior.predictive_cdf import NoDistributionFunction, predictive_cdf
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem

COVARIANCE = np.array([[1.0, 0.5], [0.5, 2.0]])
ROWS, DRAWS, K = 40, 3, 2


def two_sites(x, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K, 2]).to_event(2))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], COVARIANCE), obs=x)
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


@functools.cache
def setting():
    """A plan, its data, and draws that have nothing to do with them."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(ROWS, 2)), np.arange(ROWS)
    draws = {
        "weights": random.dirichlet(np.ones(K), DRAWS),
        "mean": random.normal(size=(DRAWS, K, 2)),
        "rate": random.gamma(2.0, size=(DRAWS, K)),
    }
    return bayesmix.plan(two_sites, x, y), x, y, draws


def by_enumeration(x, y, draws, log_weights):
    """Marginal and in turn: just below y and at it, (2, ROWS, 3), summed over draws and components."""
    alone, in_turn, before = (np.zeros((2, ROWS, 3)) for _ in range(3))
    whole = np.zeros((ROWS, 1))
    for s in range(DRAWS):
        for k in range(K):
            weight = np.exp(log_weights[s]) * draws["weights"][s, k]
            (m1, m2), rate = draws["mean"][s, k], draws["rate"][s, k]
            first = stats.norm(m1, 1.0)
            second = stats.norm(m2 + 0.5 * (x[:, 0] - m1), np.sqrt(2 - 0.25))
            count = stats.poisson(rate)
            ends = [np.stack([count.cdf(y - 1), count.cdf(y)])]
            own = [
                np.broadcast_to(d.cdf(v), (2, ROWS))
                for d, v in ((first, x[:, 0]), (second, x[:, 1]))
            ]
            own = np.stack(own + ends, axis=-1)
            marginal = own.copy()
            marginal[..., 1] = stats.norm(m2, np.sqrt(2.0)).cdf(x[:, 1])
            density = [np.ones(ROWS), first.pdf(x[:, 0]), second.pdf(x[:, 1])]
            so_far = weight[:, None] * np.cumprod(np.stack(density, axis=1), axis=1)
            alone += weight[:, None] * marginal
            in_turn += so_far * own
            before += so_far
            whole += weight[:, None]
    return alone / whole, in_turn / before


def test_it_is_the_sum_over_draws_and_components():
    plan, x, y, draws = setting()
    log_weights = np.random.default_rng(1).normal(size=(DRAWS, ROWS))
    found = predictive_cdf(Problem(plan, split((x, y), {})), draws, log_weights)
    alone, in_turn = by_enumeration(x, y, draws, log_weights)
    np.testing.assert_allclose(found.marginal, alone, atol=1e-12)
    np.testing.assert_allclose(found.in_turn, in_turn, atol=1e-12)


def test_the_middle_of_the_jumps_of_a_count_is_one_half_on_average():
    """sum_y p(y) (F(y - 1) + F(y)) / 2 = 1 / 2: so the randomised transform is uniform on average."""
    plan, x, y, draws = setting()
    same = np.tile(x[:1], (ROWS, 1))  # rows that differ in y alone: all values that it can have
    low, top = predictive_cdf(Problem(plan, split((same, y), {})), draws).in_turn[..., 2]
    np.testing.assert_allclose(np.sum(top - low), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.sum((top - low) * (top + low) / 2), 0.5, atol=1e-12)


def test_a_known_normal_has_uniform_transforms():
    grid = np.linspace(0.001, 0.999, 999)
    u = distribution_function(dist.Normal(3.0, 2.0), jnp.asarray(stats.norm(3.0, 2.0).ppf(grid)))
    np.testing.assert_allclose(u, grid, atol=1e-8)
    found = uniform_scores(u)
    assert found["distance"] == pytest.approx(0.001, abs=1e-6) and found["p_value"] > 0.999
    assert (found["inside_50"], found["inside_90"]) == pytest.approx((0.5, 0.9), abs=2e-3)


def test_scores_see_predictions_that_are_too_narrow():
    z = stats.norm.ppf(np.linspace(0.005, 0.995, 100))
    found = uniform_scores(stats.norm.cdf(2 * z))
    expected = stats.kstest(2 * z, "norm")
    assert found["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["inside_50"] < 0.3 and np.isnan(uniform_scores([np.nan])["distance"])


@pytest.mark.parametrize(
    ("distribution", "exact"),
    [
        (dist.BernoulliProbs(0.3), stats.bernoulli(0.3)),
        (dist.BinomialLogits(0.4, 5), stats.binom(5, 1 / (1 + np.exp(-0.4)))),
        (
            dist.CategoricalProbs(jnp.array([0.2, 0.5, 0.3])),
            stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3])),
        ),
        (dist.ZeroInflatedPoisson(0.0, 2.5), stats.poisson(2.5)),
        (dist.Poisson(2.5), stats.poisson(2.5)),
    ],
)  # fmt: skip
def test_counts_without_a_distribution_function_are_summed(distribution, exact):
    values = np.arange(-1, 9)
    found = distribution_function(distribution, jnp.asarray(values), largest=8)
    np.testing.assert_allclose(found, exact.cdf(values), atol=1e-12)


def test_cells_of_a_multivariate_t_are_those_of_its_density():
    """F(x_2 | x_1) by integrating the joint density along x_2."""
    joint = stats.multivariate_t([1.0, -1.0], COVARIANCE, df=3.5)
    lower = jnp.asarray(np.linalg.cholesky(COVARIANCE))
    point = np.array([2.5, 0.3])
    cells = by_cell(
        dist.MultivariateStudentT(3.5, jnp.array([1.0, -1.0]), lower), jnp.asarray(point)
    )

    def along(y):
        return joint.pdf([point[0], y])

    below, whole = (
        integrate.quad(along, -np.inf, top, epsabs=1e-12)[0] for top in (point[1], np.inf)
    )
    assert float(cells.in_turn.cdf(point)[1]) == pytest.approx(below / whole, abs=1e-8)
    assert float(cells.in_turn.log_prob(point).sum()) == pytest.approx(
        joint.logpdf(point), abs=1e-10
    )
    alone = [stats.t(3.5, m, s).cdf(v) for m, s, v in zip([1, -1], [1, np.sqrt(2)], point)]
    np.testing.assert_allclose(cells.alone.cdf(point), alone, atol=1e-10)


# ------------------------------------------------------------------------------ further programs
def chain(x):
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(2)))
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z0", dist.Categorical(start))
        numpyro.sample("x0", dist.Normal(mean[z], 1.0), obs=x[:, 0])
        w = numpyro.sample("z1", dist.Categorical(move[z]))
        numpyro.sample("x1", dist.Normal(mean[w], 1.0), obs=x[:, 1])


def test_latents_of_a_chain_are_summed_out():
    random = np.random.default_rng(2)
    x = random.normal(size=(12, 2))
    draw = {"start": [0.3, 0.7], "move": [[0.9, 0.1], [0.2, 0.8]], "mean": [-1.0, 2.0]}
    values = {name: np.asarray(value) for name, value in draw.items()}
    problem = Problem(bayesmix.plan(chain, x), split((x,), {}))
    found = predictive_cdf(problem, {n: v[None] for n, v in values.items()})
    first = stats.norm.cdf(x[:, :1], values["mean"]) @ values["start"]
    np.testing.assert_allclose(found.in_turn[1][:, 0], first, atol=1e-12)
    share = values["start"] * stats.norm.pdf(x[:, :1], values["mean"])
    share = (share / share.sum(axis=1, keepdims=True)) @ values["move"]
    second = np.sum(share * stats.norm.cdf(x[:, 1:], values["mean"]), axis=1)
    np.testing.assert_allclose(found.in_turn[1][:, 1], second, atol=1e-12)
    alone = stats.norm.cdf(x[:, 1:], values["mean"]) @ (values["start"] @ values["move"])
    np.testing.assert_allclose(found.marginal[1][:, 1], alone, atol=1e-12)


def test_missing_cells_have_no_transform_and_tell_nothing():
    plan, x, y, draws = setting()
    gaps = x.copy()
    gaps[0, 0] = gaps[1] = np.nan
    with_gaps = bayesmix.plan(two_sites, gaps, y)
    found = predictive_cdf(Problem(with_gaps, split((gaps, y), {})), draws)
    whole = predictive_cdf(Problem(plan, split((x, y), {})), draws)
    assert np.isnan(found.in_turn[0, 0, :2]).all() and np.isnan(found.marginal[0, 0, 0])
    np.testing.assert_allclose(found.marginal[:, 0, 1:], whole.marginal[:, 0, 1:], atol=1e-12)
    np.testing.assert_allclose(found.in_turn[:, :2, 2], whole.marginal[:, :2, 2], atol=1e-12)
    np.testing.assert_allclose(found.in_turn[:, 2:], whole.in_turn[:, 2:], atol=1e-12)


def test_leaving_out_by_weights_is_the_exact_leave_one_out_transform():
    """Normal rows about a mean with a flat prior: x_i given the others is normal in closed form."""

    def normal(x):
        mean = numpyro.sample("mean", dist.Normal(0.0, 100.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = np.random.default_rng(3).normal(size=20)
    found = bayesmix.compare(
        normal, x, engines=("Gibbs",), held_out=0, num_samples=400, num_chains=1, num_warmup=50,
        progress_bar=False,
    )  # fmt: skip
    (left_out,) = found.calibration
    others = (x.sum() - x) / (len(x) - 1)
    exact = stats.norm.cdf(x, others, np.sqrt(1 + 1 / (len(x) - 1)))
    np.testing.assert_allclose(left_out.in_turn[:, 0], exact, atol=0.03)
    assert left_out.pareto_k.max() < 0.7


def test_a_site_without_a_distribution_function_is_named():
    def angles(x):
        centre = numpyro.sample("centre", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.VonMises(centre[z], 2.0), obs=x)

    x = np.linspace(-1.0, 1.0, 20)
    plan = bayesmix.plan(angles, x)
    with pytest.raises(NoDistributionFunction, match=r"site 'x' \(VonMises\)"):
        predictive_cdf(Problem(plan, split((x,), {})), {"centre": np.zeros((1, 2))})
    found = bayesmix.compare(
        plan, x, engines=("MAP-EM",), restarts=2, held_out=0.25, progress_bar=False
    )
    assert "no distribution function of site 'x'" in found.table() and not found.calibration


def test_a_second_call_compiles_nothing(monkeypatch):
    plan, x, y, draws = setting()
    predictive_cdf(Problem(plan, split((x, y), {})), draws)
    monkeypatch.setattr(jax, "jit", None)
    one = {name: value[:1] for name, value in draws.items()}
    predictive_cdf(Problem(plan, split((x[::-1].copy(), y), {})), one)
