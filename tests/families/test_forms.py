"""Conjugate forms: the certificate, the mode, the draws, and units that do not matter."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats

from bayesmix.families.forms import (
    BetaForm,
    DirichletForm,
    NormalForm,
    PowerForm,
    WishartForm,
    candidates,
)

SCALES = [1e-6, 1e-2, 1.0, 1e3, 1e6]
MATRIX = jnp.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])
POWER_DENSITIES = {
    1: lambda v: dist.Gamma(3.5, 1.7).log_prob(v),
    -1: lambda v: dist.InverseGamma(3.5, 1.7).log_prob(v),
    2: lambda v: 6.0 * jnp.log(v) - 1.7 * v**2,
    -2: lambda v: -8.0 * jnp.log(v) - 1.7 * v**-2,
}
# what v^power is distributed as: gamma with this shape and rate 1.7
POWER_SHAPES = {1: 3.5, -1: 3.5, 2: 3.5, -2: 3.5}


def normal_density(v):
    """Correlated within blocks of three, independent between two blocks."""
    first = dist.MultivariateNormal(jnp.array([1.0, -2.0, 0.5]), MATRIX).log_prob(v[0])
    return first + dist.MultivariateNormal(jnp.zeros(3), 0.1 * MATRIX).log_prob(v[1])


def make_case(name: str, scale: float = 1.0):
    """A form, a density of that form in units of `scale`, and two values to look at it from."""
    rng = np.random.default_rng(1)
    if name == "normal":
        values = rng.normal(size=(2, 2, 3)) * scale
        return NormalForm(1), lambda v: normal_density(v / scale), values
    if name.startswith("power"):
        power = int(name[5:])
        values = rng.gamma(2.0, size=(2, 4)) * scale
        return PowerForm(power), lambda v: POWER_DENSITIES[power](v / scale).sum(), values
    if name in ("wishart", "inverse"):
        kind = dist.InverseWishart if name == "inverse" else dist.Wishart
        prior = kind(7.0, MATRIX)
        noise = rng.normal(size=(2, 2, 3, 9))
        values = noise @ np.swapaxes(noise, -1, -2) * scale
        return WishartForm(name == "inverse"), lambda v: prior.log_prob(v / scale).sum(), values
    if name == "dirichlet":
        concentration = jnp.array([2.0, 1.0, 5.5, 1.2])
        values = rng.dirichlet(np.ones(4), size=(2, 2))
        return DirichletForm(), lambda v: dist.Dirichlet(concentration).log_prob(v).sum(), values
    values = rng.uniform(0.1, 0.9, size=(2, 3))
    return BetaForm(), lambda v: dist.Beta(2.0, 5.0).log_prob(v).sum(), values


NAMES = (
    "normal",
    "power1",
    "power-1",
    "power2",
    "power-2",
    "wishart",
    "inverse",
    "dirichlet",
    "beta",
)
SCALED = tuple(name for name in NAMES if name not in ("dirichlet", "beta"))


class Looked(NamedTuple):
    """What a form says of a density from `value`, and what the density itself says there."""

    mode: jax.Array
    proper: jax.Array
    claimed: jax.Array
    actual: jax.Array
    slope: jax.Array


@functools.cache
def looking(name: str):
    """One compiled function of (value, another value, scale of the units)."""
    form = make_case(name)[0]

    def look(value, other, scale) -> Looked:
        density = make_case(name, scale)[1]
        found = form.read(density, value)
        mode, proper = form.mode(found, value)
        named = form.distribution(found)
        claimed = jnp.sum(named.log_prob(other)) - jnp.sum(named.log_prob(value))
        return Looked(
            mode, proper, claimed, density(other) - density(value), jax.grad(density)(mode)
        )

    return jax.jit(look)


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_of_the_form(name):
    here, there = make_case(name)[2]
    looked = looking(name)(here, there, 1.0)
    np.testing.assert_allclose(looked.claimed, looked.actual, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_mode_has_no_slope_and_does_not_depend_on_where_it_was_read(name):
    here, there = make_case(name)[2]
    looked = [looking(name)(here, there, 1.0), looking(name)(there, here, 1.0)]
    for one in looked:
        assert one.proper
        slope = np.asarray(one.slope)
        if name == "dirichlet":  # in the softmax coordinate: a weight may be zero
            slope = one.mode * (slope - (slope * one.mode).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(slope, 0.0, atol=1e-8)
    np.testing.assert_allclose(looked[0].mode, looked[1].mode, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SCALED)
def test_units_do_not_matter(name, scale):
    here, there = make_case(name)[2]
    plain = looking(name)(here, there, 1.0)
    looked = looking(name)(here * scale, there * scale, scale)
    assert looked.proper
    np.testing.assert_allclose(looked.mode / scale, plain.mode, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(looked.claimed, looked.actual, rtol=1e-10)
    np.testing.assert_allclose(looked.actual, plain.actual, rtol=1e-9)


@pytest.mark.parametrize("gap", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["power1", "power-1", "wishart", "inverse"])
def test_reading_far_from_the_mode_loses_little(name, gap):
    here, there = make_case(name)[2]
    plain = looking(name)(here, there, 1.0)
    looked = looking(name)(here * gap, there, 1.0)
    assert looked.proper
    np.testing.assert_allclose(looked.mode, plain.mode, rtol=1e-7, atol=1e-7)


def draws_of(name: str, count: int = 20_000) -> np.ndarray:
    form, density, (value, _) = make_case(name)

    @jax.jit
    def draw(keys):
        found = form.read(density, jnp.asarray(value))
        return jax.vmap(lambda key: form.sample(key, found))(keys)

    return np.asarray(draw(random.split(random.key(3), count)))


def z_scores(draws: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(len(draws)))


def largest(scores: np.ndarray) -> float:
    return float(np.max(np.abs(scores)))


@pytest.mark.parametrize("power", [1, -1, 2, -2])
def test_power_draws(power):
    draws = draws_of(f"power{power}") ** power
    for column in draws.T:
        assert (
            stats.kstest(column, stats.gamma(POWER_SHAPES[power], scale=1 / 1.7).cdf).pvalue > 1e-4
        )


def test_beta_draws():
    for column in draws_of("beta").T:
        assert stats.kstest(column, stats.beta(2.0, 5.0).cdf).pvalue > 1e-4


def test_dirichlet_draws():
    concentration = np.array([2.0, 1.0, 5.5, 1.2])
    draws = draws_of("dirichlet")
    np.testing.assert_allclose(draws.sum(-1), 1.0, rtol=1e-12)
    for j, own in enumerate(concentration):
        marginal = stats.beta(own, concentration.sum() - own)
        assert stats.kstest(draws[:, 1, j], marginal.cdf).pvalue > 1e-4
    total = concentration.sum()
    cross = concentration[0] * concentration[2] / (total * (total + 1))
    assert largest(z_scores(draws[:, 0, 0] * draws[:, 0, 2], cross)) < 4


def test_normal_draws():
    draws = draws_of("normal")
    assert largest(z_scores(draws[:, 0], np.array([1.0, -2.0, 0.5]))) < 4
    assert largest(z_scores(draws[:, 1], np.zeros(3))) < 4
    centred = draws[:, 1]
    products = centred[:, :, None] * centred[:, None, :]
    assert largest(z_scores(products, 0.1 * np.asarray(MATRIX))) < 4
    between = draws[:, 0] - np.array([1.0, -2.0, 0.5])
    assert largest(z_scores(between[:, :, None] * centred[:, None, :], np.zeros((3, 3)))) < 4


@pytest.mark.parametrize("name", ["wishart", "inverse"])
def test_wishart_draws(name):
    draws = draws_of(name)
    if name == "inverse":
        expected = np.asarray(MATRIX) / (7.0 - 3 - 1)
        theirs = stats.invwishart(7, np.asarray(MATRIX))
    else:
        expected = 7.0 * np.asarray(MATRIX)
        theirs = stats.wishart(7, np.asarray(MATRIX))
    drawn = theirs.rvs(20_000, random_state=0)
    for block in (0, 1):
        assert largest(z_scores(draws[:, block], expected)) < 4.5
        ours = np.linalg.slogdet(draws[:, block])[1]
        assert stats.ks_2samp(ours, np.linalg.slogdet(drawn)[1]).pvalue > 1e-4
        assert stats.ks_2samp(draws[:, block, 0, 1], drawn[:, 0, 1]).pvalue > 1e-4


@pytest.mark.parametrize("name", ["power1", "power-2", "wishart", "inverse"])
def test_shift_multiplies_the_density_by_a_power(name):
    form, density, (here, there) = make_case(name)

    @jax.jit
    def gap(v):
        found = form.shift(form.read(density, jnp.asarray(here)), 0.75)
        return density(v) + 0.75 * form.log_size(v) - jnp.sum(form.distribution(found).log_prob(v))

    np.testing.assert_allclose(gap(here), gap(there), rtol=1e-10, atol=1e-10)


def test_no_mode_is_said():
    value = jnp.array([0.5, 1.5])
    form = PowerForm(1)
    spike = dist.Gamma(0.5, 1.0)
    flat, proper = form.mode(form.read(lambda v: spike.log_prob(v).sum(), value), value)
    assert not proper
    np.testing.assert_array_equal(flat, value)
    weights = jnp.array([0.2, 0.3, 0.5])
    form = DirichletForm()
    sparse = dist.Dirichlet(jnp.array([0.5, 2.0, 2.0]))
    mode, proper = form.mode(form.read(sparse.log_prob, weights), weights)
    assert not proper
    np.testing.assert_allclose(mode, [0.0, 0.5, 0.5], atol=1e-100)
    form = NormalForm(0)
    assert not form.mode(form.read(lambda v: (v**2).sum(), value), value)[1]


# ------------------------------------------------------------------------------------------ designs
def departure(form, density, value) -> float:
    """The largest departure from the form, against the variation of the density over the design."""
    rng = np.random.default_rng(0)
    worst = 0.0
    many = jax.jit(jax.vmap(density))
    for design in form.designs(np.asarray(value), rng):
        heights = np.asarray(many(jnp.asarray(design.points)))
        left = np.max(np.abs(design.combinations @ heights))
        worst = max(worst, left / np.ptp(heights))
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_designs_accept_the_form(name):
    form, density, (value, _) = make_case(name)
    assert departure(form, density, value) < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_designs_reject_a_small_cubic(name):
    form, density, (value, _) = make_case(name)
    assert departure(form, lambda v: density(v) + 1e-3 * jnp.sum(v**3), value) > 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_designs_reject_blocks_that_are_not_independent(name):
    form, density, (value, _) = make_case(name)

    def tied(v):
        return density(v) + 1e-3 * jnp.ravel(v[0])[0] * jnp.ravel(v[1])[0]

    assert departure(form, tied, value) > 1e-7


@pytest.mark.parametrize("power", [1, -1, 2, -2])
def test_designs_reject_other_priors_of_a_scale(power):
    value = np.array([0.7, 1.9])
    priors = [dist.HalfCauchy(1.0), dist.LogNormal(0.0, 1.0), dist.StudentT(3.0)]
    for prior in priors:
        assert departure(PowerForm(power), lambda v, p=prior: p.log_prob(v).sum(), value) > 1e-5
    for other in {1, -1, 2, -2} - {power}:
        density = POWER_DENSITIES[other]
        assert departure(PowerForm(power), lambda v, d=density: d(v).sum(), value) > 1e-5


def test_designs_reject_a_wishart_for_its_inverse_and_a_joint_normal_for_columns():
    form, density, (value, _) = make_case("wishart")
    assert departure(WishartForm(not form.inverse), density, value) > 1e-5
    form, density, (value, _) = make_case("normal")
    assert departure(NormalForm(0), density, value) > 1e-5
    assert departure(NormalForm(2), density, value) < 1e-10


def test_candidates_follow_the_support():
    positive = candidates(dist.constraints.independent(dist.constraints.positive, 1), 2)
    assert [form.power for form in positive] == [-1, 1, -2, 2]
    assert candidates(dist.constraints.corr_cholesky, 2) == ()
    assert candidates(dist.constraints.simplex, 1) == (DirichletForm(),)
    assert len(candidates(dist.constraints.real, 2)) == 3


@pytest.mark.parametrize("form", [NormalForm(0), PowerForm(1)], ids=["normal", "power"])
def test_what_nothing_depends_on_stays_where_it_is(form):
    value = jnp.array([1.5, 2.0])
    mode, proper = form.mode(form.read(lambda v: 0.0 * jnp.sum(v), value), value)
    assert bool(proper) and mode.tolist() == value.tolist()
