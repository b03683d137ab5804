"""Gaussian likelihoods: densities, statistics and Q against scipy and sums, at hard scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from bayesmix.families.columns import COLUMNS, Columns
from bayesmix.families.gaussian import FULL, Gaussian
from bayesmix.program import row_pass
from bayesmix.program.blocks import arrange
from bayesmix.program.elimination import make_graph
from bayesmix.program.evaluate import Evaluation
from bayesmix.program.observed import Observed


def problem(D: int, K: int = 3, N: int = 40, offset: float = 0.0, scale: float = 1.0, seed=0):
    """Rows (N, D), weights (K, N), means (K, D) and covariances (K, D, D)."""
    rng = np.random.default_rng(seed)
    x = offset + scale * rng.normal(size=(N, D))
    weights = rng.uniform(size=(K, N))
    mean = offset + scale * rng.normal(size=(K, D))
    noise = rng.normal(size=(K, D, D + 3))
    return x, weights, mean, scale**2 * noise @ np.swapaxes(noise, -1, -2) / D


def full(mean, covariance) -> Gaussian:
    return Gaussian(jnp.asarray(mean), jnp.linalg.cholesky(jnp.asarray(covariance)))


@pytest.mark.parametrize("D", [1, 2, 3, 4, 7])
def test_full_log_prob_equals_scipy(D):
    x, _, mean, covariance = problem(D)
    table = FULL.log_prob(FULL.prepare(full(mean, covariance), None), FULL.arrange(x, None))
    theirs = [multivariate_normal(m, c).logpdf(x) for m, c in zip(mean, covariance)]
    np.testing.assert_allclose(table, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("D", [1, 2, 3, 5])
def test_columns_log_prob_equals_scipy(D):
    x, _, mean, covariance = problem(D)
    scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    parameters = Columns(jnp.asarray(mean), jnp.asarray(scale))
    table = COLUMNS.log_prob(COLUMNS.prepare(parameters, None), COLUMNS.arrange(x, None))
    theirs = [norm(m, s).logpdf(x).sum(axis=1) for m, s in zip(mean, scale)]
    np.testing.assert_allclose(table, theirs, rtol=1e-10, atol=1e-10)


@functools.partial(jax.jit, static_argnums=0)
def compiled_statistics(index, parameters, x, weights):
    family = (FULL, COLUMNS)[index]
    prepared = family.prepare(parameters, None)
    sums = family.accumulate(prepared, family.arrange(x, None), weights, None)
    return family.finish(prepared, sums)


def statistics_of(family, parameters, x, weights):
    return compiled_statistics(int(family is COLUMNS), parameters, x, weights)


@pytest.mark.parametrize("D", [1, 2, 4])
@pytest.mark.parametrize("kind", ["full", "columns"])
def test_statistics_are_weighted_sums_and_q_is_their_expectation(kind, D):
    x, weights, mean, covariance = problem(D)
    _, _, new_mean, new_covariance = problem(D, seed=5)
    if kind == "full":
        family, make = FULL, full
    else:
        family = COLUMNS

        def make(mean, covariance):
            scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            return Columns(jnp.asarray(mean), jnp.asarray(scale))

    found = statistics_of(family, make(mean, covariance), x, weights)
    centred = x[None] - mean[:, None]
    count = weights.sum(axis=1)
    count = count if kind == "full" else np.repeat(count[:, None], D, axis=1)
    np.testing.assert_allclose(found.count, count, rtol=1e-12)
    np.testing.assert_allclose(
        found.first, np.einsum("kn,knd->kd", weights, centred), rtol=1e-10, atol=1e-12
    )
    second = np.einsum("kn,kni,knj->kij", weights, centred, centred)
    if kind == "columns":
        second = np.diagonal(second, axis1=1, axis2=2)
    np.testing.assert_allclose(found.second, second, rtol=1e-10, atol=1e-12)
    # at parameters other than those of the E step
    new = make(new_mean, new_covariance)
    table = family.log_prob(family.prepare(new, None), family.arrange(x, None))
    expected = np.sum(weights * np.asarray(table), axis=1)
    np.testing.assert_allclose(family.expected_log_prob(new, found), expected, rtol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e8])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_covariances_survive_offsets_and_tightness(offset, scale):
    """Relative to the spread, rounding is that of the data themselves: offset times 2^-53."""
    x, weights, mean, covariance = problem(2, offset=offset, scale=scale)
    found = statistics_of(FULL, full(mean, covariance), x, weights)
    exact = []
    for w in weights:
        centre = (w[:, None] * (x - x[0])).sum(axis=0) / w.sum() + x[0]
        exact.append(((x - centre).T * w) @ (x - centre))
    cross = found.first[:, :, None] * found.first[:, None, :] / found.count[:, None, None]
    scatter = np.asarray(found.second - cross)
    tolerance = max(1e-11, 64 * np.finfo(float).eps * abs(offset) / scale)
    np.testing.assert_allclose(scatter / scale**2, np.array(exact) / scale**2, atol=40 * tolerance)


def test_one_far_outlier_leaves_the_tight_cluster_its_scatter():
    x, _, _, _ = problem(2, scale=1e-3)
    x = np.concatenate([x, [[1e6, -1e6]]])
    weights = np.ones((2, 41))
    weights[0, -1] = 0.0
    mean, identity = np.array([[0.0, 0.0], [1e4, 0.0]]), np.tile(np.eye(2), (2, 1, 1))
    found = statistics_of(FULL, full(mean, 1e-6 * identity), x, weights)
    centred = x[:-1] - x[:-1].mean(axis=0)
    cross = np.outer(found.first[0], found.first[0]) / found.count[0]
    np.testing.assert_allclose(found.second[0] - cross, centred.T @ centred, rtol=1e-10)


def test_an_ill_conditioned_covariance_keeps_its_small_axis():
    rng = np.random.default_rng(2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    x = (rng.normal(size=(200, 2)) * [1.0, 1e-5]) @ turn.T
    covariance = np.cov(x.T, bias=True)
    found = statistics_of(FULL, full(np.zeros((1, 2)), covariance[None]), x, np.ones((1, 200)))
    cross = np.outer(found.first[0], found.first[0]) / 200
    small = np.linalg.eigvalsh((found.second[0] - cross) / 200)[0]
    exact = np.var((x @ turn)[:, 1] - np.polyval(np.polyfit(*(x @ turn).T, 1), (x @ turn)[:, 0]))
    assert float(small) == pytest.approx(exact, rel=1e-4)


# ------------------------------------------------------------------------------- blocks of rows
def evaluation_of(mean, covariance) -> Evaluation:
    K = len(mean)
    latent = {"z": jnp.log(jnp.arange(1.0, K + 1) / (K * (K + 1) / 2))}
    return Evaluation({}, latent, {"x": full(mean, covariance)}, {})


FAMILIES = {"x": FULL}
GRAPH = make_graph({"z": 3}, {"z": ("z",), "x": ("z",)})


def blocks_of(x):
    return arrange(FAMILIES, Observed({"x": x}, {"x": None}), GRAPH)


@jax.jit
def one_pass(blocks, mean, covariance):
    found = evaluation_of(mean, covariance)
    result = row_pass.passes(GRAPH, FAMILIES, found, blocks, row_pass.expect)
    return result, row_pass.log_factors(GRAPH, FAMILIES, found, blocks)[0]


@pytest.mark.parametrize("N", [1, 1024, 1025, 2730, 2731, 12000])
def test_blocks_and_padding_change_nothing(N):
    x, _, mean, covariance = problem(2, N=N)
    blocks = blocks_of(x)
    result, table = one_pass(blocks, mean, covariance)
    assert (blocks.weight.shape[0] == 1) == (N <= max(1024, (1 << 14) // 6))
    assert float(blocks.weight.sum()) == N == blocks.num_rows
    log_weights = np.log(np.arange(1.0, 4.0) / 6)
    joint = np.stack([multivariate_normal(m, c).logpdf(x) for m, c in zip(mean, covariance)])
    joint = joint.reshape(3, N) + log_weights[:, None]
    np.testing.assert_allclose(table, joint, rtol=1e-9, atol=1e-9)
    evidence = logsumexp(joint, axis=0)
    assert float(result.log_likelihood) == pytest.approx(evidence.sum(), rel=1e-12)
    weights = np.exp(joint - evidence)
    centred = x[None] - mean[:, None]
    np.testing.assert_allclose(result.statistics.counts["z"], weights.sum(axis=1), rtol=1e-11)
    second = np.einsum("kn,kni,knj->kij", weights, centred, centred)
    np.testing.assert_allclose(result.statistics.moments["x"].second, second, rtol=1e-9)


@pytest.mark.parametrize("N", [7, 3000])
def test_drawn_labels_are_the_weights_that_were_added_up(N):
    x, _, mean, covariance = problem(2, N=N, scale=2.0)
    found = evaluation_of(mean, covariance)
    result = row_pass.drawn_pass(GRAPH, FAMILIES, found, blocks_of(x), jax.random.key(1))
    (labels,) = np.asarray(result.rows)
    assert labels.shape == (N,)
    np.testing.assert_array_equal(result.statistics.counts["z"], np.bincount(labels, minlength=3))


def test_draws_follow_the_responsibilities():
    table = jnp.log(jnp.array([[0.2], [0.5], [0.3]])) + 700.0
    wide = jnp.broadcast_to(table, (3, 40_000))
    (labels,) = row_pass.draw(GRAPH, (wide,), row_pass.lots(GRAPH, jax.random.key(2), 40_000)).said
    share = np.bincount(np.asarray(labels), minlength=3) / 40_000
    np.testing.assert_allclose(share, [0.2, 0.5, 0.3], atol=4 * 0.5 / 200)
    certain = jnp.array([[-jnp.inf, 0.0, -jnp.inf], [0.0, -jnp.inf, -jnp.inf], [-1e5, -1e5, 0.0]])
    drawn = row_pass.draw(GRAPH, (certain,), row_pass.lots(GRAPH, jax.random.key(3), 3))
    assert drawn.said.tolist() == [[1, 0, 2]]
    np.testing.assert_array_equal(drawn.weights[0], np.eye(3)[[1, 0, 2]].T)
