"""Similarities and partitions of many rows, against the whole matrix for few."""

import numpy as np
import pytest

from bayesmix import ProgramError
from bayesmix.posterior import point_partition, similarity
from bayesmix.posterior.partitions import (
    adjusted_rand_index,
    binder,
    expected_loss,
    posterior_similarity,
    variation_of_information,
)
from bayesmix.posterior.similarity import (
    similarity_error,
    similarity_to_clusters,
    sparse_similarity,
)
from tests.posterior.test_partitions import every_partition, noisy_draws

LOSSES = pytest.mark.parametrize(
    "loss", [binder, variation_of_information], ids=lambda loss: loss.name
)


def many_clusters(rows=90, count=40, size=15, seed=0):
    """Draws about many small clusters; names of labels mean nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, size, rows)
    z = np.where(rng.uniform(size=(count, rows)) < 0.3, rng.integers(0, size, (count, rows)), truth)
    return (
        7 * rng.permuted(np.tile(np.arange(size), (count, 1)), axis=1)[np.arange(count)[:, None], z]
    )


@pytest.mark.parametrize("entries", [20_000_000, 500])
@pytest.mark.parametrize("threshold", [0.025, 0.1, 0.4, 1.0])
def test_large_entries_are_those_of_the_whole_matrix(threshold, entries, monkeypatch):
    monkeypatch.setattr(similarity, "_ENTRIES", entries)
    z = many_clusters()
    whole, found = posterior_similarity(z), sparse_similarity(z, threshold, progress_bar=False)
    kept = np.where(whole >= threshold, whole, 0.0)
    np.testing.assert_array_equal(found.matrix.toarray(), kept)
    assert found.matrix.nnz == (kept > 0).sum()
    np.testing.assert_allclose(found.dropped, (whole - kept).sum(1), atol=1e-12)
    assert np.linalg.norm(whole - kept, 2) <= found.largest_dropped + 1e-12
    assert f"{found.matrix.nnz} of 8100 similarities" in str(found)


def test_blocks_of_rows_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(similarity, "_ENTRIES", 10)
    width = np.array([3, 4, 9, 25, 1, 1, 1, 8, 2])
    blocks = similarity._row_blocks(width)
    assert [b for _, b in blocks] == [*(a for a, _ in blocks[1:]), 9]
    assert blocks[0][0] == 0
    assert all(width[a:b].sum() <= 10 + width[a:b].max() for a, b in blocks)


def test_too_many_entries_are_refused_before_they_are_made():
    one = np.zeros((3, 50), int)
    with pytest.raises(ProgramError, match=r"more than 2000 similarities of at least 0\.5: raise"):
        sparse_similarity(one, 0.5, max_entries=2000)
    assert sparse_similarity(one, 0.5, max_entries=2500).matrix.nnz == 2500
    z = many_clusters()
    size = sparse_similarity(z, 0.1).matrix.nnz
    with pytest.raises(ProgramError, match="raise `threshold`"):
        sparse_similarity(z, 0.1, max_entries=size - 1)
    with pytest.raises(ProgramError, match="`threshold` is a share of draws above 0"):
        sparse_similarity(z, 0.0)
    with pytest.raises(ProgramError, match="labels \\(S, N\\), not \\(3,\\)"):
        sparse_similarity([0, 1, 1])


def test_similarity_to_clusters_is_the_mean_over_their_other_rows():
    z, own = many_clusters(), np.random.default_rng(1).integers(0, 4, 90)
    own[own == 3] = 0
    own[5] = 3  # alone
    whole, found = posterior_similarity(z), similarity_to_clusters(own, z)
    for c in range(4):
        member = np.tile(own == c, (90, 1)) & ~np.eye(90, dtype=bool)
        wanted = (whole * member).sum(1) / np.maximum(member.sum(1), 1)
        np.testing.assert_allclose(found[:, c], wanted, atol=1e-12)
    with pytest.raises(ProgramError, match="are not of the same rows"):
        similarity_to_clusters(own[:-1], z)


@pytest.mark.parametrize("stays", [0.0, 0.8])
def test_the_error_of_an_entry_is_that_of_a_chain_that_remembers(stays):
    """Two rows are together or apart, and stay so with a known probability: the autocorrelation time of
    such a chain is (1 + stays) / (1 - stays)."""
    rng, count, chains = np.random.default_rng(0), 10_000, 4
    fresh = rng.uniform(size=(chains, count)) >= stays
    fresh[:, 0] = True
    drawn = rng.integers(0, 2, (chains, count))
    last = np.maximum.accumulate(np.where(fresh, np.arange(count), 0), axis=1)
    apart = np.take_along_axis(drawn, last, 1).ravel()
    z = np.stack([np.zeros_like(apart), apart, np.zeros_like(apart)], 1)
    found = similarity_error(z, num_chains=chains)
    wanted = 0.5 / np.sqrt(chains * count * (1 - stays) / (1 + stays))
    assert found[0, 1] == pytest.approx(wanted, rel=0.15)
    assert found[0, 2] == found[1, 1] == 0.0
    np.testing.assert_array_equal(
        similarity_error(z, [2, 1], chains), found[np.ix_([2, 1], [2, 1])]
    )
    with pytest.raises(ProgramError, match="40000 draws are not those of 3 chains"):
        similarity_error(z, num_chains=3)


@LOSSES
@pytest.mark.parametrize("seed", range(6))
def test_a_partition_of_some_rows_is_carried_to_all(loss, seed, monkeypatch):
    """Of six rows four are partitioned first; the end is the best of all 203 partitions."""
    z = noisy_draws(seed=seed)
    monkeypatch.setattr(point_partition, "_PART_ROWS", 4)
    found = point_partition.point_partition(z, loss)
    every = expected_loss(every_partition(6), z, loss)
    assert found.expected_loss == pytest.approx(every.min(), abs=1e-12)
    assert found.found_by.startswith("sweeps from")


@LOSSES
def test_a_part_of_many_rows_is_as_good_as_all_of_them(loss, monkeypatch):
    z = many_clusters(rows=150, count=60, size=4)
    z[:, -1] = 9  # alone in every draw, and hardly ever in the part
    whole = point_partition.point_partition(z, loss)
    monkeypatch.setattr(point_partition, "_PART_ROWS", 80)
    found = point_partition.point_partition(z, loss)
    assert found.expected_loss == pytest.approx(whole.expected_loss, abs=1e-9)
    np.testing.assert_allclose(adjusted_rand_index(found.labels, whole.labels), 1.0)
    assert (found.labels == found.labels[-1]).sum() == 1


def test_hundreds_of_clusters_have_hundreds_of_names():
    """Small integers hold labels up to 127 only."""
    z = np.tile(np.arange(300), (3, 1))
    z[0, :2] = 0
    found = point_partition.point_partition(z, binder)
    assert found.num_clusters == 300
    ball = found.credible_ball(1.0)
    assert (ball.lower.max() + 1, ball.upper.max() + 1) == (300, 299)
    assert found.draws.max() == 299
