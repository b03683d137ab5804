"""What seeds are chosen by, the columns of sites whose components have one density for all rows; and
whose names the parts of a partition get."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayesmix import EM
from bayesmix.infer.starts import seeding_rows
from bayesmix.program.problem import Problem
from tests.fixed import bernoulli, fit_of


def test_the_columns_of_an_event_made_of_independent_ones_tell_rows_apart():
    fit = fit_of(bernoulli)
    observed = fit.plan.observe(fit.arguments)
    blocks = fit.plan.arrange(observed)
    (points,) = seeding_rows(Problem(fit.plan, fit.arguments, blocks), observed).points
    assert points.shape == (observed.num_rows, 4)
    assert np.isfinite(points).all()


def partly_labelled(x, label, K):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 20.0).expand([K]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=label)
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_every_start_calls_components_by_the_labels_that_are_known():
    rng = np.random.default_rng(0)
    places, truth = np.array([6.0, -12.0, 0.0, 12.0]), np.arange(200) % 4
    x = places[truth] + rng.normal(size=200)
    label = np.where(np.arange(200) < 12, truth, -1)
    fit = EM(partly_labelled, progress_bar=False).run(0, x, label, 4, restarts=40)
    right = np.abs(fit.restart_parameters["mean"] - places).max(axis=1) < 1.0
    # the others have two seeds in one cluster; by chance one start in 24 would be right
    assert right.mean() > 0.8
