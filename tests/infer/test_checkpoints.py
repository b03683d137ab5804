"""Every long fit can be watched, stopped, and resumed to the very same end."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bayesmix import EM, KMeans, MonteCarloEM, ProgramError, VariationalBayes
from bayesmix.infer.e_steps import Hard

X = np.random.default_rng(0).normal(size=80) + np.repeat([0.0, 1.5], 40)


def mixture(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def rates(y):
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        rate = numpyro.sample("rate", dist.LogNormal(centre, 0.5))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


ENGINES = {
    "variational": (VariationalBayes, (mixture,), {"report_every": 3}, X),
    "k-means": (KMeans, (4,), {"report_every": 2}, X[:, None]),
    "chains": (MonteCarloEM, (rates, "rate"), {"num_steps": 60}, np.arange(20) % 7),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_stopped_fit_goes_on_to_the_same_end(tmp_path, name):
    engine, args, options, x = ENGINES[name]
    options = {**options, "progress_bar": False}
    seen = []

    def stop(progress):
        seen.append(progress)
        return True

    whole = engine(*args, **options).run(jax.random.key(0), x)
    file = tmp_path / "fit.npz"
    engine(*args, callback=stop, **options).run(jax.random.key(0), x, checkpoint=file)
    again = engine(*args, **options).run(jax.random.key(0), x, checkpoint=file)
    assert len(seen) == 1 and seen[0].step.shape == (1,)
    assert all(value.shape[0] == 1 for value in seen[0].values.values())
    assert str(again) == str(whole)
    with pytest.raises(ProgramError, match="is of another run"):
        engine(*args, **options).run(jax.random.key(0), x + 1, checkpoint=file)


def test_a_checkpoint_of_another_variant_is_refused(tmp_path):
    settings = {"max_steps": 5, "progress_bar": False}
    EM(mixture, **settings).run(0, jnp.asarray(X), checkpoint=tmp_path / "fit.npz")
    with pytest.raises(ProgramError, match="is of another run"):
        EM(mixture, e_step=Hard(), **settings).run(
            0, jnp.asarray(X), checkpoint=tmp_path / "fit.npz"
        )
