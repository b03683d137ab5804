"""Rows that are incomplete, weighed, labelled or told, all at once, against sums written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import biject_to
from numpyro.handlers import condition, mask, scale, substitute
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density, potential_energy
from scipy.stats import poisson

import bayesmix
from bayesmix import EM, ConjugateGibbs, Plan
from bayesmix.program import row_pass
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.checks import assert_never_falls, slopes

K, N = 2, 40


def weights_of():
    return numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))


def full(x, weight, labels):
    weights = weights_of()
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
    with numpyro.plate("rows", len(x)), scale(scale=weight):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def by_cell(distribution):
    """Independent columns with a mean and a spread."""

    def program(x, weight, labels):
        weights = weights_of()
        with numpyro.plate("component", K):
            mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
            spread = numpyro.sample("spread", dist.InverseGamma(3.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)), scale(scale=weight):
            z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
            cells = distribution(mean[z], jnp.sqrt(spread[z]))
            numpyro.sample("x", cells.to_event(1), obs=x)

    return program


# statistics by pattern, statistics by column, and no statistics but the rows themselves
PROGRAMS = {"full": full, "columns": by_cell(dist.Normal), "by_row": by_cell(dist.Logistic)}


@functools.cache
def data():
    """Two clusters with holes in them, row weights, and some known labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, N)
    x = 4.0 * labels[:, None] + rng.normal(size=(N, 2)) @ np.array([[1.0, 0.7], [0.0, 0.8]])
    x[rng.uniform(size=x.shape) < 0.25] = np.nan
    x[[3, 17]] = np.nan
    weight = rng.choice([0.5, 1.0, 2.0, 3.5], N)
    return x, weight, np.where(np.arange(N) % 4 == 1, labels, -1)


@functools.cache
def plan_of(name: str) -> Plan:
    return bayesmix.plan(PROGRAMS[name], *data())


@functools.cache
def em_of(name: str) -> EM:
    return EM(plan_of(name), tolerance=1e-13, progress_bar=False)


def start_of(name: str):
    """Initial values near the truth: which start does not matter here."""
    values = {"weights": np.array([0.4, 0.6]), "mean": np.array([[0.0, 0.5], [4.0, 3.0]])}
    if name == "full":
        return {**values, "covariance": np.array([[[1.0, 0.3], [0.3, 1.5]], [[2.0, 0.0], [0, 1]]])}
    return {**values, "spread": np.array([[1.0, 1.5], [2.0, 0.7]])}


# -------------------------------------------------------------------------------------- brute force
def log_prior(values):
    total = dist.Dirichlet(2.0 * jnp.ones(K)).log_prob(values["weights"])
    total += dist.Normal(0.0, 5.0).log_prob(values["mean"]).sum()
    if "covariance" in values:
        return total + dist.InverseWishart(6.0, jnp.eye(2)).log_prob(values["covariance"]).sum()
    return total + dist.InverseGamma(3.0, 2.0).log_prob(values["spread"]).sum()


def row_density(name, values, x):
    """log p(x_i | z_i = k), (N, K), of the cells that are there."""
    there = ~jnp.isnan(x)
    x = jnp.where(there, x, 0.0)[:, None]
    if name != "full":
        kind = dist.Normal if name == "columns" else dist.Logistic
        cells = kind(values["mean"], jnp.sqrt(values["spread"])).log_prob(x)
        return jnp.sum(jnp.where(there[:, None], cells, 0.0), axis=-1)
    mean, covariance = values["mean"], values["covariance"]
    both = dist.MultivariateNormal(mean, covariance).log_prob(x)
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    cells = jnp.where(there[:, None], dist.Normal(mean, jnp.sqrt(variance)).log_prob(x), 0.0)
    return jnp.where(there.all(axis=1)[:, None], both, cells.sum(axis=-1))


def log_rows(name, values, x, labels):
    """log p(x_i, z_i), (N, K), -inf where a label is known to be another."""
    table = row_density(name, values, x) + jnp.log(values["weights"])
    other = (labels >= 0)[:, None] & (labels[:, None] != jnp.arange(K))
    return jnp.where(other, -jnp.inf, table)


def log_joint(name, values, x, weight, labels):
    table = log_rows(name, values, x, labels)
    return log_prior(values) + jnp.sum(weight * jax.nn.logsumexp(table, axis=1))


@functools.cache
def bijections_of(name: str):
    return {site.name: biject_to(site.support) for site in plan_of(name).reading.parameters}


