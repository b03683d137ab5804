"""Exponential families: every registered one against NumPyro's own densities and moments."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import expit, logit, softmax
from scipy.stats import nbinom, norm

from bayesmix.families import likelihoods
from bayesmix.families.exponential import exponential_family, where_known
from bayesmix.families.peel import peel

K, N = 2, 7


# -------------------------------------------------------------------------------- the table of families
unit = lambda rng, shape: rng.uniform(0.1, 0.9, shape)
positive = lambda rng, shape: rng.uniform(0.5, 4.0, shape)
large = lambda rng, shape: rng.uniform(0.5, 40.0, shape)
real = lambda rng, shape: rng.normal(size=shape)
vector = lambda rng, shape: rng.normal(size=(*shape, 4))
simplex = lambda rng, shape: rng.dirichlet(np.ones(4), shape)
counts = lambda rng, shape: rng.multinomial(9, np.full(4, 0.25), shape)


def below(size):
    return lambda rng, shape: rng.integers(size, size=shape)


class Case(NamedTuple):
    """A NumPyro distribution, how its unknown parameters and its values are drawn, what is known, and
    how far NumPyro's own density may be off."""

    make: Callable[..., Any]
    parameters: dict[str, Callable[..., np.ndarray]]
    values: Callable[..., np.ndarray]
    fixed: dict[str, Any] = {}  # noqa: RUF012
    rtol: float = 1e-10

    def distribution(self, parameters, event_ndim):
        return self.make(**parameters, **self.fixed).to_event(event_ndim)


SHAPE = {"concentration": large, "rate": positive}
TWO_SHAPES = {"concentration1": large, "concentration0": large}
NINE, TEN, SEVEN = {"total_count": 9}, {"total_count": 10}, {"concentration": 7.5}
ROUGH = 1e-6  # the error of JAX's betaln, which NumPyro's gamma-Poisson uses, in double precision
CASES = {
    "Bernoulli, probs": Case(dist.BernoulliProbs, {"probs": unit}, below(2)),
    "Bernoulli, logits": Case(dist.BernoulliLogits, {"logits": real}, below(2)),
    "binomial, probs": Case(dist.BinomialProbs, {"probs": unit}, below(11), TEN),
    "binomial, logits": Case(dist.BinomialLogits, {"logits": real}, below(11), TEN),
    "categorical, probs": Case(dist.CategoricalProbs, {"probs": simplex}, below(4)),
    "categorical, logits": Case(dist.CategoricalLogits, {"logits": vector}, below(4)),
    "multinomial, probs": Case(dist.MultinomialProbs, {"probs": simplex}, counts, NINE),
    "multinomial, logits": Case(dist.MultinomialLogits, {"logits": vector}, counts, NINE),
    "Poisson": Case(dist.Poisson, {"rate": positive}, below(9)),
    "geometric, probs": Case(dist.GeometricProbs, {"probs": unit}, below(9)),
    "geometric, logits": Case(dist.GeometricLogits, {"logits": real}, below(9)),
    "negative binomial, probs": Case(
        dist.NegativeBinomialProbs, {"probs": unit}, below(9), TEN, ROUGH
    ),
    "negative binomial, logits": Case(dist.NegativeBinomialLogits, {"logits": real}, below(9), TEN),
    "negative binomial": Case(dist.NegativeBinomial2, {"mean": positive}, below(9), SEVEN, ROUGH),
    "gamma-Poisson": Case(dist.GammaPoisson, {"rate": positive}, below(9), SEVEN, ROUGH),
    "exponential": Case(dist.Exponential, {"rate": positive}, positive),
    "gamma": Case(dist.Gamma, SHAPE, positive),
    "chi squared": Case(dist.Chi2, {"df": positive}, positive),
    "inverse gamma": Case(dist.InverseGamma, SHAPE, positive),
    "beta": Case(dist.Beta, TWO_SHAPES, unit),
    "beta, mean": Case(dist.BetaProportion, {"mean": unit, "concentration": large}, unit),
    "half normal": Case(dist.HalfNormal, {"scale": positive}, positive),
    "log normal": Case(dist.LogNormal, {"loc": real, "scale": positive}, positive),
}
every_case = pytest.mark.parametrize("name", CASES)


