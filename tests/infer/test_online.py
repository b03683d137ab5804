"""Orders in which EM may visit the rows: their limits, bounds, modes, streams, and going on."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import scale

import bayesmix
from bayesmix import EM, OnlineEM, ProgramError
from bayesmix.infer.orders import ConstantRate, Incremental, PowerDecay, Stepwise
from bayesmix.infer.passes import advance, batch_of_row, begin
from bayesmix.infer.stream import _absorbed
from bayesmix.program.arguments import split
from bayesmix.program.batches import arrange_batches
from bayesmix.program.problem import Problem

K, N = 2, 300


def normals(x, labels, weight):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0 * jnp.sqrt(variance)))
    with numpyro.plate("rows", len(x)), scale(scale=weight):
        z = numpyro.sample("z", dist.Categorical(weights), obs=labels)
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


@functools.cache
def data():
    """Two overlapping clusters with holes, some known labels, and row weights."""
    rng = np.random.default_rng(0)
    z = rng.integers(K, size=N)
    x = rng.normal(size=N) + 3.0 * z
    x[::17] = np.nan
    return x, np.where(np.arange(N) % 5 == 0, z, -1), rng.choice([0.5, 1.0, 2.0], N)


@functools.cache
def plan():
    return bayesmix.plan(normals, *data())


def online(order, **options) -> OnlineEM:
    return OnlineEM(plan(), order=order, progress_bar=False, **options)


def init():
    return {
        "weights": np.array([0.3, 0.7]),
        "mean": np.array([0.5, 2.0]),
        "variance": np.array([2.0, 1.0]),
    }


@functools.cache
def batch_fit(max_steps: int, tolerance: float = -1.0):
    em = EM(plan(), max_steps=max_steps, tolerance=tolerance, progress_bar=False)
    return em.run(3, *data(), restarts=2)


# ---------------------------------------------------------------------------------------- exact limits
WHOLE = Stepwise(N, rate=ConstantRate(1.0), averaging=None)


@pytest.mark.parametrize("order", [Incremental(1), WHOLE], ids=["incremental", "stepwise"])
def test_all_rows_in_one_batch_are_em_step_by_step(order):
    expected = batch_fit(6)
    found = online(order, tolerance=-1.0).run(3, *data(), restarts=2, num_passes=6)
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-13)
    for name, value in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], value, rtol=1e-11)
    assert found.restart_steps.tolist() == [6, 6]


def incremental_passes(count: int, num_batches: int):
    """The bound and the objective after each pass, from bad values."""
    problem, order = Problem(plan(), split(data(), {})), Incremental(num_batches)
    batch = batch_of_row(jax.random.key(0), N, num_batches)
    batches = arrange_batches(plan(), problem.observe(), batch)
    bound = jax.jit(partial(order.bound, problem))
    values = {name: jnp.asarray(value)[None] for name, value in init().items()}
    progress = problem.run(begin, batches, values, static=(order,))
    found = []
    for until in range(1, count + 2):
        fitted = jax.tree.map(lambda x: x[0], progress.fitted)
        found.append((bound(fitted), progress.objective[0]))
        told = (batches, progress._replace(trace=()), jax.random.key(1), -1.0, until)
        progress = problem.run(advance, *told, static=(order,))
    return np.array(found).T


def test_the_bound_of_incremental_em_never_falls():
    bound, objective = incremental_passes(8, num_batches=7)
    rounding = 1e-12 * np.abs(bound[0])
    assert abs(bound[0] - objective[0]) < rounding  # every batch was seen at the same values
    assert (np.diff(bound) > -rounding).all()
    assert (objective - bound > -rounding).all()
    assert (objective - bound)[1:3].min() > 1e3 * rounding, "a bound, and not the objective itself"
    best = batch_fit(2000, 1e-13).objective[-1]
    assert abs(objective[-1] - best) < 1e-4 * N


@pytest.mark.parametrize(
    "order",
    [Stepwise(30), Stepwise(30, rate=PowerDecay(0.8), averaging=None), Incremental(10)],
    ids=["averaged", "last", "incremental"],
)
def test_it_comes_to_the_mode_of_batch_em(order):
    fit = online(order).run(0, *data(), init=init(), num_passes=60)
    best = batch_fit(2000, 1e-13)
    assert best.objective[-1] - fit.objective[-1] < 1e-4 * N
    mean = np.sort(fit.parameters["mean"])
    np.testing.assert_allclose(mean, np.sort(best.parameters["mean"]), atol=0.03)


# -------------------------------------------------------------------------------------------- streams
def labelled(x):
    """Rows whose labels are known: their statistics are the same at all parameters."""
    return x, (x > 1.5).astype(int), np.ones(len(x))


def fed(*batches, order):
    # started from rows that are of no use later
    first = labelled(np.linspace(-1.0, 4.0, 12))
    stream = online(order).start(0, *first, num_rows=50.0, init=init())
    for batch in batches:
        stream = stream.partial_fit(*batch)
    return stream._fitted.memory


def assert_same_mean(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), one, other)


def about_zero(memory):
    """The mean's moments about 0, whatever they were made about."""
    mean = memory.mean
    here = mean.moments["x"]
    there = here._replace(reference=jnp.zeros_like(here.reference))
    moved = plan().families["x"].combine(here, there, 1.0, 0.0)
    return mean._replace(moments={"x": moved}), memory.time


