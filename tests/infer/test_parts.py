"""EM as parts: limits in which each variant is plain EM, and what it promises of its objective."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import EM, Plan, ProgramError, Status
from bayesmix.infer.accelerators import Anderson, OverRelaxation, Squarem
from bayesmix.infer.e_steps import (
    AscentMonteCarlo,
    Geometric,
    Hard,
    MeanField,
    MonteCarlo,
    Tempered,
)
from bayesmix.infer.m_steps import LBFGS, Climb, GradientAscent, Maximise, Newton
from tests.checks import assert_never_falls, slopes

K = 3


def gaussian(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.zeros(2), covariance / 0.1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def network(x, K):
    """Two causes of each row that explain one another away."""
    one = numpyro.sample("one", dist.Dirichlet(jnp.full(K, 2.0)))
    two = numpyro.sample("two", dist.Beta(2.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([K, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Categorical(one))
        b = numpyro.sample("b", dist.Bernoulli(two))
        numpyro.sample("x", dist.Normal(mean[a, b], 0.8), obs=x[:, 0])
        numpyro.sample("y", dist.Normal(1.0 * b, 1.0), obs=x[:, 1])


def student(x, K):
    """A site to climb, and hidden scales."""
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        numpyro.sample("x", dist.StudentT(df, mean[z], 0.7), obs=x[:, 0])


_rng = np.random.default_rng(0)
_z = _rng.choice(3, 90, p=[0.5, 0.3, 0.2])
X = np.array([[-1.5, 0.0], [0.5, 1.5], [2.0, -1.0]])[_z] + _rng.normal(size=(90, 2))
PROGRAMS = {f.__name__: f for f in (gaussian, network, student)}


@functools.cache
def plan_of(name: str) -> Plan:
    return bayesmix.plan(PROGRAMS[name], X, K)


def run(name: str, restarts: int = 2, max_steps: int = 40, key: int = 0, **parts):
    em = EM(plan_of(name), max_steps=max_steps, progress_bar=False, **parts)
    return em.run(key, X, K, restarts=restarts)


plain = functools.cache(run)


def rounding(name: str) -> float:
    """Where a site is climbed, rounding decides between step lengths that are as good."""
    climbs = any(block.form is None for block in plan_of(name).blocks)
    return 1e-8 if climbs else 1e-12


def assert_same_steps(one, other, rtol: float) -> None:
    """Both made the same steps, as far as both went."""
    length = min(len(one.objective), len(other.objective))
    assert length > 5
    np.testing.assert_allclose(one.objective[:length], other.objective[:length], rtol=rtol)


# ----------------------------------------------------------------------- limits: plain EM, step by step
LIMITS = {
    "tempered at 1": {"e_step": Tempered(1.0)},
    "infinitely many draws": {"e_step": MonteCarlo(math.inf)},
    "no over-relaxation": {"accelerator": OverRelaxation(largest=1.0)},
    "no extrapolation": {"accelerator": Squarem(factor=1.0)},
}


@pytest.mark.parametrize("parts", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_limit_is_plain_em(name, parts):
    assert_same_steps(run(name, **parts), plain(name), rtol=rounding(name))


@pytest.mark.parametrize("name", ["gaussian", "student"])
def test_mean_field_of_one_latent_is_plain_em(name):
    """The bound is the log likelihood, to rounding."""
    assert_same_steps(run(name, e_step=MeanField()), plain(name), rtol=rounding(name))


def test_conditional_maximisation_in_one_block_is_plain_em():
    named = (Maximise(("weights", "mean", "covariance")),)
    assert_same_steps(run("gaussian", m_step=named), plain("gaussian"), rtol=1e-14)


def test_a_large_inverse_temperature_is_hard_em():
    assert_same_steps(
        run("network", e_step=Tempered(1e5), max_steps=15),
        run("network", e_step=Hard(), max_steps=15),
        rtol=1e-4,
    )


# ------------------------------------------------------------------------------------- the objective
RISING = {
    "hard": {"e_step": Hard()},
    "tempered": {"e_step": Tempered(0.6)},
    "mean field": {"e_step": MeanField(sweeps=2)},
    "one Newton step": {"m_step": Climb("mean", Newton(steps=1))},
    "one gradient step": {"m_step": Climb("mean", GradientAscent(steps=1))},
    "L-BFGS steps": {"m_step": Climb("mean", LBFGS(steps=4))},
    "over-relaxed": {"accelerator": OverRelaxation(growth=1.5)},
    "squared": {"accelerator": Squarem()},
    "mixed": {"accelerator": Anderson()},
    "hard and squared": {"e_step": Hard(), "accelerator": Squarem()},
}


@pytest.mark.parametrize("parts", RISING.values(), ids=RISING)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_objective_never_falls(name, parts):
    fit = run(name, **parts)
    assert_never_falls(fit.objective, len(X))
    assert Status.OBJECTIVE_FELL not in fit.restart_statuses
    assert np.ptp(fit.objective) > 1.0


SAME_MODE = {
    name: RISING[name] for name in ("one Newton step", "over-relaxed", "squared", "mixed")
} | {
    "blocks apart": {"m_step": (Maximise("covariance"), Maximise("mean"))},
    "annealed to the end": {"e_step": Tempered(Geometric(0.9, 1.02))},
}


@pytest.mark.parametrize("parts", SAME_MODE.values(), ids=SAME_MODE)
def test_it_ends_in_the_mode_of_plain_em(parts):
    found = run("gaussian", restarts=1, max_steps=2000, **parts)
    expected = plain("gaussian", restarts=1, max_steps=2000)
    assert found.status and expected.status
    assert found.objective[-1] == pytest.approx(expected.objective[-1], abs=1e-6)
    for slope in slopes(found).values():
        np.testing.assert_allclose(slope, 0.0, atol=2e-3)


def test_annealing_converges_only_when_the_temperature_has_come_to_rest():
    fit = run("gaussian", max_steps=500, e_step=Tempered(Geometric(0.5, 1.01)))
    assert fit.status
    assert fit.restart_steps.min() > math.log(2) / math.log(1.01)


# --------------------------------------------------------------------------------------- accelerators
def overlapping(x, K):
    """Two unknown means one standard deviation apart: EM's rate is near 1."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


