"""Multiple imputations, held against the conditional moments at the same parameters."""

import functools

import jax
import numpy as np
import pytest
from scipy.stats import norm

from bayesmix import ProgramError
from bayesmix.posterior.imputation import multiple_imputations
from tests import fixed
from tests.fixed import fit_of

COUNT = 4000


@functools.cache
def imputed(program) -> dict[str, np.ndarray]:
    """Many imputations at the parameters of the fit."""
    fit = fit_of(program)
    draws = {n: np.broadcast_to(v, (COUNT, *v.shape)) for n, v in fit.parameters.items()}
    args, kwargs = fit.arguments.call()
    return multiple_imputations(fit.plan, draws, COUNT, jax.random.key(5), *args, **kwargs)


def rows_of(fit, name, value):
    """(S, ...) as (S, N, D), and the fit's conditional moments."""
    if fit.plan is fit_of(fixed.known).plan:
        value = np.swapaxes(value, 1, 2)
    flat = value.reshape(*value.shape[:2], -1)
    return flat, fit.conditional_moments()[name]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (fixed.normal, "x"),
        (fixed.student, "x"),
        (fixed.bernoulli, "x"),
        (fixed.experts, "w"),
        (fixed.experts, "y"),
        (fixed.known, "x"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_draws_have_the_conditional_moments(program, name):
    drawn, moments = rows_of(fit_of(program), name, imputed(program)[name])
    error = np.sqrt(np.einsum("nii->ni", moments.covariance) / COUNT)
    assert (np.abs(drawn.mean(axis=0) - moments.mean) <= 5 * error + 1e-12).all()
    away = drawn - moments.mean
    products = away[:, :, :, None] * away[:, :, None, :]
    error = products.std(axis=0) / np.sqrt(COUNT)
    gap = np.abs(products.mean(axis=0) - moments.covariance)
    assert (gap <= 5 * error + 1e-12).all()


def test_cells_that_are_there_stay_as_they_are():
    there = ~np.isnan(fixed.NORMAL_ROWS)
    drawn = imputed(fixed.normal)["x"]
    assert drawn.shape == (COUNT, *fixed.NORMAL_ROWS.shape)
    assert np.array_equal(drawn[:, there], np.tile(fixed.NORMAL_ROWS[there], (COUNT, 1)))
    x, _ = fixed.KNOWN_ROWS
    assert imputed(fixed.known)["x"].shape == (COUNT, *x.shape)
    assert set(np.unique(imputed(fixed.bernoulli)["x"])) == {0.0, 1.0}


def test_a_normal_row_is_drawn_from_its_mixture_and_not_from_one_normal():
    """Row 1 lacks its first cell: the distribution function of its mixture, by scipy."""
    fit, row = fit_of(fixed.normal), fixed.NORMAL_ROWS[1]
    r = fit.responsibilities()[1]
    drawn = imputed(fixed.normal)["x"][:, 1, 0]
    for point in (-1.0, 0.5, 2.0):
        share = 0.0
        for k in range(2):
            m, S = fixed.NORMAL["mean"][k], fixed.NORMAL["covariance"][k]
            gain = np.linalg.solve(S[1:, 1:], S[1:, 0])
            centre = m[0] + gain @ (row[1:] - m[1:])
            share += r[k] * norm(centre, np.sqrt(S[0, 0] - gain @ S[1:, 0])).cdf(point)
        assert np.mean(drawn <= point) == pytest.approx(share, abs=5 * 0.5 / np.sqrt(COUNT))


def test_draws_that_differ_give_data_that_differ():
    fit = fit_of(fixed.normal)
    draws = {name: np.stack([value] * 3) for name, value in fit.parameters.items()}
    draws["mean"] = draws["mean"] + np.array([0.0, 50.0, 100.0])[:, None, None]
    found = multiple_imputations(fit.plan, draws, 2, 0, np.full((2, 3), np.nan))["x"]
    assert (np.abs(found[0]) < 20).all()
    assert (np.abs(found[1] - 100) < 20).all()


def test_complete_rows_need_nothing():
    fit = fit_of(fixed.normal)
    draws = {name: value[None] for name, value in fit.parameters.items()}
    assert multiple_imputations(fit.plan, draws, 1, 0, fixed.NORMAL_ROWS[[0, 3]]) == {}


@pytest.mark.parametrize("num", [0, 4])
def test_wrong_numbers_and_names_are_refused(num):
    fit = fit_of(fixed.normal)
    draws = {name: np.stack([value] * 3) for name, value in fit.parameters.items()}
    with pytest.raises(ProgramError, match="3 draws"):
        multiple_imputations(fit.plan, draws, num, 0, fixed.NORMAL_ROWS)
    del draws["mean"]
    with pytest.raises(ProgramError, match="lack mean"):
        multiple_imputations(fit.plan, draws, 1, 0, fixed.NORMAL_ROWS)
