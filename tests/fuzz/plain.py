"""What the source text of composed programs may name, and a site whose gaps are spelled out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from numpyro.ops.indexing import Vindex


def observe(name: str, fn: Any, value: Any) -> None:
    """An observed site whose NaN cells are left out: the plain twin's."""
    present, value = ~jnp.isnan(value), jnp.nan_to_num(jnp.asarray(value, float))
    if isinstance(fn, dist.MultivariateNormal):
        both = present[..., :, None] & present[..., None, :]
        eye = jnp.eye(fn.event_shape[0])
        covariance = jnp.where(both, fn.covariance_matrix, eye)
        value = jnp.where(present, value, fn.loc)
        numpyro.sample(name, dist.MultivariateNormal(fn.loc, covariance), obs=value)
        missing = jnp.sum(~present, -1)
        numpyro.factor(f"{name}_gaps", 0.5 * jnp.log(2 * jnp.pi) * missing)
        return
    outer = fn
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    if fn.event_dim:  # a vector counts as a whole
        present = jnp.all(present, axis=tuple(range(-fn.event_dim, 0)))
    value = jnp.where(
        present[(...,) + (None,) * fn.event_dim], value, fn.support.feasible_like(value)
    )
    value = value.astype(int) if fn.is_discrete else value
    depth = outer.event_dim - fn.event_dim
    numpyro.sample(name, fn.mask(present).to_event(depth), obs=value)


NAMES = {
    "LocScaleReparam": LocScaleReparam,
    "Vindex": Vindex,
    "dist": dist,
    "handlers": handlers,
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "numpyro": numpyro,
    "observe": observe,
    "one_hot": jax.nn.one_hot,
}
