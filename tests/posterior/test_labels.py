"""Label switching is seen, explained and undone, and never mistaken for bad mixing."""

import itertools
import warnings

import numpy as np
import pytest

from bayesmix.posterior import arviz_compat, labels, relabelling_methods
from bayesmix.posterior.labels import LabelSwitchingWarning, label_switching, relabel
from bayesmix.posterior.relabelling_methods import assign
from bayesmix.posterior.summary import summary
from tests.references import reference

DIMS = {
    "mean": ["component", "column"],
    "covariance": ["component", "column", "column_other"],
    "weights": ["component"],
    "z": ["row"],
    "z_probability": ["row", "component"],
    "x": ["row"],
}
CENTRES = np.array([[-6.0, 0.0], [0.0, 5.0], [9.0, 1.0]])
KINDS = ["probability", "drawn", "parameters"]


def draw_mixture(seed=0, chains=2, draws=60, rows=25):
    """Draws around an asymmetric truth in one labelling, as arrays."""
    rng = np.random.default_rng(seed)
    size = (chains, draws)
    mean = CENTRES + 0.3 * rng.normal(size=(*size, 3, 2))
    weights = rng.dirichlet([60.0, 30.0, 10.0], size=size)
    root = np.eye(2) + 0.1 * rng.normal(size=(*size, 3, 2, 2))
    x = CENTRES[rng.choice(3, size=rows, p=[0.5, 0.3, 0.2])] + rng.normal(size=(rows, 2))
    square = ((x[:, None] - mean[..., None, :, :]) ** 2).sum(-1)
    joint = weights[..., None, :] * np.exp(-square / 2) / (2 * np.pi)
    probability = joint / joint.sum(-1, keepdims=True)
    z = (rng.uniform(size=(*size, rows, 1)) > probability.cumsum(-1)).sum(-1)
    covariance, rate = root @ np.swapaxes(root, -1, -2), rng.gamma(3.0, size=size)
    return {
        "posterior": {"mean": mean, "covariance": covariance, "weights": weights, "rate": rate},
        "latents": {"z_probability": probability, "z": np.minimum(z, 2)},
        "log_likelihood": {"x": np.log(joint.sum(-1))},
    }


def switch(groups, permutation):
    """The same draws with new[k] = old[permutation[k]], and labels of rows to match."""

    def along(value, axis):
        shape = permutation.shape[:2] + (1,) * (axis - 2) + (-1,) + (1,) * (value.ndim - axis - 1)
        return np.take_along_axis(value, permutation.reshape(shape), axis)

    posterior = {n: v if n == "rate" else along(v, 2) for n, v in groups["posterior"].items()}
    z = np.take_along_axis(np.argsort(permutation, -1), groups["latents"]["z"], -1)
    latents = {"z_probability": along(groups["latents"]["z_probability"], 3), "z": z}
    return groups | {"posterior": posterior, "latents": latents}


def random_permutations(seed, *shape):
    base = np.broadcast_to(np.arange(shape[-1]), shape)
    return np.random.default_rng(seed).permuted(base, axis=-1)


def scrambled(seed):
    return switch(draw_mixture(), random_permutations(seed, 2, 60, 3))


def container(groups, kind="probability", exchangeable="yes", **attrs):
    """The draws with only what ``kind`` of relabelling is to look at."""
    if kind == "drawn":
        groups = groups | {"latents": {"z": groups["latents"]["z"]}}
    elif kind == "parameters":
        groups = {"posterior": groups["posterior"]}
    attrs = {"label_dims": "component", "exchangeable": exchangeable, "relabelled": "no"} | attrs
    coords = {"column": ["eruptions", "waiting"], "component": [0, 1, 2]}
    return arviz_compat.make(groups, coords=coords, dims=DIMS, attrs={"posterior": attrs})


def one_scalar(values):
    """A posterior of one variable ``weights`` with one value for each component."""
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    return arviz_compat.make({"posterior": {"weights": values}}, dims=DIMS, attrs=attrs)


def values(idata, group="posterior"):
    return {name: v.values for name, v in arviz_compat.dataset(idata, group).data_vars.items()}


# --- relabelling