def lead(array, event_ndim):
    """(K, 1, *event) or fewer axes on the left, as (K, *event)."""
    cut = array.ndim - event_ndim
    batch, event = array.shape[:cut], array.shape[cut:]
    assert all(size == 1 for size in batch[1:])
    return jnp.broadcast_to(array.reshape(*(batch[:1] or (1,)), *event), (K, *event))


def compiled(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def numpyro_checks_no_arguments():
    """It would refuse the boundaries, and is slow."""
    with dist.distribution.validation_enabled(False):
        yield


def problem(name, event):
    """Two sets of parameters, values (N, *event), where they are there, and weights (K, N)."""
    rng, case = np.random.default_rng(0), CASES[name]
    now, new = ({n: draw(rng, (K, 1, *event)) for n, draw in case.parameters.items()} for _ in "ab")
    x = case.values(rng, (N, *event))
    return now, new, x, rng.uniform(size=x.shape) < 0.7, rng.uniform(size=(K, N))


def chosen(distribution):
    """The family that is registered, and its parameters."""
    family = likelihoods.lookup(peel(distribution))
    return family, family.parameters(peel(distribution), lead)


def log_prob(distribution, x, present=None):
    family, parameters = chosen(distribution)
    return family.log_prob(family.prepare(parameters, None), family.arrange(x, present))


def family_of(name, values, event_ndim=1):
    return chosen(CASES[name].distribution(values, event_ndim))


def numpyro_table(name, values, x, present):
    """log p(x_i | k), (K, N): NumPyro's densities of the cells, summed over those that are there."""
    cells = CASES[name].make(**values, **CASES[name].fixed).log_prob(x)
    if present is not None:
        whole = present if present.ndim == cells.ndim - 1 else jnp.all(present, axis=-1)
        cells = jnp.where(whole, cells, 0)
    return jnp.sum(cells, axis=tuple(range(2, cells.ndim)))


# ---------------------------------------------------------- everything about a case, compiled once
class Found(NamedTuple):
    """A table (K, N), Q at new parameters less Q at present ones, and the gradient of Q."""

    table: Any
    q: Any
    gradient: Any


def ours(name, now, new, x, present, weights):
    """What the family makes of rows of three cells; and its sums, of all rows and of two parts."""
    family, parameters = family_of(name, now)
    rows, prepared = family.arrange(x, present), family.prepare(parameters, None)

    def sums(chosen):
        part = jax.tree.map(lambda array: array[..., chosen], rows)
        return family.accumulate(prepared, part, weights[:, chosen], None)

    def q(values):
        return jnp.sum(family.expected_log_prob(family_of(name, values)[1], statistics))

    whole = sums(slice(None))
    statistics = family.finish(prepared, whole)
    value, gradient = jax.value_and_grad(q)(new)
    found = Found(family.log_prob(prepared, rows), value - q(now), gradient)
    return found, (whole, sums(slice(0, 3)), sums(slice(3, None))), family.moments(parameters)


def theirs(name, now, new, x, present, weights):
    def q(values):
        return jnp.sum(weights * numpyro_table(name, values, x, present))

    value, gradient = jax.value_and_grad(q)(new)
    return Found(numpyro_table(name, now, x, present), value - q(now), gradient)


def agrees_with_numpyro(distribution, x, rtol=1e-10):
    table = compiled(lambda x: (log_prob(distribution, x), distribution.log_prob(x)))
    close(*table(x), rtol)


@cache
def examined(name):
    run = compiled(lambda *given: (theirs(name, *given), *ours(name, *given)))
    now, new, x, present, weights = problem(name, (3,))
    return {
        cells: jax.tree.map(np.asarray, run(now, new, x, there, weights))
        for cells, there in (("whole", None), ("missing", present))
    }


def close(one, other, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), one, other)


@every_case
@pytest.mark.parametrize("cells", ["whole", "missing"])
def test_the_log_density_is_numpyros(name, cells):
    exact, found, _, _ = examined(name)[cells]
    assert found.table.shape == (K, N)
    close(found.table, exact.table, CASES[name].rtol)


@every_case
@pytest.mark.parametrize("cells", ["whole", "missing"])
def test_q_and_its_gradient_are_those_of_the_weighted_sum(name, cells):
    """Q leaves out what does not depend on parameters: differences between two values are held."""
    exact, found, _, _ = examined(name)[cells]
    close(found.q, exact.q, CASES[name].rtol)
    close(found.gradient, exact.gradient)


