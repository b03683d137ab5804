"""Results at given parameters, without a run of EM; and programs whose answers are known in closed form.

Plans are read once each.
"""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesmix
from bayesmix import EMResult, Plan, Status
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem


def at(plan: Plan, parameters: dict, *args, **kwargs) -> EMResult:
    """What EM would return had it ended at these parameters."""
    return EMResult(
        parameters={name: np.asarray(value) for name, value in parameters.items()},
        deterministic={},
        objective=np.zeros(1),
        status=Status.CONVERGED,
        modes=(),
        restart_objectives=np.zeros(1),
        restart_statuses=(Status.CONVERGED,),
        restart_steps=np.zeros(1, int),
        problem=Problem(plan, split(args, kwargs)),
    )


def normal(x):
    """Full covariances, two components."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(3)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


NORMAL = {
    "weights": np.array([0.4, 0.6]),
    "mean": np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 1.0]]),
    "covariance": np.array(
        [
            [[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 1.5]],
            [[0.8, -0.5, 0.1], [-0.5, 1.2, 0.4], [0.1, 0.4, 1.0]],
        ]
    ),
}
nan = np.nan
NORMAL_ROWS = np.array(
    [
        [0.3, 1.4, -0.2],
        [nan, 0.5, 0.7],
        [1.5, nan, nan],
        [2.5, -0.5, 1.9],
        [nan, nan, nan],
        [-0.5, nan, -1.4],
        [1.0, 0.2, nan],
        [0.7, 0.7, 0.1],
    ]
)


def student(x):
    """Multivariate Student-t, two components."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        lower = numpyro.sample("lower", dist.LKJCholesky(2, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateStudentT(5.0, mean[z], lower[z]), obs=x)


STUDENT = {
    "weights": np.array([0.3, 0.7]),
    "mean": np.array([[0.0, 1.0], [2.0, -1.0]]),
    "lower": np.array([[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [-0.8, 0.6]]]),
}
STUDENT_ROWS = np.array([[0.5, nan], [nan, 0.4], [1.0, 0.1], [4.0, nan]])


def bernoulli(x):
    """Independent Bernoulli columns, three components."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("component", 3):
        share = numpyro.sample("share", dist.Beta(1.0, 1.0).expand([4]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(share[z]).to_event(1), obs=x)


BERNOULLI = {
    "weights": np.array([0.2, 0.3, 0.5]),
    "share": np.array([[0.9, 0.8, 0.1, 0.3], [0.2, 0.9, 0.7, 0.5], [0.1, 0.2, 0.4, 0.95]]),
}


def experts(u, w, y):
    """A gate and a regression, both on u, and an outcome y and a vector w for every row."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 2.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    lower = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate * u))
        numpyro.sample("w", dist.MultivariateNormal(mean[z], scale_tril=lower), obs=w)
        numpyro.sample("y", dist.Normal(slope[z] * u, 0.5), obs=y)


EXPERTS = {
    "gate": np.array(1.5),
    "slope": np.array([1.0, -2.0]),
    "mean": np.array([[0.0, 0.0], [1.0, 2.0]]),
}
EXPERTS_ROWS = (
    np.array([-1.0, 0.5, 2.0, 0.3]),
    np.array([[0.1, 0.2], [0.5, nan], [1.2, 1.8], [nan, 1.0]]),
    np.array([-0.8, nan, -3.5, nan]),
)


def known(x, labels):
    """Columns in a plate inside the rows, and labels 5 and 6 of which some may be known."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[1], dim=-1):
        z = numpyro.sample("z", dist.DiscreteUniform(5, 6), obs=labels)
        with numpyro.plate("column", 2, dim=-2):
            numpyro.sample("x", dist.Normal(mean[z - 5], 1.0), obs=x)


KNOWN = {"mean": np.array([0.0, 3.0])}
KNOWN_ROWS = (
    np.array([[0.1, 2.9, nan, 1.6, 2.0], [-0.3, 3.3, 0.2, nan, nan]]),
    np.array([-1, -1, -1, 6, 5]),
)

PROGRAMS = {
    normal: (NORMAL, (NORMAL_ROWS,)),
    student: (STUDENT, (STUDENT_ROWS,)),
    bernoulli: (BERNOULLI, (np.array([[1.0, 0, 1, nan], [0, nan, 1, 1], [1, 1, 0, 0]]),)),
    experts: (EXPERTS, EXPERTS_ROWS),
    known: (KNOWN, KNOWN_ROWS),
}


@functools.cache
def fit_of(program) -> EMResult:
    """The result of a program of this module, at its parameters and on its rows."""
    parameters, rows = PROGRAMS[program]
    return at(bayesmix.plan(program, *rows), parameters, *rows)
