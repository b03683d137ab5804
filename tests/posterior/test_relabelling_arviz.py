"""Relabelling of whole containers: by any method, of other programs' draws, compared and refused."""

import numpy as np
import pytest

import bayesmix
from bayesmix import ProgramError
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.labelled_draws import declare_labels, draws_by_dim
from bayesmix.posterior.labels import (
    LabelSwitchingWarning,
    find_permutations,
    label_switching,
    relabel,
    renamed,
    switched_pairs,
)
from bayesmix.posterior.relabelling_comparison import (
    agreement,
    applicable_methods,
    compare_relabellings,
)
from bayesmix.posterior.relabelling_iterative import OnlineStephens, Stephens, as_drawn
from bayesmix.posterior.relabelling_methods import ECR, PRA, OrderBy
from tests.examples import example_draws
from tests.references import reference

DIMS = {"z": ["rows"], "z_probability": ["rows", "component"], "x": ["rows"]}


def galaxies(size=3, chains=1):
    """The reference draws as a container, and the published permutations, (chain, draw, K)."""
    data = reference(f"label_switching_galaxy_K{size}")

    def split(values):
        values = np.asarray(values)
        return values.reshape(chains, len(values) // chains, *values.shape[1:])

    mean, variance, weights, x = (np.array(data[k]) for k in ("mu", "sigma2", "weights", "data"))
    square = (x[:, None] - mean[:, None]) ** 2 / variance[:, None]
    joint = (weights / np.sqrt(2 * np.pi * variance))[:, None] * np.exp(-square / 2)
    parameters = {"mean": mean, "variance": variance, "weights": weights}
    groups = {
        "posterior": {name: split(v) for name, v in parameters.items()},
        "latents": {
            "z": split(np.array(data["z"]) - 1),
            "z_probability": split(joint / joint.sum(-1, keepdims=True)),
        },
        "log_likelihood": {"x": split(np.log(joint.sum(-1)))},
        "observed_data": {"x": x},
    }
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes", "relabelled": "no"}}
    dims = DIMS | {name: ["component"] for name in parameters}
    permutations = {k: split(np.array(v) - 1) for k, v in data["permutations"].items()}
    return arviz_compat.make(groups, dims=dims, attrs=attrs), permutations


# --- a method of relabel


@pytest.mark.parametrize("name", list(applicable_methods(draws_by_dim(galaxies()[0])["component"])))
def test_every_method_renames_the_whole_container_alike(name):
    idata, _ = galaxies(chains=2)
    method = applicable_methods(draws_by_dim(idata)["component"])[name]
    found = relabel(idata, method=method)
    order = find_permutations(idata, method=method)["component"]
    before, after = (arviz_compat.dataset(part, "posterior") for part in (idata, found))
    np.testing.assert_array_equal(
        after["mean"], np.take_along_axis(before["mean"].values, order, -1)
    )
    rows = arviz_compat.dataset(found, "latents")
    np.testing.assert_array_equal(rows["permutation"], order)
    drawn = np.take_along_axis(
        np.argsort(order, -1), arviz_compat.dataset(idata, "latents")["z"], -1
    )
    np.testing.assert_array_equal(rows["z"], drawn)
    assert after.attrs["relabelled"] == method.name
    assert f"aligned by {method.name}" in label_switching(found).sentence


def test_a_function_of_ones_own_is_a_method():
    idata, _ = galaxies()
    found = arviz_compat.dataset(relabel(idata, method=as_drawn), "posterior")
    np.testing.assert_array_equal(found["mean"], arviz_compat.dataset(idata, "posterior")["mean"])
    assert found.attrs["relabelled"] == "as_drawn"
    with pytest.raises(ProgramError, match="must return a permutation of 3 components for each of"):
        relabel(idata, method=lambda draws: np.zeros(draws.shape, int))
    with pytest.raises(ProgramError, match="give the pivot to the method itself"):
        relabel(idata, pivot=(0, 1), method=ECR())


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("method", [None, Stephens(), ECR(), PRA()])
def test_r_hat_after_relabelling_is_that_of_the_published_permutations(method, chains):
    """Below 1.01 wherever theirs is."""
    idata, published = galaxies(chains=chains)
    posterior = arviz_compat.dataset(idata, "posterior")
    theirs = arviz_compat.diagnostics(renamed(posterior, {"component": published["stephens"]}))
    ours = arviz_compat.diagnostics(
        arviz_compat.dataset(relabel(idata, method=method), "posterior")
    )
    np.testing.assert_allclose(np.sort(ours["r_hat"]), np.sort(theirs["r_hat"]), atol=1e-9)
    assert (theirs["r_hat"] < 1.01).sum() >= 6  # of 9, in 300 draws
    assert (ours["r_hat"] < 1.01).sum() == (theirs["r_hat"] < 1.01).sum()


def test_components_that_cannot_be_told_apart_are_refused():
    idata, _ = galaxies()
    relabel(idata, least_confidence=0.99)
    with pytest.raises(ProgramError, match=r"components cannot be told apart \(confidence 0.5"):
        relabel(idata, method=OrderBy("variance"), least_confidence=0.9)
    bare = arviz_compat.make(
        {"posterior": {"mean": np.random.default_rng(0).normal(size=(1, 50, 2))}},
        dims={"mean": ["component"]},
        attrs={"posterior": {"label_dims": "component"}},
    )
    with pytest.raises(ProgramError, match="can be judged from labels of rows only"):
        relabel(bare, least_confidence=0.9)


# --- draws of other programs


def foreign():
    """Draws as Stan leaves them: labels from 1, one dimension for each variable, all in one group."""
    idata, _ = galaxies()
    posterior, latents = (arviz_compat.dataset(idata, group) for group in ("posterior", "latents"))
    values = {name: v.values for name, v in posterior.data_vars.items()}
    values |= {"s": latents["z"].values + 1, "p": latents["z_probability"].values}
    groups = {"posterior": values | {"rate": np.ones((1, 300))}}
    groups["log_likelihood"] = {"x": arviz_compat.dataset(idata, "log_likelihood")["x"].values}
    return arviz_compat.make(groups), idata


def test_draws_of_other_programs_are_relabelled_once_they_say_where_labels_are():
    theirs, own = foreign()
    carried = {name: f"{name}_dim_0" for name in ("mean", "variance", "weights")}
    told = declare_labels(theirs, carried, allocations="s", probabilities="p", first_label=1)
    for method in (None, ECR(), Stephens(), PRA(), OrderBy("mean")):
        order = find_permutations(told, method=method)["component"]
        np.testing.assert_array_equal(order, find_permutations(own, method=method)["component"])
    with pytest.warns(LabelSwitchingWarning):
        bayesmix.summary(told)
    fixed = relabel(told)
    assert bayesmix.summary(fixed).loc["rate", "mean"] == 1.0
    assert "s" not in arviz_compat.dataset(fixed, "posterior")
    assert bayesmix.point_partition(told).num_clusters == 3


def test_what_is_declared_must_be_there():
    theirs, _ = foreign()
    with pytest.raises(ProgramError, match="no variable `mu` in `posterior`; it has: mean"):
        declare_labels(theirs, {"mu": "mu_dim_0"})
    with pytest.raises(
        ProgramError, match="`mean` has no dimension `k`; it has: chain, draw, mean"
    ):
        declare_labels(theirs, {"mean": "k"})
    late = declare_labels(theirs, {"mean": "mean_dim_0"}, allocations="s")
    with pytest.raises(ProgramError, match="run from 1 to 3 where `component` has 3 entries"):
        relabel(late)


# --- side by side


def test_the_comparison_shows_agreement_confidence_and_diagnostics():
    idata, published = galaxies(4, chains=2)
    found = compare_relabellings(idata)
    assert {"ECR", "Stephens", "data-based", "PRA", "ordering of mean"} <= set(found.table.index)
    np.testing.assert_allclose(np.diag(found.agreement), 1.0)
    np.testing.assert_allclose(found.agreement, found.agreement.T)
    theirs = published["stephens"].reshape(300, 4)
    assert agreement(found.permutations["Stephens"], theirs) == 1.0
    assert found.best == "Stephens" and found.reason == ""
    assert found.table["Stephens loss"].idxmin() == "Stephens"
    text = str(found)
    for part in ("can be told apart: confidence 0.979 by Stephens", "share of draws", "ess_tail"):
        assert part in text


def test_the_comparison_says_why_components_cannot_be_told_apart():
    rng = np.random.default_rng(0)
    groups = {
        "posterior": {"mean": rng.normal(size=(2, 500, 2))},
        "latents": {"z": rng.integers(0, 2, (2, 500, 30))},
    }
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    idata = arviz_compat.make(groups, dims=DIMS | {"mean": ["component"]}, attrs=attrs)
    found = compare_relabellings(idata)
    assert "the data say nothing about components" in found.reason
    assert str(found).startswith("components cannot be told apart: no two rows")


def test_chosen_methods_are_compared_under_their_names():
    idata, _ = galaxies()
    found = compare_relabellings(idata, {"a": PRA(), "b": OnlineStephens()})
    assert list(found.agreement.index) == list(found.table.index) == ["a", "b"]
    with pytest.raises(ProgramError, match="name one at least"):
        compare_relabellings(idata, {})
    with pytest.raises(ProgramError, match="no label dimension state: there are component"):
        compare_relabellings(idata, dim="state")


def test_both_axes_of_a_transition_matrix_are_renamed():
    """The states of a chain: one set of labels, two dimensions."""
    rng = np.random.default_rng(0)
    table = np.array([[8.0, 1.0, 1.0], [2.0, 6.0, 2.0], [0.0, 3.0, 7.0]]) / 10
    made = rng.permuted(np.tile(np.arange(3), (2, 40, 1)), axis=-1)
    rows = np.take_along_axis(table + np.zeros((2, 40, 1, 1)), made[..., None], 2)
    groups = {
        "transition": np.take_along_axis(rows, made[:, :, None], 3),
        "mean": np.take_along_axis(np.array([0.0, 5.0, 9.0]) + np.zeros((2, 40, 1)), made, -1),
    }
    dims = {"transition": ["state", "state_next"], "mean": ["state"]}
    attrs = {"posterior": {"label_dims": "state=state_next", "exchangeable": "yes"}}
    idata = arviz_compat.make({"posterior": groups}, dims=dims, attrs=attrs)
    found = arviz_compat.dataset(relabel(idata, method=OrderBy("mean")), "posterior")["transition"]
    np.testing.assert_allclose(found, table + np.zeros((2, 40, 1, 1)))
    found = compare_relabellings(idata, {"a": PRA(), "b": OrderBy("mean")})
    assert found.agreement.loc["a", "b"] == 1.0


# --- who switched with whom


def test_pairs_are_counted_where_labels_changed_hands():
    orders = np.tile(np.arange(4), (1, 8, 1))
    orders[0, 3:] = [0, 2, 1, 3]  # components 1 and 2 exchange labels
    orders[0, 6:] = [3, 2, 1, 0]  # then 0 and 3
    wanted = np.zeros((4, 4), int)
    wanted[[1, 2, 0, 3], [2, 1, 3, 0]] = 1
    np.testing.assert_array_equal(switched_pairs(orders)[0], wanted)
    cycle = np.array([[[0, 1, 2], [1, 2, 0]]])
    assert switched_pairs(cycle)[0].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_the_report_names_the_pairs():
    report = label_switching(example_draws())
    assert "component pairs that switched most: 1-2 (34), 0-2 (5)" in str(report)
    assert report.pairs["component"].sum() == 2 * sum(report.switches)  # all are exchanges of two
    assert label_switching(example_draws(), method=Stephens()).switches == report.switches
