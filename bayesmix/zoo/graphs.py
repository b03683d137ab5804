r"""Several hidden values in a row: Bayes nets, trees, and chains in time.

Every node of a graph is a finite site in the rows; a node that others depend on may be hidden, known, or
known in some rows (NaN, or -1, elsewhere). The tables' priors are Dirichlet(``concentration`` = 2), or
Beta(1.5, 1.5) and Gamma(1.5, 1.5 / m) for yes and no and for counts, as in the mixtures: worth about a
row for every combination of parents at the mode, which keeps probabilities off 0 and 1.
For maximum likelihood use :func:`bayesmix.without_priors`.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from .priors import as_matrix, typical


def _table(name: str, parents: Sequence[int], size: int, concentration: Any) -> Array:
    """The site of a node's probabilities given its parents, (*parents, size)."""
    prior = dist.Dirichlet(jnp.full(size, jnp.asarray(concentration, float)))
    return numpyro.sample(name, prior.expand(list(parents)).to_event(len(parents)))


def bayes_net(
    columns: Mapping[str, Any],
    parents: Mapping[str, Sequence[str]],
    values: Mapping[str, int],
    *,
    concentration: Any = 2.0,
) -> None:
    r"""A directed acyclic graph of categorical nodes, any of them hidden.

    .. math::
        \theta_v(pa) \sim Dirichlet(\alpha), \qquad
        x_{iv} \mid x_{i,pa(v)} \sim Categorical(\theta_v(x_{i,pa(v)})).

    Args:
        columns: what was seen, by node, each (N,): numbers from 0, NaN where missing. Nodes that are
            not named were never seen.
        parents: every node with the nodes that it depends on, in any order.
        values: the number of values of every node.
        concentration: alpha; 2.

    Sites: ``p_<node>`` (values of each parent..., values), ``<node>`` (N,).

    Raises:
        ValueError: where nodes depend on each other in a circle, or a column is no node.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> seen = dict(zip("ABC", datasets.load("carcinoma").values.T))
        >>> parents = {"class": (), "A": ("class",), "B": ("class",), "C": ("class", "A")}
        >>> plan = bayesmix.plan(zoo.bayes_net, seen, parents, dict.fromkeys(parents, 2))
        >>> plan.graph.names
        ('class', 'A')
        >>> fit = bayesmix.EM(plan).run(0, seen, parents, dict.fromkeys(parents, 2))
        >>> fit.parameters["p_C"].shape
        (2, 2, 2)

    Source: Lauritzen (1995), *Computational Statistics & Data Analysis* 19, 191-201.
    """
    for name in columns:
        if name not in parents:
            raise ValueError(f"column '{name}' is no node; the nodes are {', '.join(parents)}")
    try:
        order = tuple(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        circle = " on ".join(f"'{name}'" for name in error.args[1])
        raise ValueError(f"nodes depend in a circle ({circle}); leave one edge out") from error
    tables = {
        name: _table(
            f"p_{name}", [values[above] for above in parents[name]], values[name], concentration
        )
        for name in order
    }
    drawn: dict[str, Any] = {}
    with numpyro.plate("rows", next(iter(columns.values())).shape[0]):
        for name in order:
            probability = tables[name][tuple(drawn[above] for above in parents[name])]
            drawn[name] = numpyro.sample(name, dist.Categorical(probability), obs=columns.get(name))


def naive_bayes(
    x: Any, label: Any, K: int, categories: int = 2, *, concentration: Any = 2.0
) -> None:
    r"""Classification by categorical columns that are independent within a class.

    .. math::
        weights \sim Dirichlet(\alpha), \quad p_{kj} \sim Dirichlet(\alpha), \quad
        label_i \sim Categorical(weights), \quad
        x_{ij} \mid label_i = k \sim Categorical(p_{kj}).

    Args:
        x: categories from 0, (N, D); NaN where a cell is missing.
        label: the class of each row, (N,), from 0; NaN, or -1, where it is not known. To classify new
            rows give NaN for all of them.
        K: number of classes.
        categories: number of categories of every column; 2.
        concentration: alpha; 2.

    Sites: ``weights`` (K,), ``probability`` (K, D, categories), ``label`` (N,), ``x`` (N, D).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np
        >>> import bayesmix
        >>> from bayesmix import zoo
        >>> x = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [np.nan, 0]])
        >>> label = np.array([0.0, 0.0, 1.0, 1.0, np.nan])
        >>> fit = bayesmix.EM(zoo.naive_bayes).run(0, x, label, K=2)
        >>> fit.labels(np.array([[1.0, 1.0]]), np.array([np.nan]), K=2)
        array([1])

    Source: Murphy (2012), *Machine Learning: A Probabilistic Perspective*, section 3.5.
    """
    x = as_matrix(x)
    weights = _table("weights", (), K, concentration)
    probability = _table("probability", (K, x.shape[1]), categories, concentration)
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("label", dist.Categorical(weights), obs=label)
        numpyro.sample("x", dist.Categorical(probability[z]).to_event(1), obs=x)


def latent_tree(
    x: Any, groups: Sequence[Sequence[int]], K: int, L: int, *, concentration: Any = 2.0
) -> None:
    r"""Columns of zeros and ones in groups: each has a hidden cause, and these have one in common.

    .. math::
        root_i \sim Categorical(weights), \qquad
        cause_{ig} \mid root_i = k \sim Categorical(\theta_{gk}), \qquad
        x_{ij} \mid cause_{ig(j)} = l \sim Bernoulli(p_{lj}),

    with Dirichlet priors of weights and theta, and p ~ Beta(1.5, 1.5).

    Args:
        x: zeros and ones, (N, D); NaN where a cell is missing.
        groups: the columns of each group.
        K, L: number of values of the root, and of each cause.
        concentration: alpha; 2.

    Sites: ``weights`` (K,), ``given_root_<g>`` (K, L), ``probability_<g>`` (L, columns), ``root`` (N,),
    ``cause_<g>`` (N,), ``x_<g>`` (N, columns), for g = 0, 1, ...

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> x = datasets.load("carcinoma").values
        >>> plan = bayesmix.plan(zoo.latent_tree, x, ((0, 1, 4), (2, 3, 5)), 2, 2)
        >>> plan.graph.names
        ('root', 'cause_0', 'cause_1')

    Source: Zhang (2004), *Journal of Machine Learning Research* 5, 697-723 (hierarchical latent class
    models).
    """
    x = as_matrix(x)
    weights = _table("weights", (), K, concentration)
    given, probability = [], []
    for g, columns in enumerate(groups):
        given.append(_table(f"given_root_{g}", (K,), L, concentration))
        prior = dist.Beta(1.5, 1.5).expand([L, len(columns)]).to_event(2)
        probability.append(numpyro.sample(f"probability_{g}", prior))
    with numpyro.plate("rows", x.shape[0]):
        root = numpyro.sample("root", dist.Categorical(weights))
        for g, columns in enumerate(groups):
            cause = numpyro.sample(f"cause_{g}", dist.Categorical(given[g][root]))
            items = dist.Bernoulli(probability[g][cause]).to_event(1)
            numpyro.sample(f"x_{g}", items, obs=x[:, jnp.asarray(columns)])


def _chain(states: int, concentration: Any) -> tuple[Array, Array]:
    """Sites `initial` (K,) and `transition` (K, K), whose rows are the states that are left."""
    initial = _table("initial", (), states, concentration)
    with numpyro.plate("state", states):
        transition = _table("transition", (), states, concentration)
    return initial, transition


def hidden_markov_poisson(x: Any, K: int, *, concentration: Any = 2.0, shape: Any = 1.5) -> None:
    r"""Sequences of counts whose rate follows a hidden state, which changes from time to time.

    .. math::
        z_{i0} \sim Categorical(initial), \qquad
        z_{it} \mid z_{i,t-1} = k \sim Categorical(transition_k), \qquad
        x_{it} \mid z_{it} = k \sim Poisson(rate_k).

    Args:
        x: counts, one sequence to a row, (N, T); NaN where missing, also at the end of shorter ones.
        K: number of states.
        concentration: Dirichlet parameter of ``initial`` and of every row of ``transition``; 2.
        shape: of the rates' prior, Gamma(shape, shape / m) with m the mean count; 1.5.

    Sites: ``initial`` (K,), ``transition`` (K, K), ``rate`` (K,); ``z_<t>`` (N,) and ``x_<t>`` (N,) for
    t = 0, 1, ... One site for every time: compiling takes longer for longer sequences.

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import bayesmix
        >>> from bayesmix import datasets, zoo
        >>> counts = datasets.load("epilepsy").values[:, 2:]
        >>> plan = bayesmix.plan(zoo.hidden_markov_poisson, counts, K=2)
        >>> plan.dims("transition")
        ('state', 'state_next')

    Source: Rabiner (1989), *Proceedings of the IEEE* 77, 257-286; Zucchini, MacDonald & Langrock
    (2016), *Hidden Markov Models for Time Series*, CRC Press.
    """
    x = as_matrix(x)
    initial, transition = _chain(K, concentration)
    with numpyro.plate("state", K):
        rate = numpyro.sample("rate", dist.Gamma(shape, shape / typical(x.reshape(-1))))
    with numpyro.plate("rows", x.shape[0]):
        z: Any = None
        for t in range(x.shape[1]):
            probability = initial if t == 0 else transition[z]
            z = numpyro.sample(f"z_{t}", dist.Categorical(probability))
            numpyro.sample(f"x_{t}", dist.Poisson(rate[z]), obs=x[:, t])


def hidden_markov_normal(x: Any, K: int, *, concentration: Any = 2.0) -> None:
    r"""Sequences of numbers whose mean and variance follow a hidden state.

    As :func:`hidden_markov_poisson`, with

    .. math::
        \sigma^2_k \sim InverseGamma(3/2, s/2), \qquad \mu_k \mid \sigma^2_k \sim
        N(m, \sigma^2_k / 0.01), \qquad x_{it} \mid z_{it} = k \sim N(\mu_k, \sigma^2_k),

    where m is the mean of all numbers and s their variance over K^2, as in the Gaussian mixtures.

    Args:
        x: numbers, one sequence to a row, (N, T); NaN where missing.
        K: number of states.
        concentration: Dirichlet parameter of ``initial`` and of every row of ``transition``; 2.

    Sites: ``initial`` (K,), ``transition`` (K, K), ``variance`` (K,), ``mean`` (K,); ``z_<t>`` and
    ``x_<t>`` (N,).

    Raises:
        ValueError: where `x` is not a matrix.

    Example:
        >>> import numpy as np
        >>> import bayesmix
        >>> from bayesmix import zoo
        >>> x = np.random.default_rng(0).normal(size=(50, 4)) + 4.0 * (np.arange(50) % 2)[:, None]
        >>> plan = bayesmix.plan(zoo.hidden_markov_normal, x, K=2)
        >>> plan.blocks[2].sites
        ('mean', 'variance')

    Source: as :func:`hidden_markov_poisson`; Fraley & Raftery (2007), *Journal of Classification* 24,
    155-181, for the prior.
    """
    x = as_matrix(x)
    initial, transition = _chain(K, concentration)
    with numpyro.plate("state", K):
        spread = jnp.nanvar(x) / K**2
        variance = numpyro.sample("variance", dist.InverseGamma(1.5, spread / 2))
        wide = jnp.sqrt(variance / 0.01)
        mean = numpyro.sample("mean", dist.Normal(jnp.nanmean(x), wide))
    with numpyro.plate("rows", x.shape[0]):
        z: Any = None
        for t in range(x.shape[1]):
            probability = initial if t == 0 else transition[z]
            z = numpyro.sample(f"z_{t}", dist.Categorical(probability))
            numpyro.sample(f"x_{t}", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x[:, t])
