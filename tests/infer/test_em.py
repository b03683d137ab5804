"""EM: Murphy's closed forms, stationarity, statuses, starts, and what a call costs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal, norm

import bayesmix
from bayesmix import EM, Status
from tests.checks import assert_never_falls, slopes
from tests.programs import make_data


def niw_prior(D, K):
    """Murphy's prior, all of it an argument: alpha (K,), m0, kappa0, nu0, S0."""
    noise = np.random.default_rng(1).normal(size=(D, D))
    return {
        "alpha": np.linspace(1.3, 2.5, K),
        "m0": np.linspace(-1.0, 1.0, D),
        "kappa0": np.array(0.4),
        "nu0": np.array(D + 2.5),
        "S0": np.eye(D) + noise @ noise.T,
    }


def murphy(x, prior, K):
    weights = numpyro.sample("weights", dist.Dirichlet(prior["alpha"]))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(prior["nu0"], prior["S0"]))
        centre = dist.MultivariateNormal(prior["m0"], covariance / prior["kappa0"])
        mean = numpyro.sample("mean", centre)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def responsibilities(x, values):
    terms = [
        w * multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(values["weights"], values["mean"], values["covariance"])
    ]
    return np.transpose(terms / np.sum(terms, axis=0))


def murphy_step(x, r, prior=None):
    """The M step by hand: Murphy (2012), section 11.4.2.8; without a prior 11.4.2.3."""
    N, D = x.shape
    K = r.shape[1]
    count = r.sum(axis=0)
    centre = r.T @ x / count[:, None]
    scatter = np.stack([((x - centre[k]).T * r[:, k]) @ (x - centre[k]) for k in range(K)])
    if prior is None:
        return {"weights": count / N, "mean": centre, "covariance": scatter / count[:, None, None]}
    alpha, m0, kappa0, nu0, S0 = (prior[n] for n in ("alpha", "m0", "kappa0", "nu0", "S0"))
    weights = (count + alpha - 1) / (N + alpha.sum() - K)
    mean = (count[:, None] * centre + kappa0 * m0) / (count[:, None] + kappa0)
    apart = centre - m0
    shrink = (kappa0 * count / (kappa0 + count))[:, None, None]
    total = S0 + scatter + shrink * apart[:, :, None] * apart[:, None, :]
    covariance = total / (nu0 + count + D + 2)[:, None, None]
    return {"weights": weights, "mean": mean, "covariance": covariance}


@pytest.fixture(scope="module")
def rows():
    return make_data("niw")


@pytest.fixture(scope="module")
def start():
    return {
        "weights": np.array([0.2, 0.3, 0.5]),
        "mean": np.array([[-2.0, 0.3], [0.0, 2.0], [2.0, -0.5]]),
        "covariance": np.array([[2.0, 0.4], [0.4, 1.0]]) * np.array([1.0, 2.0, 0.5])[:, None, None],
    }


@pytest.fixture(scope="module")
def map_em(rows):
    plan = bayesmix.plan(murphy, rows, niw_prior(2, 3), 3)
    return EM(plan, max_steps=600, progress_bar=False)


@pytest.fixture(scope="module")
def one_step(map_em):
    """The same plan, one step at a time."""
    return EM(map_em.plans.given, max_steps=1, progress_bar=False)


def test_one_map_step_is_murphys_closed_form(one_step, rows, start):
    prior = niw_prior(2, 3)
    fit = one_step.run(0, rows, prior, 3, init=start)
    assert len(fit.objective) == 2
    expected = murphy_step(rows, responsibilities(rows, start), prior)
    for name, value in expected.items():
        np.testing.assert_allclose(fit.parameters[name], value, rtol=1e-10, atol=1e-12)


