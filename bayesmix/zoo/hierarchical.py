r"""A tree of experts: a gate chooses a branch, a gate of the branch chooses an expert.

Priors and gates are those of :mod:`bayesmix.zoo.experts`. A third level is one more latent: copy and
change the program.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from .priors import coefficient_prior, with_intercept


def hierarchical_experts(
    x: Any, y: Any, K: int, L: int, *, width: Any = 2.5, gate_width: Any = 2.5
) -> None:
    r"""K branches with L linear experts each; two latents in a row.

    .. math::
        branch_i &\sim Categorical(softmax(V (1, x_i))), \\
        expert_i \mid branch_i = k &\sim Categorical(softmax(U_k (1, x_i))), \\
        y_i \mid branch_i = k, expert_i = l &\sim N(w_{kl}' (1, x_i), \sigma^2_{kl}).

    V, U and w are normal as in :func:`bayesmix.zoo.linear_experts`, and :math:`\sigma^2_{kl} \sim
    InverseGamma(3/2, s/2)` with s = var(y) / (K L)^2.

    Args:
        x: covariates, (N, P). y: outcomes, (N,); NaN where missing.
        K, L: number of branches, and of experts in each.
        width, gate_width: see :mod:`bayesmix.zoo.experts`.

    Sites: ``gate`` (K, P + 1), ``gates`` (K, L, P + 1), ``coefficients`` (K, L, P + 1), ``variance``
    (K, L), ``branch`` (N,), ``expert`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> oxide, richness = datasets.load("ethanol").values.T
        >>> plan = bayesmix.plan(zoo.hierarchical_experts, richness[:, None], oxide, K=2, L=2)
        >>> plan.graph.names
        ('branch', 'expert')

    Source: Jordan & Jacobs (1994), *Neural Computation* 6, 181-214.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    weak = coefficient_prior(x, 0.0, 1.0, gate_width)
    gate = numpyro.sample("gate", weak.expand([K]).to_event(1))
    gates = numpyro.sample("gates", weak.expand([K, L]).to_event(2))
    prior = coefficient_prior(x, jnp.nanmean(y), jnp.nanstd(y), width)
    coefficients = numpyro.sample("coefficients", prior.expand([K, L]).to_event(2))
    spread = dist.InverseGamma(1.5, jnp.nanvar(y) / (K * L) ** 2 / 2)
    variance = numpyro.sample("variance", spread.expand([K, L]).to_event(2))
    with numpyro.plate("rows", y.shape[0]):
        k = numpyro.sample("branch", dist.Categorical(logits=design @ gate.T))
        logits = jnp.sum(gates[k] * design[:, None], axis=-1)
        choice = numpyro.sample("expert", dist.Categorical(logits=logits))
        mean = jnp.sum(coefficients[k, choice] * design, axis=-1)
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[k, choice])), obs=y)
