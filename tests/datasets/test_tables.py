"""Reading tables: what comes back, and the one sentence said about each thing that is wrong."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayesmix import datasets
from bayesmix.tables import TableError, read_batches, read_table

GOOD = "height,weight\n1.5,50\n1.6,60\n1.7,65\n"


@pytest.fixture
def write(tmp_path):
    """Write text (or bytes) to a file of the given name and return its path."""

    def to(content, name="people.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def complaint(path, columns=None) -> str:
    with pytest.raises(TableError) as caught:
        read_table(path, columns)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# What is read


def test_csv(write):
    path = write(GOOD)
    table = read_table(path)
    assert (table.name, table.columns, table.labels) == ("people", ("height", "weight"), None)
    assert table.source == str(path)
    assert table.values.dtype == np.float64
    np.testing.assert_array_equal(table.values, [[1.5, 50], [1.6, 60], [1.7, 65]])


def test_columns_are_taken_in_the_order_asked_for(write):
    text = "name,height,weight\nann,1.5,50\nbob,1.6,60\n"
    table = read_table(write(text), ["weight", "height"])
    np.testing.assert_array_equal(table.values, [[50, 1.5], [60, 1.6]])
    assert read_table(write(text), "height").columns == ("height",)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace(",", ", "),
        '"height","weight"\n"1.5","50"\n"1.6","60"\n"1.7","65"\n',
        "\n" + GOOD.replace("\n", "\n\n"),
        GOOD.rstrip("\n"),
    ],
    ids=["byte order mark", "crlf", "spaces", "quotes", "blank lines", "no last newline"],
)
def test_csv_dialects_give_the_same_numbers(write, text):
    table = read_table(write(text))
    assert table.columns == ("height", "weight")
    np.testing.assert_array_equal(table.values, [[1.5, 50], [1.6, 60], [1.7, 65]])


def test_csv_numbers_are_read_to_the_last_bit(write):
    values = np.random.default_rng(0).normal(size=(50, 2)) * 10.0 ** np.arange(-25, 25)[:, None]
    rows = "".join(f"{a!r},{b!r}\n" for a, b in values.tolist())
    np.testing.assert_array_equal(read_table(write("a,b\n" + rows)).values, values)


def test_parquet(tmp_path):
    path = tmp_path / "people.parquet"
    frame = pd.DataFrame({"height": [1.5, 1.6], "n": pd.array([1, 2], dtype="Int64")})
    frame.to_parquet(path)
    table = read_table(path)
    assert table.columns == ("height", "n")
    np.testing.assert_array_equal(table.values, [[1.5, 1], [1.6, 2]])


def test_shipped_name(iris):
    table = read_table("iris")
    np.testing.assert_array_equal(table.values, iris.values)
    assert table.labels is not None
    part = read_table("iris", ["petal_width", "sepal_width"])
    np.testing.assert_array_equal(part.values, iris.values[:, [3, 1]])
    assert part.labels is not None


def test_a_path_object_is_never_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no file 'faithful'" in complaint(Path("faithful"))


# What is refused


def test_no_such_file(tmp_path):
    message = complaint(tmp_path / "nothing.csv")
    assert "there is no file" in message and "nothing.csv" in message
    assert all(name in message for name in datasets.names())


def test_a_misspelt_shipped_name_gets_the_closest():
    assert "did you mean 'galaxies'?" in complaint("galaxy")


def test_folder(tmp_path):
    assert "is a folder" in complaint(tmp_path)


def test_other_kinds_of_file(write):
    assert "neither in .csv nor in .parquet" in complaint(write("a\n1\n", "people.xlsx"))


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_empty_file(write, name):
    assert f"{name}' is empty" in complaint(write("", name))


def test_blank_lines_only(write):
    assert "only blank lines" in complaint(write("\n\n"))


def test_header_only(write):
    assert "has column names but no rows" in complaint(write("height,weight\n"))


def test_one_row(write):
    assert "has one row; a mixture needs at least two" in complaint(write("height\n1.5\n"))


def test_not_text(write):
    assert "not text in UTF-8" in complaint(write("höhe\n1\n2\n".encode("latin-1")))


def test_not_parquet(write):
    assert "cannot be read as a Parquet file" in complaint(write(GOOD, "people.parquet"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n3,4,5\n", "a,b\n1,2,3\n4,5,6\n"])
def test_rows_longer_than_the_header(write, text):
    message = complaint(write(text))
    assert "people.csv" in message and "C error" not in message
    assert "more values than" in message or "same number of values" in message


def test_no_header(write):
    assert "put a line of column names before it" in complaint(write("1.5,50\n1.6,60\n"))


def test_column_without_a_name(write):
    path = write(",a,\n1,2,x\n2,3,y\n")
    assert "columns without a name (1, 3: row names" in complaint(path)
    np.testing.assert_array_equal(read_table(path, ["a"]).values, [[2], [3]])


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators(write, mark, name):
    assert f"has {name} between its values" in complaint(write(GOOD.replace(",", mark)))


def test_repeated_column_names(write):
    message = complaint(write("a,b,a\n1,2,3\n4,5,6\n"))
    assert "more than one column called 'a'" in message


def test_unknown_column(write):
    message = complaint(write(GOOD), ["hieght"])
    assert "no column 'hieght'; did you mean 'height'?" in message
    assert "height, weight" in message
    assert "petal_length" in complaint("iris", ["petals"])


def test_unusable_choices_of_columns(write):
    assert "name at least one" in complaint(write(GOOD), [])
    assert "chosen twice" in complaint(write(GOOD), ["height", "height"])
    assert "no column 'species'" in complaint("iris", ["species"])


def test_text_column(write):
    message = complaint(write("name,height\nann,1.5\nbob,1.6\n"))
    assert "column 'name'" in message and "(row 1 holds 'ann')" in message
    assert "--columns" in message


def test_one_word_among_numbers(write):
    message = complaint(write("height\n1.5\n\n?\n1.7\n"))
    assert "column 'height'" in message and "(row 2 holds '?')" in message


def test_dates_are_not_numbers(tmp_path):
    path = tmp_path / "days.parquet"
    pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2020-01-02"])}).to_parquet(path)
    assert "column 'day'" in complaint(path)


@pytest.mark.parametrize("gap", ["", "NA", "nan"])
def test_empty_cells_are_missing_values(write, gap):
    table = read_table(write(f"a,b,c\n1,{gap},3\n4,5,6\n{gap},8,9\n"))
    np.testing.assert_array_equal(table.values, [[1, np.nan, 3], [4, 5, 6], [np.nan, 8, 9]])


def test_short_rows_have_missing_values(write):
    table = read_table(write("a,b\n1,2\n3\n4,5\n"))
    np.testing.assert_array_equal(table.values, [[1, 2], [3, np.nan], [4, 5]])


def test_missing_values_in_parquet(tmp_path):
    path = tmp_path / "gaps.parquet"
    pd.DataFrame({"n": pd.array([1, None, 3], dtype="Int64")}).to_parquet(path)
    np.testing.assert_array_equal(read_table(path).values, [[1], [np.nan], [3]])


def test_a_column_without_a_value_is_refused(write):
    message = complaint(write("a,b\n" + "1,\n" * 20))
    assert "column 'b'" in message and "holds no value; leave it out with --columns" in message


@pytest.mark.parametrize("huge", ["inf", "-inf", "1e400"])
def test_infinite_values(write, huge):
    message = complaint(write(f"a,b\n1,2\n{huge},4\n"))
    assert "column 'a'" in message and "infinite values (row 2)" in message


def test_many_bad_rows_are_summed_up(write):
    message = complaint(write("a,b\n" + "1,inf\n" * 20))
    assert "1, 2, 3, 4, 5, 6, 7, 8 and 12 more" in message


def test_constant_column(write):
    message = complaint(write("a,b\n1,7\n2,7\n3,7\n"))
    assert "column 'b'" in message and "is constant (every row holds 7)" in message
    assert read_table(write("a,b\n1,7\n2,7\n"), ["a"]).columns == ("a",)


def test_parquet_without_pyarrow(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "install bayesmix[parquet]" in complaint(write("x", "people.parquet"))


def test_columns_may_be_called_as_missing_cells_are(write):
    table = read_table(write("NA,None,null\n1,2,3\n4,5,7\n"), ["null", "NA"])
    assert table.columns == ("null", "NA") and table.values.tolist() == [[3.0, 1.0], [7.0, 4.0]]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 + 1, 10**30 + 1])
def test_whole_numbers_that_float64_does_not_hold_are_refused(write, number):
    said = complaint(write(f"a,b\n1,2\n{number},3\n"))
    assert f"row 2 holds {number}" in said and "subtract a constant" in said
    assert read_table(write(f"a,b\n1,2\n{2**60},3\n")).values[1, 0] == 2.0**60


def test_the_index_of_a_data_frame_is_no_column_unless_it_is_chosen(tmp_path):
    frame = pd.DataFrame({"a": [3.0, 1.0, 2.0], "b": [4.0, 5.0, 7.0]})
    named, unnamed = tmp_path / "named.parquet", tmp_path / "unnamed.parquet"
    frame.set_index("a").to_parquet(named)
    frame.iloc[[2, 0, 1]].to_parquet(unnamed)
    for reader in (read_table, read_batches):
        assert reader(named).columns == ("b",)
        assert reader(named, ["a", "b"]).columns == ("a", "b")
        assert reader(unnamed).columns == ("a", "b")
    assert read_table(named, ["a"]).values.ravel().tolist() == [3.0, 1.0, 2.0]


def test_a_damaged_parquet_file_is_refused_whatever_the_damage(tmp_path):
    path, rng = tmp_path / "people.parquet", np.random.default_rng(0)
    pd.DataFrame(rng.normal(size=(50, 2)), columns=["a", "b"]).to_parquet(path)
    content, refused = path.read_bytes(), 0
    for _ in range(60):
        spoilt = bytearray(content)
        for place in rng.integers(len(content) // 2, len(content), size=3):
            spoilt[place] ^= int(rng.integers(1, 256))
        path.write_bytes(spoilt)
        for reader in (read_table, lambda path: list(read_batches(path))):
            try:
                reader(path)
            except TableError:
                refused += 1
    assert refused > 20


def test_a_path_that_is_too_long_is_said():
    assert "name too long" in complaint("x" * 5000 + ".csv").lower()
