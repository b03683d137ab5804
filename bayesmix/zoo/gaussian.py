r"""Gaussian mixtures: plain NumPyro programs, one for each covariance structure.

Every program takes ``x`` of shape (N, D) (one column is ``x[:, None]``) and the number of
components ``K``, and has the sites ``weights`` (K,), ``mean`` (K, D), a covariance or variance, the
latent ``z`` and the observed ``x`` in plate ``rows``. Plate ``component`` counts components.

They share a conjugate prior, with the same keyword arguments. Some defaults depend on the data:

====================== ================================================ =========================
argument               meaning                                          default
====================== ================================================ =========================
``concentration``      Dirichlet concentration, a scalar or (K,)        1
``shrinkage``          kappa0: the rows that a mean's prior is worth    0.01
``location``           m0, the centre of the means' prior, (D,)         column means
``degrees_of_freedom`` nu0 of the inverse Wishart or inverse gamma      D + 2
``scale``              S0 (D, D); s0 where the covariance is diagonal   see below
====================== ================================================ =========================

S0 is the sample covariance (divisor N - 1) over K^(2/D), and s0 the mean of its diagonal over
K^(2/D). These are the defaults of Fraley & Raftery (2007), *Journal of Classification* 24, 155-181,
and of the R package mclust, whose names for the covariance structures the docstrings give. Murphy,
*Machine Learning: a Probabilistic Perspective* (2012), section 11.4.2.8, takes a diagonal S0
instead: ``scale=jnp.diag(x.var(0)) / K ** (1 / D)``.

Missing cells are NaN; the defaults are those of the cells that are there. A prior that depends on the
data is made anew from whatever rows the program is called on; give the arguments to hold it fixed. The
weights have no prior in mclust: Dirichlet(1) leaves the mode where it is and adds log Gamma(K) to the
log density. A constant column makes S0 singular and the log density NaN.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import as_matrix, matrix_prior, sample_weights, variance_prior


def gaussian_mixture(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""A full covariance matrix for every component (mclust's VVV).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \Sigma_k \sim InverseWishart(\nu_0, S_0), \qquad
        \mu_k \mid \Sigma_k \sim N(m_0, \Sigma_k / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_i \mid z_i = k \sim N(\mu_k, \Sigma_k).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: S0, (D, D); by default the sample covariance over K^(2/D).

    Sites: ``weights`` (K,), ``covariance`` (K, D, D), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("faithful").values
        >>> fit = bayesmix.EM(zoo.gaussian_mixture).run(jax.random.key(0), x, K=2, restarts=5)
        >>> sorted(fit.parameters["mean"].round(2).tolist())
        [[2.04, 54.49], [4.29, 79.97]]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, S0 = matrix_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(nu0, scale_matrix=S0))
        mean = numpyro.sample("mean", dist.MultivariateNormal(m0, covariance / shrinkage))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def gaussian_mixture_tied(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One full covariance matrix that all components share (mclust's EEE).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \Sigma \sim InverseWishart(\nu_0, S_0), \qquad
        \mu_k \mid \Sigma \sim N(m_0, \Sigma / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_i \mid z_i = k \sim N(\mu_k, \Sigma).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: S0, (D, D); by default the sample covariance over K^(2/D).

    Sites: ``weights`` (K,), ``covariance`` (D, D), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("faithful").values
        >>> fit = bayesmix.EM(zoo.gaussian_mixture_tied).run(jax.random.key(0), x, K=2)
        >>> fit.parameters["covariance"].round(2).tolist()
        [[0.13, 0.75], [0.75, 34.39]]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, S0 = matrix_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    covariance = numpyro.sample("covariance", dist.InverseWishart(nu0, scale_matrix=S0))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.MultivariateNormal(m0, covariance / shrinkage))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance), obs=x)


def gaussian_mixture_diagonal(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""A diagonal covariance for every component (mclust's VVI).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \sigma^2_{kj} \sim InverseGamma(\nu_0 / 2, s_{0j} / 2), \qquad
        \mu_{kj} \mid \sigma^2_{kj} \sim N(m_{0j}, \sigma^2_{kj} / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad
        x_{ij} \mid z_i = k \sim N(\mu_{kj}, \sigma^2_{kj}).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: s0, a scalar or (D,); by default the mean of the column variances over K^(2/D).
            For columns in different units give ``scale=x.var(0) / K ** (2 / D)``.

    Sites: ``weights`` (K,), ``variance`` (K, D), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("faithful").values
        >>> x = (x - x.mean(0)) / x.std(0)
        >>> fit = bayesmix.EM(zoo.gaussian_mixture_diagonal).run(jax.random.key(0), x, K=2)
        >>> sorted(fit.parameters["variance"].round(2).tolist())
        [[0.06, 0.18], [0.13, 0.19]]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, s0 = variance_prior(x, K, location, degrees_of_freedom, scale)
    inverse_gamma = dist.InverseGamma(nu0 / 2, jnp.broadcast_to(s0 / 2, x.shape[1:]))
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", inverse_gamma.to_event(1))
        spread = jnp.sqrt(variance / shrinkage)
        mean = numpyro.sample("mean", dist.Normal(m0, spread).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])).to_event(1), obs=x)


def gaussian_mixture_diagonal_tied(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One diagonal covariance that all components share (mclust's EEI).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \sigma^2_j \sim InverseGamma(\nu_0 / 2, s_{0j} / 2), \qquad
        \mu_{kj} \mid \sigma^2_j \sim N(m_{0j}, \sigma^2_j / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_{ij} \mid z_i = k \sim N(\mu_{kj}, \sigma^2_j).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: s0, a scalar or (D,); by default the mean of the column variances over K^(2/D).
            For columns in different units give ``scale=x.var(0) / K ** (2 / D)``.

    Sites: ``weights`` (K,), ``variance`` (D,), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("faithful").values
        >>> x = (x - x.mean(0)) / x.std(0)
        >>> fit = bayesmix.EM(zoo.gaussian_mixture_diagonal_tied).run(jax.random.key(0), x, K=2)
        >>> fit.parameters["variance"].round(2).tolist()
        [0.11, 0.19]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, s0 = variance_prior(x, K, location, degrees_of_freedom, scale)
    inverse_gamma = dist.InverseGamma(nu0 / 2, jnp.broadcast_to(s0 / 2, x.shape[1:]))
    weights = sample_weights(concentration, K)
    variance = numpyro.sample("variance", inverse_gamma.to_event(1))
    with numpyro.plate("component", K):
        spread = jnp.sqrt(variance / shrinkage)
        mean = numpyro.sample("mean", dist.Normal(m0, spread).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance)).to_event(1), obs=x)


def gaussian_mixture_spherical(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One variance for every component, equal in all directions (mclust: VII; V for one column).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \sigma^2_k \sim InverseGamma(\nu_0 / 2, s_0 / 2), \qquad
        \mu_k \mid \sigma^2_k \sim N(m_0, I \sigma^2_k / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_i \mid z_i = k \sim N(\mu_k, I \sigma^2_k).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: s0, a scalar; by default the mean of the column variances over K^(2/D).

    Sites: ``weights`` (K,), ``variance`` (K,), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("acidity").values
        >>> fit = bayesmix.EM(zoo.gaussian_mixture_spherical).run(jax.random.key(0), x, K=2)
        >>> sorted(fit.parameters["mean"].round(2).tolist())
        [[4.33], [6.25]]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, s0 = variance_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(nu0 / 2, s0 / 2))
        spread = jnp.sqrt(variance / shrinkage)[..., None]
        mean = numpyro.sample("mean", dist.Normal(m0, spread).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        deviation = jnp.sqrt(variance[z])[..., None]
        numpyro.sample("x", dist.Normal(mean[z], deviation).to_event(1), obs=x)


def gaussian_mixture_spherical_tied(
    x: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One variance for all components and directions (mclust's EII; E for one column).

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad
        \sigma^2 \sim InverseGamma(\nu_0 / 2, s_0 / 2), \qquad
        \mu_k \mid \sigma^2 \sim N(m_0, I \sigma^2 / \kappa_0), \\
        z_i &\sim Categorical(weights), \qquad x_i \mid z_i = k \sim N(\mu_k, I \sigma^2).

    Args:
        x: rows, (N, D).
        K: number of components.
        concentration, shrinkage, location, degrees_of_freedom: see the text of this module.
        scale: s0, a scalar; by default the mean of the column variances over K^(2/D).

    Sites: ``weights`` (K,), ``variance`` (), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import jax
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("acidity").values
        >>> fit = bayesmix.EM(zoo.gaussian_mixture_spherical_tied).run(jax.random.key(0), x, K=2)
        >>> sorted(fit.parameters["mean"].round(2).tolist())
        [[4.37], [6.32]]

    Source: Fraley & Raftery (2007), *Journal of Classification* 24, 155-181.
    """
    x = as_matrix(x)
    m0, nu0, s0 = variance_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    variance = numpyro.sample("variance", dist.InverseGamma(nu0 / 2, s0 / 2))
    with numpyro.plate("component", K):
        spread = jnp.sqrt(variance / shrinkage)
        mean = numpyro.sample("mean", dist.Normal(m0, spread).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance)).to_event(1), obs=x)
