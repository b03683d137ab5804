"""Programs as people write them: read with the density NumPyro gives them, or refused with the cause."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.infer.util import log_density

import bayesmix
from bayesmix import ProgramError, zoo
from bayesmix.families.likelihoods import lookup, register
from bayesmix.families.peel import Peeled

X = np.array([-1.0, -1.3, 0.2, 1.4, 0.9])


def means(scale=3.0):
    return numpyro.sample("mean", dist.Normal(0.0, scale).expand([2]).to_event(1))


def rows(x):
    return numpyro.plate("rows", len(x))


def enumerated(program, args, values, latent, size):
    """log p(data, values): NumPyro's own log joint, one plain trace for every labelling of all rows."""

    def one(labels):
        told = handlers.substitute(program, data={**values, latent: labels})
        sites = handlers.trace(handlers.seed(told, 0)).get_trace(*args)
        samples = [s for s in sites.values() if s["type"] == "sample"]
        return sum(jnp.sum(s["fn"].log_prob(s["value"])) for s in samples)

    every = jnp.asarray(list(itertools.product(range(size), repeat=len(args[0]))))
    return float(logsumexp(jax.lax.map(one, every)))


def check_density(program, args, values, latent="z", size=2):
    plan = bayesmix.plan(program, *args)
    assert plan.certificate.departure < 1e-9
    values = {name: jnp.asarray(value) for name, value in values.items()}
    found = float(log_density(bayesmix.marginalize(plan), args, {}, values)[0])
    np.testing.assert_allclose(found, enumerated(program, args, values, latent, size), rtol=1e-9)
    return plan


