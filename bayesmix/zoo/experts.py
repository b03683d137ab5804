r"""Mixtures of experts: which regression a row follows depends on its covariates, through a gate.

.. math::
    p(y_i \mid x_i) = \sum_k \pi_k(g_i) \, p_k(y_i \mid x_i), \qquad
    \pi_k(g_i) = \frac{\exp(v_k' (1, g_i))}{\sum_j \exp(v_j' (1, g_i))}.

The gate's covariates g are x unless `gate_covariates` (N, G) gives others. The intercept comes first in
the rows v_k of ``gate`` and w_k of ``coefficients``. Slopes are normal about 0: over one standard
deviation of a column an expert's mean moves by ``width`` = 2.5 units, where a unit is the standard
deviation of y or one on the scale of the link, and a logit of the gate by ``gate_width`` = 2.5 (Gelman,
Jakulin, Pittau & Su 2008, *Annals of Applied Statistics* 2, 1360-1383, with normal priors).

By default every component has a v_k, which the prior keeps in place. With ``reference=True`` the first
component is the reference class: v_0 = 0, and ``gate`` has K - 1 rows, for maximum likelihood. Where
covariates separate the components a gate needs its prior: without one the likelihood has no largest
value, and the status of the fit says so. Covariates must be there; y may be missing (NaN), and is then
predicted.

Sources: Jacobs, Jordan, Nowlan & Hinton (1991), *Neural Computation* 3, 79-87; Jordan & Jacobs (1994),
*Neural Computation* 6, 181-214.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array, random
from numpyro.contrib.module import eqx_module, random_eqx_module

from .priors import as_matrix, coefficient_prior, with_intercept


def _gate_logits(covariates: Any, K: int, reference: bool, width: Any) -> Array:
    """The site `gate`, and logits (N, K) of the components by row."""
    design = with_intercept(covariates)
    if K == 1:
        return jnp.zeros((len(design), 1))  # nothing to choose
    rows = K - 1 if reference else K
    prior = coefficient_prior(covariates, 0.0, 1.0, width)
    gate = numpyro.sample("gate", prior.expand([rows]).to_event(1))
    logits = design @ gate.T
    return jnp.pad(logits, ((0, 0), (1, 0))) if reference else logits


def linear_experts(
    x: Any,
    y: Any,
    K: int,
    *,
    gate_covariates: Any = None,
    reference: bool = False,
    width: Any = 2.5,
    gate_width: Any = 2.5,
) -> None:
    r"""Linear regressions with variances of their own, behind a softmax gate.

    .. math::
        v_k, w_k &\sim Normal, \qquad \sigma^2_k \sim InverseGamma(3/2, s / 2), \\
        z_i &\sim Categorical(\pi(x_i)), \qquad
        y_i \mid z_i = k \sim N(w_k' (1, x_i), \sigma^2_k),

    with s = var(y) / K^2. An M step is a weighted least squares fit and a weighted residual variance for
    each expert, and a multinomial logistic regression on the responsibilities for the gate.

    Args:
        x: covariates, (N, P). y: outcomes, (N,).
        K: number of experts.
        gate_covariates, reference, width, gate_width: see the text of this module.

    Sites: ``gate`` (K, G + 1), ``coefficients`` (K, P + 1), ``variance`` (K,), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> oxide, richness = datasets.load("ethanol").values.T
        >>> plan = bayesmix.plan(zoo.linear_experts, richness[:, None], oxide, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('gate', 'no closed form'), ('coefficients', 'normal'), ('variance', 'inverse gamma')]

    Source: Jordan & Jacobs (1994), *Neural Computation* 6, 181-214.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    covariates = x if gate_covariates is None else gate_covariates
    logits = _gate_logits(covariates, K, reference, gate_width)
    with numpyro.plate("component", K):
        prior = coefficient_prior(x, jnp.nanmean(y), jnp.nanstd(y), width)
        coefficients = numpyro.sample("coefficients", prior)
        spread = jnp.nanvar(y) / K**2
        variance = numpyro.sample("variance", dist.InverseGamma(1.5, spread / 2))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        mean = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[z])), obs=y)


