"""Student-t rows and mixtures of them against MASS, sn, teigen and PMTK: ML at fixed and free nu."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_t

import bayesmix
from bayesmix import EM, Plan, Status
from tests.checks import assert_never_falls
from tests.oracles.models import one_step
from tests.references import reference

pytestmark = pytest.mark.oracle
positive, vector = dist.constraints.positive_definite, dist.constraints.real_vector
LONGEST = 75


def location_and_scatter(D):
    scatter = numpyro.sample("scatter", dist.ImproperUniform(positive, (), (D, D)))
    return numpyro.sample("mean", dist.ImproperUniform(vector, (), (D,))), scatter


def rows_of(x, weight):
    return numpyro.plate("rows", x.shape[0]), numpyro.handlers.scale(scale=weight)


def fixed(x, weight, freedom):
    mean, scatter = location_and_scatter(x.shape[1])
    plate, weighted = rows_of(x, weight)
    with plate, weighted:
        lower = jnp.linalg.cholesky(scatter)
        numpyro.sample("x", dist.MultivariateStudentT(freedom, mean, lower), obs=x)


def hidden(x, weight, freedom):
    """As `fixed`, with a gamma latent in every row."""
    mean, scatter = location_and_scatter(x.shape[1])
    plate, weighted = rows_of(x, weight)
    with plate, weighted:
        u = numpyro.sample("u", dist.Gamma(freedom / 2, freedom / 2))
        numpyro.sample("x", dist.MultivariateNormal(mean, scatter / u[..., None, None]), obs=x)


def free(x, weight):
    flat = dist.ImproperUniform(dist.constraints.positive, (), ())
    fixed(x, weight, numpyro.sample("freedom", flat))


def mixture(x, weight, freedom, K):
    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("component", K):
        mean, scatter = location_and_scatter(D)
    plate, weighted = rows_of(x, weight)
    with plate, weighted:
        z = numpyro.sample("z", dist.Categorical(weights))
        lower = jnp.linalg.cholesky(scatter)
        numpyro.sample(
            "x", dist.MultivariateStudentT(jnp.asarray(freedom)[z], mean[z], lower[z]), obs=x
        )


def padded(x, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows repeated up to a length, the repeats at no weight (as near as `scale` takes): data sets of
    one shape share what is compiled."""
    x = np.asarray(x, float)
    return np.resize(x, (length, x.shape[1])), np.where(np.arange(length) < len(x), 1.0, 1e-100)


def stored(dataset: str):
    return reference("student_t")[dataset]


