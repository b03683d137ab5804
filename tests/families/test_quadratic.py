"""Gaussian densities and moments by quadratic features against whitened residuals; single precision."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesmix
from bayesmix.families import quadratic, student
from bayesmix.families.gaussian import FULL, FeatureSums, Gaussian
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from bayesmix.zoo import gaussian_mixture


def components(K: int, D: int, spread: float = 3.0, seed: int = 0) -> Gaussian:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(K, D, D))
    covariance = half @ np.swapaxes(half, 1, 2) + np.eye(D)
    mean = spread * rng.normal(size=(K, D))
    return Gaussian(jnp.asarray(mean), jnp.linalg.cholesky(jnp.asarray(covariance)))


@partial(jax.jit, static_argnums=3)
def both(parameters, rows, weights, with_features, pattern=None):
    """Densities, the form of the sums, statistics."""
    prepared = FULL.prepare(parameters, pattern)
    if not with_features:
        prepared = prepared._replace(quadratic=None)
    sums = FULL.accumulate(prepared, rows, weights, None)
    whole = sums if pattern is None else FULL.complete(prepared, sums)
    return FULL.log_prob(prepared, rows), sums, FULL.finish(prepared, whole)


def near(one, other, rtol):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize(("K", "D", "n"), [(3, 2, 1000), (5, 7, 400), (4, 1, 3000)])
@pytest.mark.parametrize("spread", [3.0, 1e9])
def test_features_give_what_whitening_gives(K, D, n, spread):
    # with means 1e9 standard deviations away from each other, residuals are whitened after all
    rng = np.random.default_rng(1)
    parameters = components(K, D, spread)
    assert bool(FULL.prepare(parameters, None).quadratic.accurate) is (spread < 1e6)
    rows = np.asarray(parameters.mean)[rng.integers(K, size=n)].T + rng.normal(size=(D, n))
    weights = rng.uniform(size=(K, n))
    density, sums, found = both(parameters, rows, weights, True)
    exact_density, _, exact = both(parameters, rows, weights, False)
    assert isinstance(sums, FeatureSums)
    near(density, exact_density, 1e-12)
    near(found, exact, 1e-12)


@pytest.mark.parametrize("spread", [3.0, 1e9])
def test_missing_cells_are_completed_from_the_sums_of_features(spread):
    """By features, by whitening, and by the conditional normal of each row and component."""
    K, D, n = 5, 4, 400
    rng = np.random.default_rng(4)
    parameters, pattern = components(K, D, spread), np.array([True, False, True, False])
    mean = np.asarray(parameters.mean)
    rows = mean[rng.integers(K, size=n)].T + rng.normal(size=(D, n))
    rows[~pattern] = 0.0  # whatever stands there
    weights = rng.uniform(size=(K, n))
    density, sums, found = both(parameters, rows, weights, True, pattern)
    exact_density, _, exact = both(parameters, rows, weights, False, pattern)
    assert isinstance(sums, FeatureSums)
    near(density, exact_density, 1e-12)
    near(found, exact, 1e-12)
    lower = np.asarray(parameters.scale_tril)
    for k in range(K):
        covariance = lower[k] @ lower[k].T
        gain = covariance[:, pattern] @ np.linalg.inv(covariance[np.ix_(pattern, pattern)])
        residual = gain @ (rows[pattern] - mean[k, pattern, None])
        spare = covariance - gain @ covariance[pattern]
        second = (weights[k] * residual) @ residual.T + weights[k].sum() * spare
        near(found.first[k], (weights[k] * residual).sum(1), 1e-7)
        near(found.second[k], second, 1e-7)


@partial(jax.jit, static_argnums=3)
def both_of_student(parameters, rows, weights, with_features, pattern=None):
    """Densities, the form of the sums, statistics and the gradient of Q."""
    prepared = student.FULL.prepare(parameters, pattern)
    if not with_features:
        prepared = prepared._replace(gaussian=prepared.gaussian._replace(quadratic=None))
    sums = student.FULL.accumulate(prepared, rows, weights, None)
    whole = sums if pattern is None else student.FULL.complete(prepared, sums)
    made = student.FULL.finish(prepared, whole), student.FULL.score(prepared, whole)
    return student.FULL.log_prob(prepared, rows), sums, made


@pytest.mark.parametrize("pattern", [None, np.array([True, False, True, False])])
@pytest.mark.parametrize("spread", [3.0, 1e9])
def test_heavy_tails_by_features_are_those_by_whitening(spread, pattern):
    """With rows at the centre of a component, where the distance cancels, and with rows far from all."""
    K, D, n = 5, 4, 400
    rng = np.random.default_rng(6)
    mean, lower = components(K, D, spread)
    parameters = student.Student(mean, lower, jnp.linspace(0.5, 30.0, K))
    rows = np.asarray(mean)[rng.integers(K, size=n)].T + rng.normal(size=(D, n))
    rows[:, :K] = np.asarray(mean).T
    rows[:, K : 2 * K] *= 1e4
    weights = rng.uniform(size=(K, n))
    if pattern is not None:
        rows[~pattern] = 0.0  # whatever stands there
    density, sums, made = both_of_student(parameters, rows, weights, True, pattern)
    exact_density, _, exact = both_of_student(parameters, rows, weights, False, pattern)
    assert isinstance(sums.scaled, FeatureSums)
    near(density, exact_density, 1e-11)
    near(made, exact, 1e-10)


def test_few_rows_or_many_columns_are_whitened():
    few, many = components(3, 2), components(2, 5)
    assert not isinstance(both(few, np.zeros((2, 100)), np.ones((3, 100)), True)[1], FeatureSums)
    assert FULL.prepare(many, None).quadratic is None


def test_the_choice_of_form_knows_neither_origin_nor_scale():
    one = components(3, 2)
    scale = jnp.array([1e-6, 1e5])
    moved = Gaussian(one.mean * scale + 1e3 * scale, one.scale_tril * scale[:, None])
    for tight in (1e-1, 1e-2, 1e-4, 1e-6):
        told = [
            bool(FULL.prepare(g._replace(scale_tril=tight * g.scale_tril), None).quadratic.accurate)
            for g in (one, moved)
        ]
        assert told == [tight > 1e-3] * 2, tight


def test_a_batch_takes_one_branch_and_the_accurate_one():
    good, bad = components(3, 2), components(3, 2, spread=1e9)
    rng = np.random.default_rng(2)
    rows, weights = rng.normal(size=(2, 1000)), rng.uniform(size=(3, 1000))
    batch = jax.tree.map(lambda a, b: jnp.stack([a, b]), good, bad)
    run = jax.vmap(lambda parameters: both(parameters, rows, weights, True))
    assert "cond[" in str(jax.make_jaxpr(run)(batch))
    found = run(batch)
    for i, each in enumerate((good, bad)):
        exact = both(each, rows, weights, False)
        near(found[0][i], exact[0], 1e-12)
        near(jax.tree.map(lambda x, i=i: x[i], found[2]), exact[2], 1e-10)


def test_derivatives_of_densities_pass_through_either_form():
    rng = np.random.default_rng(3)
    rows, weights = rng.normal(size=(2, 1000)), rng.uniform(size=(3, 1000))

    def total(parameters, with_features):
        return jnp.sum(both(parameters, rows, weights, with_features)[0] * weights)

    slope = jax.jit(jax.grad(total), static_argnums=1)
    near(slope(components(3, 2), True), slope(components(3, 2), False), 1e-12)


@cache
def fitting(double):
    """EM, compiled once in either precision."""
    program = bayesmix.without_priors(gaussian_mixture)
    return bayesmix.EM(program, progress_bar=False, max_steps=40, tolerance=1e-9)


def test_patterns_of_missing_cells_take_one_form_that_suits_all(monkeypatch):
    """Columns that nearly repeat one another lose digits as features together, and none apart."""
    N, far = 3000, jnp.array([[0.0, 0.0], [6.0, 6.0]])
    rng = np.random.default_rng(5)
    x = rng.normal(size=(N, 1)) + 6.0 * (np.arange(N) % 2)[:, None]
    x = np.concatenate([x, x + 1e-6 * rng.normal(size=(N, 1))], axis=1)
    x[: N // 3, 1], x[-(N // 3) :, 0] = np.nan, np.nan
    lower = jnp.tile(jnp.array([[1.0, 0.0], [1.0, 1e-6]]), (2, 1, 1))
    accurate = {
        each: bool(FULL.prepare(Gaussian(far, lower), jnp.array(each)).quadratic.accurate)
        for each in ((True, False), (False, True), (True, True))
    }
    assert accurate == {(True, False): True, (False, True): True, (True, True): False}
    values = {
        "weights": jnp.array([0.4, 0.6]),
        "mean": far,
        "covariance": lower @ jnp.swapaxes(lower, 1, 2),
    }
    plan = bayesmix.plan(bayesmix.without_priors(gaussian_mixture), x, 2)
    arguments = split((x, 2), {})
    blocks = Problem(plan, arguments).with_rows().blocks

    mixed = Problem(plan, arguments, blocks).expected(values)
    monkeypatch.setattr(quadratic, "_SMALL_BLOCK", np.inf)  # no features at all
    near(mixed, Problem(plan, arguments, blocks).expected(values), 1e-9)


GRID = [
    (tightness, offset, condition)
    for tightness in (0.1, 0.005)
    for offset in (0.0, 1000.0)
    for condition in (1.0, 1e4)
]


@pytest.mark.parametrize(("tightness", "offset", "condition"), GRID)
def test_single_precision_keeps_covariances(tightness, offset, condition):
    """Standard deviations in a component are `tightness` of the distance between components, the least
    of them less by the root of `condition`."""
    K, D, N = 3, 4, 3000
    rng = np.random.default_rng(0)
    centres, group = rng.normal(size=(K, D)), np.arange(N) % K
    turn = np.linalg.qr(rng.normal(size=(K, D, D)))[0]
    scale = tightness * np.geomspace(1.0, condition**-0.5, D)
    away = np.einsum("nij,nj->ni", turn[group], scale * rng.normal(size=(N, D)))
    x = (offset + centres[group] + away).astype(np.float32)

    within = np.stack([np.cov(x[group == k].astype(float).T) for k in range(K)])
    means = np.stack([x[group == k][:40].astype(float).mean(0) for k in range(K)])
    init = {"weights": np.full(K, 1 / K), "mean": means, "covariance": 2 * within}
    fit = fitting(True).run(0, x.astype(float), K, init=init)
    with jax.enable_x64(False):
        single = fitting(False).run(0, x, K, init=jax.tree.map(np.float32, init))

    covariance = single.parameters["covariance"].astype(float)
    assert covariance.min() < 0 and np.linalg.eigvalsh(covariance).min() > 0
    whitener = np.linalg.inv(np.linalg.cholesky(fit.parameters["covariance"]))
    wrong = whitener @ covariance @ np.swapaxes(whitener, 1, 2) - np.eye(D)
    # a mean is rounded itself: the scatter is about that one
    rounding = np.spacing(np.float32(offset + 1)) / scale.min()
    assert np.abs(wrong).max() < 1e-3 + rounding**2
    step = np.diff(single.objective.astype(float)).min()
    assert step >= -8 * np.spacing(np.float32(np.abs(single.objective).max()))
