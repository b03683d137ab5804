"""A true status is true: fits reach the mode from far away, and where they do not, they say so."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import bayesmix
from bayesmix import EM, Status, zoo
from bayesmix.infer.climb import Newton, climb
from bayesmix.infer.last_look import unsteady_row
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem

RNG = np.random.default_rng(5)


def mixture(component):
    """A program with two components: `component(unit)` samples their sites in the plate of components,
    and gives the distribution of the rows at labels z."""

    def program(x, unit):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
        with numpyro.plate("component", 2):
            of = component(unit)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", of(z), obs=x)

    return program


def gammas(unit):
    shape = numpyro.sample("shape", dist.LogNormal(1.0, 1.5))
    mean = numpyro.sample("mean", dist.LogNormal(jnp.log(unit), 2.0))
    return lambda z: dist.Gamma(shape[z], shape[z] / mean[z])


def poissons(unit):
    rate = numpyro.sample("rate", dist.LogNormal(jnp.log(unit), 2.0))
    return lambda z: dist.Poisson(rate[z])


def angles(unit):
    direction = numpyro.sample("direction", dist.VonMises(0.0, 0.1))
    concentration = numpyro.sample("concentration", dist.LogNormal(1.0, 1.0))
    return lambda z: dist.VonMises(direction[z], concentration[z])


def laplaces(unit):
    place = numpyro.sample("place", dist.Cauchy(0.0, 10 * unit))
    scale = numpyro.sample("scale", dist.LogNormal(jnp.log(unit), 2.0))
    return lambda z: dist.Laplace(place[z], scale[z])


def halves(low, high):
    return np.concatenate([low, high])


@cache
def at(component, unit):
    """A program, its rows in a unit, and the truth."""
    rng = np.random.default_rng(1)
    if component is gammas:
        rows = halves(rng.gamma(4, 1 / 4, 60), rng.gamma(20, 5 / 20, 60))
        truth = {"shape": [4.0, 20.0], "mean": [unit, 5 * unit]}
    elif component is poissons:
        x = halves(rng.poisson(unit, 50), rng.poisson(2 * unit, 50))
        return mixture(poissons), x, {"rate": [unit, 2 * unit]}
    elif component is angles:
        rows = halves(rng.vonmises(np.pi, 8, 80), rng.vonmises(0.5, 4, 80))
        truth = {"direction": [3.1, 0.5], "concentration": [8.0, 4.0]}
    else:
        rows = halves(rng.laplace(0, 1, 60), rng.laplace(12, 0.5, 60))
        truth = {"place": [0.0, 12 * unit], "scale": [unit, unit / 2]}
    return mixture(component), unit * rows, truth


@pytest.mark.parametrize(
    ("component", "unit"),
    [(poissons, 3000.0), (angles, 1.0), (laplaces, 1e-6), (gammas, 1.0), (gammas, 1e6)],
)
def test_every_start_of_a_climbed_site_reaches_the_mode(component, unit):
    program, x, truth = at(component, unit)
    em = EM(program, progress_bar=False)
    fit = em.run(0, x, unit, restarts=3)
    init = {"weights": [0.5, 0.5], **truth}
    near = em.run(0, x, unit, init={name: np.array(value) for name, value in init.items()})
    assert fit.status is Status.CONVERGED and near.status is Status.CONVERGED
    np.testing.assert_allclose(fit.restart_objectives, near.objective[-1], rtol=1e-6, atol=1e-3)
    if component is gammas:  # in other units the same rows belong together
        other, rows, _ = at(component, 1.0)
        plain = EM(other, progress_bar=False).run(0, rows, 1.0, restarts=3)
        np.testing.assert_allclose(
            np.sort(fit.parameters["mean"]) / unit, np.sort(plain.parameters["mean"]), rtol=1e-4
        )


def test_covariates_of_a_log_link_may_be_in_the_thousands():
    dose = RNG.uniform(0, 1000, 150)
    first = RNG.uniform(size=150) < 0.5
    y = RNG.poisson(np.exp(np.where(first, 1 + 0.004 * dose, 3 - 0.002 * dose)))

    def program(dose, y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
        with numpyro.plate("component", 2):
            level = numpyro.sample("level", dist.Normal(0.0, 5.0))
            slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.Poisson(jnp.exp(level[z] + slope[z] * dose)), obs=y)

    fit = EM(program, progress_bar=False).run(0, dose, y, restarts=2)
    assert fit.status is Status.CONVERGED
    np.testing.assert_allclose(np.sort(fit.parameters["slope"]), [-0.002, 0.004], atol=5e-4)


def ordered(x, K, positive=False):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    base = dist.Normal(0.0, 10.0).expand([K]).to_event(1)
    mean = numpyro.sample(
        "mean", dist.TransformedDistribution(base, dist.transforms.OrderedTransform())
    )
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


X = np.concatenate([RNG.normal(6 * k, 1, 40) for k in range(3)])


def test_components_in_order_start_in_order_and_apart():
    fit = EM(ordered, progress_bar=False).run(0, X, 3, restarts=4)
    assert all(fit.restart_statuses)
    np.testing.assert_allclose(fit.restart_parameters["mean"] - 6.0 * np.arange(3), 0.0, atol=0.6)


def test_components_that_have_become_the_same_are_no_answer():
    mean = np.array([0.0, 9.0, 9.0 + 1e-13])
    fit = EM(ordered, progress_bar=False).run(0, X, 3, init={"mean": mean})
    assert fit.status is Status.COMPONENTS_COINCIDE and not fit.status


def test_a_component_no_wider_than_rounding_is_no_answer():
    """Two rows define a line; its scale goes to zero under a prior that does not forbid it."""
    u = np.concatenate([np.linspace(0, 10, 30), [2.0, 4.0]])
    y = np.concatenate([1 + 2 * u[:30] + RNG.normal(size=30), [60.0, 50.0]])

    def lines(u, y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("component", 2):
            line = numpyro.sample("line", dist.Normal(0, 100.0).expand([2]).to_event(1))
            scale = numpyro.sample("scale", dist.HalfNormal(5.0))
        with numpyro.plate("rows", len(u)):
            z = numpyro.sample("z", dist.Categorical(weights))
            centre = line[z][..., 0] + line[z][..., 1] * u
            numpyro.sample("y", dist.Normal(centre, scale[z]), obs=y)

    init = {
        "weights": np.array([0.9, 0.1]),
        "line": np.array([[1.0, 2.0], [70.0, -5.0]]),
        "scale": np.array([1.0, 0.01]),
    }
    fit = EM(lines, progress_bar=False).run(0, u, y, init=init)
    assert fit.status is Status.COVARIANCE_SINGULAR
    sound = {**fit.parameters, "scale": np.array([1.0, 0.01])}
    arguments = split((u, y), {})
    blocks = Problem(fit.plan, arguments).with_rows().blocks
    told = {name: jnp.asarray(value) for name, value in sound.items()}
    assert not unsteady_row(Problem(fit.plan, arguments, blocks), told)


def test_a_share_at_the_end_of_its_support_is_said_with_its_site():
    y = halves(np.zeros(50), RNG.binomial(20, 0.6, 50))

    def program(y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
        share = numpyro.sample("share", dist.Beta(0.5, 0.5).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.Binomial(20, share[z]), obs=y)

    fit = EM(program, progress_bar=False).run(0, y, restarts=2)
    assert fit.status is Status.AT_BOUNDARY and fit.status_sites == ("share",)
    assert "share" in str(fit)
    assert np.min(fit.parameters["share"]) < 1e-12


def test_a_row_without_any_value_is_no_symmetric_start():
    x = np.concatenate([RNG.normal(0, 1, (40, 2)), RNG.normal(12, 1, (40, 2)), [[np.nan] * 2]])
    fit = EM(zoo.gaussian_mixture, progress_bar=False).run(0, x, K=2)
    assert fit.status is Status.CONVERGED and np.ptp(fit.parameters["mean"]) > 10


def test_a_climb_says_what_was_promised():
    """At a corner nothing can be gained; where there is no slope, nothing is known."""
    corner = lambda at: jnp.sum(jnp.abs(at - 1.0))
    ended = Newton().climb(corner, jnp.array([1.0 + 1e-17, 4.0]))
    np.testing.assert_allclose(ended.point, 1.0, atol=1e-9)
    assert Newton().climb(corner, ended.point).promised <= 1e-9
    blind = lambda at: jnp.sum(jnp.where(at > 0, jnp.nan, 0.0) * at)
    assert Newton().climb(blind, jnp.array([1.0])).promised == np.inf
    (site,) = bayesmix.plan(mixture(poissons), np.arange(9), 3.0).reading.parameters[1:]
    # a climber that stays where it is has not arrived
    lazy = lambda loss, start: start
    density = lambda values: -jnp.sum((values["rate"] - 40.0) ** 2)
    values, promised, _ = climb((site,), density, {"rate": jnp.ones(2)}, lazy)
    np.testing.assert_array_equal(values["rate"], 1.0)
    assert promised > 1.0


def test_a_climber_that_stays_where_it_is_does_not_converge():
    program, x, _ = at(poissons, 3000.0)
    lazy = bayesmix.m_steps.Climb(climber=stay)
    fit = EM(program, m_step=lazy, progress_bar=False).run(0, x, 3000.0)
    assert fit.status is Status.CLIMB_STUCK


def stay(loss, start):
    """No climber."""
    return start


def test_draws_that_are_no_numbers_are_an_error():
    def program(x, factor):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        mean = numpyro.sample("mean", dist.Normal(0, 10.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(mean[z] * factor, 1.0), obs=x)

    plan = bayesmix.plan(program, X, 1.0)
    init = {"weights": jnp.array([0.5, 0.5]), "mean": jnp.array([0.0, 6.0])}
    run = MCMC(bayesmix.ConjugateGibbs(plan), num_warmup=1, num_samples=2, progress_bar=False)
    with pytest.raises(bayesmix.ProgramError, match="NaN"):
        run.run(jax.random.key(0), X, np.nan, init_params=init)
