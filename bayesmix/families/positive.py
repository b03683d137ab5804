"""Exponential families of positive values and of shares, and log-normal columns."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from .columns import COLUMNS
from .exponential import exponential_family, register_all, to_float


def _inverse_gamma_moments(a: Array, b: Array) -> tuple[Array, Array]:
    mean = jnp.where(a > 1, b / (a - 1), jnp.inf)
    return mean, jnp.where(a > 2, mean**2 / (a - 2), jnp.inf)


EXPONENTIAL = exponential_family(
    "exponential columns",
    ("rate",),
    features=lambda x: (1, x),
    coefficients=lambda rate: (jnp.log(rate), -rate),
    moments=lambda rate: (1 / rate, 1 / rate**2),
)
GAMMA = exponential_family(
    "gamma columns",
    ("concentration", "rate"),
    features=lambda x: (1, jnp.log(x), x),
    coefficients=lambda a, b: (a * jnp.log(b) - gammaln(a), a - 1, -b),
    moments=lambda a, b: (a / b, a / b**2),
)
INVERSE_GAMMA = exponential_family(
    "inverse gamma columns",
    ("concentration", "rate"),
    features=lambda x: (1, jnp.log(x), 1 / x),
    coefficients=lambda a, b: (a * jnp.log(b) - gammaln(a), -a - 1, -b),
    moments=_inverse_gamma_moments,
)
BETA = exponential_family(
    "beta columns",
    ("concentration1", "concentration0"),
    features=lambda x: (1, jnp.log(x), jnp.log1p(-x)),
    # JAX's betaln errs in the seventh digit
    coefficients=lambda a, b: (gammaln(a + b) - gammaln(a) - gammaln(b), a - 1, b - 1),
    moments=lambda a, b: (a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))),
)
HALF_NORMAL = exponential_family(
    "half-normal columns",
    ("scale",),
    features=lambda x: (1, x**2),
    coefficients=lambda s: (math.log(2 / math.pi) / 2 - jnp.log(s), -1 / (2 * s**2)),
    moments=lambda s: (math.sqrt(2 / math.pi) * s, (1 - 2 / math.pi) * s**2),
)
register_all(EXPONENTIAL, dist.Exponential)
register_all(GAMMA, dist.Gamma, dist.Chi2)
register_all(INVERSE_GAMMA, dist.InverseGamma)
register_all(BETA, dist.Beta, dist.BetaProportion)
register_all(HALF_NORMAL, dist.HalfNormal)


def _log_normal_arrange(value: Any, present: Any) -> tuple[Any, Array]:
    """The logs, arranged as normal columns, and minus their sum by row (N,)."""
    logs = jnp.log(to_float(value))
    there = logs if present is None else jnp.where(jnp.asarray(present), logs, 0)
    return COLUMNS.arrange(logs, present), -jnp.sum(there, axis=tuple(range(1, there.ndim)))


def _log_normal_moments(parameters: Any) -> tuple[Array, Array]:
    location, scale = parameters
    mean, growth = jnp.exp(location + scale**2 / 2), jnp.expm1(scale**2)
    return mean, (growth * mean**2)[..., None] * jnp.eye(mean.shape[-1])


# Not by sums of log x and its square, which cancel for tight clusters: those of normal columns do not.
LOG_NORMAL = COLUMNS._replace(
    name="log-normal columns",
    arrange=_log_normal_arrange,
    log_prob=lambda prepared, rows: COLUMNS.log_prob(prepared, rows[0]) + rows[1],
    accumulate=lambda prepared, rows, *rest: COLUMNS.accumulate(prepared, rows[0], *rest),
    moments=_log_normal_moments,
)
register_all(LOG_NORMAL, dist.LogNormal)
