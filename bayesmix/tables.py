"""Reading a table of numbers from a shipped name, a CSV file or a Parquet file.

Every complaint is a :class:`TableError` of one sentence: what is wrong, in which file, column
and row (rows of data count from 1, the header line not included), and what to do about it.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np

from . import datasets
from .datasets import Table, closest

__all__ = ["ParquetBatches", "Table", "TableError", "read_batches", "read_table"]

_SHOWN = 8  # names or rows listed in a message before it says how many more


class TableError(ValueError):
    """A table that cannot be read, or not used as it stands; the message says why and the cure."""


def read_table(name_or_path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Table:
    """The numeric columns of a shipped data set or of a `.csv` or `.parquet` file.

    Args:
        name_or_path: a name from `bayesmix.datasets.names()`, or the path of a file. A CSV file
            is UTF-8 with commas and one header line.
        columns: which columns to take, in this order. All of them when left out (but the index that
            pandas has put into a Parquet file); then every column must be numeric.

    Returns:
        A :class:`~bayesmix.datasets.Table` with float64 `values` `[N, D]`, N >= 2; NaN where a
        cell is empty, which engines take as missing.

    Raises:
        TableError: no such file, not a table, no or one row, an unknown, repeated, text or
            constant or empty column, infinite values, whole numbers that float64 does not hold.

    >>> read_table("faithful", columns=["waiting"])
    Table(faithful: 272 rows, 1 column: waiting)
    >>> read_table("faithful", columns=["wait"])
    Traceback (most recent call last):
    bayesmix.tables.TableError: 'faithful' has no column 'wait'; did you mean 'waiting'? ...
    """
    if isinstance(name_or_path, str) and name_or_path in datasets.names():
        shipped = datasets.load(name_or_path)
        chosen = _choose(f"'{name_or_path}'", shipped.columns, columns)
        places = [shipped.columns.index(name) for name in chosen]
        return Table(
            shipped.name, shipped.values[:, places], chosen, shipped.labels, shipped.source
        )
    path = Path(name_or_path)
    frame, row_names = _read_frame(path)
    where = f"'{path}'"
    frame.columns = [str(name) for name in frame.columns]
    chosen = _choose(where, tuple(frame.columns), columns, row_names)
    if len(frame) == 0:
        raise TableError(f"{where} has column names but no rows; there is nothing to fit.")
    values = np.column_stack([_numbers(where, name, frame[name]) for name in chosen])
    _check_values(where, values, chosen)
    return Table(path.stem, values, chosen, source=str(path))


@dataclass(frozen=True)
class ParquetBatches:
    """Rows of a Parquet file, some at a time: each time that it is gone through, from the first on.

    Gives float64 arrays (n, D) with at most `batch_size` rows, NaN where a cell is missing.
    """

    path: Path
    columns: tuple[str, ...]
    batch_size: int

    def __iter__(self) -> Iterator[np.ndarray]:
        where, names = f"'{self.path}'", list(self.columns)
        pyarrow = _pyarrow(where)
        with _open_parquet(self.path) as file:
            batches = file.iter_batches(batch_size=self.batch_size, columns=names)
            while True:
                try:
                    batch = next(batches, None)
                except (pyarrow.ArrowException, OSError) as error:
                    raise _not_parquet(where, error) from error
                if batch is None:
                    return
                yield np.column_stack([_doubles(where, name, batch[name]) for name in names])


def read_batches(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, batch_size: int = 65_536
) -> ParquetBatches:
    """The numeric columns of a `.parquet` file, some rows at a time, however large the file is.

    Args:
        path: the path of a file.
        columns: which columns to take, in this order. All of them when left out, but pandas' index.
        batch_size: rows in a batch; some have fewer.

    Returns:
        A :class:`ParquetBatches`, which can be gone through any number of times: what
        :meth:`bayesmix.OnlineEM.run_stream` takes.

    Raises:
        TableError: no such file, not Parquet, unknown or repeated columns, columns of text; pyarrow
            is not installed.

    >>> import tempfile
    >>> import pandas as pd
    >>> path = Path(tempfile.mkdtemp()) / "people.parquet"
    >>> pd.DataFrame({"age": [31, 42, 53], "height": [1.8, None, 1.6]}).to_parquet(path)
    >>> [batch.tolist() for batch in read_batches(path, batch_size=2)]
    [[[31.0, 1.8], [42.0, nan]], [[53.0, 1.6]]]
    """
    path = Path(path)
    where = f"'{path}'"
    if batch_size < 1:
        raise TableError(f"batch_size is {batch_size}; ask for at least one row.")
    if not _exists(path) or path.is_dir():
        raise TableError(f"there is no file {where}; give the path of a .parquet file.")
    try:
        with _open_parquet(path) as file:
            schema = file.schema_arrow
        names, row_names = tuple(schema.names), _row_names(schema)
    except (UnicodeError, JSONDecodeError) as error:
        raise _not_parquet(where, error) from error
    _check_unique(where, names)
    chosen = _choose(where, names, columns, row_names)
    _check_numeric(where, schema, chosen)
    return ParquetBatches(path, chosen, batch_size)


def _doubles(where: str, name: str, column: Any) -> np.ndarray:
    """A column of a batch as float64."""
    try:
        found = column.cast("float64")
    except _pyarrow(where).ArrowException as error:
        raise TableError(
            f"column '{name}' of {where} has no place in float64: {_one_line(error)}; subtract a "
            "constant, or choose other columns with columns=."
        ) from error
    return np.asarray(found.to_numpy(zero_copy_only=False))


def _row_names(schema: Any) -> tuple[str, ...]:
    """The columns of a Parquet file in which pandas has put an index."""
    told = (schema.pandas_metadata or {}).get("index_columns", ())
    return tuple(name for name in told if isinstance(name, str))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise TableError(
            f"'{path}' cannot be looked at ({error.strerror}); give the path of another file."
        ) from error


def _check_numeric(where: str, schema: Any, columns: tuple[str, ...]) -> None:
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    for name in columns:
        kind = schema.field(name).type
        if not any(is_kind(kind) for is_kind in kinds):
            raise TableError(
                f"column '{name}' of {where} is not numeric ({kind}); choose the numeric columns with "
                "columns=, or turn it into numbers."
            )


def _pyarrow(where: str) -> Any:
    """pyarrow, with its Parquet reader."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TableError(
            f"{where} needs pyarrow, which is not installed; install bayesmix[parquet], or save "
            "the table as .csv."
        ) from None
    return pyarrow