def test_the_objective_is_log_likelihood_plus_log_prior(one_step, rows, start):
    prior = niw_prior(2, 3)
    fit = one_step.run(0, rows, prior, 3, init=start)
    density = sum(
        w * multivariate_normal(m, c).pdf(rows)
        for w, m, c in zip(start["weights"], start["mean"], start["covariance"])
    )
    expected = np.log(density).sum() + float(
        dist.Dirichlet(prior["alpha"]).log_prob(start["weights"])
    )
    for m, c in zip(start["mean"], start["covariance"]):
        expected += multivariate_normal(prior["m0"], c / prior["kappa0"]).logpdf(m)
        expected += float(dist.InverseWishart(prior["nu0"], prior["S0"]).log_prob(c))
    assert fit.objective[0] == pytest.approx(expected, rel=1e-12)


def test_the_map_is_a_mode_of_the_constrained_density(map_em, rows):
    fit = map_em.run(0, rows, niw_prior(2, 3), 3, restarts=6)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective)
    for name, slope in slopes(fit).items():
        np.testing.assert_allclose(slope, 0.0, atol=2e-3, err_msg=name)
    # a fixed point: r at the mode gives the mode back
    r = fit.responsibilities()
    np.testing.assert_allclose(r, responsibilities(rows, fit.parameters), rtol=1e-8, atol=1e-12)
    for name, value in murphy_step(rows, r, niw_prior(2, 3)).items():
        np.testing.assert_allclose(fit.parameters[name], value, rtol=1e-4, atol=1e-4)


def test_restarts_are_reported_best_first(map_em, rows):
    fit = map_em.run(3, rows, niw_prior(2, 3), 3, restarts=6)
    assert fit.restart_objectives.shape == (6,) == fit.restart_steps.shape
    assert fit.objective[-1] == fit.restart_objectives.max()
    assert sum(mode.count for mode in fit.modes) == 6
    tops = [mode.objective for mode in fit.modes]
    assert tops == sorted(tops, reverse=True)
    assert "modes" in str(fit) and "onverged" in str(fit)


def test_the_same_key_gives_the_same_fit_and_a_second_call_does_not_retrace(rows):
    calls = []

    def program(x, K):
        calls.append(1)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    em = EM(program, progress_bar=False)
    first = em.run(0, rows[:, 0], 3, restarts=2)
    before = len(calls)
    again = em.run(jax.random.key(0), rows[:, 0], 3, restarts=2)
    other = em.run(1, 5.0 + 3 * rows[:, 1], 3, restarts=2)
    assert len(calls) == before
    np.testing.assert_array_equal(first.objective, again.objective)
    assert other.objective[-1] != first.objective[-1]


FIRST_FIT = """
import sys, jax, numpy, numpyro, bayesmix, bayesmix.zoo
numpyro.enable_x64()
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
x = numpy.random.default_rng(0).normal(size=(60, 2))
bayesmix.EM(bayesmix.zoo.gaussian_mixture, progress_bar=False, max_steps=3).run(0, x, 2)
"""


def test_what_one_process_compiled_another_finds_in_the_persistent_cache(tmp_path):
    def kept():
        command = [sys.executable, "-c", FIRST_FIT, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}

    first = kept()
    assert len(first) > 8
    assert kept() == first


# ------------------------------------------------------------------------------ maximum likelihood
def scalar(x, alpha, K):
    weights = numpyro.sample("weights", dist.Dirichlet(alpha))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 100.0))
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


ALPHA = np.ones(2)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(4)
    return np.concatenate([rng.normal(-2.0, 1.0, 24), rng.normal(3.0, 0.7, 16)])


