"""Likelihoods whose parameters differ from row to row, made simple by one hidden value per row.

A regression with Student-t errors is a Gaussian one given each row's scale; a probit regression is a
Gaussian one given the sign's latent normal. Given expected (EM) or drawn (Gibbs) hidden values, what
stands above is conjugate to whatever a Gaussian is conjugate to. A row family is a record of functions:

    parameters(distribution)                     -> arrays over components and rows
    expect(parameters, value, rng_key)           -> hidden moments given the value; drawn where rng_key
                                                    is not None
    expected_log_prob(parameters, hidden, value) -> E[log p(value, hidden)] by component and row, up to
                                                    a constant
    clear(parameters)                            -> can the parameters be told from the distribution (a
                                                    probability rounded to 1 hides them), a boolean

A plan adopts a row family where it gives some site a closed form that it would not have otherwise.

Sources: Student-t, Liu & Rubin (1995), *Statistica Sinica* 5, 19-39; probit, Albert & Chib (1993),
*JASA* 88, 669-679.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, random
from jax.scipy.special import digamma, gammaln, log_ndtr, ndtri
from jax.scipy.stats import norm

from .likelihoods import Family


class RowFamily(NamedTuple):
    """A likelihood by rows with one hidden value each; see the module's text."""

    name: str
    parameters: Callable[[Any], Any]
    expect: Callable[[Any, Array, Array | None], Any]
    expected_log_prob: Callable[[Any, Any, Array], Array]
    clear: Callable[[Any], Array] = lambda parameters: jnp.asarray(True)

    def __reduce__(self) -> Any:
        """Pickled by its name: its functions need none of their own."""
        return row_family, (self.name,)


_CLEAR = 1.0  # designs go several times farther, and beyond 5 the upper tail of Phi hides eta

Statistic = Family | RowFamily | None
_ROW_FAMILIES: dict[type, RowFamily] = {}


def register_rows(distribution_type: type, family: RowFamily) -> None:
    """Register a row family for a NumPyro distribution."""
    _ROW_FAMILIES[distribution_type] = family


def row_family(name: str) -> RowFamily:
    """The registered row family of this name."""
    return next(family for family in _ROW_FAMILIES.values() if family.name == name)


def lookup_rows(distribution: Any) -> RowFamily | None:
    """The row family registered for a distribution without wrappers, or None."""
    return _ROW_FAMILIES.get(type(distribution))


# ------------------------------------------------------------------------------------------- Student-t
class StudentRows(NamedTuple):
    """Location, scale and degrees of freedom by component and row."""

    mean: Array
    scale: Array
    freedom: Array


def _student_parameters(distribution: Any) -> StudentRows:
    base = distribution
    freedom = base.df if isinstance(base, dist.StudentT) else 1.0
    return StudentRows(*jnp.broadcast_arrays(base.loc, base.scale, freedom))


def _student_expect(
    parameters: StudentRows, value: Array, rng_key: Array | None
) -> tuple[Array, Array]:
    """u and log u; u given the value is Gamma((nu + 1)/2, (nu + y^2)/2)."""
    mean, scale, freedom = parameters
    shape = (freedom + 1) / 2
    rate = (freedom + ((value - mean) / scale) ** 2) / 2
    if rng_key is None:
        return shape / rate, digamma(shape) - jnp.log(rate)
    log_scale = random.loggamma(rng_key, shape) - jnp.log(rate)
    return jnp.exp(log_scale), log_scale


def _student_expected(parameters: StudentRows, hidden: tuple[Array, Array], value: Array) -> Array:
    mean, scale, freedom = parameters
    weight, log_weight = hidden
    half = freedom / 2
    gaussian = log_weight / 2 - jnp.log(scale) - weight * ((value - mean) / scale) ** 2 / 2
    prior = half * jnp.log(half) - gammaln(half) + (half - 1) * log_weight - half * weight
    return gaussian + prior


STUDENT = RowFamily(
    "Student-t, as a Gaussian given each row's hidden scale",
    _student_parameters,
    _student_expect,
    _student_expected,
)

# ---------------------------------------------------------------------------------------------- probit


def _probit_parameters(distribution: Any) -> Array:
    """eta with p = Phi(eta); logits keep both tails, probabilities only the lower one."""
    if isinstance(distribution, dist.BernoulliLogits):
        logits = distribution.logits
        upper = logits > 0
        tail = jax.nn.sigmoid(-jnp.abs(logits))
        return jnp.where(upper, -1.0, 1.0) * ndtri(jnp.maximum(tail, jnp.finfo(tail.dtype).tiny))
    probs = distribution.probs
    limits = jnp.finfo(jnp.result_type(probs))
    return ndtri(jnp.clip(probs, limits.tiny, 1 - limits.epsneg))


def _probit_expect(eta: Array, value: Array, rng_key: Array | None) -> Array:
    """The normal behind the sign: eta + s phi(eta) / Phi(s eta), s = 2 y - 1; or a draw of it."""
    sign = 2 * value - 1
    log_evidence = log_ndtr(sign * eta)
    if rng_key is None:
        return eta + sign * jnp.exp(norm.logpdf(eta) - log_evidence)
    uniform = random.uniform(rng_key, jnp.shape(eta), eta.dtype, minval=jnp.finfo(eta.dtype).tiny)
    tail = jnp.maximum(uniform * jnp.exp(log_evidence), jnp.finfo(eta.dtype).tiny)
    return eta - sign * ndtri(tail)


def _probit_expected(eta: Array, hidden: Array, value: Array) -> Array:
    return -((hidden - eta) ** 2) / 2


PROBIT = RowFamily(
    "probit, as the sign of a hidden normal",
    _probit_parameters,
    _probit_expect,
    _probit_expected,
    lambda eta: jnp.all(jnp.abs(eta) < _CLEAR),
)

register_rows(dist.StudentT, STUDENT)
register_rows(dist.Cauchy, STUDENT)
register_rows(dist.BernoulliProbs, PROBIT)
register_rows(dist.BernoulliLogits, PROBIT)
