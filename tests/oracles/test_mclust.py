"""Gaussian mixtures against mclust 6.0.0: likelihoods reached, fixed points, classifications."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.checks import assert_never_falls
from tests.oracles.models import (
    arguments_of,
    em_of,
    one_step,
    parameters_of,
    plan_of,
    stored,
)
from tests.references import reference

pytestmark = pytest.mark.oracle

# Each of these compiles a whole search; the others are held as fixed points only.
SEARCHED = [
    ("faithful", "VVV", 2, "fits"),
    ("faithful", "VVI", 3, "fits"),
    ("faithful", "EEI", 4, "fits"),
    ("faithful", "EII", 3, "fits"),
    ("iris", "VVV", 2, "fits"),
    ("acidity", "E", 2, "fits"),
    ("faithful", "VVV", 3, "prior_fits"),
    ("faithful", "EEE", 3, "prior_fits"),
    ("faithful", "VII", 3, "prior_fits"),
    ("galaxies", "V", 3, "prior_fits"),
]
# mclust does not maximise the density of its own paper for EEI and EII under the prior: the power
# of the variance that belongs to the K means is missing, or depends on the fit. Only the maximum
# likelihood fits of these two are compared.
NOT_ITS_OWN_PRIOR = ("EEI", "EII")
MODELS_HELD = [
    ("faithful", "VVV", 3),
    ("faithful", "EEE", 3),
    ("faithful", "VVI", 3),
    ("faithful", "VII", 3),
    ("faithful", "EEI", 4),
    ("faithful", "EII", 3),
    ("iris", "VVV", 2),
    ("galaxies", "V", 4),
    ("galaxies", "E", 3),
    ("acidity", "E", 2),
]
FIXED = [
    (dataset, model, K, kind)
    for dataset, model, K in MODELS_HELD
    for kind in ("fits", "prior_fits")
    if kind == "fits" or model not in NOT_ITS_OWN_PRIOR
]


@pytest.mark.parametrize(("dataset", "model", "K", "kind"), FIXED)
def test_a_fit_of_mclust_is_a_fixed_point(dataset, model, K, kind):
    fit = stored(dataset, model, K, kind)["tight"]
    start = parameters_of(model, fit)
    plan = plan_of(dataset, model, K, kind)
    objective, moved = one_step(plan, arguments_of(dataset, model, K), start)
    if kind == "fits":
        assert float(objective) == pytest.approx(fit["loglik"], rel=1e-9)
    for name, value in start.items():
        size = np.max(np.abs(value))
        np.testing.assert_allclose(moved[name], value, atol=1e-5 * size, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("dataset", "model", "K", "kind"), SEARCHED)
def test_the_best_of_our_starts_is_at_least_as_good(dataset, model, K, kind):
    arguments = arguments_of(dataset, model, K)
    theirs = stored(dataset, model, K, kind)["tight"]
    em = em_of(dataset, model, K, kind)
    ours = em.run(0, *arguments, restarts=20)
    assert_never_falls(ours.objective)
    assert bool(ours.status), ours.status
    there = em.run(0, *arguments, init=parameters_of(model, theirs), restarts=20)
    best = there.objective[-1]
    assert ours.objective[-1] >= best - 1e-6 * abs(best)
    if kind == "fits":
        assert ours.objective[-1] >= theirs["loglik"] - 1e-6 * abs(theirs["loglik"])


@pytest.mark.parametrize(
    ("dataset", "model", "K"), [("faithful", "VVV", 2), ("iris", "VVV", 2), ("acidity", "E", 2)]
)
def test_equal_optima_classify_equally(dataset, model, K):
    best = reference(f"mclust_{dataset}")["fits"]["best"]
    assert best["G"] == K or dataset == "faithful"
    arguments = arguments_of(dataset, model, K)
    em = em_of(dataset, model, K, "fits")
    ours = em.run(0, *arguments, restarts=20)
    theirs = stored(dataset, model, K, "fits")["tight"]
    assert ours.objective[-1] == pytest.approx(theirs["loglik"], rel=1e-7)
    start = em.run(0, *arguments, init=parameters_of(model, theirs), restarts=20)
    r, s = ours.responsibilities(), start.responsibilities()
    order = linear_sum_assignment(-r.T @ s)[1]
    np.testing.assert_allclose(r, s[:, order], atol=1e-3)
    if best["G"] == K and best["model"] == model:
        labels = s.argmax(axis=1) + 1
        assert np.mean(labels == np.asarray(best["classification"])) == 1.0
        # mclust's own stops early: it was 4e-5 short of the likelihood that `tight` goes on to
        uncertain = 1 - s.max(axis=1)
        np.testing.assert_allclose(uncertain, best["uncertainty"], atol=2e-3)
