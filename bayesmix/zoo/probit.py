r"""Probit regression twice: with the hidden normal of every row written out, and without.

.. math::
    w \sim Normal, \qquad t_i \sim N(w' (1, x_i), 1), \qquad y_i = [t_i > 0]
    \quad\Longrightarrow\quad p(y_i = 1) = \Phi(w' (1, x_i)).

Both are one model, and get one EM algorithm: t_i is expected given y_i, and the coefficients then have
the closed form of a linear regression on it. A slope's prior is normal about 0 and lets w'x move by
``width`` = 2.5 over one standard deviation of its column; see :mod:`bayesmix.zoo.regressions`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr

from .priors import coefficient_prior, with_intercept


def probit_regression(x: Any, y: Any, *, width: Any = 2.5) -> None:
    r"""Probit regression, the probability written as such.

    Args:
        x: covariates, (N, P). y: zeros and ones, (N,); NaN where it is missing.
        width: of the prior of the coefficients; see the text of this module.

    Sites: ``coefficients`` (P + 1,), intercept first, ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> births = datasets.load("birthwt").values
        >>> plan = bayesmix.plan(zoo.probit_regression, births[:, [2, 4]], births[:, 0])
        >>> [(block.site, block.name) for block in plan.blocks]
        [('coefficients', 'normal')]

    Source: Murphy (2012), *Machine Learning: a Probabilistic Perspective*, MIT Press, section 11.4.6.
    """
    design = with_intercept(x)
    coefficients = numpyro.sample("coefficients", coefficient_prior(x, 0.0, 1.0, width))
    with numpyro.plate("rows", design.shape[0]):
        eta = design @ coefficients
        # probs=ndtr(eta) says the same, and is rounded to 1 where eta > 8
        fn = dist.Bernoulli(logits=log_ndtr(eta) - log_ndtr(-eta))
        numpyro.sample("y", fn, obs=jnp.asarray(y, float))


def probit_regression_latent(x: Any, y: Any, *, width: Any = 2.5) -> None:
    r"""Probit regression, the hidden normal of every row written out.

    Args:
        x: covariates, (N, P). y: zeros and ones, (N,); NaN where it is missing.
        width: of the prior of the coefficients; see the text of this module.

    Sites: ``coefficients`` (P + 1,), intercept first, ``t`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> births = datasets.load("birthwt").values
        >>> plan = bayesmix.plan(zoo.probit_regression_latent, births[:, [2, 4]], births[:, 0])
        >>> [(block.site, block.name) for block in plan.blocks]
        [('coefficients', 'normal')]

    Source: Albert & Chib (1993), *Journal of the American Statistical Association* 88, 669-679.
    """
    design = with_intercept(x)
    coefficients = numpyro.sample("coefficients", coefficient_prior(x, 0.0, 1.0, width))
    with numpyro.plate("rows", design.shape[0]):
        t = numpyro.sample("t", dist.Normal(design @ coefficients, 1.0))
        positive = jnp.where(t > 0, 1.0, 0.0)
        numpyro.sample("y", dist.Bernoulli(probs=positive), obs=jnp.asarray(y, float))
