r"""One Gaussian for rows with missing cells, and a Gaussian mixture of which some labels are known.

Missing cells are NaN: they are integrated out, which is right where what is missing does not depend on
the missing values themselves (missing at random; Rubin 1976). Both programs have the prior of
:mod:`bayesmix.zoo.gaussian`, with the same keyword arguments.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import as_matrix, matrix_prior, sample_weights


def multivariate_normal(
    x: Any,
    *,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""One multivariate normal distribution, for rows of which some cells are missing.

    .. math::
        \Sigma \sim InverseWishart(\nu_0, S_0), \qquad
        \mu \mid \Sigma \sim N(m_0, \Sigma / \kappa_0), \qquad x_i \sim N(\mu, \Sigma).

    There is no discrete latent: what is hidden, and expected by EM, are the missing cells.

    Args:
        x: rows, (N, D), NaN where a cell is missing.
        shrinkage: kappa0, the rows that the prior of the mean is worth; 0.01.
        location: m0, (D,); by default the column means of the cells that are there.
        degrees_of_freedom: nu0; by default D + 2, the least whole number with a prior mean.
        scale: S0, (D, D); by default the sample covariance, which is the prior mean of Sigma.

    Sites: ``covariance`` (D, D), ``mean`` (D,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> plan = bayesmix.plan(zoo.multivariate_normal, datasets.load("airquality").values)
        >>> [(block.sites, block.name) for block in plan.blocks]
        [(('mean', 'covariance'), 'normal-inverse Wishart')]

    Source: Little & Rubin (2002), *Statistical Analysis with Missing Data*, Wiley, section 11.2.
    """
    x = as_matrix(x)
    m0, nu0, S0 = matrix_prior(x, 1, location, degrees_of_freedom, scale)
    covariance = numpyro.sample("covariance", dist.InverseWishart(nu0, scale_matrix=S0))
    mean = numpyro.sample("mean", dist.MultivariateNormal(m0, covariance / shrinkage))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=x)


def gaussian_classifier(
    x: Any,
    labels: Any,
    K: int,
    *,
    concentration: Any = 1.0,
    shrinkage: Any = 0.01,
    location: Any = None,
    degrees_of_freedom: Any = None,
    scale: Any = None,
) -> None:
    r"""A Gaussian mixture of which some labels are known: semi-supervised classification.

    As :func:`~bayesmix.zoo.gaussian.gaussian_mixture`, with z_i observed where ``labels[i]`` is not -1.
    A row of known label teaches its class; the others teach by their density, in the share of each
    class that they belong to. With all labels known this would be quadratic discriminant analysis; at
    least one must be unknown when the program is read.

    Args:
        x: rows, (N, D); NaN where a cell is missing.
        labels: 0 .. K-1, or -1 where the class is not known, (N,).
        K: number of classes.
        concentration, shrinkage, location, degrees_of_freedom, scale: as in
            :mod:`bayesmix.zoo.gaussian`.

    Sites: ``weights`` (K,), ``covariance`` (K, D, D), ``mean`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np, bayesmix
        >>> from bayesmix import datasets, zoo
        >>> iris = datasets.load("iris")
        >>> truth = np.unique(iris.labels, return_inverse=True)[1]
        >>> told = np.where(np.arange(150) % 10 == 0, truth, -1)  # five of each species
        >>> plan = bayesmix.plan(zoo.gaussian_classifier, iris.values[:, 2:], told, K=3)
        >>> [(block.sites, block.name) for block in plan.blocks]
        [(('weights',), 'Dirichlet'), (('mean', 'covariance'), 'normal-inverse Wishart')]

    Source: Nigam, McCallum, Thrun & Mitchell (2000), *Machine Learning* 39, 103-134.
    """
    x = as_matrix(x)
    m0, nu0, S0 = matrix_prior(x, K, location, degrees_of_freedom, scale)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(nu0, scale_matrix=S0))
        mean = numpyro.sample("mean", dist.MultivariateNormal(m0, covariance / shrinkage))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), obs=jnp.asarray(labels))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)
