"""A comparison in one netCDF file, and back without loss.

Arrays are variables, in groups that are named after where they are (`engines/MAP-EM/estimate`); draws
are groups of ArviZ (`engines/Gibbs/idata/posterior`). Everything else is one text of JSON, the variable
`contents` of the root, in which arrays are referred to by their place. Equal arrays are stored once,
each with a digest, so that damage is noticed. Nothing is pickled: reading runs no code of the file's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from .comparison import Comparison
from .posterior import arviz_compat
from .posterior.calibration import Calibration
from .posterior.engines import EngineResult, Evidence
from .posterior.labels import LabelSwitching
from .posterior.netcdf import is_changed, read_arrays, read_groups, write_groups
from .posterior.tables import Agreement
from .program.errors import ProgramError

_VERSION = 1
_NAME = "comparison.nc"
_RECORDS = {
    kind.__name__: kind
    for kind in (Comparison, EngineResult, Evidence, LabelSwitching, Calibration, Agreement)
}
_NOT_SAVED = {"plan", "fit"}  # compiled programs, not data


def file_of(path: str | Path) -> Path:
    """The file that a path means: itself if it ends in .nc, else `comparison.nc` in that folder."""
    path = Path(path)
    return path if path.suffix == ".nc" else path / _NAME


def save_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write a comparison to one file; see :meth:`Comparison.save`."""
    file = file_of(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    return _save(file, "comparison", comparison)


def save_answer(result: EngineResult, run: Mapping[str, Any], file: Path) -> Path:
    """Write one engine's answer, and what tells its run from others, to a file of the same form."""
    return _save(file, "answer", {"result": result, "run": run})


def load_answer(file: Path) -> tuple[EngineResult, dict[str, Any]]:
    """What :func:`save_answer` wrote. Raises :class:`ProgramError` as :func:`load_comparison`."""
    found = _load(file, "answer")
    return found["result"], found["run"]


def _save(file: Path, kind: str, value: Any) -> Path:
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


def load_comparison(path: str | Path) -> Comparison:
    """A comparison that :meth:`Comparison.save` wrote.

    Tables, pictures, estimates and draws are those of the comparison that was saved, bit by bit. What
    belongs to the program itself is not in the file: `plan` is None, and so is each engine's `fit`.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        ProgramError: where there is no such file, or it is damaged, or of another kind.

    Example:
        >>> load_comparison("nowhere")
        Traceback (most recent call last):
        bayesmix.program.errors.ProgramError: there is no file 'nowhere/comparison.nc'; ...

    :func:`bayesmix.compare` has an example with a file.
    """
    found: Comparison = _load(file_of(path), "comparison")
    return found


def _load(file: Path, kind: str) -> Any:
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
    return _Unpack(groups, arrays).value(told[kind])


def _damaged(file: Path) -> ProgramError:
    return ProgramError(f"'{file}' is damaged: its digests do not fit; save the comparison again")


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest(array: np.ndarray) -> str:
    found = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class _Packed:
    """A comparison taken apart: arrays by place ("group/name"), data sets by group, and digests."""

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
        if type(value).__name__ in _RECORDS:
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

    def __init__(self, groups: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.groups, self.arrays = groups, arrays

    def value(self, told: Any) -> Any:
        """What `pack` made this of."""
        if not isinstance(told, dict):
            return told
        if "record" in told:
            fields = {name: self.value(each) for name, each in told["fields"].items()}
            return _RECORDS[told["record"]](**fields)
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
