"""The command line: one clear sentence and exit status 2 for bad input, and nothing left behind."""

import json
import os

import arviz
import jax
import numpy as np
import pytest

import bayesmix
from bayesmix.__main__ import main
from bayesmix.posterior import arviz_compat

BAD = {
    "missing.csv": ["missing.csv"],
    "did you mean 'faithful'": ["faithfull"],
    "not numeric": ["text.csv"],
    "no rows": ["empty.csv"],
    "one row": ["one.csv"],
    "constant": ["constant.csv"],
    "holds no value": ["gaps.csv"],
    "lower K": ["three.csv", "-k", "5"],
    "at least one component": ["faithful", "-k", "0"],
    "unknown --model": ["faithful", "--model", "round"],
    "no column 'waitng'": ["faithful", "--columns", "waitng"],
    "no file; check the path": ["faithful", "--program", "absent.py:f"],
    "has no function 'g'": ["faithful", "--program", "mine.py:g"],
    "lower K (-k)": ["faithful", "-k", "2147483648"],
    "'wrong.py', line 2, in f: ZeroDivisionError": ["faithful", "--program", "wrong.py:f"],
    "'typo.py', line 1: SyntaxError": ["faithful", "--program", "typo.py:f"],
    "'ends.py' ends Python": ["faithful", "--program", "ends.py:f"],
    "cannot be called as f(x, K)": ["faithful", "--program", "alone.py:f"],
    "ame too long": ["faithful", "--program", f"{'x' * 300}.py:f"],
    "cannot be looked at": [f"{'x' * 5000}.csv"],
    "beyond 2^53": ["large.csv"],
}
FILES = {
    "text.csv": "a,b\n1,x\n2,y\n",
    "empty.csv": "a,b\n",
    "one.csv": "a,b\n1,2\n",
    "constant.csv": "a,b\n1,2\n1,3\n1,5\n",
    "gaps.csv": "a,b\n1,\n2,\n4,\n",
    "three.csv": "a,b\n1,2\n3,4\n2,2\n",
    "large.csv": "a,b\n1,2\n9007199254740993,4\n2,2\n",
    "wrong.py": "def f(x, K):\n    return K / 0\n",
    "typo.py": "def f(x, K)\n",
    "ends.py": "raise SystemExit(0)\n",
    "alone.py": "def f(x):\n    return None\n",
    "mine.py": "def f(x, K):\n    return None\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", BAD)
@pytest.mark.parametrize("command", ["plan", "compare"])
def test_bad_input_gets_one_sentence_and_leaves_nothing(command, words, folder, capsys):
    before = set(os.listdir(folder))
    assert main([command, *BAD[words]]) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("bayesmix: ") and said.count("\n") == 1
    assert set(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engines", "Foo"], "choose among"),
        (["--held-out", "1.5"], "below 1"),
        (["--samples", "1"], "too small"),
        (["--out", "three.csv/here"], "give another --out"),
        (["--out", "x" * 300], "give another --out"),
        (["--seed", "-1"], "too small"),
        (["--chains", str(2**31)], "give at most"),
    ],
)
def test_bad_options_of_compare(options, words, folder, capsys):
    before = set(os.listdir(folder))
    assert main(["compare", "faithful", *options]) == 2
    assert words in capsys.readouterr().err
    assert set(os.listdir(folder)) == before


def test_plan_prints_what_was_read(folder, capsys, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder / "mine.py"))  # a home in which nothing can be written
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert main(["plan", "faithful", "--model", "spherical"]) == 0
        assert bayesmix.cache_compiled() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    said = capsys.readouterr().out
    assert "x.mean = mean[z]" in said and "normal-inverse gamma" in said


def test_compare_writes_table_report_draws_and_summary(folder, capsys):
    command = (
        "compare faithful --engines MAP-EM Gibbs --restarts 3 --warmup 20 --samples 40 --chains 2"
    )
    assert main([*command.split(), "--held-out", "0", "--out", "out", "--no-progress"]) == 0
    said = capsys.readouterr().out
    assert "mean[0, eruptions]" in said and "label-invariant" in said
    out = folder / "out"
    assert sorted(os.listdir(out)) == [
        "comparison.nc",
        "posterior.nc",
        "report.html",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["engines"]) == {"MAP-EM", "Gibbs"} and summary["num_components"] == 2
    draws = arviz_compat.dataset(arviz.from_netcdf(str(out / "posterior.nc")), "posterior")
    assert draws["mean"].shape == (2, 40, 2, 2) and draws.attrs["relabelled"] == "pivot"
    page = (out / "report.html").read_text()
    assert main(["report", "out", "--out", "again.html"]) == 0
    table = capsys.readouterr().out.split("\n\nWritten")[0]
    assert table == said.split("\n\nWritten")[0]
    assert (folder / "again.html").read_text() == page


def test_interrupting_keeps_the_engines_that_had_finished(folder, capsys, monkeypatch):
    from bayesmix.comparison import engines

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(engines.ENGINES, "Gibbs", stop)
    command = "compare faithful --engines MAP-EM Gibbs --restarts 3 --held-out 0 --no-progress"
    assert main([*command.split(), "--out", "out"]) == 130
    assert "Interrupted" in capsys.readouterr().out
    assert "report.html" in os.listdir(folder / "out")


def test_empty_cells_are_missing_in_what_is_compared(folder, capsys):
    """Each engine integrates them out, and no picture shows a number in their place."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)) + np.repeat([[0.0], [6.0]], 20, axis=0)
    cells = [[f"{a:.3f}", f"{b:.3f}"] for a, b in x]
    cells[3][0], cells[30][1] = "", "NA"
    table = "\n".join(",".join(row) for row in [["a", "b"], *cells])
    (folder / "holes.csv").write_text(table)
    words = ["compare", "holes.csv", "--engines", "MAP-EM", "--restarts", "2", "--no-progress"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "held-out" in shown.lower()
    found = bayesmix.load_comparison(folder / "bayesmix-holes" / "comparison.nc")
    gone = np.isnan(np.asarray(found.data))
    assert gone.sum() == 2 and gone[3, 0] and gone[30, 1]
    low, high = found.density["grid"][0][[0, -1]]
    assert low > np.nanmin(x[:, 0]) - 5 and high < np.nanmax(x[:, 0]) + 5
    page = (folder / "bayesmix-holes" / "report.html").read_text(encoding="utf-8")
    assert "2 cells missing" in page


def test_what_it_is_is_said_without_a_command(capsys):
    assert main([]) == 0
    assert "compare" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"bayesmix {bayesmix.__version__}\n"
