"""Partitions against enumeration, scikit-learn, and exact posteriors."""

import functools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from bayesmix import ProgramError
from bayesmix.posterior import arviz_compat, partitions, point_partition
from bayesmix.posterior.partitions import (
    adjusted_rand_index,
    allocations_of,
    binder,
    canonical,
    distance,
    expected_loss,
    occupied_components,
    occupied_probabilities,
    posterior_similarity,
    variation_of_information,
)
from tests.references import reference

LOSSES = pytest.mark.parametrize(
    "loss", [binder, variation_of_information], ids=lambda loss: loss.name
)


def some_partitions(count=7, rows=30, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, size, (count, rows))


@functools.cache
def every_partition(rows):
    """All partitions, as restricted growth strings."""
    found = [[0]]
    for _ in range(rows - 1):
        found = [[*part, k] for part in found for k in range(max(part) + 2)]
    return np.array(found)


def noisy_draws(rows=6, count=40, size=3, seed=0):
    """Draws about one partition, some rows more certain than others."""
    rng = np.random.default_rng(seed)
    doubt = rng.uniform(0.0, 0.9, rows)
    truth = rng.integers(0, size, rows)
    z = np.where(
        rng.uniform(size=(count, rows)) < doubt, rng.integers(0, size, (count, rows)), truth
    )
    z[0] = np.arange(rows) % size  # each label is there
    return z


def test_the_adjusted_rand_index_is_that_of_scikit_learn():
    a, b = some_partitions(5), some_partitions(7, size=3, seed=1)
    wanted = [[adjusted_rand_score(x, y) for y in b] for x in a]
    np.testing.assert_allclose(adjusted_rand_index(a, b), wanted, atol=1e-12)
    assert adjusted_rand_index(np.zeros(4, int), np.zeros(4, int)) == 1.0


def test_the_variation_of_information_is_two_entropies_less_twice_the_information():
    a, b = some_partitions(5), some_partitions(7, size=3, seed=1)
    info = np.array([[mutual_info_score(x, y) for y in b] for x in a])
    one, other = (np.array([mutual_info_score(x, x) for x in part]) for part in (a, b))
    wanted = (one[:, None] + other - 2 * info) / np.log(2)
    np.testing.assert_allclose(distance(a, b, variation_of_information), wanted, atol=1e-12)


def test_binders_loss_counts_pairs_of_rows():
    a, b = some_partitions(5), some_partitions(7, size=3, seed=1)
    i, j = np.triu_indices(30, 1)
    together = [(part[:, i] == part[:, j]) for part in (a, b)]
    wanted = (together[0][:, None] != together[1]).mean(-1)
    np.testing.assert_allclose(distance(a, b, binder), wanted, atol=1e-12)


@LOSSES
def test_distances_are_a_metric_and_know_no_names(loss):
    parts = some_partitions(12, rows=10)
    d = distance(parts, parts, loss)
    np.testing.assert_allclose(d, d.T)
    np.testing.assert_array_equal(np.diag(d), 0.0)
    assert (d[:, None] <= d[:, :, None] + d.T[None] + 1e-12).all()
    renamed = np.array([7, -2, 50, 3])[parts]
    np.testing.assert_allclose(distance(renamed, parts, loss), d, atol=1e-12)


@LOSSES
def test_chunks_change_nothing(loss, monkeypatch):
    a, b = some_partitions(9), some_partitions(11, seed=1)
    whole = distance(a, b, loss), expected_loss(a, b, loss), posterior_similarity(b)
    monkeypatch.setattr(partitions, "_CHUNK", 300)
    parts = distance(a, b, loss), expected_loss(a, b, loss), posterior_similarity(b)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_canonical_numbers_by_first_appearance():
    parts = some_partitions(50, rows=9)
    found = canonical(parts)
    for part, own in zip(parts, found, strict=True):
        order = {label: k for k, label in enumerate(dict.fromkeys(part.tolist()))}
        assert own.tolist() == [order[label] for label in part]


