"""A comparison in one file: read back without loss, or refused with a sentence."""

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayesmix
from bayesmix import ProgramError, plots
from bayesmix.__main__ import main
from bayesmix.comparison import saving
from bayesmix.comparison.engines import EngineResult, Evidence
from bayesmix.comparison.result import Comparison
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.labels import label_switching
from tests.examples import example_comparison, example_draws


def invented():
    """A comparison of every kind of field, fitted by nobody."""
    made = example_comparison(rows=30, columns=2)
    engines = {}
    for name, each in made.engines.items():
        estimate = {
            "mean": each.means,
            "a/b c": np.array([np.nan, np.inf, -0.0]),
            "count": np.arange(3, dtype=np.int32),
            "none": np.zeros((0, 2)),
            "flag": np.array([True, False]),
            "single": np.float32([0.1, 0.2]),
        }
        result = EngineResult(estimate=estimate, plug_in=each.draws is None, **vars(each))
        if each.draws is not None:
            raw = example_draws(draws=20, rows=30)
            found = label_switching(raw)
            result = dataclasses.replace(
                result,
                raw=raw,
                idata=arviz_compat.replace_group(
                    raw, "posterior", arviz_compat.dataset(raw, "posterior").assign_attrs(note="x")
                ),
                switching=found,
                switching_after=found,
                interval={"mean": (each.means - 1.0, each.means + 1.0)},
                evidence=Evidence(-12.5, None, "estimate"),
            )
        engines[name] = result
    left_out = {"VB": "it has hidden values of rows"}
    return Comparison(**{**vars(made), "engines": engines, "plan": None, "left_out": left_out})


def same(one, other):
    """Equal to the bit, and of the same kinds."""
    assert type(one) is type(other), (type(one), type(other))
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif hasattr(one, "groups"):  # a container of ArviZ
        assert arviz_compat.groups(one) == arviz_compat.groups(other)
        for group in arviz_compat.groups(one):
            left, right = (arviz_compat.dataset(each, group) for each in (one, other))
            assert left.identical(right)
            assert all(left[name].dtype == right[name].dtype for name in left.variables)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            same(left, right)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    else:
        assert one == other


@pytest.fixture(scope="module")
def comparison():
    return invented()


@pytest.fixture
def saved(comparison, tmp_path):
    return comparison.save(tmp_path)


def test_it_is_read_back_bit_by_bit(comparison, saved):
    assert saved.name == "comparison.nc" and os.listdir(saved.parent) == ["comparison.nc"]
    again = bayesmix.load_comparison(saved.parent)
    same(comparison, again)
    assert again.table() == comparison.table()
    assert again.to_dict() == comparison.to_dict()
    pictures = (plots.figure_png(plots.plot_calibration(each)) for each in (comparison, again))
    assert next(pictures) == next(pictures)


def test_it_is_read_by_others_and_equal_draws_are_there_once(saved):
    draws = xr.load_dataset(saved, group="engines/Gibbs/raw/posterior", engine="h5netcdf")
    assert draws["mean"].dims == ("chain", "draw", "component")
    assert b"pickle" not in saved.read_bytes()
    with pytest.raises((OSError, KeyError)):  # the other sampler's draws are the same
        xr.load_dataset(saved, group="engines/NUTS/raw/posterior", engine="h5netcdf")


def shortened(file):
    file.write_bytes(file.read_bytes()[:-2000])


def altered(file):
    """One bit of one estimate is turned."""
    content, value = bytearray(file.read_bytes()), invented().data.tobytes()
    content[content.index(value) + 3] ^= 1
    file.write_bytes(content)


def told_otherwise(file):
    with xr.open_dataset(file, engine="h5netcdf") as found:
        root = found.load()
    text = str(root["contents"].values).replace("it has hidden", "it has no hidden")
    root.assign(contents=((), text)).to_netcdf(file, mode="a", engine="h5netcdf")


def newer(file):
    xr.Dataset(attrs={"format_version": 99}).to_netcdf(file, mode="a", engine="h5netcdf")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), "there is no file"),
        (shortened, "cannot be read as netCDF, or is not whole"),
        (lambda file: file.write_text("once upon a time"), "cannot be read as netCDF"),
        (lambda file: file.write_bytes(b""), "cannot be read as netCDF"),
        (altered, "is damaged: its digests do not fit"),
        (told_otherwise, "is damaged: its digests do not fit"),
        (newer, "in format 99 of comparisons"),
        (
            lambda file: arviz_compat.to_netcdf(example_draws(draws=5), file),
            "holds no comparison",
        ),
    ],
)
def test_what_is_no_whole_comparison_is_refused_in_a_sentence(saved, spoil, words, capsys):
    spoil(saved)
    with pytest.raises(ProgramError, match=words):
        bayesmix.load_comparison(saved)
    assert main(["report", str(saved)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_damage_is_found_before_hdf5_reads_it(saved, monkeypatch):
    altered(saved)
    monkeypatch.setattr(saving, "read_groups", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ProgramError, match="is damaged: its digests do not fit"):
        bayesmix.load_comparison(saved)


def test_a_failing_write_leaves_the_earlier_file_and_no_half_one(comparison, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise PermissionError("locked")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(PermissionError, match="locked"):
        dataclasses.replace(comparison, title="another").save(saved)
    assert os.listdir(saved.parent) == [saved.name] and saved.read_bytes() == before


def test_the_report_is_made_again_from_the_file_alone(comparison, saved, capsys, monkeypatch):
    monkeypatch.setattr(plots, "figure_png", lambda figure: b"a picture")
    assert main(["report", str(saved)]) == 0
    assert comparison.table() in capsys.readouterr().out
    assert comparison.title in (saved.parent / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(saved), "--out", str(saved / "page.html")]) == 2
    assert "give another --out" in capsys.readouterr().err
