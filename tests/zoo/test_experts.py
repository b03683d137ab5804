"""Mixtures of experts: the M step against NumPy, modes that are modes, starts, gates without bound."""

import functools
import pickle

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import norm

import bayesmix
from bayesmix import EM, Status, datasets, zoo
from bayesmix.infer.m_steps import maximise_blocks
from bayesmix.program import row_pass
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.checks import assert_never_falls, slopes

OXIDE, RICHNESS = datasets.load("ethanol").values.T
PATENTS, LOG_SPENDING, SHARE = datasets.load("patents").values.T
FIRMS = datasets.load("bankruptcy")
LINES = (RICHNESS[:, None], OXIDE, 2)

CASES = {
    "linear": (zoo.linear_experts, LINES, {}),
    "student": (zoo.student_experts, LINES, {}),
    "poisson": (
        zoo.poisson_experts,
        (LOG_SPENDING[:, None], PATENTS, 2),
        {"gate_covariates": SHARE[:, None]},
    ),
    "logistic": (
        zoo.logistic_experts,
        (FIRMS.values, (FIRMS.labels == "bankrupt").astype(float), 2),
        {},
    ),
}


@functools.cache
def fit_of(name: str) -> bayesmix.EMResult:
    program, arguments, static = CASES[name]
    em = EM(program, tolerance=1e-13, progress_bar=False)
    # yes and no say little of two experts: hundreds of steps
    return em.run(0, *arguments, restarts=2 if name == "logistic" else 10, **static)


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_a_mode(name):
    fit = fit_of(name)
    assert fit.status, fit.status
    assert fit.plan.labels.exchangeable
    assert_never_falls(fit.objective, len(CASES[name][1][1]))
    for site, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=1e-3, err_msg=site)


