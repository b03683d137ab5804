"""Marginal mixtures are read as the same programs with their latents spelled out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import EM, ConjugateGibbs, ProgramError
from bayesmix.families.indexing import indexed, picked
from bayesmix.posterior.draws import replicate
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.checks import random_values

N, K = 30, 3
RNG = np.random.default_rng(5)
X = np.array([-4.0, 0.0, 5.0])[RNG.integers(0, K, N)] + RNG.normal(size=N)
WITH_HOLES = np.where(np.arange(N) % 7 == 3, np.nan, X)
PAIRS = np.stack([X, RNG.normal(size=N) - X], axis=1)
COUNTS = RNG.poisson(4.0, N) * (RNG.uniform(size=N) > 0.4)
SEEN = np.arange(N) % 5 > 0


def parameters():
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    return weights, mean, jnp.sqrt(variance)


def spelled(x, seen=True):
    weights, mean, scale = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.mask(mask=seen):
            numpyro.sample("x", dist.Normal(mean[z], scale[z]), obs=x)


def one_family(x, seen=True):
    weights, mean, scale = parameters()
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mean, scale))
    with numpyro.plate("rows", len(x)), handlers.mask(mask=seen):
        numpyro.sample("x", mixture, obs=x)


def a_list(x, seen=True):
    weights, mean, scale = parameters()
    each = [dist.Normal(mean[k], scale[k]) for k in range(K)]
    mixture = dist.Mixture(dist.Categorical(logits=jnp.log(weights)), each)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture.mask(seen), obs=x)


@pytest.mark.parametrize("program", [one_family, a_list])
@pytest.mark.parametrize("arguments", [(WITH_HOLES,), (X, SEEN)], ids=["missing", "masked"])
def test_the_plan_is_that_of_the_spelled_out_program(program, arguments):
    twin, plan = bayesmix.plan(spelled, *arguments), bayesmix.plan(program, *arguments)
    assert [(b.sites, b.name) for b in plan.blocks] == [(b.sites, b.name) for b in twin.blocks]
    assert plan.families == twin.families and plan.by_row == twin.by_row
    assert plan.labels.axes == twin.labels.axes and plan.labels.exchangeable
    assert [latent.name for latent in plan.reading.latents] == ["x_component"]
    assert "opened: its component is latent 'x_component'" in str(plan)
    values = {name: value[0] for name, value in random_values(plan, 1).items()}
    own, other = (
        Problem(
            p, split(arguments, {}), Problem(p, split(arguments, {})).with_rows().blocks
        ).log_likelihood(values)
        for p in (plan, twin)
    )
    np.testing.assert_allclose(own, other, rtol=1e-12)


def test_engines_give_what_they_give_of_the_spelled_out_program():
    start = {"mean": np.array([-3.0, 1.0, 4.0]), "variance": np.ones(K), "weights": np.ones(K) / K}
    fits, draws, slopes = [], [], []
    for program in (spelled, one_family):
        plan = bayesmix.plan(program, X)
        fits.append(EM(plan, progress_bar=False).run(0, X, init=start))
        kernel = ConjugateGibbs(plan)
        mcmc = numpyro.infer.MCMC(kernel, num_warmup=2, num_samples=5, progress_bar=False)
        mcmc.run(jax.random.key(1), X)
        draws.append(mcmc.get_samples()["mean"])
        marginal = bayesmix.marginalize(plan)
        at = lambda values, marginal=marginal: log_density(marginal, (X,), {}, values)[0]
        slopes.append(jax.grad(at)({name: jnp.asarray(v) for name, v in start.items()}))
    np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-10)
    np.testing.assert_allclose(
        fits[0].responsibilities(), fits[1].responsibilities(), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-8)
    for site, slope in slopes[0].items():
        np.testing.assert_allclose(slope, slopes[1][site], rtol=1e-8)


def rates(count):
    return numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([count]).to_event(1))


def with_supports(x):
    weights, mean, scale = parameters()
    parts = [dist.Normal(mean[0], scale[0]), dist.Exponential(2.0), dist.Normal(mean[2], scale[2])]
    mixture = dist.MixtureGeneral(dist.Categorical(weights), parts, support=dist.constraints.real)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture, obs=x)


def vectors_of_two_families(x):
    weights, mean, scale = parameters()
    parts = [dist.Normal(mean[:2], scale[0]), dist.StudentT(4.0, mean[1:], scale[1])]
    parts = [part.to_event(1) for part in parts]
    with numpyro.plate("rows", len(x)):
        numpyro.sample(
            "x", dist.Mixture(dist.Categorical(logits=jnp.log(weights[:2])), parts), obs=x
        )


def multivariate(x):
    weights, mean, scale = parameters()
    spread = scale[:, None, None] * jnp.eye(2)
    parts = dist.MultivariateNormal(jnp.stack([mean, -mean], -1), scale_tril=spread)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


def experts(x):
    weights, mean, scale = parameters()
    covariate = jnp.nan_to_num(x)[:, None] / 4
    gates = dist.Categorical(logits=jnp.log(weights) + covariate * jnp.arange(K))
    with numpyro.plate("rows", len(x)):
        parts = dist.Normal(mean * covariate, scale)
        numpyro.sample("x", dist.MixtureSameFamily(gates, parts), obs=x)


def zeros(x):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    zeros = dist.ZeroInflatedPoisson(gate, rates(1)[0])
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", zeros, obs=x)


def zeros_by_logits(x):
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0))
    counts = dist.Binomial(20, logits=numpyro.sample("logits", dist.Normal(0.0, 1.0)))
    zeros = dist.ZeroInflatedDistribution(counts, gate_logits=gate)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", zeros, obs=x)


def nested(x):
    weights, rate = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2))), rates(2)
    counts = dist.MixtureSameFamily(dist.Categorical(weights), dist.Poisson(rate))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.ZeroInflatedDistribution(counts, gate=weights[0] / 3), obs=x)


def columns_of_a_plate(x):
    weights, mean, scale = parameters()
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mean, scale))
    with numpyro.plate("rows", len(x), dim=-2), numpyro.plate("columns", 2, dim=-1):
        numpyro.sample("x", mixture, obs=x)


def columns_of_an_event(x):
    weights, mean, scale = parameters()
    parts = dist.Normal(mean + jnp.arange(2)[:, None], scale)
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), parts)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture.to_event(1), obs=x)


def beside_a_latent(x):
    weights, mean, scale = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        parts = dist.Normal(mean + z[..., None], scale)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


FAMILIES = {
    with_supports: (X, "one of independent normal columns, exponential columns"),
    vectors_of_two_families: (
        PAIRS,
        "one of independent normal columns, independent Student-t columns",
    ),
    multivariate: (PAIRS, "multivariate normal"),
    experts: (WITH_HOLES, None),
    zeros: (COUNTS, "one of Poisson columns, one value"),
    zeros_by_logits: (COUNTS, "one of binomial columns, one value"),
    nested: (COUNTS, "one of Poisson columns, one value"),
    columns_of_a_plate: (PAIRS, "independent normal columns"),
    columns_of_an_event: (PAIRS, "independent normal columns"),
    beside_a_latent: (X, "independent normal columns"),
}
LATENTS = {
    nested: ["x_component", "x_component_2"],
    columns_of_a_plate: ["x_0_component", "x_1_component"],
    columns_of_an_event: ["x_0_component", "x_1_component"],
    beside_a_latent: ["z", "x_component"],
}


@pytest.mark.parametrize("program", FAMILIES, ids=lambda program: program.__name__)
def test_rows_have_the_density_that_numpyro_gives_them(program):
    x, family = FAMILIES[program]
    plan = bayesmix.plan(program, x)
    found = {None if each is None else each.name for each in plan.families.values()}
    assert found == {family}
    names = [latent.name for latent in plan.reading.latents]
    assert names == LATENTS.get(program, ["x_component"])
    values = {name: value[0] for name, value in random_values(plan, 2).items()}
    there = np.flatnonzero(~np.isnan(x).reshape(N, -1).any(axis=1))
    own = Problem(
        plan, split((x,), {}), Problem(plan, split((x,), {})).with_rows().blocks
    ).log_likelihood(values)
    labels = [{"z": jnp.full(N, z)} for z in (0, 1)] if "z" in names else [{}]
    with numpyro.validation_enabled(False):
        heights = [_by_row(program, x, {**values, **label}) for label in labels]
    whole = jnp.sum(jax.nn.logsumexp(jnp.stack(heights), axis=0)[there])
    np.testing.assert_allclose(own, whole, rtol=1e-10)


def _by_row(program, x, values):
    """The log density of each row, of NumPyro's own trace."""
    sites = handlers.trace(handlers.substitute(program, values)).get_trace(x)
    found = sites["x"]["fn"].log_prob(jnp.nan_to_num(x)).reshape(N, -1).sum(axis=1)
    return found + (sites["z"]["fn"].log_prob(values["z"]) if "z" in sites else 0.0)