def test_similarity_is_how_often_rows_are_together():
    z = some_partitions(40, rows=15)
    wanted = (z[:, :, None] == z[:, None]).mean(0)
    np.testing.assert_allclose(posterior_similarity(z), wanted, atol=1e-12)
    rows = np.array([3, 1, 14])
    np.testing.assert_allclose(posterior_similarity(z, rows), wanted[np.ix_(rows, rows)])


def test_probabilities_give_the_expectation_over_labels_drawn_from_them():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=(20, 8))
    draws = (rng.uniform(size=(2000, 20, 8, 1)) > p.cumsum(-1)).sum(-1).reshape(-1, 8)
    np.testing.assert_allclose(posterior_similarity(p), posterior_similarity(draws), atol=0.01)


def test_expected_binder_follows_from_similarities_alone():
    z, parts = noisy_draws(), every_partition(6)
    s = posterior_similarity(z)
    i, j = np.triu_indices(6, 1)
    wanted = np.where(parts[:, i] == parts[:, j], 1 - s[i, j], s[i, j]).mean(-1)
    np.testing.assert_allclose(expected_loss(parts, z, binder), wanted, atol=1e-12)


@LOSSES
@pytest.mark.parametrize("seed", range(12))
def test_the_point_partition_is_the_best_of_all_partitions(loss, seed):
    """Six rows have 203 partitions."""
    z = noisy_draws(seed=seed)
    found = point_partition.point_partition(z, loss)
    every = expected_loss(every_partition(6), z, loss)
    assert found.expected_loss == pytest.approx(every.min(), abs=1e-12)
    assert found.distances.mean() == pytest.approx(found.expected_loss)


def test_sweeps_improve_on_every_draw_and_every_cut(monkeypatch):
    """Cuts of a poor tree are repaired: here rows are put together at random."""
    z = noisy_draws(rows=40, count=60, size=4, seed=3)
    shuffled = np.random.default_rng(0).integers(0, 4, (3, 40))
    monkeypatch.setattr(point_partition, "_linkage_cuts", lambda *given: shuffled)
    found = point_partition.point_partition(z, binder, num_candidates=1)
    assert found.found_by.startswith("sweeps from")
    assert found.expected_loss < expected_loss(np.concatenate([shuffled, z]), z, binder).min()


def test_the_estimate_does_not_depend_on_names_of_labels():
    z = noisy_draws(seed=5)
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(3), (len(z), 1)), axis=1)
    other = np.take_along_axis(order, z, 1)
    one, two = (point_partition.point_partition(part) for part in (z, other))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_allclose(one.distances, two.distances, atol=1e-12)


@LOSSES
def test_the_credible_ball_is_the_smallest_that_holds_its_share(loss):
    found = point_partition.point_partition(noisy_draws(seed=1), loss)
    for prob in (0.5, 0.9, 1.0):
        ball = found.credible_ball(prob)
        inside = found.distances <= ball.radius
        assert inside.mean() >= prob
        assert (found.distances < ball.radius - 1e-12).mean() < prob
        sizes = [len(np.unique(part)) for part in found.draws[inside]]
        assert ball.upper.max() + 1 == min(sizes)
        assert ball.lower.max() + 1 == max(sizes)
        assert distance(ball.horizontal, found.labels, loss) == pytest.approx(
            found.distances[inside].max()
        )
    with pytest.raises(ProgramError, match="`prob` is a probability above 0"):
        found.credible_ball(0.0)


def test_what_is_printed_says_the_clusters_and_the_doubt():
    text = str(point_partition.point_partition(noisy_draws(seed=1)))
    for part in ("clusters of", "expected variation of information", "95% of the draws", "to"):
        assert part in text


