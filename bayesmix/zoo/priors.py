"""What the programs share: their data as arrays, and priors that take their scale from the data.

Missing cells are NaN; every scale is that of the cells that are there, so the defaults hold with them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array


def as_matrix(x: Any, name: str = "x") -> Array:
    """`x` as a floating-point matrix (N, D)."""
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(
            f"{name} has shape {x.shape}; give a matrix (N, D), one column as {name}[:, None]"
        )
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def otherwise(given: Any, default: Any) -> Any:
    """What was given, or the default."""
    return default if given is None else jnp.asarray(given)


def sample_weights(concentration: Any, K: int) -> Array:
    """The site `weights` (K,), with a Dirichlet prior."""
    concentration = jnp.broadcast_to(jnp.asarray(concentration, float), (K,))
    return numpyro.sample("weights", dist.Dirichlet(concentration))


def sample_covariance(x: Array) -> Array:
    """Covariance (D, D) with divisor N - 1; where cells are missing, positive definite all the same.

    Variances are those of the cells that are there, and correlations those with missing cells at their
    column's mean, a little too small.
    """
    missing = jnp.isnan(x)
    centred = jnp.where(missing, 0.0, x - jnp.nanmean(x, axis=0))
    # of a column with missing cells: too few squares over too large a divisor
    grown = jnp.sqrt((x.shape[0] - 1) / (jnp.sum(~missing, axis=0) - 1))
    centred = centred * grown
    return centred.T @ centred / (x.shape[0] - 1)


def matrix_prior(
    x: Array, K: int, location: Any, degrees_of_freedom: Any, scale: Any
) -> tuple[Array, Any, Array]:
    """m0 (D,), nu0 and S0 (D, D) of Fraley & Raftery (2007)."""
    shrunk = sample_covariance(x) / K ** (2 / x.shape[1])
    freedom = otherwise(degrees_of_freedom, x.shape[1] + 2.0)
    return otherwise(location, jnp.nanmean(x, axis=0)), freedom, otherwise(scale, shrunk)


def variance_prior(
    x: Array, K: int, location: Any, degrees_of_freedom: Any, scale: Any
) -> tuple[Array, Any, Array]:
    """m0 (D,), nu0 and s0; the inverse gamma has concentration nu0 / 2 and rate s0 / 2."""
    shrunk = jnp.nanvar(x, axis=0, ddof=1).mean() / K ** (2 / x.shape[1])
    freedom = otherwise(degrees_of_freedom, x.shape[1] + 2.0)
    return otherwise(location, jnp.nanmean(x, axis=0)), freedom, otherwise(scale, shrunk)


def robust_prior(
    x: Array, K: int, location: Any, degrees_of_freedom: Any, scale: Any
) -> tuple[Array, Any, Array]:
    """As :func:`matrix_prior`, from medians and quartiles, which a few wild rows leave alone.

    S0 is diagonal, with the variances of normal columns of the same interquartile ranges.
    """
    low, middle, high = jnp.nanquantile(x, jnp.array([0.25, 0.5, 0.75]), axis=0)
    range_of_a_normal = 1.349
    spread = jnp.where(high > low, (high - low) / range_of_a_normal, jnp.nanstd(x, axis=0))
    freedom = otherwise(degrees_of_freedom, x.shape[1] + 2.0)
    shrunk = jnp.diag(spread**2) / K ** (2 / x.shape[1])
    return otherwise(location, middle), freedom, otherwise(scale, shrunk)


def typical(x: Array) -> Array:
    """Column means of values that are not negative, and 1 where there is nothing but zeros."""
    mean = jnp.nanmean(x, axis=0)
    return jnp.where(mean > 0, mean, 1.0)


def with_intercept(x: Any) -> Array:
    """The design (N, P + 1) of covariates (N, P): a column of ones first."""
    x = as_matrix(x)
    return jnp.concatenate([jnp.ones((x.shape[0], 1), x.dtype), x], axis=1)


def coefficient_prior(x: Any, centre: Any, unit: Any, width: Any) -> Any:
    """Normal coefficients, intercept first: independent, and wide on the scale of the data.

    A slope has standard deviation width * unit / sd(column): over one standard deviation of its column
    it moves the mean by about `width` units. The intercept is that of columns not centred: about
    `centre`, with what the slopes' prior makes of it.
    """
    x = as_matrix(x)
    mean, spread = x.mean(0), x.std(0)
    spread = jnp.where(spread > 0, spread, 1.0)
    wide = width * unit * jnp.sqrt(1 + jnp.sum((mean / spread) ** 2))
    location = jnp.zeros(x.shape[1] + 1).at[0].set(centre)
    scale = jnp.concatenate([wide[None], width * unit / spread])
    return dist.Normal(location, scale).to_event(1)