# ------------------------------------------------------------------------------------------- the M step
def newton(design: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """Multinomial logistic regression on soft labels by iteratively reweighted least squares, the first
    class with coefficients 0: (K - 1, P)."""
    size, width = responsibilities.shape[1], design.shape[1]
    coefficients = np.zeros((size - 1, width))
    for _ in range(50):
        logits = np.column_stack([np.zeros(len(design)), design @ coefficients.T])
        chance = softmax(logits, axis=1)[:, 1:]
        gradient = (responsibilities[:, 1:] - chance).T @ design
        inner = chance[:, :, None] * (np.eye(size - 1) - chance[:, None, :])
        information = np.einsum("nkl,np,nq->kplq", inner, design, design)
        step = np.linalg.solve(information.reshape(gradient.size, -1), gradient.ravel())
        coefficients = coefficients + step.reshape(coefficients.shape)
    return coefficients


def test_the_m_step_is_weighted_least_squares_and_a_soft_multinomial_regression():
    """And weighted residual variances: on random responsibilities, maximum likelihood."""
    K, design = 3, np.column_stack([np.ones(88), RICHNESS])
    program, arguments = bayesmix.without_priors(zoo.linear_experts), (RICHNESS[:, None], OXIDE, K)
    plan = bayesmix.plan(program, *arguments, reference=True)
    assert [block.sites for block in plan.blocks] == [("gate",), ("coefficients", "variance")]
    call = split(arguments, {"reference": True})
    responsibilities = np.random.default_rng(0).dirichlet(np.ones(K), 88)
    start = {"gate": np.zeros((2, 2)), "coefficients": np.zeros((3, 2)), "variance": np.ones(3)}

    @jax.jit
    def step(arrays, blocks, weights, values):
        here = call.with_arrays(arrays)
        evaluation = plan.evaluate(here, values)
        statistics = row_pass.weighted_statistics(
            plan.graph, plan.families, evaluation, blocks, (weights,)
        )
        return maximise_blocks(Problem(plan, here), statistics, values)[0]

    blocks = Problem(plan, call).with_rows().blocks
    found = step(call.arrays, blocks, responsibilities.T, start)
    for k, r in enumerate(responsibilities.T):
        expected = np.linalg.lstsq(np.sqrt(r)[:, None] * design, np.sqrt(r) * OXIDE, rcond=None)[0]
        np.testing.assert_allclose(found["coefficients"][k], expected, rtol=1e-9)
        variance = r @ (OXIDE - design @ expected) ** 2 / r.sum()
        assert float(found["variance"][k]) == pytest.approx(variance, rel=1e-9)
    for _ in range(5):  # the gate is climbed by a few Newton steps at a time
        found = step(call.arrays, blocks, responsibilities.T, found)
    np.testing.assert_allclose(found["gate"], newton(design, responsibilities), rtol=1e-8)


def test_without_a_prior_each_step_of_em_is_that_m_step():
    """The fixed point: least squares and IRLS on the fit's own responsibilities give the fit."""
    em = EM(bayesmix.without_priors(zoo.linear_experts), tolerance=1e-14, progress_bar=False)
    fit = em.run(0, OXIDE[:, None], RICHNESS, 2, reference=True, restarts=3)
    assert fit.status, fit.status
    design, r = np.column_stack([np.ones(88), OXIDE]), fit.responsibilities()
    np.testing.assert_allclose(fit.parameters["gate"], newton(design, r), rtol=1e-5)
    for k in range(2):
        root = np.sqrt(r[:, k])
        w = np.linalg.lstsq(root[:, None] * design, root * RICHNESS, rcond=None)[0]
        np.testing.assert_allclose(fit.parameters["coefficients"][k], w, rtol=1e-5)
        variance = r[:, k] @ (RICHNESS - design @ w) ** 2 / r[:, k].sum()
        assert fit.parameters["variance"][k] == pytest.approx(variance, rel=1e-5)


def test_the_density_is_that_of_the_text():
    fit, (design, y) = fit_of("linear"), (np.column_stack([np.ones(88), RICHNESS]), OXIDE)
    gate, w, variance = (fit.parameters[n] for n in ("gate", "coefficients", "variance"))
    residual = y[:, None] - design @ w.T
    log_normal = -0.5 * (residual**2 / variance + np.log(2 * np.pi * variance))
    expected = np.logaddexp.reduce(log_softmax(design @ gate.T, axis=1) + log_normal, axis=1)
    np.testing.assert_allclose(fit.log_density(), expected, rtol=1e-10)


def test_an_outlier_moves_student_experts_less():
    y = OXIDE.copy()
    y[0] += 20.0
    moved = {}
    for name in ("linear", "student"):
        fit = EM(fit_of(name).plan, progress_bar=False).run(0, RICHNESS[:, None], y, 2, restarts=10)
        known, found = (f.prototypes()["y"][:, :, 0] for f in (fit_of(name), fit))
        moved[name] = min(np.abs(known - found[order]).max() for order in ([0, 1], [1, 0]))
    assert moved["student"] < 0.2 < 1.0 < moved["linear"]


# --------------------------------------------------------------------------- starts, and their outcomes
def test_most_starts_find_the_best_optimum():
    """Starts that cluster the outcomes alone found it in a third of the runs."""
    fit = fit_of("linear")
    assert fit.modes[0].count >= 9
    assert fit.modes[0].objective == pytest.approx(-65.4225, abs=1e-3)


@pytest.mark.parametrize("reference", [True, False])
def test_a_gate_between_separated_experts_has_no_bound_without_a_prior(reference):
    """In the ethanol data two lines meet at one equivalence ratio, which parts the rows."""
    em = EM(bayesmix.without_priors(zoo.linear_experts), progress_bar=False)
    fit = em.run(0, *LINES, restarts=3, reference=reference)
    assert fit.status is Status.GATE_WITHOUT_BOUND
    assert not fit.status and "prior" in fit.status.remedy
    assert np.abs(fit.parameters["gate"]).max() > 1000
    assert fit_of("linear").status is Status.CONVERGED  # the prior bounds it


# ------------------------------------------------------------------------------------------- networks
def test_the_density_of_a_mixture_density_network_is_that_of_its_outputs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    em = EM(zoo.mixture_density_network, max_steps=1, tolerance=1e9, progress_bar=False)
    fit = em.run(0, x, y, 2, width=4)
    weights = fit.site_values["network$params"].layers
    outputs = x
    for layer, squash in zip(weights, (np.tanh, lambda v: v), strict=True):
        outputs = squash(outputs @ layer.weight.T + layer.bias)
    outputs = outputs.reshape(30, 2, 7)
    scale = 0.01 + np.log1p(np.exp(outputs[..., 4:]))
    heights = norm.logpdf(y[:, None], outputs[..., 1:4], scale).sum(axis=-1)
    expected = np.logaddexp.reduce(log_softmax(outputs[..., 0], axis=1) + heights, axis=1)
    np.testing.assert_allclose(fit.log_density(), expected, rtol=1e-9)
    mean = np.sum(softmax(outputs[..., 0], axis=1)[..., None] * outputs[..., 1:4], axis=1)
    np.testing.assert_allclose(fit.predict_mean(x, np.full((30, 3), np.nan), 2, width=4), mean)
    assert fit.predict_interval(mass=0.5).shape == (2, 30, 3)
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(again.log_density(), expected, rtol=1e-9)


def test_one_expert_is_a_regression_without_a_gate():
    plan = bayesmix.plan(zoo.linear_experts, RICHNESS[:, None], OXIDE, 1)
    assert plan.reading.parameter_names == ("coefficients", "variance")