def _open_parquet(path: Path) -> Any:
    pyarrow = _pyarrow(f"'{path}'")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_parquet(f"'{path}'", error) from error


def _not_parquet(where: str, error: Exception) -> TableError:
    return TableError(
        f"{where} cannot be read as a Parquet file: {_one_line(error)}; write it again, or "
        "save it as .csv."
    )


def _read_frame(path: Path) -> tuple[Any, tuple[str, ...]]:
    """A pandas frame with unique column names, whatever the columns hold, and those that name rows."""
    where = f"'{path}'"
    if _exists(path) and path.is_dir():
        raise TableError(f"{where} is a folder; name one .csv or .parquet file in it.")
    if not path.exists():
        raise TableError(
            f"there is no file {where}{closest(str(path), datasets.names()) or ';'} give the path "
            f"of a .csv or .parquet file, or one of: {', '.join(datasets.names())}."
        )
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise TableError(
            f"{where} ends neither in .csv nor in .parquet; save the table in one of these."
        )
    if path.stat().st_size == 0:
        raise TableError(f"{where} is empty; it should hold a line of column names, then rows.")
    if path.suffix.lower() == ".csv":
        return _read_csv(path), ()
    return _read_parquet(path)


def _read_csv(path: Path) -> Any:
    import pandas as pd

    where = f"'{path}'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # The header is read as a line of text, because pandas would quietly rename repeated
            # names, and take the first column for row names where the header is one name short.
            text = {"dtype": str, "keep_default_na": False}  # a column may be called NA
            header = pd.read_csv(path, header=None, nrows=1, skipinitialspace=True, **text)
            names = [name.strip() for name in header.iloc[0]]
            _check_header(where, names)
            frame = pd.read_csv(path, index_col=False, skipinitialspace=True, low_memory=False)
    except pd.errors.EmptyDataError:
        raise TableError(
            f"{where} holds only blank lines; it should hold a line of column names, then rows."
        ) from None
    except UnicodeError:
        raise TableError(f"{where} is not text in UTF-8; save it as a UTF-8 CSV file.") from None
    except pd.errors.ParserWarning:
        raise TableError(
            f"{where} has rows with more values than there are column names ({len(names)}); give "
            "every column a name, a column of row names included."
        ) from None
    except (pd.errors.ParserError, OSError) as error:
        raise TableError(
            f"{where} cannot be read as a table: {_one_line(error)}; save it with commas between "
            "values and the same number of values in each row."
        ) from error
    frame.columns = names
    return frame


def _read_parquet(path: Path) -> tuple[Any, tuple[str, ...]]:
    where = f"'{path}'"
    pyarrow = _pyarrow(where)
    try:
        table = pyarrow.parquet.read_table(path)
        frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
        names, row_names = table.column_names, _row_names(table.schema)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _not_parquet(where, error) from error
    _check_unique(where, names)
    return frame, row_names


def _one_line(error: Exception) -> str:
    line = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return line.removeprefix("Error tokenizing data. C error: ")