def test_replicated_data_come_from_the_marginal():
    plan = bayesmix.plan(zeros, COUNTS)
    draws = {"gate": np.full(400, 0.3), "rate": np.full((400, 1), 5.0)}
    found = replicate(Problem(plan, split((COUNTS,), {})), draws, jax.random.key(0))["x"]
    share = 0.3 + 0.7 * np.exp(-5.0)
    assert abs(np.mean(found == 0) - share) < 4 * np.sqrt(share / found.size)
    plan = bayesmix.plan(columns_of_an_event, PAIRS)
    draws = {"weights": np.tile([0.2, 0.0, 0.8], (400, 1)), "variance": np.ones((400, K))}
    draws["mean"] = np.tile([-2.0, 0.0, 3.0], (400, 1))
    found = replicate(Problem(plan, split((PAIRS,), {})), draws, jax.random.key(1))
    for column in (0, 1):
        error = found[f"x_{column}"].mean() - (2.0 + column)
        assert abs(error) < 4 * np.sqrt(5.0 / (400 * N))


def test_labels_that_are_known_are_given_by_condition():
    known = np.where(np.arange(N) < 10, np.arange(N) % K, np.nan)
    twin = EM(handlers.condition(spelled, {"z": known}), progress_bar=False)
    own = EM(handlers.condition(one_family, {"x_component": known}), progress_bar=False)
    start = {"mean": np.array([-3.0, 1.0, 4.0]), "variance": np.ones(K), "weights": np.ones(K) / K}
    fits = [em.run(0, X, init=start) for em in (twin, own)]
    np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-10)


