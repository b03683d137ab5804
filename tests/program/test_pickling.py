"""Plans, fits, engines and streams are copied, and pickled from one process to another."""

import copy
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

import bayesmix
from bayesmix import EM, OnlineEM, zoo
from bayesmix.infer.fingerprint import Run
from bayesmix.infer.orders import Stepwise
from bayesmix.program.arguments import split
from tests.zoo.test_engines import CASES, plan_of

# a number of trials that is data, a rule, a row family
FEW = ["multinomial", "negative binomial", "probit"]
ROWS = np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0.0], [5.0]], 20, axis=0)


def check(name):
    plan, (_, rows, static) = plan_of(name), CASES[name]
    run = Run({}, plan, split(rows, static))
    whole = run.densities(run.points)
    for again in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert str(again) == str(plan) and again._made.keys() == []
        for density, found in run._replace(plan=again).densities(run.points).items():
            np.testing.assert_array_equal(found, whole[density])


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
