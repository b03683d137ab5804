"""A search on disk: one file of arrays and a line of JSON, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from ..program.arguments import Arguments
from ..program.errors import ProgramError
from .saving import read_arrays, write_arrays
from .search_problem import Climbs

_FIELDS = ("objectives", "statuses", "costs")
History = dict[str, list[Climbs]]  # by strategy, what each of its steps found


def fingerprint(arguments: Arguments, rng_key: Array, described: Mapping[str, str]) -> str:
    """Tells searches apart: data, key, strategies and settings."""
    found = hashlib.sha256(json.dumps(dict(described), sort_keys=True).encode())
    found.update(str(arguments.layout.shapes).encode())
    for array in (*arguments.arrays, jax.random.key_data(rng_key)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def save(path: Path, mark: str, history: History, finished: set[str]) -> None:
    """Write the search; a file that is there is replaced at once or stays as it is."""
    arrays: dict[str, Any] = {}
    steps = {name: len(found) for name, found in history.items()}
    for i, (_, found) in enumerate(sorted(history.items())):
        for step, climbs in enumerate(found):
            arrays |= {f"{i}/{step}/{field}": getattr(climbs, field) for field in _FIELDS}
            arrays |= {f"{i}/{step}/values/{name}": v for name, v in climbs.values.items()}
    told = json.dumps({"mark": mark, "steps": steps, "finished": sorted(finished)})
    write_arrays(path, {"told": np.array(told), **arrays})


def load(path: Path, mark: str) -> tuple[History, set[str]]:
    """What :func:`save` wrote; nothing where there is no file.

    Raises :class:`ProgramError` where the file is of another search, or cannot be read.
    """
    if not path.exists():
        return {}, set()
    arrays = read_arrays(path, "told")
    told = json.loads(str(arrays.pop("told")))
    if told["mark"] != mark:
        raise ProgramError(
            f"'{path}' is the checkpoint of another search (other data, key, strategies or settings); "
            "name another file, or remove it"
        )
    history: History = {}
    for i, (name, steps) in enumerate(sorted(told["steps"].items())):
        history[name] = []
        for step in range(steps):
            start = f"{i}/{step}/"
            fields = {field: arrays[start + field] for field in _FIELDS}
            values = {
                key.removeprefix(start + "values/"): value
                for key, value in arrays.items()
                if key.startswith(start + "values/")
            }
            history[name].append(Climbs(values=values, **fields))
    return history, set(told["finished"])