def student_experts(
    x: Any,
    y: Any,
    K: int,
    *,
    df: Any = 4.0,
    gate_covariates: Any = None,
    reference: bool = False,
    width: Any = 2.5,
    gate_width: Any = 2.5,
) -> None:
    r"""Linear regressions with Student-t errors behind a softmax gate, for outcomes with outliers.

    .. math::
        z_i \sim Categorical(\pi(x_i)), \qquad
        y_i \mid z_i = k \sim T_\nu(w_k' (1, x_i), \sigma_k),

    with priors as in :func:`linear_experts`; the prior of the squared scales takes its size from the
    range between the quartiles of y.

    Args:
        x: covariates, (N, P). y: outcomes, (N,).
        K: number of experts.
        df: degrees of freedom nu, a scalar or (K,); 4.
        gate_covariates, reference, width, gate_width: see the text of this module.

    Sites: ``gate`` (K, G + 1), ``coefficients`` (K, P + 1), ``squared_scale`` (K,), ``z`` (N,),
    ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> oxide, richness = datasets.load("ethanol").values.T
        >>> plan = bayesmix.plan(zoo.student_experts, richness[:, None], oxide, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('gate', 'no closed form'), ('coefficients', 'normal'), ('squared_scale', 'inverse gamma')]

    Source: Chamroukhi (2016), *Neural Networks* 79, 20-36.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    covariates = x if gate_covariates is None else gate_covariates
    logits = _gate_logits(covariates, K, reference, gate_width)
    low, middle, high = jnp.nanquantile(y, jnp.array([0.25, 0.5, 0.75]))
    usual = jnp.where(high > low, (high - low) / 1.349, jnp.nanstd(y))  # 1.349: a normal's
    with numpyro.plate("component", K):
        coefficients = numpyro.sample("coefficients", coefficient_prior(x, middle, usual, width))
        squared = numpyro.sample("squared_scale", dist.InverseGamma(1.5, (usual / K) ** 2 / 2))
    nu = jnp.broadcast_to(jnp.asarray(df, float), (K,))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        mean = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.StudentT(nu[z], mean, jnp.sqrt(squared[z])), obs=y)


def poisson_experts(
    x: Any,
    y: Any,
    K: int,
    *,
    exposure: Any = 1.0,
    gate_covariates: Any = None,
    reference: bool = False,
    width: Any = 2.5,
    gate_width: Any = 2.5,
) -> None:
    r"""Poisson regressions with log link behind a softmax gate.

    .. math::
        v_k, w_k \sim Normal, \quad z_i \sim Categorical(\pi(x_i)), \quad
        y_i \mid z_i = k \sim Poisson(e_i \exp(w_k' (1, x_i))).

    Args:
        x: covariates, (N, P). y: counts, (N,).
        K: number of experts.
        exposure: e, positive, a scalar or (N,): the time or the area in which y was counted; 1.
        gate_covariates, reference, width, gate_width: see the text of this module.

    Sites: ``gate`` (K, G + 1), ``coefficients`` (K, P + 1), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> patents, log_spending, share = datasets.load("patents").values.T
        >>> plan = bayesmix.plan(
        ...     zoo.poisson_experts, log_spending[:, None], patents, K=2, gate_covariates=share[:, None]
        ... )
        >>> [(block.site, block.name) for block in plan.blocks]
        [('gate', 'no closed form'), ('coefficients', 'no closed form')]

    Source: Wang, Cockburn & Puterman (1998), *Journal of Business & Economic Statistics* 16, 27-41.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    covariates = x if gate_covariates is None else gate_covariates
    logits = _gate_logits(covariates, K, reference, gate_width)
    exposure = jnp.broadcast_to(jnp.asarray(exposure, float), y.shape)
    usual = jnp.nansum(y) / jnp.sum(jnp.where(jnp.isnan(y), 0.0, exposure))
    with numpyro.plate("component", K):
        prior = coefficient_prior(x, jnp.log(usual), 1.0, width)
        coefficients = numpyro.sample("coefficients", prior)
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        log_rate = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Poisson(exposure * jnp.exp(log_rate)), obs=y)


def logistic_experts(
    x: Any,
    y: Any,
    K: int,
    *,
    trials: Any = 1,
    gate_covariates: Any = None,
    reference: bool = False,
    width: Any = 2.5,
    gate_width: Any = 2.5,
) -> None:
    r"""Logistic regressions behind a softmax gate: decision boundaries that bend.

    .. math::
        v_k, w_k \sim Normal, \quad z_i \sim Categorical(\pi(x_i)), \quad
        logit(p_{ik}) = w_k' (1, x_i), \quad y_i \mid z_i = k \sim Binomial(n_i, p_{ik}).

    Args:
        x: covariates, (N, P). y: successes, (N,).
        K: number of experts.
        trials: n, a scalar or (N,); 1.
        gate_covariates, reference, width, gate_width: see the text of this module.

    Sites: ``gate`` (K, G + 1), ``coefficients`` (K, P + 1), ``z`` (N,), ``y`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> firms = datasets.load("bankruptcy")
        >>> bankrupt = (firms.labels == "bankrupt").astype(float)
        >>> plan = bayesmix.plan(zoo.logistic_experts, firms.values, bankrupt, K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('gate', 'no closed form'), ('coefficients', 'no closed form')]

    Source: Jordan & Jacobs (1994), *Neural Computation* 6, 181-214.
    """
    design, y = with_intercept(x), jnp.asarray(y, float)
    covariates = x if gate_covariates is None else gate_covariates
    logits = _gate_logits(covariates, K, reference, gate_width)
    trials = jnp.broadcast_to(jnp.asarray(trials), y.shape)
    with numpyro.plate("component", K):
        coefficients = numpyro.sample("coefficients", coefficient_prior(x, 0.0, 1.0, width))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        chance = jnp.sum(design * coefficients[z], axis=-1)
        numpyro.sample("y", dist.Binomial(trials, logits=chance), obs=y)


def mixture_density_network(
    x: Any,
    y: Any,
    K: int,
    *,
    width: int = 16,
    depth: int = 1,
    smallest_scale: Any = 0.01,
    prior: Any = None,
) -> None:
    r"""A network whose outputs are the gate, the means and the scales of K normal experts.

    .. math::
        (a_i, m_i, b_i) &= network(x_i), \qquad z_i \sim Categorical(softmax(a_i)), \\
        y_{ij} \mid z_i = k &\sim N(m_{ikj}, \sigma_{ikj}^2), \qquad
        \sigma_{ikj} = s_0 + softplus(b_{ikj}).

    The network is a multilayer perceptron with tanh units. EM climbs its weights in each M step, and
    starts from its initial weights, drawn anew for each start. Columns of x and y should be of size 1.

    Args:
        x: covariates, (N, P). y: outcomes, (N,) or (N, D).
        K: number of experts.
        width, depth: units in a hidden layer, and hidden layers.
        smallest_scale: s_0, which bounds the likelihood.
        prior: a NumPyro distribution of each weight, for a Bayesian network (its weights are then
            sample sites, which NUTS draws); None for weights to be optimised.

    Sites: ``network$params``, or one for each array of weights with a prior; ``z`` (N,), ``y``.

    Raises:
        ImportError: without the package equinox. ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np, bayesmix
        >>> from bayesmix import zoo
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> plan = bayesmix.plan(zoo.mixture_density_network, x, x[:, 0] ** 2, K=2, width=3)
        >>> [(site.name, site.shape) for site in plan.reading.parameters][:2]
        [('network$params.layers.0.weight', (3, 1)), ('network$params.layers.0.bias', (3,))]

    Source: Bishop (1994), *Mixture Density Networks*, Neural Computing Research Group, Aston University,
    report NCRG/94/004.
    """
    try:
        import equinox
    except ImportError as error:
        raise ImportError(
            "mixture_density_network builds its network with equinox, which is not installed; "
            "run pip install equinox"
        ) from error
    x, y = as_matrix(x), jnp.asarray(y, float)
    event = y.shape[1:]
    cells = event[0] if event else 1
    key = numpyro.prng_key()
    network = equinox.nn.MLP(
        x.shape[1],
        K * (1 + 2 * cells),
        width,
        depth,
        jnp.tanh,
        key=random.key(0) if key is None else key,
    )
    if prior is None:
        network = eqx_module("network", network)
    else:
        network = random_eqx_module("network", network, prior)
    outputs = jax.vmap(network)(x).reshape(x.shape[0], K, 1 + 2 * cells)
    logits, mean, raw = jnp.split(outputs, (1, 1 + cells), axis=-1)
    scale = smallest_scale + jax.nn.softplus(raw)
    rows = jnp.arange(x.shape[0])
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(logits=logits[..., 0]))
        shape = (*z.shape[:-1], x.shape[0], *event)
        own = dist.Normal(mean[rows, z].reshape(shape), scale[rows, z].reshape(shape))
        numpyro.sample("y", own.to_event(len(event)), obs=y)