@every_case
def test_statistics_add_up_over_rows(name):
    whole, *parts = examined(name)["missing"][2]
    close(jax.tree.map(np.add, *parts), whole, 1e-12)


@every_case
def test_events_of_one_cell_and_of_a_matrix_of_cells(name):
    def pair(event_ndim, now, x, present):
        found = log_prob(CASES[name].distribution(now, event_ndim), x, present)
        return found, numpyro_table(name, now, x, present)

    one, matrix = problem(name, ()), problem(name, (2, 2))
    run = compiled(lambda a, b: (pair(0, a[0], a[2], None), pair(2, b[0], *b[2:4])))
    for found, exact in run(one, matrix):
        close(found, exact, CASES[name].rtol)


@every_case
def test_moments_are_numpyros(name):
    base = CASES[name].make(**problem(name, (3,))[0], **CASES[name].fixed)
    their_mean, their_variance = base.mean, base.variance
    if "categorical" in name:  # NumPyro gives none; the number of the category has them
        their_mean = jnp.sum(base.probs * np.arange(4), -1)
        their_variance = jnp.sum(base.probs * np.arange(4) ** 2, -1) - their_mean**2
    mean, covariance = examined(name)["whole"][3]
    close(mean, their_mean.reshape(K, -1))
    close(np.diagonal(covariance, axis1=1, axis2=2), their_variance.reshape(K, -1))
    if "multinomial" not in name:
        assert np.all(covariance[:, ~np.eye(3, dtype=bool)] == 0)


def test_the_covariance_of_multinomial_counts():
    probs = problem("multinomial, probs", (3,))[0]["probs"].reshape(K, 3, 4)
    _, covariance = examined("multinomial, probs")["whole"][3]
    exact = np.zeros((K, 3, 4, 3, 4))
    for k, cell in np.ndindex(K, 3):
        p = probs[k, cell]
        exact[k, cell, :, cell] = 9 * (np.diag(p) - np.outer(p, p))
    close(covariance, exact.reshape(K, 12, 12))


@every_case
def test_single_precision_stays_single_precision(name):
    def run(now, x, present, weights):
        family, parameters = family_of(name, now)
        rows, prepared = family.arrange(x, present), family.prepare(parameters, None)
        sums = family.accumulate(prepared, rows, weights, None)
        statistics = family.finish(prepared, sums)
        return family.log_prob(prepared, rows), family.expected_log_prob(parameters, statistics)

    # counts too: whole numbers would follow JAX's setting
    now, _, x, present, weights = problem(name, (3,))
    now, x, weights = jax.tree.map(np.float32, (now, x, weights))
    for leaf in jax.eval_shape(run, now, x, present, weights):
        assert leaf.dtype == np.float32


@pytest.mark.parametrize("name", ["binomial, logits", "categorical, probs", "gamma", "log normal"])
def test_single_precision_is_right_to_its_digits(name):
    now, _, x, present, _ = problem(name, (3,))
    now = jax.tree.map(np.float32, now)
    table = compiled(partial(log_prob, CASES[name].distribution(now, 1)))
    close(table(x.astype(np.float32), present), examined(name)["missing"][0].table, 1e-4)


# ---------------------------------------------------------------------- one family, several classes
OUTCOMES = ("Bernoulli", "binomial", "geometric", "negative binomial", "categorical", "multinomial")


@pytest.mark.parametrize("name", OUTCOMES)
def test_logits_and_probabilities_have_the_same_coefficients(name):
    several = name in OUTCOMES[-2:]
    logits = 4 * np.random.default_rng(0).normal(size=(K, 1, 3, 4) if several else (K, 1, 3))
    probs = softmax(logits, axis=-1) if several else expit(logits)
    by_logits, one = family_of(f"{name}, logits", {"logits": logits + 700 * several})
    by_probs, other = family_of(f"{name}, probs", {"probs": probs})
    assert by_logits.name == by_probs.name
    close(by_logits.prepare(one, None), by_probs.prepare(other, None))


def test_negative_binomials_are_scipys():
    x, r, p = np.arange(40), 7.5, np.array([[0.2], [0.97]])
    for found in (
        dist.NegativeBinomialProbs(r, p),
        dist.NegativeBinomialLogits(r, logit(p)),
        dist.NegativeBinomial2(r * p / (1 - p), r),
        dist.GammaPoisson(r, 1 / p - 1),
    ):
        close(compiled(partial(log_prob, found))(x), nbinom.logpmf(x, r, 1 - p))


