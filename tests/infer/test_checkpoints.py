"""Every long fit can be watched, stopped, and resumed to the very same end."""

import functools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bayesmix
from bayesmix import (
    EM,
    KMeans,
    MonteCarloEM,
    OnlineEM,
    ProgramError,
    Search,
    VariationalBayes,
    strategies,
)
from bayesmix.infer.accelerators import Anderson
from bayesmix.infer.e_steps import Geometric, MonteCarlo, Tempered
from bayesmix.infer.fingerprint import Run, run_of
from bayesmix.infer.keep import Checkpoint
from bayesmix.infer.orders import Stepwise
from bayesmix.infer.starts import random_rows

X = np.random.default_rng(0).normal(size=80) + np.repeat([0.0, 1.5], 40)


def mixture(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def rates(y):
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        rate = numpyro.sample("rate", dist.LogNormal(centre, 0.5))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


ENGINES = {
    "variational": (VariationalBayes, (mixture,), {"report_every": 3}, X),
    "k-means": (KMeans, (4,), {"report_every": 2}, X[:, None]),
    "chains": (MonteCarloEM, (rates, "rate"), {"num_steps": 60}, np.arange(20) % 7),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_stopped_fit_goes_on_to_the_same_end(tmp_path, name):
    engine, args, options, x = ENGINES[name]
    options = {**options, "progress_bar": False}
    seen = []

    def stop(progress):
        seen.append(progress)
        return True

    whole = engine(*args, **options).run(jax.random.key(0), x)
    file = tmp_path / "fit.npz"
    engine(*args, callback=stop, **options).run(jax.random.key(0), x, checkpoint=file)
    again = engine(*args, **options).run(jax.random.key(0), x, checkpoint=file)
    assert len(seen) == 1 and seen[0].step.shape == (1,)
    assert all(value.shape[0] == 1 for value in seen[0].values.values())
    assert str(again) == str(whole)
    with pytest.raises(ProgramError, match="is of another run"):
        engine(*args, **options).run(jax.random.key(0), x + 1, checkpoint=file)


# ------------------------------------------------------------------------- the state of another run
def levels(x, u, weight, centre=0.0, counted=True):
    mean = numpyro.sample("mean", dist.Normal(centre, 3.0).expand([2]).to_event(1))
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)), handlers.scale(scale=weight):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z] + level * u, 1.0).mask(counted), obs=x)


class Levels:
    """The same, with a value told and rows left out."""

    def __init__(self, level=0.5, counted=True):
        self.level, self.counted = level, counted

    def __call__(self, *args, **kwargs):
        told = handlers.condition(levels, data={"level": jnp.asarray(self.level)})
        return told(*args, counted=jnp.asarray(self.counted), **kwargs)


ARGUMENTS = {"x": X, "u": np.sin(np.arange(80.0)), "weight": np.ones(80)}
SHORT = {"max_steps": 4, "progress_bar": False}


@functools.cache
def plan_of(program):
    return bayesmix.plan(program, **ARGUMENTS)


