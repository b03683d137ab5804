"""Functions compiled by XLA, as far as a process can hold them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import jax

# Linux grants a process 65,530 maps of memory, of which compiled code takes some 20 to 100 a function
MOST_KEPT = 256


class Compiled:
    """A function under `jax.jit` whose compiled code is dropped once many others have been used since.

    A process that runs out of maps of memory ends in a segmentation fault; code that is dropped is
    compiled again where it is called. Inside another transformation the function is part of what is
    being traced, since options of the compiler belong to the outermost function alone.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        update_wrapper(self, function)
        self._inside = jax.jit(function, **settings)
        self._outside = jax.jit(function, compiler_options=options, **settings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, kwargs)))
        if traced:
            return self._inside(*args, **kwargs)
        try:
            with jax.core.eval_context():  # numbers are numbers, whatever is being traced around
                return self._outside(*args, **kwargs)
        finally:
            _used(self)

    def clear_cache(self) -> None:
        """Drop what has been compiled."""
        self._inside.clear_cache()
        self._outside.clear_cache()

    def _cache_size(self) -> int:
        return self._outside._cache_size()


_kept: WeakKeyDictionary[Compiled, int] = WeakKeyDictionary()  # those used last come last
_keeping = Lock()


def _used(function: Compiled) -> None:
    """Note that a function has been used, and drop the code of those that have not been for longest."""
    with _keeping:
        _kept.pop(function, None)
        _kept[function] = function._cache_size()
        excess = sum(_kept.values()) - MOST_KEPT
        for other, count in list(_kept.items()) if excess > 0 else ():
            other.clear_cache()
            del _kept[other]
            excess -= count
            if excess <= 0:
                break


def compile_lightly(function: Callable[..., Any], **settings: Any) -> Compiled:
    """`jax.jit` for what runs a few times only: less optimisation, a shorter wait."""
    return Compiled(function, {"xla_backend_optimization_level": 0, **_shorter()}, **settings)


def compile_fully(function: Callable[..., Any], **settings: Any) -> Compiled:
    """`jax.jit` for what runs long."""
    return Compiled(function, _shorter() or None, **settings)


@cache
def _shorter() -> dict[str, Any]:
    """Options that halve the time of compiling and cost nothing afterwards, as far as XLA has them.

    The emitters of fused loops that came in with JAX 0.5 compile each by itself; the ones before them
    give code as fast for what is compiled here. Later versions of JAX have the new ones only. Code is
    made in as many parts at a time as there are cores: every part repeats some of the work, and takes
    maps of memory of its own.
    """
    wanted = {
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": min(os.cpu_count() or 1, 32),
    }
    return {name: value for name, value in wanted.items() if _known(name, value)}


def _known(name: str, value: Any) -> bool:
    try:
        with jax.ensure_compile_time_eval():
            jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return False
    return True


def cache_compiled(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in a folder, so that the next session need not compile them again.

    Args:
        folder: where; by default JAX's own setting where there is one (`JAX_COMPILATION_CACHE_DIR`), or
            else `bayesmix/jax` in the user's cache folder.

    Returns:
        The folder, or None where there is none that can be written: nothing is kept then.

    Example:
        >>> import bayesmix, tempfile
        >>> kept = jax.config.jax_compilation_cache_dir
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bayesmix.cache_compiled(folder) == Path(folder)
        True
        >>> jax.config.update("jax_compilation_cache_dir", kept)
    """
    given = folder or jax.config.jax_compilation_cache_dir
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = Path(given) if given else caches / "bayesmix" / "jax"
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    if not given or folder:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return place
