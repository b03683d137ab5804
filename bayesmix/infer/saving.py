"""Pytrees of arrays in one file, without pickle, written as a whole or not at all."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..program.errors import ProgramError

_HEADER = "header"


def save_tree(path: str | os.PathLike[str], tree: Any, header: dict[str, Any]) -> None:
    """Write the arrays of a pytree, and a header of JSON, to an `.npz` file.

    The file is complete before it takes the place of an older one.
    """
    path = Path(path)
    arrays: dict[str, Any] = {_HEADER: np.array(json.dumps(header))}
    arrays |= {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_tree(
    path: str | os.PathLike[str], header: dict[str, Any] | None = None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays of a saved pytree, in order, and its header.

    Raises:
        ProgramError: where there is no such file, it is of another kind, or its header has not the
            entries of `header`, which say what the file must have been saved from.
    """
    path = Path(path)
    if not path.exists():
        raise ProgramError(f"there is no file '{path}' to go on from; save one first")
    try:
        with np.load(path, allow_pickle=False) as saved:
            found = json.loads(str(saved[_HEADER]))
            leaves = [saved[f"leaf{i}"] for i in range(len(saved.files) - 1)]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ProgramError(
            f"'{path}' was not saved by bayesmix, or is damaged ({error}); save it again"
        ) from None
    for name, value in (header or {}).items():
        if found.get(name) != value:
            raise ProgramError(
                f"'{path}' was saved with {name} {found.get(name)}, and this is {value}; go on with "
                "what it was saved with, or save to another file"
            )
    return leaves, found


def fill(tree: Any, leaves: list[np.ndarray], path: str | os.PathLike[str]) -> Any:
    """A pytree of these shapes with saved arrays in place of its own.

    Raises :class:`ProgramError` where they do not fit.
    """
    shapes, structure = jax.tree.flatten(tree)
    same = len(shapes) == len(leaves) and all(
        like.shape == leaf.shape and like.dtype == leaf.dtype
        for like, leaf in zip(shapes, leaves, strict=True)
    )
    if not same:
        raise ProgramError(
            f"'{path}' holds another program's fit, or one in another precision; go on with the "
            "program, the kind of data and the precision that it was saved with"
        )
    return jax.tree.unflatten(structure, [leaf[()] for leaf in leaves])