@pytest.mark.parametrize("accelerator", [OverRelaxation(growth=1.3), Squarem(), Anderson()])
def test_overlapping_components_take_a_fifth_of_the_steps(accelerator):
    rng = np.random.default_rng(1)
    x = rng.normal(size=2000) + np.where(rng.uniform(size=2000) < 0.5, 0.5, -0.5)
    plan = plan_overlapping(len(x))
    init = {"mean": np.array([-1.0, 1.0]), "share": np.array(0.5)}
    settings = {"tolerance": 1e-12, "max_steps": 20_000, "progress_bar": False}
    slow = EM(plan, **settings).run(0, x, 2, init=init)
    quick = EM(plan, accelerator=accelerator, **settings).run(0, x, 2, init=init)
    assert slow.status and quick.status
    assert_never_falls(quick.objective, len(x))
    assert quick.objective[-1] >= slow.objective[-1] - 1e-7
    assert 5 * quick.restart_steps[0] <= slow.restart_steps[0]


@functools.cache
def plan_overlapping(rows: int) -> Plan:
    return bayesmix.plan(overlapping, np.linspace(-2.0, 2.0, rows), 2)


# ---------------------------------------------------------------------------------------- Monte Carlo
def test_shares_of_many_draws_are_near_the_responsibilities():
    few, many = (
        run("network", restarts=1, max_steps=1, e_step=MonteCarlo(draws)) for draws in (10, 4000)
    )
    exact = run("network", restarts=1, max_steps=1)
    gaps = [np.abs(f.parameters["mean"] - exact.parameters["mean"]).max() for f in (few, many)]
    assert gaps[1] < 0.3 * gaps[0]
    np.testing.assert_allclose(gaps[1], 0.0, atol=0.05)


