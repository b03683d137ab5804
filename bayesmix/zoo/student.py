r"""Multivariate Student-t distributions, alone and as components: Gaussians that outliers do not move.

Behind each row stands a hidden scale u, a weight that is small for a row far out:

.. math::
    u_i \sim Gamma(\nu / 2, \nu / 2), \qquad x_i \mid u_i \sim N(\mu, \Sigma / u_i)
    \quad\Longrightarrow\quad x_i \sim T_\nu(\mu, \Sigma).

Sigma is the scatter; the covariance is Sigma nu / (nu - 2) where nu > 2. Location and scatter have the
conjugate prior of :mod:`bayesmix.zoo.gaussian`, with defaults that outliers do not move either: m0 the
column medians, S0 diagonal from the interquartile ranges, over K^(2/D).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import as_matrix, robust_prior, sample_weights

# Juarez & Steel (2010): mean 20, mode 10, and little weight below 1 or beyond 50
_FREEDOM = dist.Gamma(2.0, 0.1)


def multivariate_student(
    x: Any,
    *,
    df: Any = None,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One multivariate Student-t distribution, with its degrees of freedom estimated or given.

    .. math::
        \nu \sim Gamma(2, 0.1), \qquad \Sigma \sim InverseWishart(\nu_0, S_0), \qquad
        \mu \mid \Sigma \sim N(m_0, \Sigma / \kappa_0), \qquad x_i \sim T_\nu(\mu, \Sigma).

    Args:
        x: rows, (N, D); NaN where a cell is missing.
        df: nu; None to estimate it (it has no closed form: EM climbs it, MixedGibbs moves it by NUTS).
        shrinkage: kappa0, the rows that the prior of the location is worth; 0.01.
        location: m0, (D,); by default the column medians.
        degrees_of_freedom: nu0 of the inverse Wishart; by default D + 2.
        scale: S0, (D, D); by default diagonal, from the interquartile ranges.

    Sites: ``df`` () unless given, ``scatter`` (D, D), ``mean`` (D,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("bankruptcy").values
        >>> plan = bayesmix.plan(zoo.multivariate_student, x)
        >>> [(block.sites, block.name) for block in plan.blocks]
        [(('df',), 'no closed form'), (('mean', 'scatter'), 'normal-inverse Wishart')]

    Source: Liu & Rubin (1995), *Statistica Sinica* 5, 19-39; the prior of nu: Juarez & Steel (2010),
    *Journal of Applied Econometrics* 25, 1128-1154.
    """
    x = as_matrix(x)
    m0, nu0, S0 = robust_prior(x, 1, location, degrees_of_freedom, scale)
    nu = numpyro.sample("df", _FREEDOM) if df is None else df
    scatter = numpyro.sample("scatter", dist.InverseWishart(nu0, scale_matrix=S0))
    mean = numpyro.sample("mean", dist.MultivariateNormal(m0, scatter / shrinkage))
    with numpyro.plate("rows", x.shape[0]):
        fn = dist.MultivariateStudentT(nu, mean, jnp.linalg.cholesky(scatter))
        numpyro.sample("x", fn, obs=x)


def student_mixture(
    x: Any,
    K: int,
    *,
    df: Any = 4.0,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""A mixture of multivariate Student-t distributions.

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \Sigma_k \sim InverseWishart(\nu_0, S_0), \qquad
        \mu_k \mid \Sigma_k \sim N(m_0, \Sigma_k / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_i \mid z_i = k \sim T_{\nu_k}(\mu_k, \Sigma_k).

    Args:
        x: rows, (N, D); NaN where a cell is missing.
        K: number of components.
        df: nu, a scalar or (K,); 4 by default, which has a covariance and forgives a good deal. None to
            estimate one for each component, under Gamma(2, 0.1).
        concentration: of the Dirichlet prior of the weights, a scalar or (K,); 1.
        shrinkage, location, degrees_of_freedom, scale: as in :func:`multivariate_student`, with S0
            over K^(2/D).

    Sites: ``weights`` (K,), ``df`` (K,) if it is estimated, ``scatter`` (K, D, D), ``mean`` (K, D),
    ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("bankruptcy").values
        >>> plan = bayesmix.plan(zoo.student_mixture, x, K=2)
        >>> [(block.sites, block.name) for block in plan.blocks]
        [(('weights',), 'Dirichlet'), (('mean', 'scatter'), 'normal-inverse Wishart')]

    Source: Peel & McLachlan (2000), *Statistics and Computing* 10, 339-348.
    """
    x = as_matrix(x)
    m0, nu0, S0 = robust_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        nu = numpyro.sample("df", _FREEDOM) if df is None else jnp.broadcast_to(df, (K,))
        scatter = numpyro.sample("scatter", dist.InverseWishart(nu0, scale_matrix=S0))
        mean = numpyro.sample("mean", dist.MultivariateNormal(m0, scatter / shrinkage))
    lower = jnp.linalg.cholesky(scatter)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateStudentT(nu[z], mean[z], lower[z]), obs=x)