def prior_and_data(x):
    bumps = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(jnp.array([-3.0, 3.0]), 1.0)
    )
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(2)))
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", bumps)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_a_mixture_that_is_no_data_stays_a_prior():
    told = handlers.condition(prior_and_data, {"mean": np.array([-3.0, 2.5])})
    for program, roles in ((prior_and_data, ["weights", "mean"]), (told, ["weights"])):
        plan = bayesmix.plan(program, X)
        assert [site.name for site in plan.reading.parameters] == roles
        assert [latent.name for latent in plan.reading.latents] == ["z"]
        assert "opened" not in str(plan)


def out_of_plates(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    parts = dist.Normal(mean, jnp.ones((len(x), 2)))
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), parts), obs=x)


class Scaled(dist.Normal):
    """Its density uses what its parameters do not tell."""

    def __init__(self, loc, factor):
        super().__init__(loc, 1.0)
        self.factor = factor

    def log_prob(self, value):
        return super().log_prob(value / self.factor) - jnp.log(self.factor)


def of_unknown_parts(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        parts = Scaled(mean, 2.0)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), parts), obs=x)


def test_what_cannot_be_opened_is_said():
    with pytest.raises(ProgramError, match="no plate of rows"):
        bayesmix.plan(out_of_plates, X)
    plan = bayesmix.plan(of_unknown_parts, X)
    assert not plan.reading.latents
    assert "'x' is a mixture that stays summed out, without labels: its components" in str(plan)
    values = {"mean": jnp.array([-1.0, 2.0])}
    given = log_density(bayesmix.marginalize(plan), (X,), {}, values)[0]
    whole = log_density(of_unknown_parts, (X,), {}, values)[0]
    np.testing.assert_allclose(given, whole, rtol=1e-12)


SPREAD = np.array([[1.0, 0.4], [0.4, 2.0]])
# what is by component has a first axis of three
PARTS = {
    "StudentT": {"df": [2.0, 3.0, 9.0], "loc": [0.0, 1.0, 2.0], "scale": 1.5},
    "Beta": {"concentration1": [1.0, 2.0, 3.0], "concentration0": 2.0},
    "BetaBinomial": {"concentration1": 2.0, "concentration0": [1.0, 2.0, 3.0], "total_count": 9},
    "InverseGamma": {"concentration": [1.0, 2.0, 3.0], "rate": 2.0},
    "Pareto": {"scale": [0.1, 0.2, 0.3], "alpha": [1.0, 2.0, 3.0]},
    "NegativeBinomial2": {"mean": [1.0, 2.0, 3.0], "concentration": 2.0},
    "Uniform": {"low": [-1.0, -2.0, -3.0], "high": [4.0, 5.0, 6.0]},
    "Multinomial": {"total_count": 4, "probs": [[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]},
    "DirichletMultinomial": {"concentration": [[1, 2], [2, 2], [3, 1]], "total_count": 4},
    "MultivariateNormal": {"loc": np.eye(3, 2), "covariance_matrix": SPREAD},
    "MultivariateStudentT": {
        "df": 4.0,
        "loc": np.eye(3, 2),
        "scale_tril": np.linalg.cholesky(SPREAD),
    },
    "LowRankMultivariateNormal": {
        "loc": np.eye(3, 2),
        "cov_factor": np.ones((2, 1)),
        "cov_diag": np.ones((3, 2)),
    },
    "OrderedLogistic": {"predictor": [0.0, 1.0, 2.0], "cutpoints": np.array([0.0, 1.0])},
}


@pytest.mark.parametrize("name", PARTS)
def test_parameters_by_component_are_indexed(name):
    kind = getattr(dist, name)
    given = {p: v if np.isscalar(v) else jnp.asarray(v) for p, v in PARTS[name].items()}
    by_component = [p for p, v in given.items() if np.ndim(v) and len(v) == 3]
    whole = kind(**given)
    each = [kind(**given | {p: given[p][k] for p in by_component}) for k in range(3)]
    value = whole.support.feasible_like(jnp.zeros(whole.shape()))[:1]
    labels = jnp.array([2, 0, 1, 2])
    expected = whole.log_prob(value)[labels]
    for fns in ([whole], each):
        chosen = indexed(picked(labels), fns)
        assert type(chosen) is type(whole) and chosen.batch_shape == (4,)
        np.testing.assert_allclose(chosen.log_prob(value), expected, rtol=1e-12)
    rows = kind(**given).expand([5, 3])  # by row as well
    chosen = indexed(picked(jnp.array([0, 2, 1, 1, 0])), [rows])
    np.testing.assert_allclose(
        chosen.log_prob(value[:1])[1:3], whole.log_prob(value)[jnp.array([2, 1])]
    )
