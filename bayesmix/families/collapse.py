"""Continuous latents of a row that integrate out: a rule for each pair of distributions.

A rule says how an observed distribution must depend on the hidden value (which is checked by looking at
it at a few values), and what is left when the hidden value is integrated out:

    read(base)             -> arrays that say what the observed distribution is
    invariant(arrays, u)   -> arrays that must not change with the hidden value u
    marginal(local, arrays, reinterpreted) -> the observed distribution at u = points[0], integrated;
                              None where the rule does not cover that many event axes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import log_ndtr

Arrays = tuple[Array, ...]


class Rule(NamedTuple):
    """One way to integrate a continuous latent of a row out; see the module's text."""

    name: str
    local: type
    observed: type
    points: tuple[float, ...]
    read: Callable[[Any], Arrays]
    invariant: Callable[[Arrays, float], Arrays]
    marginal: Callable[[Any, Arrays, int], Any]

    def __reduce__(self) -> Any:
        """Pickled by what it is for: its functions need no names of their own."""
        return rule_for, (self.local, self.observed)


def rule_for(local: type, observed: type) -> Rule:
    """The rule for a latent and an observed site of these types."""
    return next(rule for rule in RULES if (rule.local, rule.observed) == (local, observed))


RULES: list[Rule] = []


# ------------------------------------------------------ Gaussian scale mixtures: the answer is Student-t
def _location_scale(base: Any) -> Arrays:
    return base.loc, base.scale


def _location_factor(base: Any) -> Arrays:
    return base.loc, base.scale_tril


def _shape_and_rate(local: Any) -> Arrays:
    """Of the precision: an inverse gamma variance has its scale as the precision's rate."""
    return local.concentration, local.rate


def _student(local: Any, arrays: Arrays, reinterpreted: int) -> Any:
    """u ~ Gamma(a, b), x ~ N(m, s^2 / u): Student-t, 2a degrees of freedom, scale s sqrt(b / a)."""
    (shape, rate), (mean, scale) = _shape_and_rate(local), arrays
    inflation = jnp.sqrt(rate / shape)
    if reinterpreted == 0:
        return dist.StudentT(2 * shape, mean, scale * inflation)
    if reinterpreted == 1:
        # one hidden scale for all columns of a row: dependent, though uncorrelated
        columns = scale * inflation[..., None]
        lower = columns[..., None] * jnp.eye(columns.shape[-1], dtype=columns.dtype)
        return dist.MultivariateStudentT(2 * shape, mean, lower)
    return None


def _multivariate_student(local: Any, arrays: Arrays, reinterpreted: int) -> Any:
    (shape, rate), (mean, lower) = _shape_and_rate(local), arrays
    if reinterpreted:
        return None
    inflation = jnp.sqrt(rate / shape)[..., None, None]
    return dist.MultivariateStudentT(2 * shape, mean, lower * inflation)


def _scale_mixture(local: type, power: float, observed: type, read: Any, marginal: Any) -> Rule:
    def invariant(arrays: Arrays, u: float) -> Arrays:
        return arrays[0], arrays[1] * u**power

    name = "Gaussian scale mixture, Student-t when the scale is integrated out"
    return Rule(name, local, observed, (1.0, 4.0, 0.25), read, invariant, marginal)


# a gamma precision, or an inverse gamma variance
for _local, _power in ((dist.Gamma, 0.5), (dist.InverseGamma, -0.5)):
    RULES += [
        _scale_mixture(_local, _power, dist.Normal, _location_scale, _student),
        _scale_mixture(
            _local, _power, dist.MultivariateNormal, _location_factor, _multivariate_student
        ),
    ]


# --------------------------------------------------------------------------------- Poisson of a gamma
def _gamma_poisson(local: Any, arrays: Arrays, reinterpreted: int) -> Any:
    """u ~ Gamma(a, b), x ~ Poisson(c u): negative binomial with shape a and rate b / c."""
    if reinterpreted:
        return None
    return dist.GammaPoisson(local.concentration, local.rate / arrays[0])


RULES.append(
    Rule(
        name="Poisson of a gamma, negative binomial when the rate is integrated out",
        local=dist.Gamma,
        observed=dist.Poisson,
        points=(1.0, 4.0, 0.25),
        read=lambda base: (base.rate,),
        invariant=lambda arrays, u: (arrays[0] / u,),
        marginal=_gamma_poisson,
    )
)


# -------------------------------------------------------------------------------- the sign of a normal
def _probit(local: Any, arrays: Arrays, reinterpreted: int) -> Any:
    """t ~ N(m, s^2), y = 1(t > 0): Bernoulli(Phi(m / s)), with both tails kept."""
    if reinterpreted:
        return None
    eta = local.loc / local.scale
    return dist.BernoulliLogits(log_ndtr(eta) - log_ndtr(-eta))


RULES.append(
    Rule(
        name="sign of a normal, probit when the normal is integrated out",
        local=dist.Normal,
        observed=dist.BernoulliProbs,
        points=(-1.0, 1.0, -3.0, 2.0, 1e-3, -1e-3),
        read=lambda base: (base.probs,),
        invariant=lambda arrays, u: (arrays[0] - (u > 0),),
        marginal=_probit,
    )
)
