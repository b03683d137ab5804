"""What has finished is kept, whatever comes after it, and the same run goes on from there."""

import errno
import os
import signal

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import comparison
from bayesmix.__main__ import main
from bayesmix.comparison import engines, kept_answers, report, saving

X = np.concatenate([np.linspace(-4.0, -2.0, 10), np.linspace(2.0, 5.0, 10)])
NAMES = ("MAP-EM", "Laplace")


def program(x, width=10.0):
    mean = numpyro.sample("mean", dist.Normal(0.0, width).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


@pytest.fixture(scope="module")
def plan():
    return bayesmix.plan(program, X)


@pytest.fixture(scope="module")
def answers(plan):
    short = {"restarts": 2, "num_samples": 10, "num_chains": 2, "held_out": 0.0}
    found = bayesmix.compare(plan, X, engines=NAMES, progress_bar=False, **short)
    return {name: engines.replace(each, fit=None) for name, each in found.engines.items()}


@pytest.fixture
def run(plan, answers, monkeypatch, tmp_path):
    """A comparison by engines that have their answers ready, or do what they are told to instead."""

    monkeypatch.setattr(report, "render_report", lambda comparison: comparison.title)

    def compared(_plan=plan, _x=X, _names=NAMES, _folder=tmp_path, _seed=0, **instead):
        asked, said = [], []
        for name in NAMES:

            def engine(*_, name=name):
                asked.append(name)
                return instead.get(name.replace("-", ""), lambda: answers[name])()

            monkeypatch.setitem(engines.ENGINES, name, engine)
        try:
            found = bayesmix.compare(
                _plan,
                _x,
                engines=_names,
                held_out=0.0,
                seed=_seed,
                folder=_folder,
                announce=said.append,
            )
        except BaseException as error:
            found = error
        return found, asked, said

    return compared


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise RuntimeError("out of\nmemory")


def test_a_stopped_run_is_taken_up_and_ends_as_it_would_have(run, tmp_path):
    whole, _, _ = run(_folder=None)
    stopped, asked, _ = run(Laplace=interrupt)
    assert stopped.interrupted and list(stopped.engines) == ["MAP-EM"]
    stopped.write(tmp_path)
    assert kept_answers.kept_names(tmp_path) == ["MAP-EM"]
    found, asked, said = run(MAPEM=fail)
    assert asked == ["Laplace"] and any("MAP-EM: taken up" in line for line in said)
    assert found.table() == whole.table() and found.modes == whole.modes and not found.interrupted
    found.write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "comparison.nc",
        "posterior.nc",
        "report.html",
        "summary.json",
    ]


@pytest.mark.parametrize("what", ["program", "data", "settings", "damage"])
def test_what_another_run_kept_is_not_taken_up(run, what, tmp_path, plan):
    run(Laplace=interrupt)
    file = tmp_path / "engines" / "MAP-EM.nc"
    other = {
        "program": {"_plan": bayesmix.plan(lambda x: program(x, 11.0), X)}
        if what == "program"
        else {},
        "data": {"_x": X + 1.0},
        "settings": {"_seed": 1},
        "damage": {},
    }[what]
    if what == "damage":
        file.write_bytes(file.read_bytes()[:-1000])
    found, asked, said = run(_names=("Laplace",), **other)
    assert asked == ["Laplace"] and list(found.engines) == ["Laplace"]
    assert sum("not all taken up" in line for line in said) == 1
    assert kept_answers.kept_names(tmp_path) == ["Laplace"]  # nothing of the other run is left


def test_an_engine_that_raises_is_left_out_and_the_others_are_kept(run, caplog):
    found, asked, _ = run(MAPEM=fail)
    assert asked == list(NAMES) and list(found.engines) == ["Laplace"]
    assert found.raised == ("MAP-EM",)
    assert found.left_out == {"MAP-EM": "it stopped with RuntimeError: out of memory"}
    assert "out of memory" in found.table() and "out of\nmemory" in caplog.text
    alone, _, _ = run(_names=("MAP-EM",), _folder=None, MAPEM=fail)
    assert isinstance(alone, RuntimeError)


def test_an_interruption_after_the_engines_loses_nothing(run, monkeypatch, tmp_path):
    weighed, pressed = comparison.weighed_modes, []

    def once(*args):
        if not pressed:
            pressed.append(1)
            raise KeyboardInterrupt
        return weighed(*args)

    monkeypatch.setattr(comparison, "weighed_modes", once)
    found, _, said = run()
    assert found.interrupted and list(found.engines) == list(NAMES) and "interrupted" in said[-1]
    monkeypatch.setattr(comparison, "weighed_modes", lambda *_: interrupt())
    stopped, asked, _ = run()
    assert isinstance(stopped, KeyboardInterrupt) and not asked
    assert kept_answers.kept_names(tmp_path) == sorted(NAMES)


def test_a_full_disk_costs_no_answer_and_no_earlier_file(run, monkeypatch, tmp_path):
    run()[0].write(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "write_groups", full)
    found, _, said = run()
    assert list(found.engines) == list(NAMES)
    assert sum("could not be kept" in line and "No space left" in line for line in said) == 2
    with pytest.raises(OSError, match="No space left"):
        found.write(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_a_folder_holds_one_comparison(run, tmp_path):
    run()[0].write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run(_names=("MAP-EM",))[0].write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "comparison.nc",
        "notes.txt",
        "report.html",
        "summary.json",
    ]


def test_the_command_line_says_what_is_kept_and_stops_alike_on_sigterm(
    run, monkeypatch, tmp_path, capsys
):
    run(_names=())  # puts the engines in place
    monkeypatch.chdir(tmp_path)
    for name in ("run.1.csv", "run.2.csv"):
        np.savetxt(name, X + 0.0, header="x", comments="")
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp, numpyro, numpyro.distributions as dist\n"
        "def program(x, K):\n"
        "    mean = numpyro.sample('mean', dist.Normal(0.0, 10.0).expand([2]).to_event(1))\n"
        "    with numpyro.plate('rows', x.shape[0]):\n"
        "        z = numpyro.sample('z', dist.Categorical(jnp.full(2, 0.5)))\n"
        "        numpyro.sample('x', dist.Normal(mean[z], 1.0), obs=x[:, 0])\n"
    )
    options = (
        "--program mine.py:program --held-out 0 --no-progress --engines MAP-EM Laplace".split()
    )
    assert main(["compare", "run.1.csv", *options]) == 0
    earlier = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(engines.ENGINES, "Laplace", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main(["compare", "run.2.csv", *options]) == 143
    assert signal.getsignal(signal.SIGTERM) == earlier
    said = capsys.readouterr()
    assert "keeps what has finished (MAP-EM)" in said.err and "mean[0]" in said.out
    assert "posterior.nc" in os.listdir("bayesmix-run.1")
    assert "posterior.nc" not in os.listdir("bayesmix-run.2")
    monkeypatch.setattr(comparison, "weighed_modes", lambda *_: interrupt())
    assert main(["compare", "run.2.csv", *options[:-1]]) == 130
    assert (
        "before any engine" not in (told := capsys.readouterr().err) and "goes on from it" in told
    )
