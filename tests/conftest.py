"""Fixtures shared by the tests; the other settings of JAX are in the conftest.py above."""

import os
from importlib.metadata import version

import pytest

# Nearly all of the suite's time is compiling, and what is compiled runs on little data. These two
# switches halve it. Only JAX 0.10 is known to have the second one: on others nothing is changed, so
# that the suite is also run with everything compiled as users have it.
if version("jaxlib").startswith("0.10."):
    for switch in ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"):
        flags = os.environ.get("XLA_FLAGS", "")
        if switch.split("=")[0] not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {switch}".strip()

from bayesmix import datasets
from bayesmix.datasets import Table


@pytest.fixture(scope="session")
def faithful() -> Table:
    return datasets.load("faithful")


@pytest.fixture(scope="session")
def galaxies() -> Table:
    return datasets.load("galaxies")


@pytest.fixture(scope="session")
def iris() -> Table:
    return datasets.load("iris")


@pytest.fixture(scope="session")
def acidity() -> Table:
    return datasets.load("acidity")
