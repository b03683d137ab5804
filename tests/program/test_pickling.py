"""Plans, fits, engines and streams are copied, and pickled from one process to another."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bayesmix
from bayesmix import EM, OnlineEM, zoo
from bayesmix.infer.fingerprint import Run
from bayesmix.infer.orders import Stepwise
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests.families import test_exponential
from tests.zoo.test_engines import CASES, plan_of

# a number of trials that is data, a rule, a row family
FEW = ["multinomial", "negative binomial", "probit"]
ROWS = np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0.0], [5.0]], 20, axis=0)


def check(name):
    _, rows, static = CASES[name]
    check_plan(plan_of(name), split(rows, static))


def check_plan(plan, arguments):
    run = Run({}, Problem(plan, arguments))
    whole = run.densities(run.points)
    for again in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert str(again) == str(plan) and again._made.keys() == []
        for density, found in Run({}, Problem(again, arguments)).densities(run.points).items():
            np.testing.assert_array_equal(found, whole[density])


@pytest.mark.parametrize("name", test_exponential.CASES)
def test_a_family_is_pickled_by_what_it_was_looked_up_for(name):
    now, _, x, _, _ = test_exponential.problem(name, (2,))
    family, parameters = test_exponential.family_of(name, now)
    again = pickle.loads(pickle.dumps(family))
    found, whole = (
        f.log_prob(f.prepare(parameters, None), f.arrange(x, None)) for f in (again, family)
    )
    assert again.name == family.name
    np.testing.assert_array_equal(found, whole)


def either(x):
    """A normal with a mask of labels beside a Poisson, and one of two families in a single column."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 9.0).expand([2]).to_event(1))
    parts = [dist.Normal(mean[0], 1.0), dist.Gamma(2.0, 1.0)]
    shares = dist.Categorical(jnp.array([0.3, 0.7]))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        with handlers.mask(mask=z == 1):
            numpyro.sample("x", dist.Normal(mean[1], 1.0), obs=x)
        general = dist.MixtureGeneral(shares, parts, support=dist.constraints.real)
        numpyro.sample("y", general, obs=x[::-1])


def test_a_plan_with_families_of_some_rows_is_pickled_and_copied():
    x = np.abs(ROWS[:, 0]) + 0.1
    check_plan(bayesmix.plan(either, x), split((x,), {}))


@pytest.mark.parametrize("name", FEW)
def test_a_plan_is_pickled_and_copied(name):
    check(name)


@pytest.mark.parametrize("name", [name for name in CASES if name not in FEW])
def test_every_plan_of_the_zoo_is_pickled_and_copied(name):
    check(name)


OTHER_PROCESS = """
import pickle, sys
import numpy as np, numpyro
numpyro.enable_x64()
fit, engine, stream = pickle.load(open(sys.argv[1], "rb"))
rows = fit.arguments.arrays[0]
np.testing.assert_allclose(fit.responsibilities(), np.load(sys.argv[2]), rtol=1e-12)
assert stream.partial_fit(rows[:7], K=2).rows == 47.0
assert engine.run(0, rows, K=2, init=fit.parameters).status
"""


def test_fits_engines_and_streams_cross_processes(tmp_path):
    engine = EM(bayesmix.without_priors(zoo.gaussian_mixture_spherical), progress_bar=False)
    fit = engine.run(0, ROWS, K=2)
    online = OnlineEM(zoo.gaussian_mixture_spherical, order=Stepwise(20), progress_bar=False)
    stream = online.start(jax.random.key(0), ROWS, K=2, init=fit.parameters)
    pickled, told = tmp_path / "fit.pickle", tmp_path / "responsibilities.npy"
    pickled.write_bytes(pickle.dumps((fit, engine, stream)))
    np.save(told, fit.responsibilities())
    command = [sys.executable, "-c", OTHER_PROCESS, pickled, told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_local_program_is_named_where_it_cannot_be_pickled():
    def program(x):
        zoo.poisson_mixture(x, K=2)

    with pytest.raises((AttributeError, pickle.PicklingError), match=r"local.*program"):
        pickle.dumps(EM(program))
