"""Settings that every test and every docstring example runs under, made before JAX starts."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import numpyro

numpyro.set_host_device_count(2)  # so that two chains can run in parallel
jax.config.update("jax_enable_x64", True)

# Compiled programs are kept between runs: the second run of the suite is several times faster.
_cache = Path(__file__).parent / ".pytest_cache" / "jax"
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_cache))
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
