"""Plans: what is found in each program of the battery, and that it does not depend on accidents."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix.program.arguments import compile_lightly, split
from bayesmix.program.conjugacy import maximise
from bayesmix.program.rows import weighted_statistics
from tests.checks import random_values
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


@pytest.mark.parametrize("name", CASES)
def test_blocks_and_labels(name):
    case, plan = CASES[name], plan_of(name)
    assert list(found(plan).items()) == list(case.blocks.items())
    assert plan.labels.axes == case.labels
    assert plan.labels.exchangeable == case.exchangeable
    assert plan.by_row == (name == "laplace")
    for block in plan.blocks:
        for site in block.sites:
            assert (plan.certificates[site][0] < 1) == (block.name != OPEN)


@pytest.mark.parametrize("name", CASES)
def test_the_text_explains_every_site(name):
    case, text = CASES[name], str(plan_of(name))
    for sites, conditional in case.blocks.items():
        assert ", ".join(sites) in text
        assert conditional in text
        if conditional == OPEN:
            assert f"why not closed form: {sites[0]}" in text


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("niw", ["x.mean = mean[z]", "x.covariance = covariance[z]"]),
        ("nig", ["x.mean = mean[z]", "x.covariance = diag(variance[z])"]),
        ("tied_niw", ["x.covariance = covariance\n"]),
        ("spherical", ["x.covariance = variance[z] I"]),
        ("tied_spherical", ["x.covariance = variance I"]),
        ("normal_wishart", ["x.covariance = inverse(precision[z])"]),
        ("gamma_precision", ["x.covariance = diag(1 / tau[z])"]),
        ("half_normal", ["x.covariance = diag(scale[z]^2)"]),
        ("known_covariance", ["x.covariance = fixed"]),
        ("deterministic", ["x.covariance = inverse(precision[z])"]),
        ("laplace", ["every M step visits all rows"]),
    ],
)
def test_the_text_shows_the_links(name, links):
    text = str(plan_of(name)) + "\n"
    for link in links:
        assert link in text, text


def test_swapping_the_values_of_a_bernoulli_is_seen_as_two_copies_of_each_mode():
    """A symmetric prior on the share: the posterior has 2! copies of every mode all the same."""
    assert "labels have a meaning of their own" not in str(plan_of("bernoulli"))


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


# ---------------------------------------------------------------- the certificate, by other means
@pytest.mark.parametrize("name", ["niw", "tied_niw", "nig", "gamma_precision", "deterministic"])
def test_every_closed_mode_is_a_maximum_of_the_brute_force_expectation(name):
    plan, x = plan_of(name), make_data(name)
    arguments = split((x, components_of(name)), {})
    blocks = plan.blocks_of_rows(arguments)
    weights = np.random.default_rng(0).dirichlet(np.ones(3), len(x)).T
    start = jax.tree.map(lambda v: v[0], random_values(plan, 1))

    def by_brute_force(values):
        """The expected log joint from the (K, N) table of every row: no statistics."""
        table = plan.log_joint_table(arguments, blocks, values)
        return jnp.sum(weights * table) + plan.log_prior(plan.evaluate(arguments, values))

    @compile_lightly
    def maxima(start):
        evaluation = plan.evaluate(arguments, start)
        told = weighted_statistics(plan.families, evaluation, blocks, weights)
        log_joint = plan.expected_log_joint(arguments, told)
        out = []
        for block in plan.blocks:
            start, proper = maximise(block, log_joint, start)
            out.append((proper, start))
        return out, log_joint(start)

    slope = compile_lightly(jax.value_and_grad(by_brute_force))
    found, height = maxima(start)
    np.testing.assert_allclose(height, slope(found[-1][1])[0], rtol=1e-11)
    for block, (proper, values) in zip(plan.blocks, found, strict=True):
        assert proper
        for site in block.sites:
            gradient = np.asarray(slope(values)[1][site])
            if site == "weights":
                gradient = gradient - gradient.mean()
            np.testing.assert_allclose(gradient, 0.0, atol=1e-7, err_msg=site)
