"""Parameters that are pytrees: taken apart for the engines, put back for the program."""

import builtins

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.module import eqx_module, random_eqx_module
from numpyro.handlers import seed, substitute
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import EM, marginalize, zoo
from bayesmix.program.modules import ArrayParameters, site_values

X = np.linspace(-1.0, 1.0, 40)
Y = np.where(np.arange(40) % 2, X, -X) + 0.05 * np.sin(37.0 * X)
SCALE = [0.3, 0.4]
SLOPES = {"slope": np.array([-0.5, 0.8]), "shift": {"first": np.array([0.1, -0.1])}}


def lines(x, y):
    """Two lines whose parameters are one pytree, asked for before it is given as flax.nnx does."""
    numpyro.param("lines")
    line = numpyro.param("lines", jax.tree.map(jnp.asarray, SLOPES))
    scale = numpyro.param("scale", jnp.array(SCALE), constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        mean = line["shift"]["first"][z] + line["slope"][z] * x
        numpyro.sample("y", dist.Normal(mean, scale[z]), obs=y)


def network(x, y, prior=None):
    """A network's mean with a scale that is told."""
    module = eqx.nn.MLP(1, 2, 3, 1, jnp.tanh, key=numpyro.prng_key())
    net = eqx_module("net", module) if prior is None else random_eqx_module("net", module, prior)
    mean = jax.vmap(net)(x[:, None])
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)))
        numpyro.sample("y", dist.Normal(mean[jnp.arange(len(y)), z], 0.2), obs=y)


def network_density(mean, y):
    return np.sum(np.log(np.mean(np.exp(-0.5 * ((y[:, None] - mean) / 0.2) ** 2), axis=1)))


def test_a_pytree_is_several_parameters_named_by_their_paths():
    plan = bayesmix.plan(lines, X, Y)
    names = [site.name for site in plan.reading.parameters]
    assert names == ["lines.shift.first", "lines.slope", "scale"]
    assert {b.sites: b.name for b in plan.blocks}["lines.slope",] == "normal"
    assert plan.labels.axes == {"lines.shift.first": 0, "lines.slope": 0, "scale": 0}


def test_the_values_go_back_into_the_program():
    fit = EM(lines, progress_bar=False).run(0, X, Y)
    assert fit.status
    assert sorted(np.abs(fit.parameters["lines.slope"]).round(1)) == [1.0, 1.0]
    put_back = substitute(seed(lines, 0), data=fit.site_values)
    assert set(fit.site_values) == {"lines", "scale"}
    # with the latent told, the program's own density is the table's
    told = {"z": fit.labels()}
    value, _ = log_density(put_back, (X, Y), {}, told)
    table = fit.log_joint_table()
    assert float(value) == pytest.approx(table[np.arange(40), fit.labels()].sum(), rel=1e-10)


def test_em_starts_from_the_programs_own_values():
    fit = EM(lines, progress_bar=False, max_steps=1).run(0, X, Y)
    mean = SLOPES["shift"]["first"] + SLOPES["slope"] * X[:, None]
    density = np.exp(-0.5 * ((Y[:, None] - mean) / SCALE) ** 2) / SCALE / np.sqrt(8 * np.pi)
    assert fit.objective[0] == pytest.approx(np.log(density.sum(axis=1)).sum(), rel=1e-10)


