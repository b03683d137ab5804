"""Groups of arrays in one netCDF-4 file, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

_MARK, _DIGEST_BYTES, _CHUNK = b"\nbayesmix digest\n", 16, 1 << 20


def write_groups(
    path: str | os.PathLike,
    groups: Mapping[str, xr.Dataset],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write data sets by the path of their group ("" for the root, "a/b" for a group in a group), and
    arrays by their place ("a/name").

    The file appears whole or not at all: it is written beside its destination, then renamed. After
    netCDF's last byte stands a digest of them all, which netCDF takes no notice of. Raises `OSError`
    where there is no room, or no permission.

    >>> import tempfile, xarray as xr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = {"a": xr.Dataset({"x": ("row", [1.0, 2.0])})}
    ...     path = write_groups(folder + "/some.nc", data, {"b/y": np.array([True, False])})
    ...     read_groups(path, ["a"])["a"]["x"].values.tolist(), read_arrays(path, ["b/y"])["b/y"]
    ([1.0, 2.0], array([ True, False]))
    """
    import xarray as xr

    library, path = _h5netcdf(), Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        groups.get("", xr.Dataset()).to_netcdf(partial, mode="w", engine="h5netcdf")
        for group, data in groups.items():
            if group:
                data.to_netcdf(partial, mode="a", group=group, engine="h5netcdf")
        with library.File(partial, "a") as file:
            for place, value in (arrays or {}).items():
                _write_array(file, place, value)
        with partial.open("rb+") as stream:
            stream.write(_MARK + _digest(stream))
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except (
        OSError,
        RuntimeError,
    ) as error:  # HDF5 says much of what it was doing, and in several lines
        told = re.search(r"errno = (\d+)", str(error))
        if told is None and isinstance(error, OSError):
            raise
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _digest(stream: BinaryIO, size: int = -1) -> bytes:
    """A digest of the rest of a file, or of so many bytes of it."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    while size and (chunk := stream.read(_CHUNK if size < 0 else min(_CHUNK, size))):
        found.update(chunk)
        size -= len(chunk) if size > 0 else 0
    return found.digest()


def is_changed(path: str | os.PathLike[str]) -> bool:
    """Has a file of :func:`write_groups` been damaged since? False for others, which have no digest.

    HDF5 may not come to an end with a damaged file.
    """
    tail = len(_MARK) + _DIGEST_BYTES
    with Path(path).open("rb") as stream:
        size = stream.seek(0, os.SEEK_END) - tail
        if size < 0:
            return False
        stream.seek(size)
        end = stream.read()
        if not end.startswith(_MARK):
            return False
        stream.seek(0)
        return _digest(stream, size) != end[len(_MARK) :]


def _write_array(file: Any, place: str, value: np.ndarray) -> None:
    group, _, name = place.rpartition("/")
    where = file
    for part in filter(None, group.split("/")):
        where = where[part] if part in where.groups else where.create_group(part)
    dims = [f"{name}_dim_{axis}" for axis in range(value.ndim)]
    for dim, size in zip(dims, value.shape, strict=True):
        where.dimensions[dim] = size
    logical = value.dtype == bool  # netCDF has none: as xarray writes them
    stored = value.astype(np.int8) if logical else value
    variable = where.create_variable(name, dims, dtype=stored.dtype)
    variable[...] = stored
    if logical:
        variable.attrs["dtype"] = "bool"


def read_groups(
    path: str | os.PathLike, names: Iterable[str] | None = None
) -> dict[str, xr.Dataset]:
    """Groups of a file by their path, read into memory; by default the root ("") and those in it.

    Raises `OSError` where it is no netCDF-4 file, or not a whole one, or has no such group.
    """
    import xarray as xr

    if names is None:
        with _h5netcdf().File(path, "r") as file:
            names = ["", *file.groups]
    return {name: xr.load_dataset(path, group=name or None, engine="h5netcdf") for name in names}


def read_arrays(path: str | os.PathLike, places: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays by their place, as :func:`write_groups` got them.

    Raises `OSError` as :func:`read_groups`, and `KeyError` where there is nothing at a place.
    """
    found = {}
    with _h5netcdf().File(path, "r") as file:
        for place in places:
            variable = file[place]
            value = np.asarray(variable[...])
            found[place] = value.astype(bool) if variable.attrs.get("dtype") == "bool" else value
    return found


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise ImportError(
            "netCDF files are read and written by h5netcdf, which is not installed: "
            "`pip install h5netcdf`."
        ) from error
    return h5netcdf