def _check_header(where: str, names: list[str]) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        mark = "semicolons" if ";" in names[0] else "tabs"
        raise TableError(f"{where} has {mark} between its values; save it with commas.")
    if all(_is_number(name) for name in names):
        raise TableError(
            f"{where} starts with a row of numbers; put a line of column names before it."
        )
    _check_unique(where, names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_unique(where: str, names: Sequence[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if name and list(names).count(name) > 1]
    if repeated:
        raise TableError(
            f"{where} has more than one column called {_some(map(repr, repeated))}; give every "
            "column a name of its own."
        )


def _choose(
    where: str,
    available: tuple[str, ...],
    columns: Sequence[str] | None,
    row_names: tuple[str, ...] = (),
) -> tuple[str, ...]:
    if columns is None:
        available = tuple(name for name in available if name not in row_names)
        if not available:
            raise TableError(f"{where} has no column; save the table with its columns.")
        blank = [str(place + 1) for place, name in enumerate(available) if not name]
        if blank:
            raise TableError(
                f"{where} has columns without a name ({_some(blank)}: row names, perhaps); name every "
                "column in the first line, or choose columns with --columns (columns=)."
            )
        return available
    if isinstance(columns, str):
        columns = [columns]
    if len(columns) == 0:
        raise TableError(f"no column of {where} was chosen; name at least one.")
    for name in columns:
        if name not in available:
            raise TableError(
                f"{where} has no column '{name}'{closest(name, available) or ';'} its columns "
                f"are: {_some(available)}."
            )
        if list(columns).count(name) > 1:
            raise TableError(f"column '{name}' of {where} was chosen twice; name it once.")
    return tuple(columns)


def _numbers(where: str, name: str, column: Any) -> np.ndarray:
    """One column as float64, with NaN for what is missing."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column):
        missing = column.isna()
        as_numbers = pd.Series(np.nan, index=column.index)
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            as_numbers = pd.to_numeric(column, errors="coerce")
        bad = np.flatnonzero((as_numbers.isna() & ~missing).to_numpy())
        if bad.size:
            raise TableError(
                f"column '{name}' of {where} is not numeric (row {bad[0] + 1} holds "
                f"'{column.iloc[bad[0]]}'); choose the numeric columns with --columns (columns=), "
                "or turn it into numbers."
            )
    else:
        as_numbers = column
    found = np.asarray(as_numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    if not pd.api.types.is_float_dtype(column):
        _check_exact(where, name, column, found)
    return found


def _check_exact(where: str, name: str, column: Any, found: np.ndarray) -> None:
    """Beyond 2^53 whole numbers have no float64 of their own."""
    large = np.flatnonzero(np.abs(found) >= 2.0**53)
    for row, value in zip(large, column.iloc[large].tolist(), strict=True):
        exact = str(value).strip()
        if not exact.lstrip("+-").isdigit() or int(exact) == int(found[row]):
            continue
        raise TableError(
            f"column '{name}' of {where} has whole numbers beyond 2^53, between which float64 does not "
            f"tell (row {row + 1} holds {exact}); subtract a constant, or leave the column out with "
            "--columns (columns=)."
        )


def _check_values(where: str, values: np.ndarray, columns: tuple[str, ...]) -> None:
    empty = [name for name, none in zip(columns, np.isnan(values).all(axis=0)) if none]
    if empty:
        raise TableError(
            f"column '{empty[0]}' of {where} holds no value; leave it out with --columns (columns=)."
        )
    bad = np.isinf(values)
    if bad.any():
        names = [name for name, any_bad in zip(columns, bad.any(axis=0)) if any_bad]
        rows = np.flatnonzero(bad.any(axis=1)) + 1
        plural = "s" if len(names) > 1 else ""
        raise TableError(
            f"column{plural} {_some(map(repr, names))} of {where} "
            f"{'have' if plural else 'has'} infinite values (row{'s' if len(rows) > 1 else ''} "
            f"{_some(map(str, rows))}); drop these rows, or leave their cells empty."
        )
    if len(values) == 1:
        raise TableError(f"{where} has one row; a mixture needs at least two.")
    constant = [name for name, spread in zip(columns, _spread(values)) if spread == 0]
    if constant:
        place = columns.index(constant[0])
        raise TableError(
            f"column '{constant[0]}' of {where} is constant (every row holds "
            f"{np.nanmax(values[:, place]):g}), so it has no variance to model; leave it out with "
            "--columns (columns=)."
        )


def _spread(values: np.ndarray) -> np.ndarray:
    """The range of each column's values that are there, (D,)."""
    return np.nanmax(values, axis=0) - np.nanmin(values, axis=0)


def _some(words: Any) -> str:
    """The first few of many words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