def alike(x):
    """Initial values that tell no component from another."""
    mean = numpyro.param("mean", jnp.zeros(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_initial_values_that_are_alike_are_left_for_those_of_the_data():
    x = np.r_[np.linspace(-6, -5, 20), np.linspace(5, 6, 20)]
    fit = EM(alike, progress_bar=False).run(0, x)
    assert fit.status
    np.testing.assert_allclose(np.sort(fit.parameters["mean"]), [-5.5, 5.5], atol=1e-3)


def outside(x):
    """An initial value that is not in its support."""
    scale = numpyro.param("scale", jnp.zeros(()), constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(0.0, scale), obs=x)


def test_an_initial_value_outside_its_support_is_said_in_a_sentence():
    with pytest.raises(bayesmix.ProgramError, match="'scale' is outside its support"):
        EM(outside, progress_bar=False).run(0, X)


def test_em_goes_on_from_the_values_that_were_put_back():
    em = EM(lines, progress_bar=False)
    fit = em.run(0, X, Y)
    again = em.run(0, X, Y, init=fit.site_values)
    assert again.objective[0] == pytest.approx(fit.objective[-1], rel=1e-10)
    with pytest.raises(
        bayesmix.ProgramError, match=r"'lines' .* lines\.shift\.first, lines\.slope"
    ):
        em.run(0, X, Y, init={"lines": {"slope": np.zeros(2)}})


def test_a_network_starts_from_its_initialiser_anew_for_each_start():
    em = EM(network, progress_bar=False, max_steps=1, tolerance=1e9)
    fit = em.run(0, X, Y, restarts=3)
    keys = random.split(random.key(0), 3)  # what the program's numpyro.prng_key() is made from
    drawn = [numpyro.handlers.trace(seed(network, key)).get_trace(X, Y) for key in keys]
    heights = []
    for sites in drawn:
        module = eqx.nn.MLP(1, 2, 3, 1, jnp.tanh, key=random.key(0))
        module = eqx.combine(sites["net$params"]["value"], module)
        mean = np.asarray(jax.vmap(module)(X[:, None]))
        heights.append(network_density(mean, Y) - 40 * np.log(0.2 * np.sqrt(2 * np.pi)))
    assert len(set(np.round(heights, 6))) == 3
    assert min(abs(fit.objective[0] - height) for height in heights) < 1e-6


def test_the_fit_of_a_network_is_a_network():
    fit = EM(network, progress_bar=False, max_steps=100, tolerance=1e-6).run(1, X, Y, restarts=4)
    trained = eqx.combine(
        fit.site_values["net$params"], eqx.nn.MLP(1, 2, 3, 1, jnp.tanh, key=random.key(0))
    )
    mean = np.asarray(jax.vmap(trained)(X[:, None]))
    expected = network_density(mean, Y) - 40 * np.log(0.2 * np.sqrt(2 * np.pi))
    assert fit.log_density().sum() == pytest.approx(expected, rel=1e-8)
    np.testing.assert_allclose(fit.prototypes()["y"][:, :, 0].T, mean, rtol=1e-8)
    assert np.abs(np.sort(mean[[0, -1]], axis=1) - [-1.0, 1.0]).max() < 0.2


def test_initial_weights_that_a_prior_replaces_are_no_parameters():
    plan = bayesmix.plan(network, X, Y, dist.Normal(0.0, 2.0))
    names = {site.name for site in plan.reading.parameters}
    assert names == {f"net/layers[{i}].{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert len(plan.program.idle) == 4


def test_nuts_draws_the_weights_of_a_network_with_a_prior():
    prior = dist.Normal(0.0, 2.0)
    mcmc = MCMC(
        NUTS(marginalize(network), max_tree_depth=3),
        num_warmup=30,
        num_samples=30,
        progress_bar=False,
    )
    mcmc.run(random.key(0), X, Y, prior)
    draws = mcmc.get_samples()
    assert draws["net/layers[0].weight"].shape == (30, 3, 1)
    assert np.ptp(draws["net/layers[1].bias"], axis=0).min() > 0


def test_svi_optimises_the_weights_of_a_network():
    program = marginalize(network)
    svi = SVI(program, AutoDelta(program), numpyro.optim.Adam(0.03), Trace_ELBO())
    found = svi.run(random.key(0), 300, X, Y, progress_bar=False)
    assert {f"net$params.layers.{i}.weight" for i in (0, 1)} < set(found.params)
    assert float(found.losses[-1]) < float(found.losses[0]) - 10
    weights = site_values(program.plan(X, Y).program, found.params)["net$params"]
    assert weights.layers[0].weight.shape == (3, 1)


def test_a_program_taken_apart_can_be_taken_apart_again():
    plan = bayesmix.plan(ArrayParameters(lines), X, Y)
    assert "lines.slope" in plan.reading.parameter_names
    flat = bayesmix.plan(bayesmix.without_priors(network), X, Y)
    assert "net$params.layers.1.bias" in flat.reading.parameter_names


def test_a_mixture_density_network_without_equinox_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "equinox":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install equinox"):
        zoo.mixture_density_network(X[:, None], Y, 2)