LEVELS = Levels()
OTHERS = {
    "prior": (partial(Levels(), centre=5.0), {}, {}, "a log prior of 'mean' of"),
    "no prior": (bayesmix.without_priors(Levels()), {}, {}, "a log prior of 'mean' of"),
    "value told": (Levels(level=0.6), {}, {}, "a log prior of 'level' of"),
    "mask": (Levels(counted=np.arange(80) != 7), {}, {}, "log densities of rows of"),
    "argument": (LEVELS, {"centre": 5.0}, {}, "argument centre absent, and this is 5.0;"),
    "data": (LEVELS, {"x": X[::-1]}, {}, r"argument x float64 \(80,\) #"),
    "covariate": (LEVELS, {"u": np.cos(np.arange(80.0))}, {}, "argument u float64"),
    "row weight": (LEVELS, {"weight": np.arange(80) % 2 + 1.0}, {}, "argument weight float64"),
    "tolerance": (LEVELS, {}, {"tolerance": 1e-3}, "tolerance 1e-10, and this is 0.001;"),
    "E step": (LEVELS, {}, {"e_step": MonteCarlo(2)}, "e_step"),
    "schedule": (
        LEVELS,
        {},
        {"e_step": Tempered(Geometric(0.3, 1.2))},
        "e_step .* and this is Temp",
    ),
    "accelerator": (LEVELS, {}, {"accelerator": Anderson()}, "accelerator None, and this is And"),
    "seeding": (LEVELS, {}, {"seeding": random_rows}, "kmeans_plus_plus, and this is random_rows"),
    "starts": (LEVELS, {"restarts": 2}, {}, "restarts 1, and this is 2"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("kept") / "fit.npz"
    EM(plan_of(LEVELS), **SHORT).run(0, **ARGUMENTS, checkpoint=file)
    return file


@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_another_run_is_refused_with_what_differs(checkpoint, name):
    program, arguments, settings, message = OTHERS[name]
    before = checkpoint.read_bytes()
    engine = EM(plan_of(program), **{**SHORT, **settings})
    with pytest.raises(ProgramError, match=f"is of another run: it was saved with .*{message}"):
        engine.run(0, **{**ARGUMENTS, **arguments}, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


def test_the_same_program_in_other_words_goes_on(checkpoint):
    twin = partial(Levels(level=np.float64(0.5)), centre=0.0)
    fit = EM(twin, **SHORT).run(0, **ARGUMENTS, checkpoint=checkpoint)
    assert fit.objective.shape == (5,)


def test_settings_of_every_engine_count(tmp_path):
    def rate(power):
        return lambda step: step**-power

    engines = {
        "order": lambda batch: OnlineEM(mixture, order=Stepwise(batch)),
        "rate": lambda power: OnlineEM(mixture, order=Stepwise(10, rate=rate(0.1 * power))),
        "strategies": lambda count: Search(mixture, (strategies.Restarts(count),)),
        "num_moves": lambda count: MonteCarloEM(rates, "rate", num_moves=count),
        "bound": lambda count: KMeans(2, seeding=partial(random_rows, count)),
    }
    for name, make in engines.items():
        kept = Checkpoint(tmp_path / name, run_of(make(7), None))
        kept.write({"step": 1})
        assert Checkpoint(kept.path, run_of(make(7), None)).saved is not None
        with pytest.raises(ProgramError, match=r"it was saved with .*7.*, and this is .*8"):
            Checkpoint(kept.path, run_of(make(8), None))


# ------------------------------------------------------------------------------------------- files
def test_a_damaged_file_is_refused_or_gives_what_was_saved(tmp_path):
    rng, state = np.random.default_rng(0), {"step": np.arange(50.0)}
    kept = Checkpoint(tmp_path / "fit.npz", Run({"tolerance": "0.1"}))
    kept.write(state)
    whole, refused = kept.path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= rng.integers(1, 256)
        kept.path.write_bytes(damaged[: rng.choice([len(whole), rng.integers(len(whole))])])
        try:
            found = Checkpoint(kept.path, kept.run).resume(state)
        except ProgramError as error:
            assert str(error).endswith("give another path, or delete the file to start anew")
            refused += 1
        else:
            np.testing.assert_array_equal(found["step"], state["step"])
    assert refused > 150


def test_writers_of_one_file_do_not_collide(tmp_path):
    path, run = tmp_path / "fit.npz", Run({})

    def write(number):
        for _ in range(20):
            Checkpoint(path, run).write({"step": np.full(1000, number)})
            assert (
                len(set(Checkpoint(path, run).resume({"step": np.zeros(1000, int)})["step"])) == 1
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [each.name for each in tmp_path.iterdir()] == ["fit.npz"]


def test_a_folder_that_is_not_there_is_told_before_anything_runs(tmp_path):
    with pytest.raises(ProgramError, match=r"there is no folder .*; make it first"):
        EM(plan_of(LEVELS)).run(0, **ARGUMENTS, checkpoint=tmp_path / "away" / "fit.npz")