# ------------------------------------------------------------------------------------- boundaries
BOUNDARIES = [
    # distribution, its parameter for K = 2, values, which of the (K, N) are impossible
    (dist.BernoulliProbs, [0.0, 1.0], [0, 1], [[0, 1], [1, 0]]),
    (dist.BernoulliLogits, [-np.inf, np.inf], [0, 1], [[0, 1], [1, 0]]),
    (partial(dist.BinomialProbs, total_count=10), [0.0, 1.0], [0, 10], [[0, 1], [1, 0]]),
    (partial(dist.BinomialLogits, total_count=10), [-np.inf, np.inf], [0, 10], [[0, 1], [1, 0]]),
    (dist.GeometricProbs, [1.0, 0.0], [0, 3], [[0, 1], [1, 1]]),
    (partial(dist.NegativeBinomialProbs, 10), [0.0, 1.0], [0, 3], [[0, 1], [1, 1]]),
    (dist.Poisson, [0.0, 0.0], [0, 3], [[0, 1], [0, 1]]),
    (dist.CategoricalProbs, [[0.0, 1.0], [1.0, 0.0]], [0, 1], [[1, 0], [0, 1]]),
    (dist.CategoricalLogits, [[-np.inf, 0.0], [0.0, -np.inf]], [0, 1], [[1, 0], [0, 1]]),
    (dist.MultinomialProbs, [[0.0, 1.0], [1.0, 0.0]], [[0, 5], [5, 0]], [[0, 1], [1, 0]]),
    (dist.MultinomialLogits, [[-np.inf, 0.0], [0.0, -np.inf]], [[0, 5], [5, 0]], [[0, 1], [1, 0]]),
]


@pytest.mark.parametrize(("make", "given", "x", "impossible"), BOUNDARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_zero_times_zero_is_zero(make, given, x, impossible, dtype):
    @compiled
    def run(given):
        def table(given):
            return log_prob(make(given), np.asarray(x, dtype))

        return table(given), jax.grad(lambda given: jnp.sum(table(given)))(given)

    found, gradient = map(np.asarray, run(jnp.asarray(given, dtype)[:, None]))
    impossible = np.array(impossible, bool)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[~impossible], 0, atol=1e-5)
    assert np.all(found[impossible] < -1e29) and np.all(np.isfinite(found))
    assert np.all(np.isfinite(gradient))


def test_impossible_cells_do_not_spoil_q():
    """A component with no ones in a column has p = 0 there after the next M step."""
    p = jnp.array([[[0.0, 0.5]], [[0.5, 1.0]]])
    family, parameters = chosen(dist.Bernoulli(p).to_event(1))
    rows = family.arrange(np.array([[0, 1], [1, 1]]), None)
    weights = np.array([[1.0, 0.0], [1.0, 1.0]])
    sums = family.accumulate(family.prepare(parameters, None), rows, weights, None)
    close(family.expected_log_prob(parameters, sums), np.log([0.5, 0.25]))


def test_beta_values_on_the_boundary():
    table = log_prob(dist.Beta(np.array([[1.0], [2.0]]), np.array([[3.0], [1.0]])), np.zeros(1))
    close(table, [[np.log(3.0)], [-1e30]])


