"""States and answers kept in files: a header and named arrays, written as a whole or not at all, and
nothing pickled. A state is kept with what tells its run from another one, and is given to no other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from ..program.errors import ProgramError
from .fingerprint import Run, run_of

_HEADER, _FORMAT = "bayesmix", 2
_SHOWN = 3  # of what differs
_CURE = "give another path, or delete the file to start anew"

ANY: Any = ...  # stands for an array of any shape
Tree = TypeVar("Tree")
FilePath = str | os.PathLike[str]


class Saved(NamedTuple):
    """What a file holds: its header and its arrays by name."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def fill(self, like: Tree, tree: str) -> Tree:
        """The part of a saved tree that has the structure of `like`, and the shapes of its leaves.

        Raises :class:`ProgramError` where the saved tree is another one.
        """
        named, structure = _named(tree, like)
        found = [self._leaf(name, leaf) for name, leaf in named.items()]
        return jax.tree.unflatten(structure, found)

    def _leaf(self, name: str, like: Any) -> Any:
        key = _is_key(like)
        shaped = jax.eval_shape(random.key_data, like) if key else like
        leaf = self.arrays.get(name)
        if leaf is None or (
            like is not ANY and (leaf.shape, leaf.dtype) != (shaped.shape, shaped.dtype)
        ):
            raise ProgramError(
                f"'{self.path}' holds another kind of fit, or one in another precision ({name} is not "
                f"what it would be); {_CURE}"
            )
        if like is ANY or isinstance(like, (np.ndarray, np.generic)):
            return leaf[()]
        return random.wrap_key_data(jnp.asarray(leaf)) if key else jnp.asarray(leaf)

    def _tree(self, tree: str) -> dict[str, np.ndarray]:
        """A saved tree that is a dictionary of arrays."""
        names = [name for name in self.arrays if name.startswith(f"{tree}/")]
        return {name.removeprefix(f"{tree}/"): self.arrays[name] for name in names}

    def check(self, run: Run) -> None:
        """Raises :class:`ProgramError` with what differs where the file was saved by another run."""
        differ = run.unlike(self.header["run"], self._tree("points"), self._tree("densities"))
        if differ:
            told = "; ".join(
                f"with {name} {old}, and this is {new}" for name, old, new in differ[:_SHOWN]
            )
            raise ProgramError(f"'{self.path}' is of another run: it was saved {told}; {_CURE}")


class Checkpoint:
    """The state of a run in a file; `saved` is what is there already, None where there is no file.

    Raises :class:`ProgramError` where the file cannot be read, or is of another run.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from bayesmix.infer.fingerprint import Run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = Checkpoint(folder + "/state.npz", Run({"tolerance": "0.1"}))
        ...     kept.write({"step": jnp.array(7)})
        ...     Checkpoint(kept.path, kept.run).resume({"step": jnp.array(0)})
        {'step': Array(7, dtype=int64...)}
    """

    def __init__(self, path: FilePath, run: Run) -> None:
        self.path, self.run = Path(path), run
        self.saved = read(path) if self.path.exists() else None
        self.density: dict[str, Any] | None = None
        if self.saved is not None:
            self.saved.check(run)
        elif not self.path.parent.is_dir():
            raise ProgramError(
                f"there is no folder '{self.path.parent}' to keep '{self.path.name}' in; make it first"
            )

    def resume(self, state: Tree) -> Tree:
        """The state in the file, of the shapes of this one; this one itself where there is no file."""
        return state if self.saved is None else self.saved.fill(state, "state")

    def write(self, state: Any, **notes: Any) -> None:
        """Put a state, and notes of JSON, in the file's place."""
        if self.density is None:
            points = self.run.points
            self.density = {"points": points, "densities": self.run.densities(points)}
        write(self.path, {"run": self.run.words, **notes}, state=state, **self.density)


def checkpoint_at(
    path: FilePath | None, engine: Any, *told: Any, **others: Any
) -> Checkpoint | None:
    """The checkpoint of a run of an engine, see :func:`run_of`; None where no path is given."""
    return None if path is None else Checkpoint(path, run_of(engine, *told, **others))


def write(path: FilePath, header: dict[str, Any], **trees: Any) -> None:
    """Write a header of JSON and trees of arrays; the file is complete before it takes an older one's
    place, and has a name of its own until then."""
    arrays: Any = {_HEADER: np.array(json.dumps({"format": _FORMAT, **header}))}
    for tree, value in trees.items():
        for name, leaf in _named(tree, value)[0].items():
            arrays[name] = np.asarray(random.key_data(leaf) if _is_key(leaf) else leaf)
    path = Path(path)
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ProgramError(
            f"'{path}' could not be written ({error.strerror}); make room for it, or give another path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read(path: FilePath) -> Saved:
    """What :func:`write` wrote.

    Raises :class:`ProgramError` where there is no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ProgramError(f"there is no file '{path}' to go on from; save one first")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = dict(saved)
        header = json.loads(str(arrays.pop(_HEADER)))
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']} and not {_FORMAT}")
    except Exception as error:  # what readers raise of damaged bytes has no end
        raise ProgramError(
            f"'{path}' was not saved by bayesmix as it is now, or is damaged ({error}); {_CURE}"
        ) from None
    return Saved(path, header, arrays)


def _named(name: str, tree: Any) -> tuple[dict[str, Any], Any]:
    """The leaves of a tree by their paths, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    keystr = jax.tree_util.keystr
    named = {f"{name}/{keystr(path, simple=True, separator='/')}": leaf for path, leaf in leaves}
    return named, structure


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
