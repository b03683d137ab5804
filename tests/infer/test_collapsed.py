"""Collapsed Gibbs: evidences of labels against closed forms, conditionals against ratios of evidences,
and what is refused. Posteriors are in tests/oracles/test_collapsed.py."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from scipy.special import betaln, gammaln, multigammaln
from scipy.stats import multivariate_normal

import bayesmix
from bayesmix import CollapsedGibbs, ProgramError
from bayesmix.infer.collapsed_blocks import unit_of
from bayesmix.infer.collapsed_sweep import candidate, log_conditionals
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.checks import random_values

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(7, 2)) + np.arange(7)[:, None] % 2


def weights_of(K):
    return numpyro.sample("weights", dist.Dirichlet(jnp.arange(1.0, K + 1)))


# ------------------------------------------------------------------------------- programs, and evidences
def normal_inverse_wishart(x):
    weights = weights_of(3)
    with numpyro.plate("component", 3):
        covariance = numpyro.sample("covariance", dist.InverseWishart(5.0, 2 * jnp.eye(2)))
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.ones(2), covariance / 0.3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def of_weights(labels, alpha):
    counts = np.bincount(labels, minlength=len(alpha))
    found = gammaln(alpha + counts).sum() - gammaln(alpha).sum()
    return found + gammaln(alpha.sum()) - gammaln(alpha.sum() + len(labels))


def of_normals(x):
    """Murphy (2012), equation 5.29."""
    size = len(x)
    shift = x.mean(0) - 1 if size else np.zeros(2)
    away = x - x.mean(0) if size else x
    scatter = 2 * np.eye(2) + away.T @ away + 0.3 * size / (0.3 + size) * np.outer(shift, shift)
    height = multigammaln((5 + size) / 2, 2) - multigammaln(2.5, 2) - size * np.log(np.pi)
    height += 2.5 * np.linalg.slogdet(2 * np.eye(2))[1]
    return height - (5 + size) / 2 * np.linalg.slogdet(scatter)[1] + np.log(0.3 / (0.3 + size))


def evidence_of_normals(labels, x):
    own = [of_normals(x[labels == k]) for k in range(3)]
    return of_weights(labels, np.arange(1.0, 4)) + sum(own)


def several(n, y, c, t):
    """A count, two answers of which some are missing, a category, a number with a told variance."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        share = numpyro.sample("share", dist.Beta(2.0, 1.5).expand([2]).to_event(1))
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.array([1.0, 2.0, 0.5])))
        centre = numpyro.sample("centre", dist.Normal(0.5, 2.0))
    with numpyro.plate("rows", n.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("n", dist.Poisson(rate[z]), obs=n)
        numpyro.sample("y", dist.Bernoulli(share[z]).to_event(1), obs=y)
        numpyro.sample("c", dist.Categorical(probs[z]), obs=c)
        numpyro.sample("t", dist.Normal(centre[z], 1.5), obs=t)


def evidence_of_several(labels, n, y, c, t):
    found = of_weights(labels, np.arange(1.0, 3))
    for k in range(2):
        own = labels == k
        size, total = own.sum(), n[own].sum()
        found += 2 * np.log(0.5) - gammaln(2) + gammaln(2 + total)
        found -= (2 + total) * np.log(0.5 + size) + gammaln(n[own] + 1).sum()
        for column in y[own].T:
            there = column[~np.isnan(column)]
            ones = there.sum()
            found += betaln(2 + ones, 1.5 + len(there) - ones) - betaln(2, 1.5)
        found += of_weights(c[own], np.array([1.0, 2.0, 0.5]))
        if size:
            covariance = 2.25 * np.eye(size) + 4.0
            found += multivariate_normal.logpdf(t[own], np.full(size, 0.5), covariance)
    return found


def tied(x):
    """One covariance for all components, whose prior the means have."""
    weights = weights_of(3)
    covariance = numpyro.sample("covariance", dist.InverseWishart(5.0, jnp.eye(2)))
    with numpyro.plate("component", 3):
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.ones(2), covariance / 0.3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance), obs=x)