@pytest.fixture(scope="module")
def mle(line):
    return EM(
        bayesmix.plan(bayesmix.without_priors(scalar), line, ALPHA, 2),
        max_steps=800,
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def map_scalar(line):
    return EM(bayesmix.plan(scalar, line, ALPHA, 2), max_steps=800, progress_bar=False)


def test_maximum_likelihood_is_stationary_and_has_no_prior(mle, line):
    fit = mle.run(0, line, ALPHA, 2, restarts=4)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective)
    w, m, v = (fit.parameters[name] for name in ("weights", "mean", "variance"))
    density = w * norm(m, np.sqrt(v)).pdf(line[:, None])
    assert fit.objective[-1] == pytest.approx(np.log(density.sum(axis=1)).sum(), rel=1e-12)
    np.testing.assert_allclose(fit.log_density(), np.log(density.sum(axis=1)), rtol=1e-10)
    r = density / density.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(w, r.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(m, r.T @ line / r.sum(axis=0), atol=1e-5)
    spread = (r * (line[:, None] - m) ** 2).sum(axis=0) / r.sum(axis=0)
    np.testing.assert_allclose(v, spread, atol=1e-4)


def test_new_rows_are_scored_by_the_same_program(mle, line):
    fit = mle.run(0, line, ALPHA, 2, restarts=4)
    fresh = np.array([-2.0, 0.4, 3.0])
    np.testing.assert_allclose(fit.responsibilities(fresh, ALPHA, 2).sum(axis=1), 1.0)
    together = np.append(line, 0.4)
    assert fit.log_density(fresh, ALPHA, 2)[1] == pytest.approx(
        fit.log_density(together, ALPHA, 2)[-1], rel=1e-12
    )


def test_a_spike_is_called_singular(mle, line):
    x = line.copy()
    x[:6] = 1.5
    init = {"weights": [0.2, 0.8], "mean": [1.5, 0.0], "variance": [1e-3, 6.0]}
    fit = mle.run(0, x, ALPHA, 2, init=init)
    assert fit.status is Status.COVARIANCE_SINGULAR
    assert not fit.status
    assert "prior" in str(fit.status)


def test_a_spike_never_beats_a_proper_fit(mle, line):
    x = line.copy()
    x[:6] = 1.5
    for key in range(3):
        fit = mle.run(key, x, ALPHA, 2, restarts=4)
        if any(status is Status.CONVERGED for status in fit.restart_statuses):
            assert fit.status is Status.CONVERGED
        for objective, status in zip(fit.restart_objectives, fit.restart_statuses):
            assert np.isfinite(objective) or not status


def test_a_prior_removes_the_spike(map_scalar, line):
    x = line.copy()
    x[:6] = 1.5
    init = {"weights": [0.2, 0.8], "mean": [1.5, 0.0], "variance": [1e-3, 6.0]}
    fit = map_scalar.run(0, x, ALPHA, 2, init=init)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective)


def test_an_empty_component_is_named(mle, line):
    init = {"weights": [0.5, 0.5], "mean": [0.0, 1e6], "variance": [9.0, 1.0]}
    fit = mle.run(0, line, ALPHA, 2, init=init)
    assert fit.status is Status.COMPONENT_EMPTY
    assert np.isfinite(fit.objective).all()


@pytest.mark.parametrize("which", ["mle", "map_scalar"])
def test_a_symmetric_start_is_named(which, line, request):
    init = {"weights": [0.5, 0.5], "mean": [0.3, 0.3], "variance": [4.0, 4.0]}
    fit = request.getfixturevalue(which).run(0, line, ALPHA, 2, init=init)
    assert fit.status is Status.SYMMETRIC_START


def test_a_concentration_below_one_can_empty_a_weight(map_scalar, line):
    init = {"weights": [0.999, 0.001], "mean": [0.0, 40.0], "variance": [9.0, 0.1]}
    fit = map_scalar.run(0, line, np.array([0.5, 0.5]), 2, init=init)
    assert fit.status is Status.AT_BOUNDARY
    assert "Dirichlet" in str(fit.status)
    assert np.isfinite(fit.parameters["mean"]).all()


def test_out_of_steps_is_said_and_the_last_trace_entry_is_the_fit(map_scalar, line):
    em = EM(map_scalar.plans.given, max_steps=3, tolerance=0.0, progress_bar=False)
    fit = em.run(0, line, ALPHA, 2, init={"mean": [-0.1, 0.1]})
    assert fit.status is Status.OUT_OF_STEPS
    assert len(fit.objective) == 4
    assert fit.objective[-1] == fit.restart_objectives[0]