def test_occupied_components_are_counted_whatever_their_names():
    z = np.array([[5, 5, 9], [0, 5, 9], [9, 9, 9]])
    assert occupied_components(z).tolist() == [2, 3, 1]
    np.testing.assert_allclose(occupied_probabilities(z), [0, 1 / 3, 1 / 3, 1 / 3])


def container(**latents):
    dims = {name: ["rows", "component"][: v.ndim - 2] for name, v in latents.items()}
    return arviz_compat.make({"posterior": {"a": np.zeros((2, 30))}, "latents": latents}, dims=dims)


def test_labels_are_those_drawn_or_drawn_from_probabilities():
    rng = np.random.default_rng(0)
    z, p = rng.integers(0, 3, (2, 30, 5)), rng.dirichlet(np.ones(3), size=(2, 3000, 4))
    both = container(z=z, z_probability=rng.dirichlet(np.ones(3), size=(2, 30, 5)))
    np.testing.assert_array_equal(allocations_of(both), z.reshape(60, 5))
    one, two = (point_partition.point_partition(part) for part in (both, z.reshape(60, 5)))
    np.testing.assert_array_equal(one.labels, two.labels)
    idata = arviz_compat.make({"latents": {"z_probability": p}}, dims={"z_probability": ["r", "c"]})
    drawn = allocations_of(idata)
    shares = np.stack([(drawn == k).mean(0) for k in range(3)], -1)
    np.testing.assert_allclose(shares, p.reshape(-1, 4, 3).mean(0), atol=0.03)
    two = container(z=z, parent=z)
    np.testing.assert_array_equal(allocations_of(two, "parent"), z.reshape(60, 5))
    with pytest.raises(ProgramError, match="None does not: the group `latents` has z, parent"):
        allocations_of(two)


def test_bad_input_is_named():
    with pytest.raises(ProgramError, match="partitions of 3 and of 4 rows have no distance"):
        distance([0, 1, 1], [0, 0, 1, 1], binder)
    with pytest.raises(ProgramError, match="partitions are integer labels"):
        posterior_similarity(np.zeros((2, 3)))
    with pytest.raises(ProgramError, match="draws of a partition are labels"):
        point_partition.point_partition([0, 1, 1])
    with pytest.raises(ProgramError, match="max_clusters is 0; ask for at least one"):
        point_partition.point_partition([[0, 1, 1]], max_clusters=0)


@pytest.mark.oracle
@pytest.mark.parametrize("K", [2, 3])
def test_gibbs_has_the_exact_similarities_and_numbers_of_components(K):
    """Ten galaxies, every labelling of which was enumerated; errors from effective sample sizes."""
    from tests.oracles.test_exact import gibbs_draws, z_score

    case = reference("exact_small_mixtures")["results"][f"nig1d_K{K}_alpha1"]
    draws = gibbs_draws(K, 1)[1]
    shape, z = draws.shape[:2], draws.reshape(-1, 10)
    together = (draws[..., :, None] == draws[..., None, :]).astype(float)
    np.testing.assert_allclose(posterior_similarity(z), together.mean((0, 1)), atol=1e-12)
    exact = np.array(case["coclustering"])
    assert all(z_score(together[:, :, i, j], exact[i, j]) < 4 for i in range(10) for j in range(i))
    occupied = occupied_components(z).reshape(shape)
    shares = np.ravel(case["posterior_nonempty"])
    assert all(z_score((occupied == k + 1) * 1.0, share) < 4 for k, share in enumerate(shares))
    tops = canonical(np.array([[int(c) for c in t] for t in case["top_partitions"]["partition"]]))
    found = (canonical(z)[:, None] == tops).all(-1).reshape(*shape, -1) * 1.0
    for k, prob in enumerate(case["top_partitions"]["prob"]):
        assert z_score(found[..., k], prob) < 4
    point = point_partition.point_partition(z[::40], variation_of_information)
    assert point.expected_loss <= expected_loss(tops, z[::40], variation_of_information).min()