def constrained(name, free):
    return {n: b(free[n]) for n, b in bijections_of(name).items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_density_its_gradient_and_its_curvature_are_those_of_brute_force(name):
    rows = data()
    program = bayesmix.marginalize(plan_of(name))
    free = {n: b.inv(start_of(name)[n]) for n, b in bijections_of(name).items()}

    def look(height):
        slope = jax.value_and_grad(height)
        return compile_lightly(lambda free: (slope(free), jax.hessian(height)(free)))(free)

    ours = look(lambda free: log_density(program, rows, {}, constrained(name, free))[0])
    theirs = look(lambda free: log_joint(name, constrained(name, free), *rows))
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        size = float(np.max(np.abs(two)))
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("name", PROGRAMS)
def test_em_climbs_to_a_mode(name):
    x, weight, labels = data()
    fit = em_of(name).run(0, x, weight, labels, restarts=2)
    assert fit.status
    assert_never_falls(fit.objective, N)
    expected = compile_lightly(functools.partial(log_joint, name))(fit.parameters, *data())
    assert fit.objective[-1] == pytest.approx(float(expected), rel=1e-11)
    for site, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-3, err_msg=site)
    r = fit.responsibilities()
    known = labels >= 0
    np.testing.assert_array_equal(r[known], np.eye(K)[labels[known]])
    table = np.asarray(log_rows(name, fit.parameters, x, labels))
    np.testing.assert_allclose(r, jax.nn.softmax(table, axis=1), atol=1e-11)
    # an empty row says no more than the weights do
    assert labels[3] == -1
    np.testing.assert_allclose(r[3], fit.parameters["weights"], rtol=1e-10)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_order_of_the_rows_does_not_matter(name):
    fit = em_of(name).run(0, *data(), init=start_of(name))
    order = np.random.default_rng(1).permutation(N)
    moved = em_of(name).run(0, *(part[order] for part in data()), init=start_of(name))
    np.testing.assert_allclose(moved.objective, fit.objective, rtol=1e-10)
    np.testing.assert_allclose(
        moved.responsibilities(), fit.responsibilities()[order], rtol=1e-6, atol=1e-9
    )


# ---------------------------------------------------------------- weights, and rows that are left out
def test_weights_are_repetitions_and_none_is_no_row():
    x, _, labels = data()
    times = np.random.default_rng(2).integers(0, 4, N)
    every = np.repeat(np.arange(N), times)
    start = start_of("columns")
    weighed = em_of("columns").run(0, x, times.astype(float), labels, init=start)
    plain = EM(plan_of("columns"), tolerance=1e-13, progress_bar=False)
    repeated = plain.run(0, x[every], np.ones(len(every)), labels[every], init=start)
    np.testing.assert_allclose(weighed.objective, repeated.objective, rtol=1e-10)
    for site, value in repeated.parameters.items():
        np.testing.assert_allclose(weighed.parameters[site], value, rtol=1e-6, err_msg=site)
    # a row that counts for nothing still has responsibilities and a density of its own
    np.testing.assert_allclose(
        weighed.log_density()[every], repeated.log_density(), rtol=1e-6, atol=1e-6
    )


def masked(how):
    def program(x, seen):
        weights = weights_of()
        with numpyro.plate("component", K):
            mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            if how == "handler":
                with mask(mask=seen):
                    numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
            elif how == "distribution":
                numpyro.sample("x", dist.Normal(mean[z], 1.0).mask(seen), obs=x)
            else:
                numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=jnp.where(seen, x, jnp.nan))

    return program


@pytest.mark.parametrize("how", ["handler", "distribution", "nan"])
def test_a_mask_over_rows_hides_them(how):
    x = np.nan_to_num(data()[0][:, 0])
    seen = np.arange(N) % 3 > 0
    plan = bayesmix.plan(masked(how), x, seen)
    assert not plan.by_row
    fit = EM(plan, progress_bar=False).run(0, x, seen)
    assert fit.status
    w, m = fit.parameters["weights"], fit.parameters["mean"]
    table = np.exp(-0.5 * (x[:, None] - m) ** 2) / np.sqrt(2 * np.pi) * w
    table[~seen] = w
    np.testing.assert_allclose(fit.log_density(), np.log(table.sum(axis=1)), atol=1e-12)
    r = table / table.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(w, (r.sum(axis=0) + 1) / (N + K), atol=1e-5)
    precision = r[seen].sum(axis=0) + 1 / 25
    np.testing.assert_allclose(m, r[seen].T @ x[seen] / precision, atol=1e-5)


def masked_counts(x, seen):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
        with mask(mask=seen):
            numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