def test_ascent_based_control_stops_near_the_mode_by_itself():
    fit = run("student", max_steps=500, e_step=AscentMonteCarlo(tolerance=1e-5))
    exact = plain("student", max_steps=500)
    assert fit.status
    assert fit.objective[-1] == pytest.approx(exact.objective[-1], abs=0.1)
    assert len(fit.objective) < 500


def test_falling_gains_average_the_draws_of_all_steps():
    """SAEM settles at the mode, one draw at a step, where stochastic EM goes on moving."""

    def gain(step):
        return (1.0 + jnp.maximum(step - 50, 0)) ** -0.9

    settings = {"restarts": 1, "max_steps": 1500}
    settled, moving = (
        run("gaussian", e_step=MonteCarlo(1, gain), **settings) for gain in (gain, 1.0)
    )
    em = EM(plan_of("gaussian"), max_steps=2000, progress_bar=False)
    exact = em.run(0, X, K, init=settled.site_values)  # the mode that is near
    tails = [fit.objective[-100:] - exact.objective[-1] for fit in (settled, moving)]
    assert np.abs(tails[0]).max() < 0.05 < np.abs(tails[1]).max()


def test_draws_differ_between_keys_and_not_between_runs():
    one, again = (run("network", e_step=MonteCarlo(1), max_steps=12) for _ in range(2))
    other = run("network", e_step=MonteCarlo(2), max_steps=12)
    np.testing.assert_array_equal(one.objective, again.objective)
    assert np.abs(one.objective[1:] - other.objective[1:]).max() > 1e-3


# -------------------------------------------------------------------- mean field against the exact step
def test_mean_field_of_several_latents_is_a_lower_bound_that_enumeration_confirms():
    fit = run("network", restarts=1, max_steps=60, e_step=MeanField(sweeps=50))
    p = fit.parameters
    values = np.array([[a, b] for a in range(K) for b in range(2)])
    prior = np.log(p["one"])[values[:, 0]] + np.log([1 - p["two"], p["two"]])[values[:, 1]]
    squares = ((X[:, :1] - p["mean"][values[:, 0], values[:, 1]]) / 0.8) ** 2
    table = prior - squares / 2 - np.log(0.8) - (X[:, 1:] - values[:, 1]) ** 2 / 2
    table = (table - np.log(2 * np.pi)).reshape(len(X), K, 2)
    best = np.full(len(X), -np.inf)
    for start in range(5):  # by hand, from several starts
        q = np.random.default_rng(start).dirichlet(np.ones(2), len(X))
        for _ in range(400):
            r = np.einsum("nab,nb->na", table, q)
            r = np.exp(r - r.max(1, keepdims=True))
            r /= r.sum(1, keepdims=True)
            q = np.einsum("nab,na->nb", table, r)
            q = np.exp(q - q.max(1, keepdims=True))
            q /= q.sum(1, keepdims=True)
        bound = np.einsum("nab,na,nb->n", table, r, q)
        bound -= (r * np.log(r + 1e-300)).sum(1) + (q * np.log(q + 1e-300)).sum(1)
        best = np.maximum(best, bound)
    terms = bayesmix.theory.decompose(plan_of("network"), fit.parameters, X, K)
    ours = fit.objective[-1] - float(terms.log_prior)
    assert ours <= best.sum() + 1e-6 < float(terms.log_likelihood)
    assert ours == pytest.approx(best.sum(), abs=0.5)


# ---------------------------------------------------------------------------------- errors and callbacks
def test_bad_parts_are_refused_with_the_cure():
    cases = [
        (Maximise("mode"), r"m_step names 'mode'.*df, mean"),
        (Maximise("df"), "'df' has no closed form to maximise"),
        ((bayesmix.m_steps.ClimbObjective("df"), Maximise("mean")), "put ClimbObjective last"),
    ]
    for parts, message in cases:
        with pytest.raises(ProgramError, match=message):
            run("student", m_step=parts)
    with pytest.raises(ProgramError, match="never reaches 1"):
        Geometric(0.5, 0.9)


