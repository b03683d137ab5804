"""Exponential families of outcomes: yes and no, categories, counts."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from .exponential import INFINITE, exponential_family, register_all, to_float, where_known
from .likelihoods import Family
from .peel import Peeled


def _log(p: Array) -> Array:
    """log p with the stand-in for log 0; its gradient there is 0, not NaN."""
    there = p >= jnp.finfo(p.dtype).tiny
    return jnp.where(there, jnp.log(jnp.where(there, p, 1)), -INFINITE)


def _log_p_q(distribution: Any) -> tuple[Array, Array]:
    """log p and log (1 - p) of a success, from the logits, the probability or the gamma's rate."""
    given = distribution.arg_constraints
    if "logits" in given:
        logits = to_float(distribution.logits)
        return jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    if "probs" not in given:
        rate = to_float(distribution.rate)
        return -jnp.log1p(rate), -jnp.log1p(1 / rate)
    p = to_float(distribution.probs)
    log_q = jnp.log1p(-jnp.where(p < 1, p, 0))
    return _log(p), jnp.where(p < 1, log_q, -INFINITE)


def _log_probs(distribution: Any) -> Array:
    """Log probabilities of C categories, from logits or probabilities."""
    if "logits" in distribution.arg_constraints:
        return jax.nn.log_softmax(to_float(distribution.logits))
    return _log(to_float(distribution.probs))


# features: the number of successes, and of failures; p and q below are logs of probabilities
_successes_and_failures = functools.partial(
    exponential_family,
    parameter_names=("log_p", "log_q"),
    read=_log_p_q,
    coefficients=lambda p, q: (p, q),
)


def _binomial(total: np.ndarray) -> Family:
    """Successes among `total` (D, 1) trials."""
    return _successes_and_failures(
        "binomial columns",
        features=lambda x: (x, total - x),
        base=lambda x: gammaln(total + 1) - gammaln(x + 1) - gammaln(total - x + 1),
        moments=lambda p, q: (total.T * jnp.exp(p), total.T * jnp.exp(p + q)),
    )


def _negative_binomial(total: np.ndarray) -> Family:
    """Successes before `total` (D, 1) failures, which need not be whole."""
    return _successes_and_failures(
        "negative binomial columns",
        features=lambda x: (x, total),
        base=lambda x: gammaln(x + total) - gammaln(x + 1) - gammaln(total),
        moments=lambda p, q: (total.T * jnp.exp(p - q), total.T * jnp.exp(p - 2 * q)),
    )


def _categorical(peeled: Peeled) -> Family:
    """One feature for each of C categories; moments are those of the category's number."""
    given = "logits" if "logits" in peeled.base.arg_constraints else "probs"
    numbers = np.arange(getattr(peeled.base, given).shape[-1])

    def moments(log_probs: Array) -> tuple[Array, Array]:
        probs = jnp.exp(log_probs)
        mean = jnp.sum(probs * numbers, axis=-1)
        return mean, jnp.sum(probs * (numbers - mean[..., None]) ** 2, axis=-1)

    return exponential_family(
        "categorical columns",
        ("log_probs",),
        read=lambda distribution: (_log_probs(distribution),),
        features=lambda x: x == numbers[:, None, None],
        coefficients=lambda log_probs: jnp.moveaxis(log_probs, -1, 0),
        moments=moments,
        parameter_axes=(1,),
    )


def _multinomial_moments(log_probs: Array, total: Array) -> tuple[Array, Array]:
    probs, total = jnp.exp(log_probs), total[..., None]
    diagonal = probs[..., None] * jnp.eye(probs.shape[-1])
    return total * probs, total[..., None] * (diagonal - probs[..., None] * probs[..., None, :])


# the number of trials is in the data, and may differ from row to row; moments are at its mean
MULTINOMIAL = exponential_family(
    "multinomial counts",
    ("log_probs", "total_count"),
    read=lambda found: (_log_probs(found), jnp.mean(to_float(found.total_count))),
    features=lambda x: x,
    coefficients=lambda log_probs, total: jnp.moveaxis(log_probs, -1, 0),
    base=lambda x: gammaln(jnp.sum(x, 0) + 1) - jnp.sum(gammaln(x + 1), 0),
    moments=_multinomial_moments,
    parameter_axes=(1, 0),
    value_axes=1,
)
BERNOULLI = _successes_and_failures(
    "Bernoulli columns",
    features=lambda x: (x, 1 - x),
    moments=lambda p, q: (jnp.exp(p), jnp.exp(p + q)),
)
GEOMETRIC = _successes_and_failures(  # failures before one success
    "geometric columns",
    features=lambda x: (1, x),
    moments=lambda p, q: (jnp.exp(q - p), jnp.exp(q - 2 * p)),
)
POISSON = exponential_family(
    "Poisson columns",
    ("rate",),
    features=lambda x: (1, x),
    coefficients=lambda rate: (-rate, _log(rate)),
    base=lambda x: -gammaln(x + 1),
    moments=lambda rate: (rate, rate),
)
register_all(BERNOULLI, dist.BernoulliProbs, dist.BernoulliLogits)
register_all(where_known("total_count", _binomial), dist.BinomialProbs, dist.BinomialLogits)
register_all(_categorical, dist.CategoricalProbs, dist.CategoricalLogits)
register_all(MULTINOMIAL, dist.MultinomialProbs, dist.MultinomialLogits)
register_all(GEOMETRIC, dist.GeometricProbs, dist.GeometricLogits)
register_all(POISSON, dist.Poisson)
register_all(
    where_known("concentration", _negative_binomial),
    *(dist.NegativeBinomialProbs, dist.NegativeBinomialLogits),
    *(dist.NegativeBinomial2, dist.GammaPoisson),
)
