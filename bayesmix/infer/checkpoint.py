"""States kept in a file, so that a stopped run goes on from where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from ..program.errors import ProgramError
from .saving import load_tree, save_tree


class Checkpoint:
    """A pytree of arrays in an .npz file, written whole or not at all, and nothing pickled.

    Args:
        path: the file.
        like: a state of the shapes and types that are kept, returned where there is no file yet.
        belongs_to: arrays that tell one run from another, a pytree; a file of another run is refused.
        kind: words that do so.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> from bayesmix.infer.checkpoint import Checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = Checkpoint(folder + "/state.npz", {"step": jnp.array(0)}, jnp.ones(3))
        ...     kept.write({"step": jnp.array(7)})
        ...     kept.read()
        {'step': Array(7, dtype=int64...)}
    """

    def __init__(self, path: str | Path, like: Any, belongs_to: Any = (), kind: str = "") -> None:
        self.path = Path(path)
        self.like = like
        shapes = str(jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), _plain(like)))
        digest = hashlib.sha256(f"{kind} {jax.tree.structure(like)} {shapes}".encode())
        for leaf in jax.tree.leaves(_plain(belongs_to)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        self.mark = digest.hexdigest()

    def read(self) -> Any:
        """The state in the file, or `like` where there is no file.

        Raises:
            ProgramError: where the file is not of this run.
        """
        if not self.path.exists():
            return self.like
        leaves, header = load_tree(self.path)
        if header.get("mark") != self.mark:
            raise ProgramError(
                f"the checkpoint '{self.path}' is of another run (other data, key, settings or "
                "initial values); name another file, or remove it to start anew"
            )
        told, treedef = jax.tree.flatten(self.like)
        read = [
            random.wrap_key_data(jnp.asarray(leaf)) if _is_key(one) else jnp.asarray(leaf)
            for leaf, one in zip(leaves, told, strict=True)
        ]
        return jax.tree.unflatten(treedef, read)

    def write(self, state: Any) -> None:
        """Put a state in the file's place."""
        save_tree(self.path, _plain(state), {"mark": self.mark})


def checkpoint_at(
    path: str | Path | None, like: Any, belongs_to: Any, kind: str
) -> Checkpoint | None:
    """A :class:`Checkpoint`; None where no path is given."""
    return None if path is None else Checkpoint(path, like, belongs_to, kind)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """The same with random keys as numbers."""
    return jax.tree.map(lambda leaf: random.key_data(leaf) if _is_key(leaf) else leaf, tree)