# ------------------------------------------------------------------------------------------ read
def two_families(x):
    place = numpyro.sample("place", dist.Normal(0.0, 5.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        with handlers.mask(mask=z == 1):
            numpyro.sample("bump", dist.Normal(place, 0.3), obs=x)
        with handlers.mask(mask=z == 0):
            numpyro.sample("tail", dist.Exponential(rate), obs=jnp.abs(x))


def preference(x):
    pull = numpyro.sample("pull", dist.Normal(0.0, 1.0))
    mean = means()
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.factor("prefer", pull * (2.0 * z - 1.0))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def shifted(x):
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(3.0 * z, 1.0), obs=x - shift)


def absent(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        hit = jnp.where(x > 0, -jnp.inf, 0.0)
        numpyro.factor("x", jnp.where(z == 0, hit, jnp.log(rate) - rate * jnp.abs(x)))


@pytest.mark.parametrize(
    ("program", "values", "blocks"),
    [
        (two_families, {"place": 0.5, "rate": 1.5}, {"place": "normal", "rate": "gamma"}),
        (preference, {"pull": 0.4, "mean": [-1.0, 1.0]}, {"mean": "normal"}),
        (shifted, {"shift": 0.3}, {"shift": "normal"}),
        (absent, {"rate": 1.5}, {"rate": "gamma"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_labels_decide_is_part_of_the_density(program, values, blocks):
    plan = check_density(program, (X,), values)
    assert blocks.items() <= {block.site: block.name for block in plan.blocks}.items()


def test_two_families_keep_their_statistics():
    plan = bayesmix.plan(two_families, X)
    assert plan.families["bump"] is not None and plan.families["tail"] is not None
    assert not plan.by_row


def test_supports_may_depend_on_parameters():
    def program(x):
        high = numpyro.sample("high", dist.Gamma(5.0, 1.0).expand([2]).to_event(1))
        with rows(x):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Uniform(0.0, high[z]), obs=x)

    x, high = np.array([0.5, 1.9, 3.0, 8.0]), jnp.array([2.5, 9.5])
    found = log_density(bayesmix.marginalize(program), (x,), {}, {"high": high})[0]
    density = np.log(0.6 / 2.5 * (x < 2.5) + 0.4 / 9.5).sum()
    prior = dist.Gamma(5.0, 1.0).log_prob(high).sum()
    np.testing.assert_allclose(found, density + prior, rtol=1e-9)


def test_a_stage_that_is_never_left():
    def program(x):
        share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
        table = jnp.triu(share) / jnp.triu(share).sum(1, keepdims=True)
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        with rows(x):
            z = 0
            for t in range(x.shape[1]):
                z = numpyro.sample(f"z{t}", dist.Categorical(table[z]))
                numpyro.sample(f"x{t}", dist.Normal(mean[z], 0.7), obs=x[:, t])

    x = np.random.default_rng(0).normal(size=(6, 3))
    plan = bayesmix.plan(program, x)
    values = {name: jnp.asarray(value[0]) for name, value in plan.points.items()}
    marginal = bayesmix.marginalize(plan)
    slope = jax.grad(lambda values: log_density(marginal, (x,), {}, values)[0])(values)
    assert all(np.isfinite(each).all() for each in slope.values())
    table = np.triu(values["share"]) / np.triu(values["share"]).sum(1, keepdims=True)
    seen = np.exp(dist.Normal(values["mean"], 0.7).log_prob(x[..., None]))
    forward = table[0] * seen[:, 0]
    for t in range(1, 3):
        forward = (forward @ table) * seen[:, t]
    prior = dist.Normal(0.0, 3.0).log_prob(values["mean"]).sum() + 3 * np.log(2.0)
    found = log_density(marginal, (x,), {}, values)[0]
    np.testing.assert_allclose(found, np.log(forward.sum(1)).sum() + prior, rtol=1e-9)


def test_latents_of_steps_that_are_not_there_say_nothing():
    def program(x, length):
        mean = means()
        with rows(x):
            z = 0
            for t in range(x.shape[1]):
                with handlers.mask(mask=t < length):
                    z = numpyro.sample(
                        f"z{t}", dist.Categorical(jnp.array([[0.8, 0.2], [0.3, 0.7]])[z])
                    )
                    numpyro.sample(f"x{t}", dist.Normal(mean[z], 1.0), obs=x[:, t])

    x = np.random.default_rng(1).normal(size=(3, 3))
    values = {"mean": jnp.array([-1.0, 1.5])}
    prior = float(dist.Normal(0.0, 3.0).log_prob(values["mean"]).sum())

    def height(x, length):
        return float(log_density(bayesmix.marginalize(program), (x, length), {}, values)[0]) - prior

    lengths = np.array([3, 2, 2])
    ragged = height(x, lengths)
    apart = [height(x[[i]], lengths[[i]]) for i in range(3)]
    shorter = [height(x[[i], :length], lengths[[i]]) for i, length in enumerate(lengths)]
    np.testing.assert_allclose(ragged, sum(apart), rtol=1e-9)
    np.testing.assert_allclose(apart, shorter, rtol=1e-9)


def test_one_series_is_one_row():
    def program(y):
        rate = numpyro.sample("rate", dist.Exponential(1.0).expand([2]).to_event(1))
        with numpyro.plate("series", y.shape[0]):
            change = numpyro.sample("change", dist.DiscreteUniform(0, y.shape[1] - 1))
            before = jnp.arange(y.shape[1]) < change[..., None]
            numpyro.sample("y", dist.Poisson(jnp.where(before, *rate)).to_event(1), obs=y)

    y = np.array([[4.0, 5.0, np.nan, 4.0, 0.0, 1.0, 0.0]])
    rate = jnp.array([4.0, 0.5])
    found = log_density(bayesmix.marginalize(program), (y,), {}, {"rate": rate})[0]
    counts = np.nan_to_num(y[0])[:, None]
    heights = np.where(np.isnan(y.T), 0.0, dist.Poisson(rate).log_prob(counts))
    by_change = [heights[:s, 0].sum() + heights[s:, 1].sum() for s in range(7)]
    exact = logsumexp(jnp.array(by_change)) - np.log(7) + dist.Exponential(1.0).log_prob(rate).sum()
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_tables_may_have_rows_along_their_last_axis():
    def program(x):
        with numpyro.plate("rows", x.shape[1]):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(means[z], 1.0).to_event(1), obs=x.T)

    def whole(x):
        nonlocal means
        means = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2, 3]).to_event(2))
        program(x)

    means = None
    assert [b.name for b in bayesmix.plan(whole, np.ones((3, 600))).blocks] == ["normal"]


# ----------------------------------------------------------------------------------- Python on data
def test_arguments_that_python_reads_are_held():
    def program(y, group):
        with numpyro.plate("groups", int(group.max()) + 1):
            shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        with rows(y):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("y", dist.Normal(3.0 * z + shift[group], 0.5), obs=y)

    group = np.array([0, 1, 2, 1, 0])
    assert bayesmix.plan(program, X, group).held == {1}
    engine = bayesmix.EM(bayesmix.without_priors(program), progress_bar=False)
    assert engine.run(0, X, group).parameters["shift"].shape == (3,)
    assert engine.run(0, X, np.minimum(group, 1)).parameters["shift"].shape == (2,)


def test_columns_of_a_table_may_be_read_by_name():
    def program(table):
        mean = means()
        with numpyro.plate("rows", len(table)):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(mean[z], 0.5), obs=jnp.asarray(table["x"].values))

    table = pd.DataFrame({"name": list("abcde"), "x": X})
    assert [block.name for block in bayesmix.plan(program, table).blocks] == ["normal"]


