"""Fixtures shared by the tests; the settings of JAX are in the conftest.py above."""

import pytest

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