def test_init_may_lead_with_an_axis_of_starts(map_scalar, line):
    mean = np.array([[-2.0, 3.0], [0.0, 0.1], [3.0, -2.0]])
    fit = map_scalar.run(0, line, ALPHA, 2, restarts=3, init={"mean": mean})
    assert len(fit.modes) == 1 and fit.modes[0].count == 3  # up to relabelling
    shared = map_scalar.run(0, line, ALPHA, 2, restarts=3, init={"mean": mean[0]})
    assert shared.objective[-1] == pytest.approx(fit.objective[-1], rel=1e-9)


def test_one_component_is_the_closed_form(line):
    alpha = np.ones(1)
    em = EM(bayesmix.without_priors(scalar), progress_bar=False)
    fit = em.run(0, line, alpha, 1)
    assert fit.status is Status.CONVERGED
    assert fit.parameters["mean"][0] == pytest.approx(line.mean(), rel=1e-10)
    assert fit.parameters["variance"][0] == pytest.approx(line.var(), rel=1e-10)
    np.testing.assert_array_equal(fit.parameters["weights"], [1.0])


def test_a_hundred_thousand_rows_in_blocks(mle):
    rng = np.random.default_rng(7)
    x = np.where(
        rng.uniform(size=100_000) < 0.3, rng.normal(-2, 1, 100_000), rng.normal(3, 2, 100_000)
    )
    before, alive = jax.live_arrays(), []  # other tests' arrays may live on

    def look(progress):
        large = [array for array in jax.live_arrays() if array.size >= len(x)]
        alive.append([a.shape for a in large if not any(a is other for other in before)])

    em = EM(mle.plans.given, max_steps=800, progress_bar=False, callback=look)
    fit = em.run(0, x, ALPHA, 2)
    # the rows and their weights, in blocks; NumPy's own rows have no other copy until the fit is over
    assert all(len(shapes) == 2 and x.shape not in shapes for shapes in alive) and alive
    np.testing.assert_array_equal(fit.arguments.arrays[0], x)
    assert all(isinstance(array, jax.Array) for array in fit.arguments.arrays)
    np.testing.assert_array_equal(em.run(0, jnp.asarray(x), ALPHA, 2).objective, fit.objective)
    assert fit.status is Status.CONVERGED
    assert_never_falls(fit.objective, len(x))
    order = np.argsort(fit.parameters["mean"])
    np.testing.assert_allclose(fit.parameters["mean"][order], [-2, 3], atol=0.1)
    np.testing.assert_allclose(fit.parameters["variance"][order], [1, 4], atol=0.15)
    w, m, v = (fit.parameters[name] for name in ("weights", "mean", "variance"))
    density = (w * norm(m, np.sqrt(v)).pdf(x[:, None])).sum(axis=1)
    assert fit.objective[-1] == pytest.approx(np.log(density).sum(), rel=1e-11)


@pytest.fixture(scope="module")
def single(line):
    with jax.enable_x64(False):
        rows = line.astype(np.float32), ALPHA.astype(np.float32), 2
        plan = bayesmix.plan(bayesmix.without_priors(scalar), *rows)
        return EM(plan, max_steps=800, progress_bar=False)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_single_precision_is_near_double_and_says_so(mle, single, line, offset):
    x = line + offset
    exact = mle.run(0, x, ALPHA, 2, restarts=4)
    with jax.enable_x64(False):
        fit = single.run(0, x.astype(np.float32), ALPHA.astype(np.float32), 2, restarts=4)
    assert fit.objective.dtype == np.float32
    assert fit.status is Status.CONVERGED
    assert fit.objective[-1] == pytest.approx(exact.objective[-1], rel=1e-5)
    order, theirs = np.argsort(fit.parameters["mean"]), np.argsort(exact.parameters["mean"])
    np.testing.assert_allclose(
        fit.parameters["mean"][order], exact.parameters["mean"][theirs], atol=0.02
    )
    np.testing.assert_allclose(
        fit.parameters["variance"][order], exact.parameters["variance"][theirs], rtol=0.03
    )
