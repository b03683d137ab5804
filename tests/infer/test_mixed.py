"""MixedGibbs: closed blocks drawn, other sites moved by NUTS; against NUTS with labels summed out."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import biject_to
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

import bayesmix
from bayesmix import EM, ConjugateGibbs, MixedGibbs, Plan
from bayesmix.infer import mixed
from bayesmix.posterior import arviz_compat
from bayesmix.program import row_pass
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.checks import assert_never_falls, slopes

_rng = np.random.default_rng(0)
U = _rng.uniform(-2, 2, 80)
Z = _rng.uniform(size=80) < 1 / (1 + np.exp(0.5 - 1.5 * U))
Y = np.where(Z, 1.5, -1.0) * U + 0.5 * _rng.normal(size=80)
X = np.where(_rng.uniform(size=80) < 0.6, -2.0, 2.0) + 0.8 * _rng.standard_t(3, size=80)

SHARES = np.concatenate([_rng.beta(2.0, 8.0, 50), _rng.beta(9.0, 3.0, 30)])


def experts(u, y):
    """A gate and a scale that have no closed form, and slopes that have one; labels have a meaning."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(jnp.array([-2.0, 2.0]), 1.0).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("y", dist.Normal(slope[z] * u, scale), obs=y)


def heavy(x):
    """Student-t components whose degrees of freedom have no closed form."""
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([-3.0, 3.0]), 1.0).to_event(1))
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.StudentT(df, mean[z], jnp.sqrt(variance)), obs=x)


def closed(x):
    """As `heavy`, with degrees of freedom that are known: nothing is left to NUTS."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([-3.0, 3.0]), 1.0).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.StudentT(4.0, mean[z], 1.0), obs=x)


def shares(x):
    """Betas, which have statistics and no closed form."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    shape = numpyro.sample("shape", dist.Gamma(2.0, 0.5).expand([2, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Beta(shape[z, 0], shape[z, 1]), obs=x)


ROWS = {experts: (U, Y), heavy: (X,), closed: (X,), shares: (SHARES,)}


@functools.cache
def plan_of(program) -> Plan:
    return bayesmix.plan(program, *ROWS[program])


# labels as they lie in the data; the other labellings are too far away for a chain to change to
STARTS = {
    experts: {"gate": [0.0, 1.0], "slope": [-1.0, 1.5], "scale": 0.5},
    heavy: {"df": 4.0, "weights": [0.6, 0.4], "mean": [-2.0, 2.0], "variance": 0.6},
    shares: {"weights": [0.6, 0.4], "shape": [[2.0, 8.0], [9.0, 3.0]]},
}


def starts(program, unconstrained: bool) -> dict:
    """The same start for each of four chains: Gibbs takes the values, NUTS their free coordinates."""
    found = {}
    for site in plan_of(program).reading.parameters:
        value = jnp.asarray(STARTS[program][site.name])
        value = biject_to(site.support).inv(value) if unconstrained else value
        found[site.name] = jnp.broadcast_to(value, (4, *value.shape))
    return found


def run(kernel, program, warmup, count, start=None, **options) -> MCMC:
    settings = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False} | options
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=count, **settings)
    mcmc.run(random.key(0), *ROWS[program], init_params=start)
    return mcmc


@functools.cache
def short_run() -> MCMC:
    return run(MixedGibbs(plan_of(experts)), experts, 20, 30, num_chains=2)