def test_what_is_hidden_by_a_mask_may_be_anything():
    seen = np.arange(N) % 4 > 0
    x = np.where(seen, np.arange(N) % 7, -999)
    plan, arguments = bayesmix.plan(masked_counts, x, seen), split((x, seen), {})
    rate = np.array([2.0, 5.0])
    (table,) = Problem(plan, arguments, Problem(plan, arguments).with_rows().blocks).log_factors(
        {"rate": rate}
    )
    expected = np.where(seen[:, None], poisson(rate).logpmf(x[:, None]), 0.0) + np.log([0.4, 0.6])
    np.testing.assert_allclose(np.asarray(table).T, expected, rtol=1e-10)


# ------------------------------------------------------------------------------------------- labels
def test_labels_may_be_told_in_every_way():
    x, weight, labels = data()
    told = np.where(labels < 0, np.nan, labels)
    expected = log_rows("full", start_of("full"), x, labels)
    conditioned = bayesmix.plan(condition(full, {"z": told}), x, weight, None)
    for plan, rows in ((plan_of("full"), (x, weight, told)), (conditioned, (x, weight, None))):
        assert plan.reading.latent.name == "z"
        arguments = split(rows, {})
        problem = Problem(plan, arguments).with_rows()
        (found,) = problem.run(Problem.log_factors, start_of("full"))
        np.testing.assert_allclose(np.asarray(found).T, expected, rtol=1e-10)


def classes(x, labels):
    """Flat priors: with every label known, each class has its own closed form."""
    simplex = dist.ImproperUniform(dist.constraints.simplex, (), (K,))
    weights = numpyro.sample("weights", simplex)
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (K,), ()))
        flat = dist.ImproperUniform(dist.constraints.positive, (K,), ())
        variance = numpyro.sample("variance", flat)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def test_when_every_label_is_known_each_class_has_its_own_estimates():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, K, N)
    x = 3.0 * labels + rng.normal(size=N)
    fit = EM(classes, progress_bar=False).run(0, x, labels)
    assert fit.status
    groups = [x[labels == k] for k in range(K)]
    np.testing.assert_allclose(fit.parameters["weights"], [len(g) / N for g in groups], rtol=1e-6)
    np.testing.assert_allclose(fit.parameters["mean"], [g.mean() for g in groups], rtol=1e-6)
    np.testing.assert_allclose(fit.parameters["variance"], [g.var() for g in groups], rtol=1e-6)


# ------------------------------------------------------------------------------------ Gibbs and NUTS
@pytest.mark.parametrize("name", ["full", "columns"])
def test_drawn_statistics_are_right_on_average(name):
    plan, arguments = plan_of(name), split(data(), {})
    blocks = Problem(plan, arguments).with_rows().blocks

    @compile_lightly
    def both(arrays, blocks, values, keys):
        told = arguments.with_arrays(arrays)
        evaluation = plan.evaluate(told, values)
        passed = functools.partial(row_pass.passes, plan.graph, plan.families, evaluation, blocks)
        draw = functools.partial(row_pass.drawn_pass, plan.graph, plan.families, evaluation, blocks)
        return passed(row_pass.expect).statistics, jax.vmap(lambda key: draw(key).statistics)(keys)

    keys = jax.random.split(jax.random.key(0), 4000)
    expected, drawn = both(arguments.arrays, blocks, start_of(name), keys)
    for mean, sample in zip(jax.tree.leaves(expected), jax.tree.leaves(drawn), strict=True):
        error = np.std(sample, axis=0) / np.sqrt(len(keys))
        gap = np.abs(np.mean(sample, axis=0) - mean)
        assert (gap <= 4.5 * error + 1e-9).all(), gap / error


def test_gibbs_and_nuts_agree_where_cells_are_missing():
    """The clusters are far enough apart for labels to stay as they start."""
    x, _, labels = data()
    plan, chains = plan_of("full"), 4
    rows = (x, np.ones(N), labels)
    start = {n: jnp.tile(v, (chains,) + (1,) * v.ndim) for n, v in start_of("full").items()}
    bijections = bijections_of("full")
    free = {n: jax.vmap(b.inv)(start[n]) for n, b in bijections.items()}
    # NUTS would run the program itself outside jit, operation by operation, each compiled
    height = jax.jit(functools.partial(potential_energy, bayesmix.marginalize(plan), rows, {}))
    settings = {"num_chains": chains, "chain_method": "vectorized", "progress_bar": False}
    gibbs = MCMC(ConjugateGibbs(plan), num_warmup=100, num_samples=1500, **settings)
    gibbs.run(jax.random.key(1), *rows, init_params=start)
    nuts = MCMC(NUTS(potential_fn=height), num_warmup=150, num_samples=350, **settings)
    nuts.run(jax.random.key(1), init_params=free)
    drawn = nuts.get_samples(group_by_chain=True)
    many = {n: jax.vmap(jax.vmap(b)) for n, b in bijections.items()}
    found = [gibbs.get_samples(group_by_chain=True), {n: many[n](drawn[n]) for n in many}]
    functions = {
        "weights": lambda draws: draws["weights"][..., 0],
        "mean": lambda draws: draws["mean"],
        "covariance": lambda draws: np.log(np.linalg.det(draws["covariance"])),
        "off diagonal": lambda draws: draws["covariance"][..., 0, 1],
    }
    for what, function in functions.items():
        means, errors = [], []
        for draws in found:
            value = np.asarray(function(draws))
            value = value.reshape(*value.shape[:2], -1)
            size = np.minimum(effective_sample_size(value), value[..., 0].size)
            means.append(value.mean((0, 1)))
            errors.append(value.var((0, 1)) / size)
        assert (np.abs(means[0] - means[1]) < 4 * np.sqrt(sum(errors))).all(), what


