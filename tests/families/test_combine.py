"""Statistics of parts of the rows, made at different parameters, add up to those of all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.families import columns, gaussian, student
from bayesmix.families.outcomes import BERNOULLI
from bayesmix.program.errors import ProgramError
from bayesmix.program.statistics import Statistics, combine

K, D, N = 2, 3, 30
RNG = np.random.default_rng(0)
LOWER = np.tril(RNG.normal(size=(2, K, D, D)), -1) + np.eye(D)
MEAN, SPREAD = RNG.normal(size=(2, K, D)), RNG.uniform(0.5, 2.0, (2, K, D))
FREEDOM = np.array([[3.0, 5.0], [4.0, 9.0]])
ROWS, WEIGHTS = RNG.normal(size=(N, D)), RNG.uniform(size=(K, N))

# each family with parameters of two E steps
FAMILIES = {
    "normal": (gaussian.FULL, lambda i: gaussian.Gaussian(MEAN[i], LOWER[i])),
    "columns": (columns.COLUMNS, lambda i: columns.Columns(MEAN[i], SPREAD[i])),
    "student": (student.FULL, lambda i: student.Student(MEAN[i], LOWER[i], FREEDOM[i])),
    "student columns": (
        student.COLUMNS,
        lambda i: student.StudentColumns(MEAN[i], SPREAD[i], FREEDOM[i][:, None] + np.ones(D)),
    ),
}


def accumulated(family, parameters, weights, reference=None):
    """Statistics of the rows under weights; moments about another reference where one is given."""
    prepared = family.prepare(jax.tree.map(jnp.asarray, parameters), None)
    rows = family.arrange(jnp.asarray(ROWS), None)
    sums = family.accumulate(prepared, rows, jnp.asarray(weights), None)
    found = family.finish(prepared, sums)
    return found if reference is None else about_by_hand(family, parameters, weights, reference)


def about_by_hand(family, parameters, weights, reference):
    """The same statistics with the moments summed about a reference, row by row."""
    found = accumulated(family, parameters, weights)
    scale = np.ones((K, N)) if family.name.find("Student") < 0 else hidden_scale(family, parameters)
    each = weights[:, None] * (scale if scale.ndim == 3 else scale[:, None])
    centred = ROWS.T[None] - reference[:, :, None]
    if found.second.ndim == 3:
        second = np.einsum("kdn,ken->kde", each * centred, centred)
    else:
        second = np.sum(each * centred**2, axis=-1)
    first = np.sum(each * centred, axis=-1)
    return found._replace(reference=jnp.asarray(reference), first=first, second=second)


def hidden_scale(family, parameters):
    """E[u] of each row: (nu + d) / (nu + delta)."""
    mean, spread, freedom = parameters
    centred = ROWS.T[None] - mean[:, :, None]
    if spread.ndim == 3:
        squares = np.sum(np.linalg.solve(spread, centred) ** 2, axis=1)
        return (freedom[:, None] + D) / (freedom[:, None] + squares)
    squares = (centred / spread[:, :, None]) ** 2
    return (freedom[:, :, None] + 1) / (freedom[:, :, None] + squares)


@pytest.mark.parametrize("name", FAMILIES)
def test_sums_are_those_made_about_one_reference(name):
    family, parameters = FAMILIES[name]
    one, other = (
        accumulated(family, parameters(0), WEIGHTS),
        accumulated(family, parameters(1), WEIGHTS),
    )
    found = family.combine(one, other, 0.3, 2.0)
    here = accumulated(family, parameters(0), WEIGHTS, reference=MEAN[1])
    for field, value in found._asdict().items():
        expected = 0.3 * getattr(here, field) + 2.0 * getattr(other, field)
        expected = MEAN[1] if field == "reference" else expected
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12, err_msg=field)


@pytest.mark.parametrize("name", FAMILIES)
def test_q_of_a_combination_is_the_combination_of_q(name):
    """Whatever the references: Q is linear in the statistics."""
    family, parameters = FAMILIES[name]
    one, other = (
        accumulated(family, parameters(0), WEIGHTS),
        accumulated(family, parameters(1), WEIGHTS),
    )
    at = parameters(1)._replace(mean=MEAN[0] + 0.5)
    found = family.expected_log_prob(at, family.combine(one, other, 0.3, 2.0))
    parts = [family.expected_log_prob(at, each) for each in (one, other)]
    np.testing.assert_allclose(found, 0.3 * parts[0] + 2.0 * parts[1], rtol=1e-12)


def test_statistics_of_a_program_are_combined_by_family_and_latent():
    sums = jnp.ones((K, 4))
    families = {"x": columns.COLUMNS, "y": BERNOULLI}
    one, other = (
        Statistics(
            {"z": jnp.full(K, float(i))},
            {"x": accumulated(columns.COLUMNS, FAMILIES["columns"][1](i), WEIGHTS), "y": i * sums},
            {},
            {},
        )
        for i in range(2)
    )
    found = combine(families, one, other, 2.0, 0.5)
    assert found.counts["z"].tolist() == [0.5, 0.5]
    assert found.moments["y"].tolist() == (0.5 * sums).tolist()
    assert found.moments["x"].reference.tolist() == MEAN[1].tolist()
    scaled = combine(families, other, other, 3.0, 0.0)
    np.testing.assert_allclose(scaled.moments["x"].second, 3.0 * other.moments["x"].second)


def test_responsibilities_are_refused():
    by_row = Statistics({}, {}, {"y": jnp.ones((K, N))}, {})
    with pytest.raises(ProgramError, match="differ from row to row \\('y'\\)"):
        combine({"y": None}, by_row, by_row)
