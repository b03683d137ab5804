"""The shipped tables are the ones that the reference results were computed on."""

import re

import numpy as np
import pytest

from bayesmix import datasets
from tests.references import reference

SHAPES = {"acidity": (155, 1), "faithful": (272, 2), "galaxies": (82, 1), "iris": (150, 4)}


def test_names_lists_every_shipped_table_in_order_and_each_says_where_it_is_from():
    names = datasets.names()
    assert list(names) == sorted(names)
    assert set(SHAPES) < set(names)
    for name in names:
        table = datasets.load(name)
        assert table.values.shape == (len(table.values), len(table.columns))
        assert not np.isinf(table.values).any()
        assert re.search(r"\b(1[89]|20)\d\d\b", table.source), name


@pytest.mark.parametrize("name", SHAPES)
def test_values_equal_those_the_references_were_computed_on(name):
    table = datasets.load(name)
    assert table.name == name
    assert table.values.dtype == np.float64
    assert table.values.shape == SHAPES[name]
    assert len(table.columns) == SHAPES[name][1]
    np.testing.assert_array_equal(table.values, reference(f"mclust_{name}")["data"])


@pytest.mark.parametrize("name", SHAPES)
def test_source_cites_a_year_and_a_journal(name):
    source = datasets.load(name).source
    assert "(19" in source
    assert any(word in source for word in ("Technometrics", "Statistics", "Journal", "Eugenics"))


def test_only_iris_has_labels_and_they_agree_with_the_reference():
    assert [name for name in SHAPES if datasets.load(name).labels is not None] == ["iris"]
    labels = datasets.load("iris").labels
    species, codes = np.unique(labels, return_inverse=True)
    assert species.tolist() == ["setosa", "versicolor", "virginica"]
    np.testing.assert_array_equal(codes + 1, reference("mclust_iris")["truth"])


def test_galaxies_hold_the_corrected_observation():
    assert datasets.load("galaxies").values[77, 0] == 26.96


def test_values_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        datasets.load("faithful").values[0, 0] = 0.0


def test_a_table_does_not_freeze_the_array_it_was_made_from():
    mine = np.ones((2, 1))
    datasets.Table("mine", mine, ("a",))
    mine[0, 0] = 2.0


def test_unknown_name_gets_the_closest_one_and_the_list():
    with pytest.raises(ValueError, match="'Faithfull'; did you mean 'faithful'") as caught:
        datasets.load("Faithfull")
    assert ", ".join(datasets.names()) in str(caught.value)
