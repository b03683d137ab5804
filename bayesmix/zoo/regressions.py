r"""Mixtures of regressions: which rows follow which line is not known.

A column of ones comes first, so coefficients are (K, P + 1), intercept first, for covariates (N, P).
A slope's prior is normal about 0; it lets the mean move by ``width`` = 2.5 units over one standard
deviation of its column, where a unit is the standard deviation of y, or one on the scale of the link.
These are the defaults of Gelman, Jakulin, Pittau & Su (2008), *Annals of Applied Statistics* 2,
1360-1383, with normal priors. The weights are Dirichlet(``concentration`` = 2): one more row each at
the mode. Covariates must be there; y may be missing (NaN), and is then predicted.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import coefficient_prior, sample_weights, with_intercept


def linear_regression_mixture(
    x: Any, y: Any, K: int, *, concentration: Any = 2.0, width: Any = 2.5
) -> None:
    r"""A mixture of linear regressions, each with a variance of its own.

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad w_k \sim Normal, \qquad
        \sigma^2_k \sim InverseGamma(3/2, s / 2), \\
        z_i &\sim Categorical(weights), \qquad y_i \mid z_i = k \sim N(w_k' (1, x_i), \sigma^2_k),

    with s = var(y) / K^2.

    Args:
        x: covariates, (N, P). y: outcomes, (N,).
        K: number of regressions.
        concentration, width: see the text of this module.

    Sites: ``weights`` (K,), ``variance`` (K,), ``coefficients`` (K, P + 1), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> oxide, richness = datasets.load("ethanol").values.T
        >>> plan = bayesmix.plan(zoo.linear_regression_mixture, oxide[:, None], richness, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('variance', 'inverse gamma'), ('coefficients', 'normal')]

    Source: De Veaux (1989), *Computational Statistics & Data Analysis* 8, 227-245.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    prior = coefficient_prior(x, jnp.nanmean(y), jnp.nanstd(y), width)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        spread = jnp.nanvar(y) / K**2
        variance = numpyro.sample("variance", dist.InverseGamma(1.5, spread / 2))
        coefficients = numpyro.sample("coefficients", prior)
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        mean = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[z])), obs=y)


def poisson_regression_mixture(
    x: Any,
    y: Any,
    K: int,
    *,
    exposure: Any = 1.0,
    concentration: Any = 2.0,
    width: Any = 2.5,
) -> None:
    r"""A mixture of Poisson regressions with log link.

    .. math::
        weights \sim Dirichlet(\alpha), \quad w_k \sim Normal, \quad
        z_i \sim Categorical(weights), \quad
        y_i \mid z_i = k \sim Poisson(e_i \exp(w_k' (1, x_i))).

    Coefficients have no closed form: EM climbs them, and MixedGibbs moves them by NUTS.

    Args:
        x: covariates, (N, P). y: counts, (N,).
        K: number of regressions.
        exposure: e, positive, a scalar or (N,): the time or the area in which y was counted; 1.
        concentration, width: see the text of this module.

    Sites: ``weights`` (K,), ``coefficients`` (K, P + 1), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> firms = datasets.load("patents").values
        >>> plan = bayesmix.plan(zoo.poisson_regression_mixture, firms[:, [1]], firms[:, 0], K=3)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('coefficients', 'no closed form')]

    Source: Wang, Cockburn & Puterman (1998), *Journal of Business & Economic Statistics* 16, 27-41.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    exposure = jnp.broadcast_to(jnp.asarray(exposure, float), y.shape)
    usual = jnp.nansum(y) / jnp.sum(jnp.where(jnp.isnan(y), 0.0, exposure))
    prior = coefficient_prior(x, jnp.log(usual), 1.0, width)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        coefficients = numpyro.sample("coefficients", prior)
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        log_rate = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Poisson(exposure * jnp.exp(log_rate)), obs=y)


def logistic_regression_mixture(
    x: Any, y: Any, trials: Any, K: int, *, concentration: Any = 2.0, width: Any = 2.5
) -> None:
    r"""A mixture of logistic regressions, for successes among several trials.

    .. math::
        weights \sim Dirichlet(\alpha), \quad w_k \sim Normal, \quad
        z_i \sim Categorical(weights), \quad
        logit(p_{ik}) = w_k' (1, x_i), \quad y_i \mid z_i = k \sim Binomial(n_i, p_{ik}).

    With one trial a row, K > 1 regressions cannot be told apart: the mean of a mixture of Bernoulli
    variables is all there is to see. Coefficients have no closed form: EM climbs them.

    Args:
        x: covariates, (N, P). y: successes, (N,). trials: n, (N,).
        K: number of regressions.
        concentration, width: see the text of this module.

    Sites: ``weights`` (K,), ``coefficients`` (K, P + 1), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np, bayesmix
        >>> from bayesmix import zoo
        >>> dose = np.tile([0.0, 1.0, 2.0, 3.0], 2)[:, None]
        >>> deaths, insects = np.array([2, 5, 11, 17, 1, 1, 2, 2]), np.full(8, 20)
        >>> plan = bayesmix.plan(zoo.logistic_regression_mixture, dose, deaths, insects, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('coefficients', 'no closed form')]

    Source: Follmann & Lambert (1989), *Journal of the American Statistical Association* 84, 295-300.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        coefficients = numpyro.sample("coefficients", coefficient_prior(x, 0.0, 1.0, width))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        logits = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Binomial(jnp.asarray(trials), logits=logits), obs=y)
