"""Plates inside a row: repeated measurements are further axes of an event."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import EM, ProgramError
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem

K = 2


def with_holes():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2)) + 4.0 * rng.integers(0, 2, (40, 1))
    x[rng.uniform(size=x.shape) < 0.15] = np.nan
    return x


def in_a_plate(x):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    spread = numpyro.sample("spread", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("rows", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("times", x.shape[1], dim=-1):
            numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(spread)), obs=x)


def in_an_event(x):
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K]).to_event(1))
    spread = numpyro.sample("spread", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        cells = dist.Normal(mean[z][..., None], jnp.sqrt(spread)).expand([*jnp.shape(z), 2])
        numpyro.sample("x", cells.to_event(1), obs=x)


def test_a_plate_inside_a_row_is_fitted_as_an_event():
    x = with_holes()
    one, two = (bayesmix.plan(program, x) for program in (in_a_plate, in_an_event))
    assert [b.name for b in one.blocks] == [b.name for b in two.blocks]
    assert one.families == two.families and one.labels == two.labels
    start = {"mean": np.array([0.0, 4.0]), "weights": np.ones(2) / 2, "spread": np.array(1.0)}
    fits = [EM(plan, progress_bar=False).run(0, x, init=start) for plan in (one, two)]
    np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-10)
    for site in start:
        np.testing.assert_allclose(fits[0].parameters[site], fits[1].parameters[site], rtol=1e-8)


def vectors_in_a_plate(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K, 2]).to_event(2))
    with numpyro.plate("rows", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        with numpyro.plate("times", x.shape[1], dim=-1):
            spread = jnp.array([[1.0, 0.4], [0.4, 2.0]])
            numpyro.sample("x", dist.MultivariateNormal(mean[z], spread), obs=x)


def test_vectors_in_a_plate_inside_a_row_are_whole_or_missing():
    x = np.random.default_rng(7).normal(size=(10, 3, 2))
    x[1, 2] = np.nan
    plan = bayesmix.plan(vectors_in_a_plate, x)
    mean = np.array([[0.0, 1.0], [2.0, -1.0]])
    arguments = split((x,), {})
    (table,) = Problem(plan, arguments, Problem(plan, arguments).with_rows().blocks).log_factors(
        {"mean": mean}
    )
    density = dist.MultivariateNormal(mean, np.array([[1.0, 0.4], [0.4, 2.0]]))
    cells = np.array(density.log_prob(np.nan_to_num(x)[:, :, None]))
    cells[1, 2] = 0.0
    expected = np.log([0.3, 0.7]) + cells.sum(axis=1)
    np.testing.assert_allclose(np.asarray(table).T, expected, rtol=1e-10)
    x[4, 0, 1] = np.nan
    with pytest.raises(ProgramError, match=r"'x' are missing \(row 4"):
        bayesmix.plan(vectors_in_a_plate, x)