def test_two_halves_that_are_alike_move_the_mean_as_far_as_the_whole():
    half, order = np.array([-0.3, 0.2, 2.9, 3.4]), Stepwise(10, rate=ConstantRate(0.3))
    whole = fed(labelled(np.concatenate([half, half])), order=order)
    halves = fed(labelled(half), labelled(half), order=order)
    assert_same_mean(about_zero(whole), about_zero(halves))
    assert float(whole.time) == pytest.approx(0.8)


def test_a_row_of_weight_two_is_two_rows():
    x, order = np.array([-0.3, 0.2, 2.9, 3.4]), Stepwise(4)
    twice = fed(labelled(np.repeat(x, 2)), order=order)
    weighted = fed((*labelled(x)[:2], np.full(4, 2.0)), order=order)
    assert_same_mean(about_zero(twice), about_zero(weighted))


def test_a_stream_whose_rate_is_one_is_em_on_each_batch():
    """With missing cells, known labels and row weights."""
    expected = EM(plan(), max_steps=1, tolerance=-1.0, progress_bar=False)
    expected = expected.run(0, *data(), init=init())
    stream = online(WHOLE).start(0, *data(), init=init(), num_rows=float(np.sum(weight_of_data())))
    np.testing.assert_allclose(stream.result().objective, expected.objective[:1], rtol=1e-13)
    found = stream.partial_fit(*data()).result()
    for name, value in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], value, rtol=1e-10)