@pytest.mark.parametrize("kind", KINDS)
def test_relabelling_undoes_random_switches_exactly(kind):
    groups = scrambled(1)
    found = relabel(container(groups, kind))
    order = values(found, "latents")["permutation"]
    rank = values(found)["mean"][0, 0, :, 0].argsort().argsort()  # the truth is in rising order
    expected = switch(draw_mixture(), np.broadcast_to(rank, (2, 60, 3)))
    for group in ("posterior", "latents"):
        for name, value in values(found, group).items():
            wanted = expected[group].get(name, order)
            np.testing.assert_array_equal(value, wanted, err_msg=name)
    again = switch(groups, order)
    np.testing.assert_array_equal(again["posterior"]["mean"], expected["posterior"]["mean"])
    assert arviz_compat.dataset(found, "posterior").attrs["relabelled"] == "pivot"


@pytest.mark.parametrize("kind", KINDS)
def test_relabelling_twice_changes_nothing_and_remembers_the_way_back(kind):
    once = relabel(container(scrambled(2), kind))
    twice = relabel(once)
    for group in arviz_compat.groups(once):
        assert arviz_compat.dataset(twice, group).identical(arviz_compat.dataset(once, group)), (
            group
        )


def test_permutations_compose_over_different_pivots():
    groups = scrambled(3)
    found = relabel(relabel(container(groups), pivot=(0, 0)), pivot=(1, 17))
    again = switch(groups, values(found, "latents")["permutation"])
    np.testing.assert_array_equal(values(found)["mean"], again["posterior"]["mean"])
    np.testing.assert_array_equal(values(found, "latents")["z"], again["latents"]["z"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_left_as_it_was(kind):
    idata = container(scrambled(4), kind)
    names = arviz_compat.groups(idata)
    before = {name: arviz_compat.dataset(idata, name).copy(deep=True) for name in names}
    relabel(idata)
    assert arviz_compat.groups(idata) == tuple(before)
    assert all(arviz_compat.dataset(idata, group).identical(data) for group, data in before.items())


def test_the_pivot_keeps_its_own_order():
    groups = scrambled(5)
    best = np.unravel_index(groups["log_likelihood"]["x"].sum(-1).argmax(), (2, 60))
    for pivot, at in ((None, best), ((1, 3), (1, 3))):
        found = labels.find_permutations(container(groups), pivot)["component"]
        np.testing.assert_array_equal(found[at], [0, 1, 2])
    with pytest.raises(ValueError, match=r"the pivot \(2, 0\) is not a draw: give positions"):
        relabel(container(groups), pivot=(2, 0))


def test_assignment_is_the_best_of_all_permutations():
    cost = np.random.default_rng(0).normal(size=(200, 4, 4))
    found = assign(cost)
    total = np.take_along_axis(cost, found[..., None], -1).sum((1, 2))
    every = [cost[:, range(4), order].sum(-1) for order in itertools.permutations(range(4))]
    np.testing.assert_allclose(total, np.min(every, axis=0), rtol=0, atol=1e-12)


def test_among_equals_the_present_order_is_kept():
    cost = np.zeros((5, 4, 4))
    cost[:, 0, 0] = -1.0  # one occupied component, three empty ones
    np.testing.assert_array_equal(assign(cost), [[0, 1, 2, 3]] * 5)


def test_parameters_are_matched_by_squared_distance():
    """In units of the spread of sorted values, against every permutation."""
    idata = container(scrambled(14), "parameters")
    posterior = arviz_compat.dataset(idata, "posterior")
    parts = [posterior[n].values.reshape(120, 3, -1) for n in ("mean", "covariance", "weights")]
    table = np.concatenate(parts, -1)
    table = table / np.sqrt(np.sort(table, 1).var(0).mean(0))
    distance = ((table[7][:, None] - table[:, None]) ** 2).sum(-1)
    orders = np.array(list(itertools.permutations(range(3))))
    every = np.stack([distance[:, range(3), order].sum(-1) for order in orders])
    found = labels.find_permutations(idata, (0, 7))["component"].reshape(-1, 3)
    np.testing.assert_array_equal(found, orders[every.argmin(0)])


def test_many_components_need_no_enumeration():
    permutation = random_permutations(6, 2, 40, 20)
    truth = np.arange(20.0) ** 1.5 + 0.01 * np.random.default_rng(0).normal(size=(2, 40, 20))
    found = values(relabel(one_scalar(np.take_along_axis(truth, permutation, -1))))["weights"]
    np.testing.assert_array_equal(np.sort(found, -1), truth)
    assert (found.argsort(-1) == found[0, 0].argsort(-1)).all()


@pytest.mark.parametrize("kind", ["probability", "drawn"])
def test_chunks_do_not_change_the_answer(kind, monkeypatch):
    idata = container(scrambled(7), kind)
    whole = labels.find_permutations(idata)["component"]
    monkeypatch.setattr(relabelling_methods, "_CHUNK", 700)
    np.testing.assert_array_equal(labels.find_permutations(idata)["component"], whole)


def test_each_label_dimension_has_its_own_permutation():
    rng = np.random.default_rng(8)
    table = np.array([[1.0, 5.0, 9.0], [30.0, 50.0, 90.0]]) + 0.1 * rng.normal(size=(2, 50, 2, 3))
    rows = random_permutations(9, 2, 50, 2)[..., None]
    columns = random_permutations(10, 2, 50, 3)[:, :, None]
    mixed = np.take_along_axis(np.take_along_axis(table, rows, 2), columns, 3)
    attrs = {"posterior": {"label_dims": "component, state", "exchangeable": "yes"}}
    dims = {"table": ["component", "state"]}
    found = relabel(arviz_compat.make({"posterior": {"table": mixed}}, None, dims, attrs))
    aligned = values(found)["table"]
    np.testing.assert_array_equal(np.sort(np.sort(aligned, 2), 3), table)
    assert aligned.std((0, 1)).max() < 0.2
    latents = arviz_compat.dataset(found, "latents")
    assert latents["permutation"].dims == ("chain", "draw", "component")
    assert latents["permutation_state"].dims == ("chain", "draw", "state")


@pytest.mark.parametrize("dims", ["", "state"])
def test_without_labels_there_is_nothing_to_relabel(dims):
    idata = container(draw_mixture(), label_dims=dims)
    with pytest.raises(ValueError, match="this posterior has no component labels: name the dim"):
        relabel(idata)
    assert label_switching(idata).switched is False


def test_what_cannot_be_matched_is_named():
    groups = draw_mixture()
    broken = groups["latents"]["z_probability"].copy()
    broken[1, 5, 2] = np.nan
    with pytest.raises(ValueError, match="what is to be matched is not finite in 1 draws"):
        relabel(container(groups | {"latents": {"z_probability": broken}}))
    with pytest.raises(ValueError, match="labels `z` run from 1 to 3 where `component` has 3"):
        relabel(container(groups | {"latents": {"z": groups["latents"]["z"] + 1}}, "drawn"))
    with pytest.raises(ValueError, match="`z` in `latents` has sizes"):
        relabel(container(groups | {"latents": {"z": groups["latents"]["z"][:, :9]}}, "drawn"))


# --- against other software


def published(name):
    """Draws of a reference as (parameters, probabilities, labels, pivot, permutations)."""
    data = reference(f"label_switching_{name}")
    mean, variance, weights, x = (np.array(data[k]) for k in ("mu", "sigma2", "weights", "data"))
    pivot = data["pivot_index_1based"] - 1
    square = (x[:, None] - mean[:, None]) ** 2 / variance[:, None]
    joint = (weights / np.sqrt(2 * np.pi * variance))[:, None] * np.exp(-square / 2)
    parameters = {"mean": mean, "variance": variance, "weights": weights}
    permutations = {key: np.array(value) - 1 for key, value in data["permutations"].items()}
    return parameters, joint, np.array(data["z"]) - 1, pivot, permutations, data


def one_chain(parameters, latents=None, fit=None):
    groups = {"posterior": parameters, "latents": latents, "log_likelihood": fit}
    groups = {g: {n: v[None] for n, v in part.items()} for g, part in groups.items() if part}
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    return arviz_compat.make(groups, None, DIMS | {key: ["component"] for key in parameters}, attrs)


def permutations_of(idata, pivot=None):
    at = None if pivot is None else (0, pivot)
    return labels.find_permutations(idata, at)["component"][0]


@pytest.mark.parametrize("name", ["toy", "galaxy_K3"])
def test_drawn_labels_give_the_permutations_of_published_ecr(name):
    """Hard allocations and the same pivot: the same algorithm, so the same at every draw."""
    parameters, _, z, pivot, permutations, _ = published(name)
    found = permutations_of(one_chain(parameters, {"z": z}), pivot)
    np.testing.assert_array_equal(found, permutations["ecr"])


def test_probabilities_agree_with_ecr_and_with_the_switches_made_on_purpose():
    parameters, joint, _, pivot, permutations, data = published("galaxy_K3")
    np.testing.assert_allclose(np.log(joint.sum(-1)).sum(-1), data["loglik"], atol=1e-4)
    probability = {"z_probability": joint / joint.sum(-1, keepdims=True)}
    idata = one_chain(parameters, probability)
    found = permutations_of(idata, pivot)
    np.testing.assert_array_equal(found, permutations["ecr"])
    made = np.array(data["true_random_perm"]) - 1  # found[t] undoes made[t], to one fixed order
    undone = np.take_along_axis(made, found, -1)
    assert (undone == undone[0]).all()
    aligned = values(relabel(idata, pivot=(0, pivot)))
    table = np.stack([aligned[key][0].mean(0) for key in ("mean", "variance", "weights")], -1)
    np.testing.assert_allclose(table, data["relabelled_means_ecr"], rtol=1e-6)


def test_the_best_draw_as_pivot_finds_the_same_labelling():
    parameters, joint, _, _, permutations, _ = published("galaxy_K3")
    probability = {"z_probability": joint / joint.sum(-1, keepdims=True)}
    for fit in ({"x": np.log(joint.sum(-1))}, None):
        found = permutations_of(one_chain(parameters, probability, fit))
        relative = np.take_along_axis(np.argsort(permutations["ecr"], -1), found, -1)
        assert (relative == relative[0]).all()


def test_parameters_alone_are_enough_for_the_galaxies():
    """The published pivotal algorithm, on raw parameters, errs at 10 of the 300 draws."""
    parameters, _, _, pivot, permutations, _ = published("galaxy_K3")
    found = permutations_of(one_chain(parameters), pivot)
    np.testing.assert_array_equal(found, permutations["ecr"])
    assert (permutations["pra"] != permutations["ecr"]).any(-1).sum() == 10


def test_five_rows_leave_room_for_two_opinions():
    """Taking z as drawn and averaging over it disagree as often as chance says they should.

    The cost with probabilities is the expectation of the cost with drawn labels, so the chance that
    drawn labels ask for the other order is a sum over all 2^5 of them.
    """
    parameters, joint, z, pivot, permutations, data = published("toy")
    p = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(p, data["p"], atol=1e-6)
    found = permutations_of(one_chain(parameters, {"z_probability": p}), pivot)
    every = np.array(list(itertools.product((0, 1), repeat=5)))
    weight = np.where(every == 0, p[:, None, :, 0], p[:, None, :, 1]).prod(-1)
    drawn = (every == z[pivot]).sum(-1) < 2.5  # labels for which swapping matches more rows
    chance = (weight * (drawn != (found[:, :1] == 1))).sum(-1)
    differ = (found != permutations["ecr"]).any(-1).sum()
    assert abs(differ - chance.sum()) < 3 * np.sqrt((chance * (1 - chance)).sum())
    assert 0 < differ <= 32  # of 300
    certain = one_chain(parameters, {"z_probability": np.eye(2)[z]})
    np.testing.assert_array_equal(permutations_of(certain, pivot), permutations["ecr"])


# --- the report


def test_invariant_diagnostics_do_not_see_switches():
    calm = label_switching(container(draw_mixture()))
    wild = label_switching(container(scrambled(12)))
    np.testing.assert_array_equal(calm.invariant.index, wild.invariant.index)
    columns = ["r_hat", "ess_bulk", "ess_tail"]
    np.testing.assert_allclose(calm.invariant[columns], wild.invariant[columns], rtol=1e-9)
    assert (calm.switched, calm.switches, calm.labellings) == (False, (0, 0), 1)
    assert "no label switched" in calm.sentence
    assert (wild.switched, wild.labellings) == (True, 6)
    assert min(wild.switches) > 30
    assert {"log likelihood", "rate", "weights (sorted)[0]"} <= set(wild.invariant.index)


@pytest.mark.parametrize("kind", KINDS)
def test_chains_that_sit_in_different_labellings(kind):
    orders = np.broadcast_to(np.array([[0, 1, 2], [2, 0, 1]])[:, None], (2, 200, 3))
    idata = container(switch(draw_mixture(draws=200), orders), kind)
    found = label_switching(idata)
    assert (found.switches, found.chains_differ) == ((0, 0), True)
    assert found.labelled["r_hat"].max() > 1.5
    assert found.invariant["r_hat"].max() < 1.05
    assert "chains sit in different labellings" in found.sentence
    assert "relabel before reading component means" in found.sentence
    lines = str(found)
    assert all(part in lines for part in ("label-invariant", "as labelled", "per chain: 0, 0"))
    mended = label_switching(relabel(idata))
    assert not mended.switched
    assert mended.labelled["r_hat"].max() < 1.05
    assert "aligned by pivot" in mended.sentence


def test_switches_are_counted_where_they_happen():
    orders = np.zeros((2, 60, 3), int) + np.arange(3)
    orders[0, 20:40] = [1, 0, 2]
    orders[1, 59] = [2, 1, 0]
    found = label_switching(container(switch(draw_mixture(), orders)))
    assert (found.switches, found.chains_differ, found.labellings) == ((2, 1), False, 3)


def test_chains_that_do_not_mix_are_not_excused():
    groups = draw_mixture()
    groups["posterior"]["mean"][1] += 7.0
    found = label_switching(container(groups, "parameters"))
    assert "do not mix" in found.sentence


def test_labels_have_meaning_when_the_prior_tells_them_apart():
    orders = np.broadcast_to(np.array([[0, 1, 2], [2, 0, 1]])[:, None], (2, 60, 3))
    apart = container(switch(draw_mixture(), orders), exchangeable="no")
    sentence = label_switching(apart).sentence
    assert "labels have meaning" in sentence
    assert "do not relabel" in sentence
    calm = label_switching(container(draw_mixture(), exchangeable="no"))
    assert "read as they stand" in calm.sentence
    with pytest.warns(LabelSwitchingWarning, match="a meaning of their own"):
        relabel(apart)


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (1, 3), (2, 1), (3, 3)])
def test_few_draws_are_reported_and_not_judged(chains, draws):
    found = label_switching(container(draw_mixture(chains=chains, draws=draws)))
    assert f"{draws} draws a chain are too few" in found.sentence
    assert np.isnan(found.invariant["r_hat"]).all()
    assert not found.switched
    assert str(found)