def test_a_callback_sees_the_fit_and_stops_it():
    seen = []

    def look(progress: bayesmix.Progress) -> bool:
        seen.append(progress)
        return len(seen) == 3

    fit = run("gaussian", callback=look, report_every=2)
    assert [int(p.step.max()) for p in seen] == [2, 4, 6]
    assert seen[0].values["mean"].shape == (2, K, 2)
    assert fit.status is Status.OUT_OF_STEPS and len(fit.objective) == 7


# ------------------------------------------------------------------------------- stopping and resuming
@pytest.mark.parametrize("parts", [{}, {"e_step": MonteCarlo(2)}, {"accelerator": Anderson()}])
def test_a_stopped_fit_goes_on_from_its_checkpoint_as_if_nothing_had_been(tmp_path, parts):
    whole = run("gaussian", **parts)
    settings = {"max_steps": 40, "progress_bar": False, "report_every": 5, **parts}
    stopping = EM(plan_of("gaussian"), callback=lambda progress: True, **settings)
    file = tmp_path / "fit.npz"
    stopping.run(0, X, K, restarts=2, checkpoint=file)
    fit = EM(plan_of("gaussian"), **settings).run(0, X, K, restarts=2, checkpoint=file)
    np.testing.assert_array_equal(fit.objective, whole.objective)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(fit.parameters[name], value)
    with pytest.raises(ProgramError, match="is of another run"):
        EM(plan_of("gaussian"), **settings).run(0, X + 1.0, K, restarts=2, checkpoint=file)
    file.write_bytes(b"nothing")
    with pytest.raises(ProgramError, match="not saved by bayesmix"):
        EM(plan_of("gaussian"), **settings).run(0, X, K, restarts=2, checkpoint=file)


# ---------------------------------------------------------------------------------------------- theory
def test_the_terms_of_the_log_likelihood_add_up_at_every_step():
    fit = run("network", restarts=1, keep_path=True)
    terms = bayesmix.theory.decompose_path(fit)
    np.testing.assert_allclose(
        terms.log_likelihood + terms.log_prior, fit.objective[1:], rtol=1e-12
    )
    # what the M step gained is in the bound, what the next E step gains in the divergence
    gained = terms.bound + terms.log_prior - fit.objective[:-1]
    assert (gained > -1e-9).all() and (terms.divergence > -1e-9).all()
    np.testing.assert_allclose(gained + terms.divergence, np.diff(fit.objective), atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_terms_equal_enumeration(beta):
    fit = run("network", restarts=1, max_steps=3)
    other = run("network", restarts=1, max_steps=12)
    plan, told = plan_of("network"), [fit.parameters, other.parameters]
    terms = bayesmix.theory.decompose(plan, told[0], X, K, at=told[1], inverse_temperature=beta)

    def table(p):
        joint = np.log(p["one"])[:, None] + np.log([1 - p["two"], p["two"]])
        density = -(((X[:, 0, None, None] - p["mean"]) / 0.8) ** 2) / 2 - np.log(0.8)
        density = density - (X[:, 1, None, None] - np.arange(2)) ** 2 / 2 - np.log(2 * np.pi)
        return (joint + density).reshape(len(X), -1)

    here, there = (table(p) for p in told)
    q = np.exp(beta * there)
    q /= q.sum(1, keepdims=True)
    assert float(terms.energy) == pytest.approx((q * here).sum(), rel=1e-10)
    assert float(terms.entropy) == pytest.approx(-(q * np.log(q)).sum(), rel=1e-9)
    evidence = np.log(np.exp(here).sum(1))
    assert float(terms.log_likelihood) == pytest.approx(evidence.sum(), rel=1e-10)
    posterior = np.exp(here - evidence[:, None])
    divergence = (q * np.log(q / posterior)).sum()
    assert float(terms.divergence) == pytest.approx(divergence, abs=1e-8)


def test_a_fit_without_a_path_says_how_to_keep_one():
    with pytest.raises(ProgramError, match="keep_path=True"):
        bayesmix.theory.decompose_path(plain("gaussian"))