def rows(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    return padded(stored(dataset)["data"], LONGEST)


# --------------------------------------------------------------------------------- one component
ANY = (*rows("hbk"), np.asarray(3.0))


@functools.cache
def plan_of(program) -> Plan:
    return bayesmix.plan(program, *(ANY[:2] if program is free else ANY))


@functools.cache
def em_of(program) -> EM:
    return EM(plan_of(program), tolerance=1e-13, max_steps=3000, progress_bar=False)


def moments_of(dataset: str) -> dict[str, np.ndarray]:
    x = np.asarray(stored(dataset)["data"], float)
    return {"mean": x.mean(axis=0), "scatter": np.cov(x.T, bias=True)}


def assert_near(found, location, scatter, rtol: float) -> None:
    size = np.sqrt(np.diagonal(scatter))
    np.testing.assert_array_less(np.abs(found["mean"] - location), rtol * size)
    np.testing.assert_array_less(np.abs(found["scatter"] - scatter), rtol * np.outer(size, size))


@pytest.mark.parametrize("dataset", ["iris_setosa", "hbk", "stackloss"])
def test_fixed_degrees_of_freedom_have_the_fit_of_mass(dataset):
    em, (x, weight) = em_of(fixed), rows(dataset)
    fits = stored(dataset)["fixed_nu"].values()
    assert {fit["nu"] for fit in fits} == {1, 2, 3, 4, 5, 10, 30}
    for theirs in fits:
        freedom = np.asarray(float(theirs["nu"]))
        ours = em.run(0, x, weight, freedom, init=moments_of(dataset))
        assert bool(ours.status), ours.status
        assert_never_falls(ours.objective)
        assert ours.objective[-1] == pytest.approx(theirs["loglik"], rel=1e-9)
        assert_near(ours.parameters, theirs["center"], np.asarray(theirs["cov"]), 1e-5)


def test_a_gamma_latent_in_every_row_is_the_same_model():
    x, weight = rows("hbk")
    arguments = (x, weight, np.asarray(3.0))
    fit = em_of(fixed).run(0, *arguments, init=moments_of("hbk"))
    objective, moved = one_step(plan_of(hidden), arguments, fit.parameters)
    assert float(objective) == pytest.approx(fit.objective[-1], rel=1e-12)
    for name, value in fit.parameters.items():
        np.testing.assert_allclose(moved[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("dataset", ["iris_setosa", "hbk"])
def test_free_degrees_of_freedom_have_the_fit_of_sn(dataset):
    x, weight = rows(dataset)
    init = {**moments_of(dataset), "freedom": np.asarray(5.0)}
    ours = em_of(free).run(0, x, weight, init=init)
    assert bool(ours.status), ours.status
    assert_never_falls(ours.objective)
    for theirs in (stored(dataset)[name] for name in ("sn_free_nu", "profile_free_nu")):
        assert ours.objective[-1] == pytest.approx(theirs["loglik"], rel=1e-9)
        assert float(ours.parameters["freedom"]) == pytest.approx(theirs["nu"], rel=1e-4)
        assert_near(ours.parameters, theirs["location"], np.asarray(theirs["scatter"]), 1e-4)


def test_degrees_of_freedom_climbed_on_the_likelihood_itself_take_fewer_steps():
    """ECME against ECM: Liu & Rubin (1995)."""
    x, weight = rows("iris_setosa")
    em = EM(
        plan_of(free),
        m_step=bayesmix.m_steps.ClimbObjective("freedom"),
        tolerance=1e-13,
        progress_bar=False,
    )
    init = {**moments_of("iris_setosa"), "freedom": np.asarray(5.0)}
    plain, ours = (each.run(0, x, weight, init=init) for each in (em_of(free), em))
    assert bool(ours.status), ours.status
    assert_never_falls(ours.objective)
    theirs = stored("iris_setosa")["profile_free_nu"]
    assert ours.objective[-1] == pytest.approx(theirs["loglik"], rel=1e-9)
    assert float(ours.parameters["freedom"]) == pytest.approx(theirs["nu"], rel=1e-4)
    assert len(ours.objective) < 0.25 * len(plain.objective)


def test_degrees_of_freedom_that_grow_without_bound_end_in_a_status():
    """The likelihood rises to the Gaussian's: sn stopped at 20 000, the profile at its end, 200."""
    theirs = stored("stackloss")
    assert theirs["sn_free_nu"]["nu"] > 1e4 and theirs["profile_free_nu"]["nu"] > 199
    x, weight = rows("stackloss")
    init = {**moments_of("stackloss"), "freedom": np.asarray(5.0)}
    ours = em_of(free).run(0, x, weight, init=init)
    assert_never_falls(ours.objective)
    assert ours.status in (Status.CONVERGED, Status.OUT_OF_STEPS)
    assert float(ours.parameters["freedom"]) > 100
    gaussian = jax.scipy.stats.multivariate_normal.logpdf(
        np.asarray(theirs["data"], float),
        moments_of("stackloss")["mean"],
        moments_of("stackloss")["scatter"],
    ).sum()
    best = theirs["profile_free_nu"]["loglik"]
    assert best - 1e-5 * abs(best) < ours.objective[-1] < float(gaussian)


# -------------------------------------------------------------------------------------- mixtures
@functools.cache
def mixture_em(K: int) -> EM:
    x, weight = padded(stored("faithful_mixtures")["data"], 272)
    program = bayesmix.without_priors(mixture)
    plan = bayesmix.plan(program, x, weight, np.full(K, 3.0), K)
    return EM(plan, tolerance=1e-11, max_steps=2000, progress_bar=False)


def run_mixture(data, freedom):
    """From ten starts: another number would be compiled anew."""
    x, weight = padded(data, 272)
    K = len(freedom)
    return mixture_em(K).run(0, x, weight, np.asarray(freedom), K, restarts=10)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("freedom", [3, 10])
def test_mixtures_are_at_least_as_good_as_those_of_teigen(K, freedom):
    theirs = stored("faithful_mixtures")[f"faithful_nu{freedom}_K{K}"]
    data, best = stored("faithful_mixtures")["data"], theirs["loglik_recomputed"]
    ours = run_mixture(data, np.full(K, float(freedom)))
    assert bool(ours.status), ours.status
    assert ours.objective[-1] >= best - 1e-7 * abs(best)
    if ours.objective[-1] <= best + 1e-7 * abs(best):
        order = np.argsort(ours.parameters["weights"])
        there = np.argsort(theirs["pro"])
        for name, value in {"weights": "pro", "mean": "mean", "scatter": "sigma"}.items():
            found, expected = ours.parameters[name][order], np.asarray(theirs[value])[there]
            np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=name)
    else:
        assert K == 3


def errors_of(parameters, freedom) -> int:
    """Rows of the other class, by the larger log p(x, z = k)."""
    x, truth = (np.asarray(stored("bankruptcy")[name]) for name in "XY")
    sites = zip(parameters["weights"], parameters["mean"], parameters["scatter"], freedom)
    table = [np.log(w) + multivariate_t(m, s, nu).logpdf(x) for w, m, s, nu in sites]
    wrong = int(np.sum(np.argmax(table, axis=0) != truth))
    return min(wrong, len(truth) - wrong)


@functools.cache
def bankruptcy_fit(freedom: tuple[float, ...]):
    return run_mixture(stored("bankruptcy")["X"], freedom)


@pytest.mark.parametrize(
    ("key", "freedom", "errors"),
    [
        ("mclust_VVV", (1e6, 1e6), 21),
        ("teigen_nu1", (1.0, 1.0), 19),
        ("teigen_nu2", (2.0, 2.0), 18),
        ("teigen_nu4", (4.0, 4.0), 4),
        ("teigen_nu10", (10.0, 10.0), 12),
        ("pmtk3_octave", (200.0, 2.15), 4),
    ],
)
def test_bankruptcies_are_classified_as_by_their_fits(key, freedom, errors):
    """Murphy's example of robustness, figure 11.14: 21 errors of the Gaussian mixture, 4 of the t, whose
    degrees of freedom PMTK fits (one is capped at 200). Each fit is one of our modes, if not the best:
    at nu = 4 a mode with 18 errors is 3.6 higher than that with 4, and 0.06 higher at PMTK's nu."""
    theirs = stored("bankruptcy")[key]
    theirs = theirs.get("student", theirs)
    assert theirs["errors"] == errors
    # mclust's is one M step stale, PMTK's nu is rounded
    close = 1e-7 if key.startswith("teigen") else 2e-5
    modes = bankruptcy_fit(freedom).modes
    (mode,) = (m for m in modes if m.objective == pytest.approx(theirs["loglik"], rel=close))
    assert errors_of(mode.parameters, freedom) == errors
