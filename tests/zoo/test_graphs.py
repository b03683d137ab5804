"""The zoo's programs with several latents in a row: what is found, modes, engines, labels."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from numpyro.infer import MCMC, NUTS

import bayesmix
from bayesmix import EM, ConjugateGibbs, MixedGibbs, ProgramError, datasets, zoo
from bayesmix.posterior import arviz_compat
from tests.checks import assert_never_falls, slopes

OPEN = "no closed form"


class Case(NamedTuple):
    """A program on some rows, its blocks, and the latents of each group of labels."""

    program: Any
    rows: tuple
    static: dict
    blocks: dict
    groups: tuple


SLIDES = datasets.load("carcinoma").values
SEIZURES = datasets.load("epilepsy").values
OXIDE, RICHNESS = datasets.load("ethanol").values.T
ANSWERS = datasets.load("cheating").values
KNOWN = np.where(np.arange(118) % 4 == 0, (SLIDES.sum(1) > 3).astype(float), np.nan)
GROUPS = ((0, 1, 4, 6), (2, 3, 5))
PARENTS = {"class": (), "gpa": ("class",), "copied": ("class", "gpa"), "lied": ("class",)}
VALUES = {"class": 2, "gpa": 5, "copied": 2, "lied": 2}
SEEN = {"gpa": ANSWERS[:, 4], "copied": ANSWERS[:, 3], "lied": ANSWERS[:, 0]}
CHAIN = ("z_0", "z_1", "z_2", "z_3")
TABLES = {("initial",): "Dirichlet", ("transition",): "Dirichlet"}

CASES: dict[str, Case] = {
    "net": Case(
        zoo.bayes_net,
        (SEEN,),
        {"parents": PARENTS, "values": VALUES},
        {(f"p_{name}",): "Dirichlet" for name in ("class", "gpa", "lied", "copied")},
        (("class",), ("gpa",)),
    ),
    "naive Bayes": Case(
        zoo.naive_bayes,
        (SLIDES, KNOWN),
        {"K": 2},
        {("weights",): "Dirichlet", ("probability",): "Dirichlet"},
        (("label",),),
    ),
    "tree": Case(
        zoo.latent_tree,
        (SLIDES,),
        {"groups": GROUPS, "K": 2, "L": 2},
        {("weights",): "Dirichlet"}
        | {(f"given_root_{g}",): "Dirichlet" for g in range(2)}
        | {(f"probability_{g}",): "beta" for g in range(2)},
        (("root",), ("cause_0",), ("cause_1",)),
    ),
    "chain of counts": Case(
        zoo.hidden_markov_poisson,
        (SEIZURES[:, 2:],),
        {"K": 3},
        TABLES | {("rate",): "gamma"},
        (CHAIN,),
    ),
    "chain of numbers": Case(
        zoo.hidden_markov_normal,
        (np.log1p(SEIZURES[:, 2:]),),
        {"K": 2},
        TABLES | {("mean", "variance"): "normal-inverse gamma"},
        (CHAIN,),
    ),
    "hierarchy of experts": Case(
        zoo.hierarchical_experts,
        (RICHNESS[:, None], OXIDE),
        {"K": 2, "L": 2},
        {
            ("gate",): OPEN,
            ("gates",): OPEN,
            ("coefficients",): "normal",
            ("variance",): "inverse gamma",
        },
        (("branch",), ("expert",)),
    ),
}


@functools.cache
def plan_of(name: str) -> bayesmix.Plan:
    case = CASES[name]
    return bayesmix.plan(case.program, *case.rows, **case.static)


@functools.cache
def fit_of(name: str) -> bayesmix.EMResult:
    case = CASES[name]
    return EM(plan_of(name), progress_bar=False).run(1, *case.rows, restarts=4, **case.static)


@pytest.mark.parametrize("name", CASES)
def test_the_plan_finds_closed_forms_and_labels(name):
    plan, case = plan_of(name), CASES[name]
    assert {block.sites: block.name for block in plan.blocks} == case.blocks
    assert tuple(group.latents for group in plan.labels.groups) == case.groups
    for group in plan.labels.groups:
        assert group.known == (group.latents[0] in ("gpa", "label"))
        assert group.known or group.exchangeable
    assert "several" not in str(plan)


@pytest.mark.parametrize("name", CASES)
def test_em_never_falls_and_ends_at_a_mode(name):
    fit = fit_of(name)
    assert fit.status
    assert_never_falls(fit.objective, len(CASES[name].rows[-1]) if name != "net" else 319)
    for site, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=2e-2, err_msg=site)


@pytest.mark.parametrize("name", CASES)
def test_what_follows_from_a_fit_hangs_together(name):
    fit = fit_of(name)
    shares, best = fit.responsibilities(), fit.most_probable()
    shares = shares if isinstance(shares, dict) else {"label": shares}
    assert set(shares) == set(best.values) == set(fit.plan.graph.names)
    for latent, share in shares.items():
        np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-9)
        assert best.values[latent].max() < share.shape[1]
    assert (best.log_joint <= fit.log_density() + 1e-9).all()
    drawn = fit.sample(0)
    assert set(drawn) == {s.name for s in fit.plan.reading.observed} | set(shares)


def test_known_classes_are_kept_and_others_found():
    fit = fit_of("naive Bayes")
    np.testing.assert_allclose(fit.restart_objectives, fit.objective[-1], rtol=1e-6)
    known = ~np.isnan(KNOWN)
    np.testing.assert_array_equal(fit.labels()[known], KNOWN[known])
    unknown = np.full(2, np.nan)
    found = fit.labels(np.array([np.zeros(7), np.ones(7)]), unknown, K=2)
    np.testing.assert_array_equal(found, [0, 1])


@pytest.mark.parametrize("name", ["net", "tree"])
def test_gibbs_is_where_nuts_is(name):
    """Log densities of the data at draws: whatever the labels."""
    case, plan = CASES[name], plan_of(name)
    heights = {}
    for kernel, count in ((ConjugateGibbs(plan), 1500), (NUTS(bayesmix.marginalize(plan)), 300)):
        mcmc = MCMC(kernel, num_warmup=200, num_samples=count, progress_bar=False)
        mcmc.run(jax.random.key(2), *case.rows, **case.static)
        idata = bayesmix.to_arviz(mcmc, posterior_predictive=False, latents=False)
        found = arviz_compat.dataset(idata, "log_likelihood")
        (rows,) = found.data_vars.values()
        total = rows.values.reshape(count, -1).sum(axis=1)
        batches = total[: count // 15 * 15].reshape(15, -1).mean(axis=1)
        heights[type(kernel).__name__] = total.mean(), batches.std(ddof=1) / np.sqrt(15)
    (one, first), (two, second) = heights.values()
    assert abs(one - two) < 4.5 * np.hypot(first, second)


def test_draws_of_a_tree_are_relabelled_in_every_group():
    case, plan = CASES["tree"], plan_of("tree")
    mcmc = MCMC(
        ConjugateGibbs(plan),
        num_warmup=100,
        num_samples=200,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), *case.rows, **case.static)
    idata = bayesmix.to_arviz(mcmc)
    posterior = arviz_compat.dataset(idata, "posterior")
    assert posterior.attrs["label_dims"] == "root_component, cause_0_component, cause_1_component"
    assert posterior["given_root_1"].dims[2:] == ("root_component", "cause_1_component")
    latents = arviz_compat.dataset(idata, "latents")
    assert latents["cause_1_probability"].dims[2:] == ("rows", "cause_1_component")
    assert latents["cause_1"].dims[2:] == ("rows",)
    # whatever the labels were, afterwards one label of each cause is the one that sees carcinoma
    turned = arviz_compat.dataset(bayesmix.relabel(idata), "posterior")
    for g in range(2):
        seen = turned[f"probability_{g}"].values.mean(axis=-1)
        assert (np.argmax(seen, axis=2) == np.argmax(seen[0, 0])).mean() > 0.95
    assert bayesmix.label_switching(bayesmix.relabel(idata)).relabelled == "pivot"


def test_a_hierarchy_of_experts_is_drawn_with_a_nuts_part():
    case, plan = CASES["hierarchy of experts"], plan_of("hierarchy of experts")
    mcmc = MCMC(MixedGibbs(plan), num_warmup=100, num_samples=100, progress_bar=False)
    init = fit_of("hierarchy of experts").parameters
    mcmc.run(jax.random.key(0), *case.rows, init_params=init, **case.static)
    extra = mcmc.get_extra_fields()
    assert extra["latents"]["branch"].shape == (100, 88) == extra["latents"]["expert"].shape
    assert extra["diverging"].mean() < 0.2
    with pytest.raises(ProgramError, match=r"'gate', 'gates'.*MixedGibbs"):
        MCMC(ConjugateGibbs(plan), num_warmup=1, num_samples=1).run(
            jax.random.key(0), *case.rows, **case.static
        )


def test_predictions_of_a_hierarchy_of_experts_are_those_of_its_density():
    fit = fit_of("hierarchy of experts")
    new, unknown, static = np.array([[0.7], [1.1]]), np.full(2, np.nan), {"K": 2, "L": 2}
    grid = np.linspace(-3.0, 7.0, 8001)
    density = np.exp(fit.predict_log_density(new, unknown, grid=grid, **static))
    width = grid[1] - grid[0]
    np.testing.assert_allclose(density.sum(axis=1) * width, 1.0, rtol=1e-9)
    mean = fit.predict_mean(new, unknown, **static)
    np.testing.assert_allclose((density * grid).sum(axis=1) * width, mean, rtol=1e-9)
    low, high = fit.predict_interval(new, unknown, mass=0.8, **static)
    inside = (grid > low[:, None]) & (grid < high[:, None])
    np.testing.assert_allclose((density * inside).sum(axis=1) * width, 0.8, atol=5e-3)


def test_a_table_of_all_joint_values_is_refused():
    with pytest.raises(ProgramError, match=r"several latents.*most_probable"):
        fit_of("tree").log_joint_table()


def test_graphs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"in a circle \('b' on 'a' on 'b'\)|in a circle"):
        bayesmix.plan(
            zoo.bayes_net, {"a": np.zeros(5)}, {"a": ("b",), "b": ("a",)}, {"a": 2, "b": 2}
        )
    with pytest.raises(ValueError, match=r"'c' is no node; the nodes are a"):
        bayesmix.plan(zoo.bayes_net, {"c": np.zeros(5)}, {"a": ()}, {"a": 2})
