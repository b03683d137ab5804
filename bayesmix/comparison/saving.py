"""Records with their arrays in one netCDF file, and back without loss.

Arrays are variables, in groups that are named after where they are (`engines/MAP-EM/estimate`); draws
are groups of ArviZ (`engines/Gibbs/idata/posterior`). Everything else is one text of JSON, the variable
`contents` of the root, in which arrays are referred to by their place. Equal arrays are stored once,
each with a digest, so that damage is noticed. Nothing is pickled: reading runs no code of the file's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..posterior import arviz_compat
from ..posterior.netcdf import is_changed, read_arrays, read_groups, write_groups
from ..program.errors import ProgramError

_VERSION = 1
_NOT_SAVED = {"plan", "fit"}  # compiled programs, not data


def save(file: Path, kind: str, value: Any) -> Path:
    """Write a value to one file: records, lists, tuples, mappings, arrays, tables and draws of ArviZ.

    `kind` says what the file is of. The file is written in full or not at all, and is what is returned.
    """
    import xarray as xr

    packed = _Packed()
    told = {
        kind: packed.pack(value, ""),
        "groups": list(packed.datasets),
        "digests": packed.digests,
    }
    contents = json.dumps(told)
    digest = _digest_of(contents)
    attrs = {"format": f"bayesmix {kind}", "format_version": _VERSION, "digest": digest}
    root = xr.Dataset({"contents": ((), contents)}, attrs=attrs)
    return write_groups(file, {"": root, **packed.datasets}, packed.arrays)


def load(file: Path, kind: str, records: Sequence[type]) -> Any:
    """What :func:`save` wrote, whose records are of the given classes.

    Raises :class:`ProgramError` where there is no such file, or it is damaged, or of another kind.
    """
    try:
        there = file.is_file()
    except OSError as error:
        raise ProgramError(f"'{file}' cannot be looked at ({error.strerror})") from error
    if not there:
        raise ProgramError(
            f"there is no file '{file}'; give one that Comparison.save wrote, or its folder"
        )
    try:
        if is_changed(file):
            raise _damaged(file)
        root = read_groups(file, [""])[""]
    except ProgramError:
        raise
    except Exception as error:  # what readers raise of damaged bytes has no end
        raise ProgramError(
            f"'{file}' cannot be read as netCDF, or is not whole; save the comparison again"
        ) from error
    attrs = root.attrs
    if attrs.get("format") != f"bayesmix {kind}" or "contents" not in root:
        raise ProgramError(f"'{file}' holds no {kind}; give a file that Comparison.save wrote")
    if attrs.get("format_version") != _VERSION:
        raise ProgramError(
            f"'{file}' is in format {attrs.get('format_version')} of comparisons, and this bayesmix "
            f"reads format {_VERSION}; use the version of bayesmix that wrote it"
        )
    contents = str(root["contents"].values)
    if _digest_of(contents) != attrs.get("digest"):
        raise _damaged(file)
    told = json.loads(contents)
    try:
        groups, arrays = read_groups(file, told["groups"]), read_arrays(file, told["digests"])
        changed = any(_digest(arrays[place]) != digest for place, digest in told["digests"].items())
    except Exception as error:
        raise _damaged(file) from error
    if changed:
        raise _damaged(file)
    return _Unpack(groups, arrays, {each.__name__: each for each in records}).value(told[kind])


def _damaged(file: Path) -> ProgramError:
    return ProgramError(f"'{file}' is damaged: its digests do not fit; save the comparison again")


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest(array: np.ndarray) -> str:
    found = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class _Packed:
    """A value taken apart: arrays by place ("group/name"), data sets by group, and digests."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.datasets: dict[str, Any] = {}
        self.digests: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._groups: dict[str, str] = {}

    def pack(self, value: Any, place: str) -> Any:
        """A value as JSON, its arrays put aside under `place`."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
            return {"record": type(value).__name__, "fields": self._fields(value, place)}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self.pack(each, f"{place}/{i}") for i, each in enumerate(value)]}
        if hasattr(value, "groups"):
            return self._container(value, place)  # an InferenceData is a Mapping too
        if isinstance(value, Mapping):
            return {"dict": self._entries(value, place)}
        if hasattr(value, "to_numpy") and hasattr(value, "columns"):
            columns = {str(name): np.asarray(value[name]) for name in value.columns}
            index = [str(each) for each in value.index]
            return {"frame": self._entries(columns, place), "index": index}
        return self._array(np.asarray(value), place)

    def _fields(self, value: Any, place: str) -> dict[str, Any]:
        names = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value)]
        fields = {n: None if n in _NOT_SAVED else getattr(value, n) for n in names}
        return self._entries(fields, place)

    def _entries(self, value: Mapping[str, Any], place: str) -> dict[str, Any]:
        above = f"{place}/" if place else ""
        return {n: self.pack(v, above + quote(n, safe="-+ ")) for n, v in value.items()}

    def _array(self, value: np.ndarray, place: str) -> Any:
        if value.dtype.kind in "OUS":
            return {"strings": [str(each) for each in value.ravel()], "shape": list(value.shape)}
        if not value.size:
            return {"empty": value.dtype.str, "shape": list(value.shape)}
        digest = _digest(value)
        if digest not in self._places:
            self._note(place, digest)
            self.arrays[place] = value
        return {"array": self._places[digest]}

    def _note(self, place: str, digest: str) -> None:
        self._places.setdefault(digest, place)
        self.digests[place] = digest

    def _container(self, idata: Any, place: str) -> dict[str, Any]:
        groups = {}
        for name in arviz_compat.groups(idata):
            data = arviz_compat.dataset(idata, name)
            groups[name] = self._dataset(data, f"{place}/{name}")
        return {"draws": groups, "attrs": {k: str(v) for k, v in idata.attrs.items()}}

    def _dataset(self, data: Any, group: str) -> str:
        """The group of a data set; of an equal one, where there is one already."""
        numbers = {
            str(name): _digest(np.asarray(v.values))
            for name, v in data.variables.items()
            if v.dtype.kind not in "OUS"
        }
        texts = {n: v.values.tolist() for n, v in data.variables.items() if str(n) not in numbers}
        dims = {n: v.dims for n, v in data.variables.items()}
        key = repr((numbers, texts, dims, data.attrs))
        if key not in self._groups:
            self._groups[key] = group
            self.datasets[group] = data
            for name, digest in numbers.items():
                self._note(f"{group}/{name}", digest)
        return self._groups[key]


class _Unpack:
    """The reverse of :class:`_Packed`."""

    def __init__(
        self,
        groups: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        records: Mapping[str, type],
    ) -> None:
        self.groups, self.arrays, self.records = groups, arrays, records

    def value(self, told: Any) -> Any:
        """What `pack` made this of."""
        if not isinstance(told, dict):
            return told
        if "record" in told:
            fields = {name: self.value(each) for name, each in told["fields"].items()}
            return self.records[told["record"]](**fields)
        if "list" in told:
            return [self.value(each) for each in told["list"]]
        if "tuple" in told:
            return tuple(self.value(each) for each in told["tuple"])
        if "dict" in told:
            return {name: self.value(each) for name, each in told["dict"].items()}
        if "frame" in told:
            import pandas as pd

            columns = {name: self.value(each) for name, each in told["frame"].items()}
            return pd.DataFrame(columns, index=told["index"])
        if "draws" in told:
            data = {name: self.groups[group] for name, group in told["draws"].items()}
            return arviz_compat.assemble(data, told["attrs"])
        if "strings" in told:
            return np.array(told["strings"], dtype=object).reshape(told["shape"])
        if "empty" in told:
            return np.empty(told["shape"], dtype=told["empty"])
        return self.arrays[told["array"]]
