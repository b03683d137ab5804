r"""Mixtures for yes and no, categories, counts and waiting times.

A missing cell is NaN (pass floating-point arrays then); a component's columns are independent. The
priors are worth about one row at the mode, which keeps modes off the boundary:

===================== ========================================= ==================================
argument              prior                                     the mode is that of the data with
===================== ========================================= ==================================
``concentration`` = 2 weights ~ Dirichlet(2)                    one more row in every component
``pseudo`` = 1        Beta(1 + pseudo/2, 1 + pseudo/2), or      one more row, spread evenly over
                      Dirichlet(1 + pseudo/C)                   its C categories
``shape`` = 1.5       rates of counts: Gamma(shape, shape / m), half an event more, in 1.5 / m of a
                      m the column's mean                       row
===================== ========================================= ==================================

For maximum likelihood use :func:`bayesmix.without_priors`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from .priors import as_matrix, sample_weights, typical


def bernoulli_mixture(x: Any, K: int, *, concentration: Any = 2.0, pseudo: Any = 1.0) -> None:
    r"""Columns of zeros and ones, independent within a component: latent class analysis.

    .. math::
        weights \sim Dirichlet(\alpha), \quad p_{kj} \sim Beta(1 + s/2, 1 + s/2), \quad
        z_i \sim Categorical(weights), \quad x_{ij} \mid z_i = k \sim Bernoulli(p_{kj}).

    Args:
        x: zeros and ones, (N, D); NaN where a cell is missing.
        K: number of components.
        concentration: alpha, a scalar or (K,); 2.
        pseudo: s, a scalar or (D,): the prior is worth s rows at the mode, half of them ones; 1.

    Sites: ``weights`` (K,), ``probability`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> plan = bayesmix.plan(zoo.bernoulli_mixture, datasets.load("carcinoma").values, K=3)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('probability', 'beta')]

    Source: Agresti (2002), *Categorical Data Analysis*, Wiley, section 13.1.
    """
    x = as_matrix(x)
    half = jnp.broadcast_to(1 + jnp.asarray(pseudo, float) / 2, x.shape[1:])
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        probability = numpyro.sample("probability", dist.Beta(half, half).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Bernoulli(probability[z]).to_event(1), obs=x)


def categorical_mixture(
    x: Any,
    K: int,
    categories: int | tuple[int, ...],
    *,
    concentration: Any = 2.0,
    pseudo: Any = 1.0,
) -> None:
    r"""Columns of categories, independent within a component: latent class analysis.

    .. math::
        weights \sim Dirichlet(\alpha), \quad p_{kj} \sim Dirichlet(1 + s/C_j), \quad
        z_i \sim Categorical(weights), \quad x_{ij} \mid z_i = k \sim Categorical(p_{kj}).

    Columns of as many categories share a site: with ``categories=(2, 2, 5)`` there are
    ``probability_2`` (K, 2, 2) and ``probability_5`` (K, 1, 5).

    Args:
        x: categories 0 .. C-1, (N, D); NaN where a cell is missing.
        K: number of components.
        categories: C, a whole number for all columns, or a tuple of D.
        concentration: alpha, a scalar or (K,); 2.
        pseudo: s: the prior is worth s rows at the mode, spread evenly over the categories; 1.

    Sites: ``weights`` (K,), ``probability_C`` (K, columns, C) and ``x_C`` (N, columns) for each number
    of categories C, ``z`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x, sizes = datasets.load("cheating").values, (2, 2, 2, 2, 5)
        >>> plan = bayesmix.plan(zoo.categorical_mixture, x, K=2, categories=sizes)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('probability_2', 'Dirichlet'), ('probability_5', 'Dirichlet')]

    Source: Agresti (2002), *Categorical Data Analysis*, Wiley, section 13.1.
    """
    x = as_matrix(x)
    sizes = np.broadcast_to(categories, x.shape[1:])
    weights = sample_weights(concentration, K)
    probability = {}
    with numpyro.plate("component", K):
        for size in np.unique(sizes).tolist():
            prior = dist.Dirichlet(jnp.full((np.sum(sizes == size), size), 1 + pseudo / size))
            probability[size] = numpyro.sample(f"probability_{size}", prior.to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        for size, of in probability.items():
            columns = dist.Categorical(of[z]).to_event(1)
            numpyro.sample(f"x_{size}", columns, obs=x[:, np.flatnonzero(sizes == size)])


def multinomial_mixture(x: Any, K: int, *, concentration: Any = 2.0, pseudo: Any = 1.0) -> None:
    r"""Rows that count categories, such as the words of a document.

    .. math::
        weights \sim Dirichlet(\alpha), \quad p_k \sim Dirichlet(1 + s/C), \quad
        z_i \sim Categorical(weights), \quad x_i \mid z_i = k \sim Multinomial(n_i, p_k).

    Args:
        x: counts, (N, C); the totals n_i of rows may differ. A row is missing as a whole (NaN).
        K: number of components.
        concentration: alpha, a scalar or (K,); 2.
        pseudo: s, the counts that the prior is worth at the mode, spread evenly; 1.

    Sites: ``weights`` (K,), ``probability`` (K, C), ``z`` (N,), ``x`` (N, C).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np, bayesmix
        >>> from bayesmix import zoo
        >>> x = np.array([[9, 1, 0], [18, 2, 1], [0, 2, 8], [1, 5, 14]])
        >>> plan = bayesmix.plan(zoo.multinomial_mixture, x, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('probability', 'Dirichlet')]

    Source: Nigam, McCallum, Thrun & Mitchell (2000), *Machine Learning* 39, 103-134.
    """
    x = as_matrix(x)
    prior = dist.Dirichlet(jnp.full(x.shape[1:], 1 + pseudo / x.shape[1]))
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        probability = numpyro.sample("probability", prior)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        total = jnp.nan_to_num(x).sum(-1).astype(int)
        numpyro.sample("x", dist.Multinomial(total, probability[z]), obs=x)


def poisson_mixture(x: Any, K: int, *, concentration: Any = 2.0, shape: Any = 1.5) -> None:
    r"""Columns of counts, independent within a component.

    .. math::
        weights \sim Dirichlet(\alpha), \quad \lambda_{kj} \sim Gamma(a, a / \bar x_j), \quad
        z_i \sim Categorical(weights), \quad x_{ij} \mid z_i = k \sim Poisson(\lambda_{kj}).

    Args:
        x: counts, (N, D); NaN where a cell is missing.
        K: number of components.
        concentration: alpha, a scalar or (K,); 2.
        shape: a; at 1.5 a rate is within a factor of ten or so of the column's mean, and its mode
            above 0.

    Sites: ``weights`` (K,), ``rate`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> plan = bayesmix.plan(zoo.poisson_mixture, datasets.load("deaths").values[:, :1], K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('rate', 'gamma')]

    Source: McLachlan & Peel (2000), *Finite Mixture Models*, Wiley, section 5.8.
    """
    x = as_matrix(x)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        rate = numpyro.sample("rate", dist.Gamma(shape, shape / typical(x)).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rate[z]).to_event(1), obs=x)


def negative_binomial(x: Any, *, shape: Any = 1.5) -> None:
    r"""Counts that vary more than Poisson ones: a rate of its own for every row, integrated out.

    .. math::
        c \sim Gamma(2, 0.1), \quad m \sim Gamma(a, a / \bar x), \quad
        u_i \sim Gamma(c, c / m), \quad x_i \mid u_i \sim Poisson(u_i).

    Its variance is m + m^2 / c. Where :func:`poisson_mixture` has K rates, this has a continuum.

    Args:
        x: counts, (N,); NaN where a row is missing.
        shape: a; 1.5.

    Sites: ``concentration`` (), ``mean`` (), ``u`` (N,), ``x`` (N,).

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> plan = bayesmix.plan(zoo.negative_binomial, datasets.load("deaths").values[:, 0])
        >>> [(block.site, block.name) for block in plan.blocks]
        [('concentration', 'no closed form'), ('mean', 'no closed form')]

    Source: Greenwood & Yule (1920), *Journal of the Royal Statistical Society* 83, 255-279.
    """
    x = jnp.asarray(x, float)
    concentration = numpyro.sample("concentration", dist.Gamma(2.0, 0.1))
    mean = numpyro.sample("mean", dist.Gamma(shape, shape / typical(x)))
    with numpyro.plate("rows", x.shape[0]):
        u = numpyro.sample("u", dist.Gamma(concentration, concentration / mean))
        numpyro.sample("x", dist.Poisson(u), obs=x)


def exponential_mixture(x: Any, K: int, *, concentration: Any = 2.0, shape: Any = 1.5) -> None:
    r"""Columns of waiting times, each of a constant rate within a component.

    .. math::
        weights \sim Dirichlet(\alpha), \quad \lambda_{kj} \sim Gamma(a, a \bar x_j), \quad
        z_i \sim Categorical(weights), \quad x_{ij} \mid z_i = k \sim Exponential(\lambda_{kj}).

    The mixture's own rate of events falls with time: whoever has waited long has a low rate.

    Args:
        x: positive values, (N, D); NaN where a cell is missing.
        K: number of components.
        concentration: alpha, a scalar or (K,); 2.
        shape: a; at 1.5 a rate is within a factor of ten or so of one over the column's mean.

    Sites: ``weights`` (K,), ``rate`` (K, D), ``z`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> hours = datasets.load("failures").values[:, :1]
        >>> plan = bayesmix.plan(zoo.exponential_mixture, hours, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('rate', 'gamma')]

    Source: Proschan (1963), *Technometrics* 5, 375-383.
    """
    x = as_matrix(x)
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        rate = numpyro.sample("rate", dist.Gamma(shape, shape * typical(x)).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Exponential(rate[z]).to_event(1), obs=x)