def moments(mcmc: MCMC) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of every parameter and its square, and their squared Monte Carlo errors."""
    found, errors = [], []
    for name, draws in sorted(mcmc.get_samples(group_by_chain=True).items()):
        draws = np.log(draws) if name in ("df", "scale", "shape", "variance") else np.asarray(draws)
        for looked in (draws, draws**2):
            flat = looked.reshape(*looked.shape[:2], -1)
            found.append(flat.mean((0, 1)))
            size = effective_sample_size(flat)
            assert size.min() > 100, (name, size)
            errors.append(flat.var((0, 1)) / size)
    return np.concatenate(found), np.concatenate(errors)


@pytest.mark.parametrize(
    ("program", "names", "collapsed"),
    [(experts, ["gate", "scale"], False), (shares, ["shape"], False), (heavy, ["df"], True)],
)
def test_it_agrees_with_nuts_on_the_marginal(program, names, collapsed):
    plan = plan_of(program)
    assert [site.name for site in mixed.open_sites(plan)] == names
    kernel = MixedGibbs(plan, marginal=collapsed)
    composite = run(kernel, program, 300, 1500, starts(program, False))
    marginal = bayesmix.marginalize(plan)
    marginal = run(NUTS(marginal), program, 300, 800, starts(program, True))
    assert not composite.get_extra_fields()["diverging"].any()
    (found, error), (expected, other) = moments(composite), moments(marginal)
    assert np.abs(found - expected).max() > 0
    np.testing.assert_array_less(np.abs(found - expected), 4 * np.sqrt(error + other))


def test_em_climbs_what_it_moves():
    fit = EM(plan_of(shares), progress_bar=False).run(0, *ROWS[shares])
    assert fit.status and not fit.plan.by_row
    assert_never_falls(fit.objective, 80)
    for slope in slopes(fit).values():
        np.testing.assert_allclose(slope, 0.0, atol=1e-3)


def test_its_potential_is_that_of_the_program_with_the_labels_told():
    plan, arguments = plan_of(experts), split(ROWS[experts], {})
    slope = jnp.array([-0.7, 1.3])
    values = {"slope": slope, "scale": jnp.asarray(0.4), "gate": jnp.zeros(2)}
    evaluation, blocks = (
        plan.evaluate(arguments, values),
        Problem(plan, arguments).with_rows().blocks,
    )
    drawn = row_pass.drawn_pass(plan.graph, plan.families, evaluation, blocks, random.key(0))
    told = condition(experts, {"slope": slope, "z": drawn.rows[0]})

    @compile_lightly
    def differences(free):
        log_joint = Problem(plan, arguments).expected_log_joint(drawn.statistics)
        ours = mixed.potential_energy(mixed.open_sites(plan), log_joint, values)
        return ours(free) - potential_energy(told, ROWS[experts], {}, free)

    places = [{"gate": jnp.array([0.3, -1.0]), "scale": jnp.asarray(-0.7)}]
    places.append({"gate": jnp.array([-2.0, 0.5]), "scale": jnp.asarray(0.9)})
    first, second = (float(differences(free)) for free in places)
    assert first == pytest.approx(second, abs=1e-9)


def test_with_nothing_open_the_draws_are_those_of_conjugate_gibbs():
    plan = plan_of(closed)
    composite = run(MixedGibbs(plan), closed, 5, 20, num_chains=2)
    plain = run(ConjugateGibbs(plan), closed, 5, 20, num_chains=2)
    for name, draws in plain.get_samples().items():
        np.testing.assert_array_equal(composite.get_samples()[name], draws)
    extra = composite.get_extra_fields()
    np.testing.assert_array_equal(extra["latents"], plain.get_extra_fields()["latents"])
    assert not extra["num_steps"].any() and not extra["diverging"].any()


def test_a_second_run_traces_nothing_and_a_later_one_keeps_what_was_adapted():
    traced = []

    def program(u, y):
        traced.append(1)
        experts(u, y)

    plan = bayesmix.plan(program, *ROWS[experts])
    mcmc = MCMC(MixedGibbs(plan), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(random.key(0), U, Y)
    assert traced
    first, traced[:] = mcmc.get_samples()["gate"], []
    mcmc.run(random.key(1), U, Y)
    assert not traced
    assert not np.array_equal(first, mcmc.get_samples()["gate"])
    mcmc.post_warmup_state = adapted = mcmc.last_state
    mcmc.run(random.key(2), U, Y, extra_fields=("nuts.adapt_state.step_size",))
    sizes = mcmc.get_extra_fields()["nuts.adapt_state.step_size"]
    np.testing.assert_array_equal(sizes, np.full(5, adapted.nuts.adapt_state.step_size))


def test_its_fields_and_numpyros_habits(capsys):
    mcmc = short_run()
    extra = mcmc.get_extra_fields(group_by_chain=True)
    assert set(extra) == {"latents", "accept_prob", "num_steps", "diverging"}
    assert extra["latents"].shape == (2, 30, 80)
    assert extra["num_steps"].min() >= 1
    state = jax.tree.map(lambda leaf: leaf[0], mcmc.last_state)
    shown = mcmc.sampler.get_diagnostics_str(state)
    assert shown.startswith("log likelihood -") and "acc. prob=" in shown
    mcmc.print_summary()
    assert f"Number of divergences: {extra['diverging'].sum()}" in capsys.readouterr().out
    again = pickle.loads(pickle.dumps(mcmc.sampler))
    assert again.init(random.key(0), 5, None, (U, Y), {}).z["gate"].shape == (2,)


def test_its_run_goes_into_arviz():
    idata = bayesmix.to_arviz(short_run())
    statistics = arviz_compat.dataset(idata, "sample_stats")
    assert {"lp", "diverging", "n_steps", "acceptance_rate"} <= set(statistics)
    assert arviz_compat.dataset(idata, "latents")["z"].shape == (2, 30, 80)


def test_conjugate_gibbs_and_the_plan_name_it_as_the_cure():
    with pytest.raises(bayesmix.ProgramError, match=r"'gate'.*use bayesmix.MixedGibbs"):
        run(ConjugateGibbs(plan_of(experts)), experts, 1, 1)
    gate = next(line for line in str(plan_of(experts)).splitlines() if "no closed form" in line)
    assert gate.split()[0] == "gate" and "MixedGibbs" in gate