def columns(x):
    """Variances by column; labels along the second axis; a latent that is a coin."""
    share = numpyro.sample("share", dist.Beta(2.0, 3.0))
    prior = dist.InverseGamma(3.0, 2.0).expand([2, 2]).to_event(2)
    variance = numpyro.sample("variance", prior)
    mean = numpyro.sample("mean", dist.Normal(0.3, jnp.sqrt(variance / 0.2)).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        own = [jnp.moveaxis(each[:, z], 0, -1) for each in (mean, jnp.sqrt(variance))]
        fn = dist.Normal(*own).to_event(1)
        numpyro.sample("x", fn, obs=x)


def precisions(x):
    """A Wishart, and a normal whose precision is its multiple."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        precision = numpyro.sample("precision", dist.Wishart(6.0, jnp.eye(2)))
        prior = dist.MultivariateNormal(jnp.zeros(2), precision_matrix=0.1 * precision)
        mean = numpyro.sample("mean", prior)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        fn = dist.MultivariateNormal(mean[z], precision_matrix=precision[z])
        numpyro.sample("x", fn, obs=x)


def round_clusters(x):
    """One variance for all columns of a component, and a known label."""
    labels = np.array([-1, 1, -1, -1, 0, -1, -1])
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        prior = dist.Normal(0.0, jnp.sqrt(variance / 0.1)[..., None])
        mean = numpyro.sample("mean", prior.expand([2, 2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        numpyro.sample(
            "x", dist.Normal(mean[z], jnp.sqrt(variance)[z][..., None]).to_event(1), obs=x
        )


def apart(x):
    """Means and covariances with priors of their own, about a common centre."""
    weights = weights_of(2)
    centre = numpyro.sample("centre", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Normal(centre, 2.0).to_event(1))
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


class Case(NamedTuple):
    """A program, its rows, the evidence of labels by hand, and what is not integrated out."""

    program: Any
    arguments: tuple[Any, ...]
    evidence: Any = None
    drawn: tuple[str, ...] = ()


SEVERAL = (
    RNG.poisson(3.0, 7),
    np.where(RNG.uniform(size=(7, 2)) < 0.2, np.nan, RNG.integers(2, size=(7, 2))),
    RNG.integers(3, size=7),
    RNG.normal(size=7),
)
CASES = {
    "normal-inverse Wishart": Case(normal_inverse_wishart, (ROWS,), evidence_of_normals),
    "several columns": Case(several, SEVERAL, evidence_of_several),
    "one covariance": Case(tied, (ROWS,)),
    "columns": Case(columns, (ROWS,)),
    "normal-Wishart": Case(precisions, (ROWS,)),
    "round clusters": Case(round_clusters, (ROWS,)),
    "priors of their own": Case(apart, (ROWS,), None, ("mean",)),
}


class Fitted(NamedTuple):
    """A case's kernel, and compiled functions of parameters and labels: the evidence of labels, and the
    conditional of every row."""

    kernel: CollapsedGibbs
    evidence: Any
    conditionals: Any
    values: dict[str, Any]


@functools.cache
def fitted(name: str) -> Fitted:
    case = CASES[name]
    plan = bayesmix.plan(case.program, *case.arguments)
    kernel = CollapsedGibbs(plan)
    told = Problem(plan, split(case.arguments, {})).with_rows()
    units = kernel.collapse(*case.arguments).units

    def evidence(values, labels):
        height, conditionals = candidate(told, units, values, labels)
        return height - conditionals.sum()

    return Fitted(
        kernel,
        compile_lightly(jax.vmap(evidence, (None, 0))),
        compile_lightly(lambda v, z: log_conditionals(told, units, v, z)),
        random_values(plan, 1),
    )


def flipped(labels, size):
    """Labels with each row's own replaced by every value, (rows, size, rows)."""
    changed = np.tile(labels, (labels.size, size, 1))
    changed[np.arange(labels.size), :, np.arange(labels.size)] = np.arange(size)
    return changed


def test_conditionals_of_single_labels_are_ratios_of_the_evidences_of_the_books():
    case = CASES["normal-inverse Wishart"]
    plan = bayesmix.plan(case.program, *case.arguments)
    units = tuple(unit_of(plan, block) for block in plan.blocks)
    told = Problem(plan, split(case.arguments, {})).with_rows()
    labels = np.array([0, 2, 2, 0, 0, 2, 0])  # the second component has no row
    values = {name: value[0] for name, value in random_values(plan, 1).items()}
    ours = compile_lightly(lambda v, z: log_conditionals(told, units, v, z))(values, labels)
    heights = [[case.evidence(z, *case.arguments) for z in each] for each in flipped(labels, 3)]
    theirs = jax.nn.log_softmax(np.array(heights), axis=1).T
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.evidence])
def test_the_evidence_of_labels_is_that_of_the_books(name):
    case, found = CASES[name], fitted(name)
    size = found.kernel.plan(*case.arguments).reading.num_components
    labels = np.random.default_rng(1).integers(size, size=(40, 7))
    labels[0] = 0  # components without rows
    ours = found.evidence({n: v[0] for n, v in found.values.items()}, labels)
    theirs = [case.evidence(row, *case.arguments) for row in labels]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_conditionals_of_single_labels_are_ratios_of_evidences(name):
    case, found = CASES[name], fitted(name)
    plan = found.kernel.plan(*case.arguments)
    size = plan.reading.num_components
    labels = np.random.default_rng(2).integers(size, size=7)
    observed = plan.observe(split(case.arguments, {}))
    known = np.full(7, -1) if observed.labels is None else observed.labels["z"]
    labels = np.where(known < 0, labels, known)
    changed = flipped(labels, size)
    integrated = {n for unit in found.kernel.collapse(*case.arguments).units for n in unit.axes}
    ours, theirs = [], []
    for point in (0, 1):  # of what is integrated out; the rest stays
        values = {n: v[point if n in integrated else 0] for n, v in found.values.items()}
        heights = np.array(found.evidence(values, changed.reshape(-1, 7))).reshape(7, size)
        other = (known >= 0)[:, None] & (np.arange(size) != known[:, None])
        theirs.append(jax.nn.log_softmax(np.where(other, -np.inf, heights), axis=1).T)
        ours.append(found.conditionals(values, labels))
    np.testing.assert_allclose(theirs[0], theirs[1], atol=1e-9)
    for each in ours:
        np.testing.assert_allclose(each, theirs[0], atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_what_can_go_together_is_integrated_out(name):
    case = CASES[name]
    collapse = fitted(name).kernel.collapse(*case.arguments)
    assert tuple(block.site for block, _ in collapse.drawn) == case.drawn
    assert collapse.departure < 1e-2
    text = str(collapse)
    assert all(f"  {name}: normal; its value moves" in text for name in case.drawn)


# ------------------------------------------------------------------------------------------ as a kernel
def test_known_labels_stay_and_others_move():
    case, found = CASES["round clusters"], fitted("round clusters")
    mcmc = MCMC(found.kernel, num_warmup=0, num_samples=50, progress_bar=False)
    mcmc.run(jax.random.key(0), *case.arguments)
    labels = np.asarray(mcmc.get_extra_fields()["latents"])
    assert labels.shape == (50, 7)
    assert (labels[:, [1, 4]] == [1, 0]).all()
    assert np.ptp(labels, axis=0).sum() > 2
    idata = bayesmix.to_arviz(mcmc)
    assert idata["latents"]["z"].dims == ("chain", "draw", "rows")
    np.testing.assert_array_equal(idata["latents"]["z"][0], labels)


def test_labels_are_not_collected_where_they_are_not_wanted():
    kernel = CollapsedGibbs(normal_inverse_wishart, keep_latents=False)
    assert kernel.default_fields == ("z",)


# ------------------------------------------------------------------------------------------ refusals
def open_scale(x):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(0.0, scale[z]), obs=x)


