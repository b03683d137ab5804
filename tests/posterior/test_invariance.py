"""Whatever predicts does not know what components are called: the same under any renaming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesmix
from bayesmix.infer import predict
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.convert import gather
from bayesmix.posterior.draws import at_draws, average_log_density, replicate
from bayesmix.posterior.imputation import impute_draws
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests import fixed

COUNT = 16
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def turned(program, values, order):
    """Parameters with components in another order, (K,) or for each draw (S, K)."""
    if program is fixed.experts:  # the gate is the log odds of the second of two
        gate = np.where(order[..., 0] == 0, 1, -1) * values["gate"]
        others = {name: values[name] for name in ("slope", "mean")}
        return {"gate": gate, **_moved(others, order)}
    return _moved(values, order)


def _moved(values, order):
    if order.ndim == 1:
        return {name: value[order] for name, value in values.items()}
    draw = np.arange(len(order))[:, None]
    return {name: value[draw, order] for name, value in values.items()}


def some_draws(program, count=COUNT):
    """Draws about the parameters of the fit that keep to their supports; and one order for each."""
    rng = np.random.default_rng(0)
    fit = fixed.fit_of(program)
    draws = {}
    for name, value in fit.parameters.items():
        away = rng.uniform(0.9, 1.1, (count, *value.shape[:1], *([1] * (value.ndim - 1))))
        if name in ("share", "lower"):  # at most one; of unit length
            away = np.minimum(away, 1.0) if name == "share" else np.ones_like(away)
        draws[name] = value * away
    if "weights" in draws:
        draws["weights"] /= draws["weights"].sum(1, keepdims=True)
    size = fit.plan.reading.latents[0].size
    return draws, rng.permuted(np.tile(np.arange(size), (count, 1)), axis=1)


MIXTURES = [fixed.normal, fixed.bernoulli, fixed.experts, fixed.student]
PROGRAMS = pytest.mark.parametrize("program", MIXTURES, ids=lambda program: program.__name__)


@PROGRAMS
def test_log_likelihoods_and_averages_of_densities_are_the_same(program):
    """On the rows themselves, and on a grid of new rows; label probabilities follow the names."""
    fit, (draws, order) = fixed.fit_of(program), some_draws(program)
    other = turned(program, draws, order)
    args, _ = fit.arguments.call()
    grid = tuple(np.repeat(np.nan_to_num(np.asarray(a), nan=1.0), 3, 0) for a in args)
    for call in (fit.arguments, split(grid, {})):
        one, two = (
            at_draws(Problem(fit.plan, call), d, probabilities=True) for d in (draws, other)
        )
        close(two.log_likelihood, one.log_likelihood)
        close(two.log_prior, one.log_prior)
        averages = [average_log_density(found.log_likelihood) for found in (one, two)]
        close(*averages)
        (p,), (q,) = one.probabilities.values(), two.probabilities.values()
        close(q, np.take_along_axis(p, order[:, None], 2))
    assert np.abs(one.log_likelihood - one.log_likelihood[:1]).max() > 1e-3  # draws differ


@PROGRAMS
def test_data_drawn_for_the_same_rows_of_components_are_the_same(program):
    """With the same keys and labels that follow the names."""
    fit, (draws, order) = fixed.fit_of(program), some_draws(program)
    num_rows = len(fit.responsibilities())
    labels = np.random.default_rng(1).integers(0, order.shape[1], (COUNT, 1, num_rows))
    renamed = np.take_along_axis(np.argsort(order, 1)[:, None], labels, 2)
    key = jax.random.key(3)

    @jax.jit
    @jax.vmap
    def drawn(values, labels):
        return predict.draw_rows(Problem(fit.plan, fit.arguments), values, key, labels)

    one, two = drawn(draws, labels), drawn(turned(program, draws, order), renamed)
    for site in fit.plan.reading.observed:
        close(two[site.name], one[site.name])


METHODS = {
    "log_density": lambda fit: fit.log_density(),
    "outlier_scores": lambda fit: jnp.stack(fit.outlier_scores()),
    "impute": lambda fit: fit.impute(),
    "conditional_moments": lambda fit: fit.conditional_moments(),
    "moments": lambda fit: fit.moments(),
    "uncertainty": lambda fit: fit.uncertainty(),
}
OF_A_REGRESSION = {
    "predict_mean": lambda fit: fit.predict_mean(of="y"),
    "predict_mode": lambda fit: fit.predict_mode(of="y"),
    "predict_log_density": lambda fit: fit.predict_log_density(of="y", grid=np.linspace(-3, 3, 9)),
    "predict_interval": lambda fit: fit.predict_interval(of="y"),
}


@PROGRAMS
def test_what_a_fit_says_of_rows_is_the_same(program):
    fit = fixed.fit_of(program)
    size = fit.plan.reading.latents[0].size
    other = turned(program, fit.parameters, np.arange(size)[::-1])
    args, _ = fit.arguments.call()
    renamed = fixed.at(fit.plan, other, *args)
    methods = METHODS | (OF_A_REGRESSION if program is fixed.experts else {})
    for name, method in methods.items():
        one, two = (jax.tree.leaves(method(each)) for each in (fit, renamed))
        assert len(one) == len(two) > 0
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("program", [fixed.normal, fixed.bernoulli], ids=lambda p: p.__name__)
def test_data_drawn_anew_and_imputed_have_the_same_distribution(program):
    """Labels are drawn too, so that only moments can be compared: means and squares of every cell."""
    fit, (draws, order) = fixed.fit_of(program), some_draws(program, 4000)
    other = turned(program, draws, order)
    for draw in (replicate, impute_draws):
        one, two = (
            draw(fit.plan, fit.arguments, d, jax.random.key(seed))["x"].astype(float)
            for seed, d in enumerate((draws, other))
        )
        for power in (1, 2):
            error = np.sqrt((one**power).var(0) + (two**power).var(0)) / np.sqrt(len(one))
            assert (np.abs((one**power).mean(0) - (two**power).mean(0)) <= 4.5 * error).all()


def test_relabelling_leaves_what_predicts_alone():
    fit, (draws, order) = fixed.fit_of(fixed.normal), some_draws(fixed.normal)
    chains = {n: v[None] for n, v in turned(fixed.normal, draws, order).items()}
    idata = gather(
        fit.problem,
        chains,
        {},
        coords={},
        dims={},
        latents=True,
        posterior_predictive=True,
        rng_key=jax.random.key(0),
    )
    done = bayesmix.relabel(idata)
    for group in ("log_likelihood", "posterior_predictive", "imputed_data", "observed_data"):
        before, after = (arviz_compat.dataset(each, group) for each in (idata, done))
        assert before.identical(after), group
    posterior = arviz_compat.dataset(done, "posterior")
    renamed = {n: posterior[n].values.reshape(COUNT, *v.shape[2:]) for n, v in chains.items()}
    assert any(np.abs(renamed[n] - chains[n][0]).max() > 0.1 for n in renamed)  # some were renamed
    found = at_draws(Problem(fit.plan, fit.arguments), renamed).log_likelihood
    close(found, arviz_compat.dataset(done, "log_likelihood")["x"].values[0])