# ----------------------------------------------------------------------------- what has to be known
MAKERS = {
    "binomial": lambda n: dist.Binomial(n, probs=jnp.full((K, 1, 3), 0.3)),
    "negative binomial": lambda n: dist.NegativeBinomialLogits(n, jnp.zeros((K, 1, 3))),
    "negative binomial, mean": lambda n: dist.NegativeBinomial2(jnp.ones((K, 1, 3)), n),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("total", [10, np.array([4, 5, 6])], ids=["number", "by column"])
def test_a_total_that_is_known_may_differ_by_column(make, total):
    x = np.array([[0, 2, 3], [4, 1, 0]])
    agrees_with_numpyro(make(total).to_event(1), x, ROUGH)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_other_totals_are_left_to_the_general_way(make):
    by_row, by_component = np.arange(1, 8)[:, None], np.array([4, 5])[:, None, None]
    for total in (by_row, by_component, jnp.array(10)):
        assert likelihoods.lookup(peel(make(total).to_event(1))) is None


def test_a_traced_total_is_not_known_and_a_traced_parameter_does_no_harm():
    found = []

    @jax.jit
    def run(p):
        found.append(likelihoods.lookup(peel(dist.Binomial(10 * p, 0.5))))
        found.append(likelihoods.lookup(peel(dist.Binomial(10, p))))
        return p

    run(0.5)
    assert found[0] is None and found[1] is not None


def test_another_total_than_the_planned_one_is_refused():
    planned, _ = chosen(dist.Binomial(10, np.array([[0.2], [0.3]])))
    other = peel(dist.Binomial(11, np.array([[0.2], [0.3]])))
    with pytest.raises(ValueError, match=r"total_count is not what.*\[10\.0\].*new plan"):
        planned.parameters(other, lead)


def test_multinomial_rows_may_have_totals_of_their_own():
    x, probs = np.array([[1, 2], [8, 0]]), np.array([[[0.2, 0.8]], [[0.5, 0.5]]])
    found = dist.Multinomial(np.array([3, 8]), probs)
    agrees_with_numpyro(found, x)
    family, parameters = chosen(found)
    close(family.moments(parameters)[0], [[1.1, 4.4], [2.75, 2.75]])


# ------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("rate", [2.0, np.arange(1.0, 4.0), np.array([[1.0], [2.0]])], ids=np.shape)
def test_parameters_with_fewer_axes_than_the_event_are_broadcast(rate):
    x = np.arange(12.0).reshape(2, 2, 3)
    agrees_with_numpyro(dist.Poisson(rate).expand([2, 3]).to_event(2).expand([K, 1]), x)


def test_statistics_are_one_product_and_nothing_larger():
    family, _ = family_of("Poisson", problem("Poisson", (3,))[0])
    rows = family.arrange(np.ones((N, 3)), None)
    program = jax.make_jaxpr(partial(family.accumulate, None))(rows, np.ones((K, N)), None)
    assert sorted(e.primitive.name for e in program.eqns) == ["dot_general", "transpose"]
    assert rows.features.shape == (4, N)  # the columns' constants are one, unless cells are missing
    assert family.arrange(np.ones((N, 3)), np.ones((N, 3), bool)).features.shape == (6, N)


def test_a_tight_log_normal_cluster_keeps_its_scale_in_single_precision():
    x = np.exp(20 + 1e-3 * np.random.default_rng(0).normal(size=500)).astype(np.float32)
    logs = np.log(x.astype(float))
    scale = np.array([[1e-3], [2e-3]], np.float32)
    family, parameters = chosen(dist.LogNormal(np.full((K, 1), np.float32(20)), scale))
    prepared, rows = family.prepare(parameters, None), family.arrange(x, None)
    sums = family.accumulate(prepared, rows, np.ones((K, 500), np.float32), None)
    expected = family.expected_log_prob(parameters, family.finish(prepared, sums))
    assert expected.dtype == np.float32
    # a log is rounded to a five hundredth of the spread
    close(expected, norm.logpdf(logs, 20, scale.astype(float)).sum(axis=1), 1e-3)


# ------------------------------------------------------------------------------------ from outside
def test_a_family_from_outside_is_registered_like_any_other(monkeypatch):
    monkeypatch.setattr(likelihoods, "_FAMILIES", dict(likelihoods._FAMILIES))

    def about(location):
        return exponential_family(
            "Laplace columns about a known location",
            ("scale",),
            features=lambda x: (1, abs(x - location)),
            coefficients=lambda scale: (-jnp.log(2 * scale), -1 / scale),
            moments=lambda scale: (location.T, 2 * scale**2),
        )

    likelihoods.register(dist.Laplace, where_known("loc", about))
    scale, x = np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), np.random.default_rng(0).normal(size=(N, 2))
    found = dist.Laplace(np.array([1.0, -1.0]), scale).to_event(1)
    agrees_with_numpyro(found, x)
    family, parameters = chosen(found)
    close(parameters.scale, scale[:, 0])
    mean, covariance = family.moments(parameters)
    close(mean, [[1.0, -1.0]] * 2)
    close(covariance[0], np.diag([2.0, 8.0]))
    assert likelihoods.lookup(peel(dist.Laplace(jnp.array([1.0, -1.0]), 1.0))) is None
