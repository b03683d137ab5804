"""Deterministic sites and shares in draws: which of their axes count labels, and what relabelling does.

Draws are made by hand, and labels switch in half of them.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import bayesmix
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.convert import gather
from bayesmix.posterior.labels import LabelSwitchingWarning, label_switching
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(0, 1, (10, 2)), RNG.normal(8, 1, (10, 2))])


def program(x):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("component", 2):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        mean = numpyro.deterministic("mean", 10 * raw)
    numpyro.deterministic("columns", mean.T)
    numpyro.deterministic("apart", jnp.abs(mean[:, None] - mean).sum(-1) + jnp.eye(2) * mean[:, 0])
    numpyro.deterministic("flat", mean.reshape(-1))
    numpyro.deterministic("first", mean[0])
    numpyro.deterministic("centre", mean.mean(0))
    numpyro.deterministic("weights", jnp.stack([1 - share, share]))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(mean[z], 1.0).to_event(1), obs=x)


@pytest.fixture(scope="module")
def idata():
    """Two chains of four draws with shares 0.7 and 0.3, whose labels switch at every second draw."""
    raw, share = np.array([[0.0, 0.1], [0.8, 0.9]]), 0.3
    switched = np.arange(8).reshape(2, 4) % 2 == 1
    draws = {
        "raw": np.where(switched[..., None, None], raw[::-1], raw),
        "share": np.where(switched, 1 - share, share),
    }
    plan, nothing = bayesmix.plan(program, X), {"coords": {}, "dims": {}, "latents": None}
    return gather(
        Problem(plan, split((X,), {})),
        draws,
        {},
        **nothing,
        posterior_predictive=False,
        rng_key=random.key(0),
    )


def test_axes_of_deterministic_sites_have_the_names_of_plates_and_labels(idata):
    found = arviz_compat.dataset(idata, "posterior")
    dims = {str(name): v.dims[2:] for name, v in found.data_vars.items()}
    assert dims["mean"] == ("component", "mean_dim_1")
    assert dims["columns"] == ("columns_dim_0", "component")
    assert dims["apart"] == ("component", "component_next")
    assert dims["weights"] == ("component",)
    assert dims["centre"] == ("centre_dim_0",)
    assert found.attrs["label_bound"] == "first, flat"
    assert found.attrs["label_complements"] == "share=component"


def test_relabelling_reaches_them_or_says_that_it_cannot(idata):
    with pytest.warns(LabelSwitchingWarning, match="'first', 'flat' .* cannot be renamed"):
        done = bayesmix.relabel(idata)
    fixed = arviz_compat.dataset(done, "posterior")
    assert set(fixed.data_vars) == set(arviz_compat.dataset(idata, "posterior")) - {"flat", "first"}
    for name, v in fixed.data_vars.items():
        assert float(v.std(("chain", "draw")).max()) < 1e-12, name
    np.testing.assert_allclose(fixed["weights"][..., 1], fixed["share"], rtol=1e-12)
    report = label_switching(idata)
    assert {"flat", "first", "share", "mean"} <= set(report.labelled["variable"])
    assert not {"flat", "first", "share"} & set(report.invariant["variable"])