# ---------------------------------------------------------------------------- parameters that are told
def plain(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mean, spread), obs=x)


@pytest.mark.parametrize("handler", [condition, substitute])
def test_told_parameters_are_honoured_by_every_engine(handler):
    x = np.random.default_rng(5).normal(2.0, 1.5, N)
    x[4] = np.nan
    told = handler(plain, data={"spread": 1.5})
    plan = bayesmix.plan(told, x)
    assert plan.reading.parameter_names == ("mean",)
    assert [(block.site, block.name) for block in plan.blocks] == [("mean", "normal")]
    line = next(line for line in str(plan).splitlines() if line.strip().startswith("spread"))
    assert "told" in line
    there = x[~np.isnan(x)]
    precision = len(there) / 1.5**2 + 1 / 25
    centre = there.sum() / 1.5**2 / precision
    fit = EM(plan, progress_bar=False).run(0, x)
    assert set(fit.parameters) == {"mean"}
    assert fit.parameters["mean"] == pytest.approx(centre, rel=1e-10)
    mcmc = MCMC(ConjugateGibbs(plan), num_warmup=0, num_samples=4000, progress_bar=False)
    mcmc.run(jax.random.key(0), x)
    draws = mcmc.get_samples()
    assert set(draws) == {"mean"}
    assert abs(draws["mean"].mean() - centre) < 4 / np.sqrt(4000 * precision)
    assert draws["mean"].std() == pytest.approx(precision**-0.5, rel=0.05)
    given = log_density(bayesmix.marginalize(plan), (x,), {}, {"mean": 0.3})[0]
    whole = log_density(plain, (there,), {}, {"mean": 0.3, "spread": 1.5})[0]
    assert float(given) == pytest.approx(float(whole), rel=1e-12)
    sites = numpyro.handlers.trace(
        numpyro.handlers.seed(bayesmix.marginalize(plan), jax.random.key(0))
    ).get_trace(x)
    free = [n for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]]
    assert free == ["mean"]


# ---------------------------------------------------------------------------- one component, no latent
class OwnMixture(dist.MixtureSameFamily):
    """A density of the user's own, of which nothing is known."""


def ready_mixture(x):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    mixture = OwnMixture(dist.Categorical(weights), dist.Normal(mean, 1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture, obs=x)


def test_a_mixture_that_sums_its_labels_out_itself_is_climbed():
    x = data()[0][:, 0]
    fit = EM(ready_mixture, progress_bar=False).run(0, x, init={"mean": np.array([-1.0, 5.0])})
    assert fit.status
    assert fit.plan.reading.latent is None and fit.plan.reading.num_components == 1
    assert_never_falls(fit.objective, N)
    w, m = fit.parameters["weights"], fit.parameters["mean"]
    density = (np.exp(-0.5 * (x[:, None] - m) ** 2) / np.sqrt(2 * np.pi) * w).sum(axis=1)
    expected = np.where(np.isnan(x), 0.0, np.log(density))
    np.testing.assert_allclose(fit.log_density(), expected, atol=1e-12)
    for site, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-2, err_msg=site)


def with_params(x):
    location = numpyro.param("location", jnp.zeros(2))
    spread = numpyro.param("spread", jnp.ones(2), constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(location, spread).to_event(1), obs=x)


def test_param_sites_get_their_maximum_likelihood_estimates():
    x = data()[0]
    fit = EM(with_params, progress_bar=False).run(0, x)
    assert fit.status
    np.testing.assert_allclose(fit.parameters["location"], np.nanmean(x, axis=0), rtol=1e-6)
    np.testing.assert_allclose(fit.parameters["spread"], np.nanstd(x, axis=0), rtol=1e-5)
    assert fit.objective[-1] == pytest.approx(fit.log_density().sum(), rel=1e-12)
