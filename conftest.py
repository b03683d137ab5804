"""Settings that every test and every docstring example runs under, made before JAX starts."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import numpyro
import pytest

numpyro.set_host_device_count(2)  # so that two chains can run in parallel
jax.config.update("jax_enable_x64", True)

# Compiled programs are kept between runs: the second run of the suite is several times faster.
_cache = Path(__file__).parent / ".pytest_cache" / "jax"
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_cache))
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _shown_in_examples(request: pytest.FixtureRequest) -> None:
    """The `comparison` and the `draws` that docstring examples of pictures and reports show."""
    node = request.node
    if hasattr(node, "dtest") and node.path.parent.name in ("plots", "comparison"):
        from tests.examples import example_comparison, example_draws

        names = request.getfixturevalue("doctest_namespace")
        names.update(comparison=example_comparison(), draws=example_draws())


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported is here to stay: Python's garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between files: let compiled programs go before there are too many of them.

    Each holds a few memory maps, of which Linux grants a process 65 530; past that, compiling crashes.
    """
    if (nextitem is not None and nextitem.path == item.path) or _num_maps() < _MANY_MAPS:
        return
    for value in vars(getattr(item, "module", None) or object).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    jax.clear_caches()
    gc.collect()


_MANY_MAPS = 20_000


def _num_maps() -> int:
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else _MANY_MAPS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="also run longer variants of what is tested already"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `tests/thorough.txt` names, unless asked for it."""
    if config.getoption("--thorough") or any("::" in argument for argument in config.args):
        return
    listed = Path(__file__).parent / "tests" / "thorough.txt"
    lines = listed.read_text(encoding="utf-8").splitlines()
    starts = tuple(line for line in lines if line and not line.startswith("#"))
    left_out = [item for item in items if item.nodeid.startswith(starts)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.nodeid.startswith(starts)]
