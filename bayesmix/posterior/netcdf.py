"""Groups of arrays in one netCDF-4 file, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def write_groups(path: str | os.PathLike, groups: Mapping[str, xr.Dataset]) -> Path:
    """Write data sets by the path of their group ("" for the root, "a/b" for a group in a group).

    The file appears whole or not at all: it is written beside its destination, then renamed.

    >>> import tempfile, xarray as xr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_groups(folder + "/some.nc", {"a/b": xr.Dataset({"x": ("row", [1.0, 2.0])})})
    ...     read_groups(path)["a/b"]["x"].values.tolist()
    [1.0, 2.0]
    """
    import xarray as xr

    h5netcdf()
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        groups.get("", xr.Dataset()).to_netcdf(partial, mode="w", engine="h5netcdf")
        for group, data in groups.items():
            if group:
                data.to_netcdf(partial, mode="a", group=group, engine="h5netcdf")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_groups(path: str | os.PathLike) -> dict[str, xr.Dataset]:
    """Every group of a file by its path, the root as "", read into memory; the file is closed.

    Raises `OSError` where it is no netCDF-4 file, or not a whole one.
    """
    import xarray as xr

    with h5netcdf().File(path, "r") as file:
        names = ["", *_walk(file, "")]
    return {name: xr.load_dataset(path, group=name or None, engine="h5netcdf") for name in names}


def _walk(group: Any, above: str) -> Iterator[str]:
    for name, inner in group.groups.items():
        own = f"{above}/{name}" if above else name
        yield own
        yield from _walk(inner, own)


def h5netcdf() -> Any:
    """The library that reads and writes these files."""
    try:
        import h5netcdf
    except ImportError as error:
        raise ImportError(
            "netCDF files are read and written by h5netcdf, which is not installed: "
            "`pip install h5netcdf`."
        ) from error
    return h5netcdf