def test_one_chain_is_compared_with_itself():
    orders = np.zeros((1, 60, 3), int) + np.arange(3)
    orders[:, 30:] = [1, 2, 0]
    found = label_switching(container(switch(draw_mixture(chains=1), orders)))
    assert (found.switches, found.chains_differ) == ((1,), False)
    assert found.labelled["r_hat"].max() > 1.5
    assert "the two halves of the one chain" in found.sentence


def test_one_component_cannot_switch():
    idata = one_scalar(np.random.default_rng(0).normal(size=(2, 50, 1)))
    found = label_switching(idata)
    assert not found.switched
    assert "no label can switch" in found.sentence
    np.testing.assert_array_equal(values(relabel(idata))["weights"], values(idata)["weights"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary(idata)


def test_constants_are_left_out():
    assert "nothing varies" in label_switching(one_scalar(np.ones((2, 50, 3)))).sentence
    fixed = np.random.default_rng(0).normal(size=(2, 50, 3))
    fixed[..., 1] = 4.0
    assert np.isfinite(label_switching(one_scalar(fixed)).labelled["r_hat"]).sum() == 2


# --- the summary


def test_summary_warns_before_relabelling_and_says_why():
    idata = container(scrambled(13))
    with pytest.warns(LabelSwitchingWarning, match="the prior is the same under every") as caught:
        summary(idata)
    text = str(caught[0].message)
    for part in ("`mean`, `covariance`, `weights`", "labels switched", "bayesmix.relabel"):
        assert part in text
    assert caught[0].filename == __file__
    with pytest.warns(LabelSwitchingWarning, match="may be the same"):
        summary(container(draw_mixture(), exchangeable="unknown"))
    with pytest.warns(LabelSwitchingWarning, match="here no switch was seen"):
        summary(container(draw_mixture()))


def test_summary_is_quiet_when_labels_can_be_read():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary(relabel(container(draw_mixture())))
        summary(container(draw_mixture(), exchangeable="no"))
        summary(arviz_compat.make({"posterior": {"rate": np.zeros((1, 2))}}))


def test_summary_holds_what_it_says():
    idata = relabel(container(draw_mixture()))
    table = summary(idata, prob=0.8)
    assert " ".join(table) == "mean sd hdi_low hdi_high ess_bulk ess_tail r_hat"
    assert table.attrs["prob"] == 0.8
    row = table.loc["mean[1, waiting]"]
    draws = values(idata)["mean"][:, :, 1, 1]
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["sd"] == pytest.approx(draws.std(ddof=1))
    inside = (draws >= row["hdi_low"]) & (draws <= row["hdi_high"])
    assert inside.mean() == pytest.approx(0.8, abs=0.02)
    assert len(table) == 6 + 12 + 3 + 1