def test_masked_arrays_have_missing_cells():
    def program(x):
        mean = means()
        with rows(x):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    values = {"mean": jnp.array([-1.0, 1.0])}
    gone = np.array([0, 1, 0, 0, 1], bool)
    marginal = bayesmix.marginalize(program)
    one = log_density(marginal, (np.where(gone, np.nan, X),), {}, values)[0]
    masked = np.ma.masked_array(np.where(gone, -999.0, X), mask=gone)
    assert float(log_density(marginal, (masked,), {}, values)[0]) == float(one)


# --------------------------------------------------------------------------------------- refused
def neighbours(x):
    mean = means()
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[jnp.roll(z, 1)], 1.0), obs=x)


def total(x):
    mean = means()
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
    numpyro.sample("total", dist.Poisson(0.5 + jnp.sum(z)), obs=jnp.array(2))


def weighted(x):
    mean = means()
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        with handlers.scale(scale=1.0 + z):
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def nested(x):
    with rows(x):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        with handlers.mask(mask=z == 1):
            w = numpyro.sample("w", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(z + 2.0 * w + numpyro.param("shift", 0.0), 1.0), obs=x)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (neighbours, "'x' is not independent from row to row"),
        (total, "'total' is outside the plate of rows 'rows' and depends on the latent 'z'"),
        (weighted, "a weight that depends on 'z'; write the weighted density as numpyro.factor"),
        (nested, "latent 'w' is masked where 'z' says so"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_joins_rows_or_counts_labels_is_refused(program, said):
    with pytest.raises(ProgramError, match=said):
        bayesmix.plan(program, X)


def test_a_family_that_is_wrong_is_found_out():
    class Shifted(dist.Normal):
        """A distribution whose family says something else."""

    normal = lookup(Peeled(dist.Normal(0.0, 1.0), 0))
    register(
        Shifted, lambda peeled: normal._replace(log_prob=lambda *a: normal.log_prob(*a) + 0.01)
    )

    def program(x):
        mean = means()
        with rows(x):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", Shifted(mean[z], 1.0), obs=x)

    with pytest.raises(ProgramError, match="'x' cannot be read: in row"):
        bayesmix.plan(program, X)


def test_a_link_that_bends_where_the_data_are_has_no_closed_form():
    def program(x, bound):
        mean = means(30.0)
        with rows(x):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("x", dist.Normal(jnp.clip(mean[z], -bound, bound), 1), obs=x)

    names = [bayesmix.plan(program, 20 * X, bound).blocks[0].name for bound in (5.0, 1e9)]
    assert names == ["no closed form", "normal"]


def test_a_gap_in_a_covariate_may_be_a_latent():
    def program(x, group):
        mean = means()
        with rows(x):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            known = jnp.where(group >= 0, group, z)
            numpyro.sample("group", dist.Bernoulli(0.4), obs=known)
            numpyro.sample("x", dist.Normal(mean[known], 1.0), obs=x)

    check_density(program, (X, np.array([0, -1, 1, -1, 0])), {"mean": [-1.0, 1.5]})


def test_few_rows_are_looked_at_in_double_precision():
    """As some of many rows are; in single precision this program was refused for its rounding."""
    with jax.enable_x64(False):
        plan = bayesmix.plan(zoo.poisson_mixture, np.array([[1], [2], [30], [33]]), K=2)
    assert plan.certificate.departure < 1e-9
