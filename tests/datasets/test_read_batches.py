"""Parquet files some rows at a time, and fits to them."""

import sys

import numpy as np
import pandas as pd
import pytest

from bayesmix.tables import TableError, read_batches


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "a": rng.normal(size=101),
        "b": rng.integers(5, size=101),
        "c": rng.uniform(size=101) > 0.5,
    }
    frame = pd.DataFrame({**values, "name": ["text"] * 101, "day": pd.Timestamp("2020-01-01")})
    frame.loc[[3, 70], "a"] = np.nan
    frame["d"] = pd.array([None, *range(100)], dtype="Int64")
    frame.to_parquet(tmp_path / "people.parquet", row_group_size=40)
    return tmp_path / "people.parquet"


def test_all_rows_come_in_order_and_again(path):
    whole = pd.read_parquet(path)[["d", "a", "c"]].to_numpy(float, na_value=np.nan)
    batches = read_batches(path, columns=["d", "a", "c"], batch_size=30)
    for _ in range(2):
        found = list(batches)
        assert max(map(len, found)) <= 30 and {each.shape[1] for each in found} == {3}
        np.testing.assert_array_equal(np.concatenate(found), whole)


def complaint(*args, **kwargs) -> str:
    with pytest.raises(TableError) as caught:
        read_batches(*args, **kwargs)
    return str(caught.value)


def test_what_cannot_be_read_is_told(path):
    assert "no file 'none.parquet'" in complaint("none.parquet")
    assert "has no column 'e'" in complaint(path, columns=["e"])
    assert "'a' of" in complaint(path, columns=["a", "a"])
    assert "column 'name' of" in complaint(path)
    assert "column 'day' of" in complaint(path, columns=["day"])
    assert "batch_size is 0" in complaint(path, batch_size=0)
    (path.parent / "no.parquet").write_text("a\n1\n")
    assert "cannot be read as a Parquet file" in complaint(path.parent / "no.parquet")


def test_without_pyarrow(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "install bayesmix[parquet]" in complaint(path)
