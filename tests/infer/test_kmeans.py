"""Lloyd's algorithm against scikit-learn, against R, and against its own promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from sklearn.cluster import KMeans as Peer

import bayesmix
from bayesmix import KMeans, KMeansResult, ProgramError, Status, datasets
from bayesmix.infer import kmeans, lloyd
from bayesmix.infer.seeding import farthest_point
from bayesmix.infer.starts import kmeans_plus_plus, random_rows
from tests.references import reference

COMPILED = (lloyd.seeded, lloyd.advance, lloyd.measure, lloyd.encode)


def clusters(rows, columns, centres, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    places = rng.normal(scale=3.0, size=(centres, columns))
    return places[rng.integers(centres, size=rows)] + spread * rng.normal(size=(rows, columns))


def assert_never_rises(trace, x):
    rounding = 64 * np.finfo(trace.dtype).eps * np.sum(np.var(x, axis=0))
    assert np.isfinite(trace).all()
    assert (np.diff(trace) <= rounding).all(), np.diff(trace).max()


# 33000 rows are enough for two devices, and 9 clusters for sums by scattering
@pytest.mark.parametrize(
    ("rows", "columns", "size", "dtype", "tolerance"),
    [
        (33_000, 3, 9, np.float64, 1e-9),
        (150, 2, 3, np.float64, 1e-9),
        (150, 2, 3, np.float32, 1e-5),
    ],
)
def test_the_same_start_takes_the_steps_of_scikit_learn(rows, columns, size, dtype, tolerance):
    x = clusters(rows, columns, size).astype(dtype) + dtype(7.0)
    init = x[:size]
    fit = KMeans(size).run(0, x, init=init)
    peer = Peer(size, init=init, n_init=1, tol=0.0, max_iter=1000, algorithm="lloyd").fit(x)
    assert fit.status
    assert len(fit.trace) - 1 == peer.n_iter_
    assert fit.centroids.dtype == dtype
    np.testing.assert_allclose(fit.trace[-1] * rows, peer.inertia_, rtol=tolerance)
    np.testing.assert_allclose(fit.centroids, peer.cluster_centers_, rtol=tolerance)
    np.testing.assert_array_equal(fit.labels, peer.labels_)
    assert_never_rises(fit.trace, x)
    assert len(lloyd.arrange(x, x[0], size).mesh.devices) == (2 if rows > 1 << 15 else 1)


def test_it_is_hard_em_of_equal_weights_and_one_known_spherical_covariance():
    def program(x, size):
        mean = numpyro.param("mean", jnp.zeros((size, x.shape[1])))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.full(size, 1 / size)))
            numpyro.sample("x", dist.Normal(mean[z], 0.1).to_event(1), obs=x)

    x = clusters(150, 2, 3)
    direct = KMeans(3).run(0, x, init=x[:3])
    loose = KMeans(3, tolerance=0.05).run(0, x, init=x[:3])
    assert loose.status and 1 < len(loose.trace) < len(direct.trace)
    em = bayesmix.EM(program, e_step=bayesmix.e_steps.Hard(), tolerance=0.0)
    fit = em.run(0, x, 3, init={"mean": x[:3]})
    assert direct.status and fit.status
    assert len(fit.objective) == len(direct.trace) > 5
    np.testing.assert_allclose(fit.parameters["mean"], direct.centroids, rtol=1e-10)
    np.testing.assert_array_equal(fit.labels(), direct.labels)
    constant = -150 * (np.log(3) + np.log(2 * np.pi * 0.01))
    complete = constant - 150 * direct.trace / (2 * 0.01)
    np.testing.assert_allclose(fit.objective, complete, rtol=1e-10)


@pytest.mark.parametrize("name", ["faithful", "iris", "ruspini"])
def test_the_best_of_our_starts_is_the_best_of_rs_or_better(name):
    stored = reference("kmeans")
    kept = stored["data"].get(name)
    x = datasets.load(name).values if kept is None else np.array(kept)
    sums = stored["tot_withinss"][name]
    curve = bayesmix.distortion_curve(
        0, x, x, [int(size) for size in sums], restarts=200, progress_bar=False
    )
    assert all(curve.statuses)
    assert (curve.fitted * len(x) <= np.array(list(sums.values())) * (1 + 1e-9)).all()


def test_the_distortion_never_rises_and_every_centroid_is_the_mean_of_its_rows():
    rng = np.random.default_rng(1)
    for seed in range(20):
        x = rng.integers(0, 4, (40, 2)).astype(float)  # many rows are equal, many distances tie
        fit = KMeans(6, progress_bar=False).run(seed, x, init=rng.normal(size=(6, 2)))
        assert fit.status
        assert_never_rises(fit.trace, x)
        assert np.bincount(fit.labels, minlength=6).all()
        for k, centroid in enumerate(fit.centroids):
            np.testing.assert_allclose(x[fit.labels == k].mean(axis=0), centroid, atol=1e-12)


@pytest.mark.parametrize("rows", [150, 9000])
def test_empty_clusters_are_put_to_use(rows):
    x = clusters(rows, 2, 3)
    init = np.concatenate([np.full((2, 2), 50.0), x[:1]])  # two of three start with no row
    fit = KMeans(3).run(0, x, init=init)
    assert fit.status
    assert np.bincount(fit.labels, minlength=3).all()
    assert_never_rises(fit.trace, x)
    first = KMeans(3, max_steps=1).run(0, x, init=init)
    assert first.status is Status.OUT_OF_STEPS
    distance = np.sum((x - x.mean(axis=0)) ** 2, axis=1)
    np.testing.assert_allclose(first.centroids[0], x[np.argmax(distance)], rtol=1e-12)
    nearest = np.minimum(distance, np.sum((x - first.centroids[0]) ** 2, axis=1))
    np.testing.assert_allclose(first.centroids[1], x[np.argmax(nearest)], rtol=1e-12)


def potential(x, seeds):
    """Sums of squared distances from the nearest seed, for index sets (R, K)."""
    away = x[:, None, None] - x[seeds]
    return np.min(np.sum(away**2, axis=-1), axis=-1).sum(axis=0)


def test_kmeans_plus_plus_keeps_its_promise_where_random_rows_do_not():
    rng = np.random.default_rng(0)
    places = 100.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1], [3, 3]])
    x = np.repeat(places, 12, axis=0) + rng.normal(size=(60, 2))
    least = sum(12 * np.var(x[i : i + 12], axis=0).sum() for i in range(0, 60, 12))
    promised = 8 * (np.log(5) + 2) * least
    keys = random.split(random.key(0), 2000)

    def drawn(seeding):
        found = jax.jit(lambda keys: jax.lax.map(lambda key: seeding(key, jnp.asarray(x), 5), keys))
        return potential(x, np.asarray(found(keys)))

    ours, random_ones = drawn(kmeans_plus_plus), drawn(random_rows)
    error = ours.std() / np.sqrt(len(ours))
    assert ours.mean() + 3 * error < promised
    assert random_ones.mean() > 20 * promised


def test_farthest_point_covers_with_twice_the_least_radius():
    rng = np.random.default_rng(2)
    seeded = jax.jit(farthest_point, static_argnums=2)
    for case in range(30):
        x = np.sort(rng.exponential(size=8) ** 2)
        cuts = itertools.combinations(range(1, 8), 2)  # into three intervals, centres anywhere
        least = min(max(np.ptp(part) for part in np.split(x, cut)) / 2 for cut in cuts)
        seeds = np.asarray(seeded(random.key(case), jnp.asarray(x)[:, None], 3))
        radius = np.abs(x[:, None] - x[seeds]).min(axis=1).max()
        assert len(set(seeds.tolist())) == 3
        assert radius <= 2 * least * (1 + 1e-12)


def test_starts_are_gathered_in_modes_and_a_second_run_traces_nothing():
    x = clusters(150, 2, 3)
    means = KMeans(3, seeding=random_rows)
    fit = means.run(1, x, restarts=20)
    traced = [f._cache_size() for f in COMPILED]
    assert fit.restart_steps.max() > means.report_every  # the second chunk is as the first
    again = means.run(0, x, restarts=20)
    assert [f._cache_size() for f in COMPILED] == traced
    for each in (fit, again):
        assert sum(mode.count for mode in each.modes) == 20
        assert each.modes[0].objective == each.trace[-1] == each.restart_distortions.min()
        assert len({round(mode.objective, 9) for mode in each.modes}) == len(each.modes)
        assert len(each.restart_steps) == 20 and all(each.restart_statuses)
    np.testing.assert_allclose(fit.trace[-1], again.trace[-1], rtol=1e-12)
    assert "reached by" in str(fit)


def test_codes_go_there_and_back(tmp_path):
    x = clusters(150, 2, 3)
    fit = KMeans(3).run(0, x, restarts=20)
    np.testing.assert_array_equal(fit.encode(x), fit.labels)
    np.testing.assert_array_equal(fit.encode(fit.decode([2, 0, 1])), [2, 0, 1])
    away = np.mean(np.sum((x - fit.decode(fit.labels)) ** 2, axis=1))
    np.testing.assert_allclose([fit.distortion(x), fit.trace[-1]], away, rtol=1e-12)
    shares = np.bincount(fit.labels) / 150
    np.testing.assert_allclose(fit.entropy, -np.sum(shares * np.log2(shares)), rtol=1e-12)
    np.testing.assert_allclose(
        fit.compression_ratio(8), 150 * 2 * 8 / (150 * np.log2(3) + 3 * 2 * 8), rtol=1e-12
    )
    assert fit.compression_ratio(8, entropy_coded=True) > fit.compression_ratio(8)
    fit.save(tmp_path / "codebook")
    again = KMeansResult.load(tmp_path / "codebook")
    for name, value in vars(fit).items():
        if name != "modes":
            np.testing.assert_array_equal(getattr(again, name), value)
    assert again.status is fit.status and str(again) == str(fit)
    np.savez(tmp_path / "other.npz", centroids=x)
    (tmp_path / "text").write_text("no fit")
    for other in ("other.npz", "text"):
        with pytest.raises(ProgramError, match="not saved by bayesmix"):
            KMeansResult.load(tmp_path / other)
    with pytest.raises(ProgramError, match="whole numbers from 0 to 2"):
        fit.decode([3])
    with pytest.raises(ProgramError, match="has 1 columns and the centroids have 2"):
        fit.encode(x[:, :1])


def test_unused_centroids_of_a_curve_change_nothing():
    x = clusters(150, 2, 3)
    means = KMeans(3)
    seeds = np.asarray(means.seed(random.key(0), x - x.mean(axis=0), 1))
    curve = bayesmix.distortion_curve(random.key(0), x, x[:50], [1, 2, 3], restarts=1)
    fit = KMeans(2).run(0, x, init=seeds[0, :2] + x.mean(axis=0))
    np.testing.assert_allclose(curve.fitted[1], fit.trace[-1], rtol=1e-12)
    np.testing.assert_allclose(curve.held_out[1], fit.distortion(x[:50]), rtol=1e-12)
    np.testing.assert_allclose(curve.fitted[0], np.var(x, axis=0).sum(), rtol=1e-12)
    # whole numbers to fit do not make whole numbers of the others
    whole = np.round(x).astype(int)
    curve = bayesmix.distortion_curve(random.key(0), whole, x[:50], [1, 2, 3], restarts=1)
    away = np.sum((x[:50] - whole.mean(axis=0)) ** 2, axis=1)
    np.testing.assert_allclose(curve.held_out[0], np.mean(away), rtol=1e-12)


def test_the_elbow_is_at_clusters_and_shallow_without_them():
    rng = np.random.default_rng(0)
    sizes = range(1, 9)
    even = rng.random((600, 2))
    apart = even + 8 * np.array([[0, 0], [0, 1], [1, 0], [2, 2]])[rng.integers(4, size=600)]
    with_clusters = bayesmix.distortion_curve(0, apart[:400], apart[400:], sizes)
    without = bayesmix.distortion_curve(0, even[:400], even[400:], sizes)
    assert with_clusters.elbow == 4
    assert with_clusters.depths.max() > 1.0
    assert without.depths.max() < 0.3
    assert "<- elbow" in str(with_clusters)


def test_bad_input_is_named_with_its_cure():
    x = clusters(150, 2, 3)
    hole = x.copy()
    hole[7, 1] = np.nan
    for rows, message in [
        (hole, r"NaN or infinite in 1 cell\(s\), the first in row 7, column 1"),
        (x[:, 0], r"shape \(150,\)"),
        (np.repeat(x[:2], 9, axis=0), "3 clusters need as many different rows, and x has 2"),
        (np.array([["a"]]), "does not hold numbers"),
    ]:
        with pytest.raises(ProgramError, match=message):
            KMeans(3).run(0, rows)
    with pytest.raises(ProgramError, match=r"give \(3, 2\), or \(5, 3, 2\)"):
        KMeans(3).run(0, x, restarts=5, init=x[:2])
    with pytest.raises(ProgramError, match="give finite centroids"):
        KMeans(3).run(0, x, init=hole[5:8])
    with pytest.raises(ProgramError, match="at least one"):
        KMeans(3).run(0, x, restarts=0)
    with pytest.raises(ProgramError, match="num_clusters is 0"):
        KMeans(0)
    with pytest.raises(ProgramError, match="at least three different numbers"):
        bayesmix.distortion_curve(0, x, x, [2, 3])
    with pytest.raises(ProgramError, match="held_out has 1 columns and x has 2"):
        bayesmix.distortion_curve(0, x, x[:, :1], [1, 2, 3])


def test_rows_that_differ_are_found_wherever_they_are():
    x = np.zeros((1000, 1))
    x[-1] = 1.0
    kmeans.check_different(x, 2)
    with pytest.raises(ProgramError, match="x has 2"):
        kmeans.check_different(x, 3)