def regressions(x):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(slope[z] * x[:, 0], 1.0), obs=x[:, 1])


def student(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.StudentT(4.0, mean[z], 1.0), obs=x)


def two_latents(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        w = numpyro.sample("w", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mean[z, w], 1.0), obs=x)


def flat_mean(x, factor=1.0):
    flat = dist.ImproperUniform(dist.constraints.real, (), (2,))
    mean = numpyro.sample("mean", flat)
    with numpyro.plate("rows", len(x)), numpyro.handlers.scale(scale=factor):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


X, HOLE = ROWS[:, 0], np.where(np.eye(7, 2) > 0, np.nan, ROWS)


@pytest.mark.parametrize(
    ("program", "arguments", "integrate", "message"),
    [
        (open_scale, (X,), None, "draw 'scale' from .*MixedGibbs"),
        (regressions, (ROWS,), None, "density of 'y' differs from row to row .*ConjugateGibbs"),
        (
            student,
            (X,),
            None,
            "'mean' cannot be integrated out .* Student-t; use bayesmix.Conj",
        ),
        (two_latents, (X,), None, "2 latents \\('z', 'w'\\); use bayesmix.ConjugateGibbs"),
        (normal_inverse_wishart, (HOLE,), None, "'x' has rows of which some cells are missing"),
        (flat_mean, (X, 2.0), None, "rows are weighted .* repeat such rows"),
        (flat_mean, (X,), None, "prior of 'mean' does not integrate to one"),
        (apart, (ROWS,), ("mean", "covariance"), "'mean' and 'covariance' cannot be .* together"),
        (apart, (ROWS,), ("means",), "integrate names 'means', and .* 'mean', 'covariance'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(program, arguments, integrate, message):
    kernel = CollapsedGibbs(program, integrate=integrate)
    with pytest.raises(ProgramError, match=message):
        kernel.init(jax.random.key(0), 1, None, arguments, {})
