r"""A mixture for columns of several kinds: numbers, yes and no, categories."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import as_matrix, sample_weights


def mixed_mixture(
    numbers: Any,
    answers: Any,
    categories: Any,
    K: int,
    C: int,
    *,
    concentration: Any = 2.0,
    shrinkage: Any = 0.01,
    pseudo: Any = 1.0,
) -> None:
    r"""Gaussian, Bernoulli and categorical columns, all independent within a component.

    .. math::
        weights &\sim Dirichlet(\alpha), \qquad z_i \sim Categorical(weights), \\
        \sigma^2_{kj} &\sim InverseGamma(3/2, s_j / 2), \qquad
        \mu_{kj} \mid \sigma^2_{kj} \sim N(\bar x_j, \sigma^2_{kj} / \kappa_0), \qquad
        numbers_{ij} \mid z_i = k \sim N(\mu_{kj}, \sigma^2_{kj}), \\
        p_{kj} &\sim Beta(1 + s/2, 1 + s/2), \qquad answers_{ij} \mid z_i = k \sim Bernoulli(p_{kj}), \\
        q_{kj} &\sim Dirichlet(1 + s/C), \qquad
        categories_{ij} \mid z_i = k \sim Categorical(q_{kj}).

    Columns of different units are no difficulty: each has a scale of its own, and what it says of z_i is
    a likelihood ratio. Leave out a kind by deleting its lines.

    Args:
        numbers: (N, D1). answers: zeros and ones, (N, D2). categories: 0 .. C-1, (N, D3).
            NaN where a cell is missing.
        K: number of components.
        C: number of categories, the same for all categorical columns.
        concentration: alpha, a scalar or (K,); 2, one more row in every component.
        shrinkage: kappa0, the rows that a mean's prior is worth; 0.01.
        pseudo: s, the rows that the prior of a probability is worth at the mode; 1.

    s_j is the variance of column j over K^2: Fraley & Raftery's default for one column.

    Sites: ``weights`` (K,), ``variance`` and ``mean`` (K, D1), ``probability`` (K, D2), ``share``
    (K, D3, C), ``z`` (N,), ``numbers`` (N, D1), ``answers`` (N, D2), ``categories`` (N, D3).

    Raises:
        ValueError: where one of the tables is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("birthwt").values
        >>> tables = x[:, 1:3], x[:, [4, 6, 7]], x[:, [3]] - 1
        >>> plan = bayesmix.plan(zoo.mixed_mixture, *tables, K=2, C=3)
        >>> [block.name for block in plan.blocks]
        ['Dirichlet', 'normal-inverse gamma', 'beta', 'Dirichlet']

    Source: Hunt & Jorgensen (2011), *WIREs Data Mining and Knowledge Discovery* 1, 352-361.
    """
    numbers = as_matrix(numbers, "numbers")
    answers, categories = as_matrix(answers, "answers"), as_matrix(categories, "categories")
    half = jnp.full(answers.shape[1:], 1 + pseudo / 2)
    even = jnp.full((categories.shape[1], C), 1 + pseudo / C)
    spread = jnp.nanvar(numbers, axis=0, ddof=1) / K**2
    weights = sample_weights(concentration, K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(1.5, spread / 2).to_event(1))
        about = dist.Normal(jnp.nanmean(numbers, axis=0), jnp.sqrt(variance / shrinkage))
        mean = numpyro.sample("mean", about.to_event(1))
        probability = numpyro.sample("probability", dist.Beta(half, half).to_event(1))
        share = numpyro.sample("share", dist.Dirichlet(even).to_event(1))
    with numpyro.plate("rows", numbers.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        normal = dist.Normal(mean[z], jnp.sqrt(variance[z]))
        numpyro.sample("numbers", normal.to_event(1), obs=numbers)
        numpyro.sample("answers", dist.Bernoulli(probability[z]).to_event(1), obs=answers)
        numpyro.sample("categories", dist.Categorical(share[z]).to_event(1), obs=categories)
