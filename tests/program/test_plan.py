"""Plans do not depend on accidents: spelling, units, precision. What is found in each program of the
battery is in test_battery.py."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix.program.arguments import split
from bayesmix.program.probe import few_rows
from tests.programs import (
    CASES,
    OPEN,
    SPELLINGS,
    components_of,
    make_data,
    plan_of,
    spelled,
    weights_of,
)


def found(plan):
    return {block.sites: block.name for block in plan.blocks}


@pytest.fixture(scope="module")
def spellings():
    return {n: bayesmix.plan(spelled(p), make_data("niw"), 3) for n, p in SPELLINGS.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_equal_spellings_give_equal_plans(spellings, spelling):
    plan, first = spellings[spelling], spellings["index"]
    assert plan.blocks == first.blocks
    assert plan.labels == first.labels
    assert plan.links == first.links
    assert plan.families == first.families
    assert found(plan) == {("weights",): "Dirichlet", ("mean",): "normal", ("tau",): "gamma"}


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1.0, 5e4), (1e-6, 0.0)])
def test_the_units_of_the_data_change_nothing(scale, offset):
    x = scale * make_data("niw") + offset
    plan = bayesmix.plan(CASES["niw"].program, x, 3)
    assert found(plan) == CASES["niw"].blocks
    assert plan.labels == plan_of("niw").labels


@pytest.mark.parametrize("copies", [1, 3, 40])
def test_a_plan_looks_at_the_rows_of_a_call_that_has_more_or_fewer(copies):
    plan = plan_of("niw")
    arguments = split((np.tile(make_data("niw")[:20], (copies, 1)), 3), {})
    few, reading, observed = few_rows(
        plan.program, arguments, plan.reading, plan.observe(arguments)
    )
    assert observed.num_rows == reading.rows.size == few.arrays[0].shape[0] <= 20 * copies
    assert reading.num_components == 3


def test_vague_priors_in_large_units_are_recognised():
    def program(x, K):
        weights = weights_of(K)
        prior = dist.InverseWishart(4.0, 1e12 * jnp.eye(2))
        with numpyro.plate("component", K):
            covariance = numpyro.sample("covariance", prior)
            centre = dist.MultivariateNormal(5e7 * jnp.ones(2), covariance / 0.01)
            mean = numpyro.sample("mean", centre)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)

    plan = bayesmix.plan(program, 1e6 * make_data("niw") + 5e7, 3)
    assert found(plan) == CASES["niw"].blocks


@pytest.mark.parametrize("name", ["niw", "half_normal"])
def test_single_precision_gives_the_same_plan(name):
    with jax.enable_x64(False):
        x = make_data(name).astype(np.float32)
        plan = bayesmix.plan(CASES[name].program, x, components_of(name))
    assert plan.blocks == plan_of(name).blocks
    assert plan.labels == plan_of(name).labels
    assert plan.links == plan_of(name).links


NOT_CONJUGATE = {
    "half_cauchy": lambda: numpyro.sample("scale", dist.HalfCauchy(1.0)),
    "log_normal": lambda: numpyro.sample("scale", dist.LogNormal(0.0, 1.0)),
    "uniform": lambda: numpyro.sample("scale", dist.Uniform(0.1, 5.0)),
    "gamma": lambda: numpyro.sample("scale", dist.Gamma(2.0, 1.0)),
}


@pytest.mark.parametrize("prior", NOT_CONJUGATE)
def test_a_scale_without_a_conjugate_prior_is_said_to_have_none(prior):
    def program(x, K):
        weights = weights_of(K)
        with numpyro.plate("component", K):
            mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        scale = NOT_CONJUGATE[prior]()
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(mean[z], scale), obs=x)

    plan = bayesmix.plan(program, make_data("scalar"), 3)
    assert found(plan)[("scale",)] == OPEN
    assert found(plan)[("mean",)] == "normal"
    text = str(plan)
    why = text[text.index("why not closed form: scale") :].splitlines()[0]
    assert why.endswith("is not conjugate") or "no conjugate form" in why
    # what departs from a form is the prior, but a gamma's fits and then the likelihood does not
    assert ("prior of scale" in why) or ("likelihood of x" in why) or ("support" in why)