def full(x):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def test_missing_cells_of_vectors_in_batches():
    """Rows of a batch are grouped by the cells that they lack, whatever batches there were before."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2)) + 3.0 * rng.integers(2, size=(90, 1))
    holes = np.where(rng.uniform(size=x.shape) < 0.25, np.nan, x)
    start = {
        "weights": np.array([0.4, 0.6]),
        "mean": np.array([[0.0, 0.5], [3.0, 2.0]]),
        "covariance": np.array([np.eye(2), [[1.0, 0.3], [0.3, 2.0]]]),
    }
    plan = bayesmix.plan(full, x)
    order = Stepwise(90, rate=ConstantRate(1.0), averaging=None)
    online = OnlineEM(plan, order=order, progress_bar=False)
    stream = online.start(0, x[:40], init=start, num_rows=sum(~np.isnan(holes).all(axis=1)))
    stream = stream.partial_fit(holes)
    arguments, values = split((holes,), {}), stream._fitted.values
    blocks = Problem(plan, arguments).with_rows().blocks
    expected = jax.jit(lambda values: Problem(plan, arguments, blocks).expected(values))
    found, statistics = stream._fitted.memory, expected(values)[1]
    here = statistics.moments["x"]
    total = jax.tree.map(lambda each: each * found.rows, found.mean)
    np.testing.assert_allclose(total.counts["z"], statistics.counts["z"], rtol=1e-10)
    np.testing.assert_allclose(total.moments["x"].first, here.first, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(total.moments["x"].second, here.second, rtol=1e-9, atol=1e-9)
    fit = OnlineEM(plan, order=Incremental(4), tolerance=1e-12, progress_bar=False)
    em = EM(plan, tolerance=1e-12, progress_bar=False).run(0, holes, init=start)
    ended = fit.run(0, holes, init=start, num_passes=400)
    assert ended.status
    np.testing.assert_allclose(ended.parameters["mean"], em.parameters["mean"], atol=1e-4)


def weight_of_data():
    x, labels, weight = data()
    return np.where(np.isnan(x) & (labels < 0), 0.0, weight)


def cut(sizes):
    x, labels, weight = data()
    ends = np.cumsum(sizes)
    return [tuple(a[e - s : e] for a in (x, labels, weight)) for s, e in zip(sizes, ends)]


def test_ragged_batches_compile_once_for_all_of_about_one_size():
    batches = cut([60, 57, 64, 58, 61])
    stream = online(Stepwise(60)).run_stream(0, batches[:2], init=init())
    compiled = stream.plan.remember((_absorbed, (stream._kernel,), True), pytest.fail)
    count = compiled._cache_size()
    for batch in batches[2:]:
        stream = stream.partial_fit(*batch)
    assert compiled._cache_size() == count
    assert stream.num_batches == 5
    assert stream.rows == pytest.approx(weight_of_data().sum())


def test_a_stream_that_was_saved_goes_on_as_if_it_had_not_been(tmp_path):
    batches, path = cut([60, 57, 64, 58, 61]), tmp_path / "fit.npz"
    fit = online(Stepwise(60))
    half = fit.run_stream(0, batches[:3], init=init())
    half.save(path)
    again = OnlineEM(normals, order=Stepwise(60), progress_bar=False).load(path, *batches[4])
    assert again.num_batches == 3
    for batch in batches[3:]:
        half, again = half.partial_fit(*batch), again.partial_fit(*batch)
    one, other = half.result(), again.result()
    for name, value in one.parameters.items():
        assert np.array_equal(value, other.parameters[name])
    assert one.objective == other.objective
    assert [each.name for each in tmp_path.iterdir()] == ["fit.npz"]


def test_passes_that_were_broken_off_go_on_to_the_same_end(tmp_path):
    order, kept = Stepwise(30), {"num_passes": 4, "checkpoint": tmp_path / "fit.npz"}
    whole = online(order, tolerance=-1.0).run(1, *data(), num_passes=4, restarts=2)
    seen = []

    def stop(progress):
        seen.append(progress.step.tolist())
        assert progress.values["mean"].shape[0] == len(progress.objective) == 2
        return seen[-1] == [2, 2]

    broken = online(order, tolerance=-1.0, callback=stop).run(1, *data(), restarts=2, **kept)
    assert seen == [[1, 1], [2, 2]] and len(broken.objective) == 3
    resumed = online(order, tolerance=-1.0).run(1, *data(), restarts=2, **kept)
    assert np.array_equal(resumed.objective, whole.objective)
    assert np.array_equal(resumed.parameters["mean"], whole.parameters["mean"])
    with pytest.raises(ProgramError, match="was saved with restarts 2, and this is 1"):
        online(order, tolerance=-1.0).run(1, *data(), **kept)


# --------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "kappa, said", [(0.5, "settles for"), (1.1, "settles for"), (np.nan, "kappa is nan")]
)
def test_a_rate_that_does_not_settle_is_refused(kappa, said):
    with pytest.raises(ProgramError, match=said):
        PowerDecay(kappa)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PowerDecay(offset=0.5), "offset is 0.5"),
        (lambda: ConstantRate(1.5), "rate is 1.5"),
        (lambda: Stepwise(0), "batch_size is 0"),
        (lambda: Stepwise(averaging=-1.0), "averaging is -1"),
        (lambda: Incremental(0), "num_batches is 0"),
        (lambda: online(Stepwise(N + 1)).run(0, *data()), f"batch_size is {N + 1}, .* {N} rows"),
        (lambda: online(Incremental(N + 1)).run(0, *data()), f"{N + 1} batches .* {N}"),
        (lambda: online(Incremental()).start(0, *data()), "order=bayesmix.orders.Stepwise"),
        (lambda: online(Stepwise()).run_stream(0, []), "no batch"),
        (lambda: online(Stepwise()).run_stream(0, iter([1]), num_passes=2), "gone through once"),
        (lambda: online(Stepwise()).load("none.npz", *data()), "no file 'none.npz'"),
        (lambda: online(Stepwise(), look_every=0), "look_every is 0"),
        (lambda: online(Stepwise()).run(0, *data(), num_passes=0), "num_passes is 0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(make, message):
    with pytest.raises(ProgramError, match=message):
        make()


def test_a_bad_batch_names_its_own_rows_and_leaves_the_fit():
    stream = online(WHOLE).start(0, *data(), init=init())
    x, labels, weight = (array[:7].copy() for array in data())
    x[6] = np.inf
    with pytest.raises(ProgramError, match="infinite values \\(row 6, counted"):
        stream.partial_fit(x, labels, weight)
    with pytest.raises(ProgramError, match="\\[6, 7\\] rows"):
        stream.partial_fit(x[:6], labels, weight)
    with pytest.raises(ProgramError, match="other arguments than the first"):
        stream.partial_fit(x, labels)


def test_a_regression_is_sent_to_em():
    def regression(x, y):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
            numpyro.sample("y", dist.Normal(slope[z] * x, 1.0), obs=y)

    with pytest.raises(ProgramError, match=r"differ from row to row .* use bayesmix.EM"):
        OnlineEM(regression).run(0, np.arange(9.0), np.arange(9.0))


def test_a_stream_starts_from_em_on_its_first_batch():
    first = cut([100])[0]
    expected = EM(plan(), max_steps=200, progress_bar=False).run(0, *first, restarts=5)
    order = Stepwise(100, averaging=None)
    found = online(order).start(0, *first).result().parameters
    np.testing.assert_array_equal(found["mean"], expected.parameters["mean"])


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "fit.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ProgramError, match="not saved by bayesmix"):
        online(Stepwise()).load(path, *data())
