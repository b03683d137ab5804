"""Expected sufficient statistics of rows: how they are added, and Q(theta) from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..families.augmented import RowFamily, Statistic
from ..families.likelihoods import Family, linear
from .errors import ProgramError
from .evaluate import Evaluation


class Statistics(NamedTuple):
    """Expected sufficient statistics: how often each latent and its parents have each joint value, (K,);
    each family's sums; and, where a factor needs the rows themselves, the responsibilities of its joint
    values (K, N) by its site, and its row family's hidden values."""

    counts: dict[str, Array]
    moments: dict[str, Any]
    responsibilities: dict[str, Array]
    hidden: dict[str, Any]


def combine(
    families: dict[str, Statistic],
    one: Statistics,
    other: Statistics,
    first: Array | float = 1.0,
    second: Array | float = 1.0,
) -> Statistics:
    """first * one + second * other: statistics of the rows of both, each weighted so many times.

    The two may have been made at different parameter values: moments about a reference are brought to
    that of `other`. With `second` zero, `one` alone is scaled. Numbers (), scalars.

    Raises :class:`ProgramError` where a factor differs from row to row: its statistics are the rows'
    responsibilities, which belong to these rows alone.
    """
    if one.responsibilities or other.responsibilities:
        raise ProgramError(
            "statistics of parts of the rows cannot be added where factors differ from row to row "
            f"({', '.join(map(repr, sorted(one.responsibilities)))}); use bayesmix.EM, which keeps "
            "the responsibilities of all rows"
        )
    counts = linear(one.counts, other.counts, first, second)
    moments = {
        name: family.combine(one.moments[name], other.moments[name], first, second)
        for name, family in families.items()
        if isinstance(family, Family)
    }
    return Statistics(counts, moments, {}, {})


def scaled(
    families: dict[str, Statistic], statistics: Statistics, factor: Array | float
) -> Statistics:
    """Statistics of the same rows, each counted `factor` times."""
    counts, shares = (
        jax.tree.map(lambda x: factor * x, part)
        for part in (statistics.counts, statistics.responsibilities)
    )
    moments = {
        name: family.combine(statistics.moments[name], statistics.moments[name], factor, 0.0)
        for name, family in families.items()
        if isinstance(family, Family)
    }
    return Statistics(counts, moments, shares, statistics.hidden)


def _weighted(counts: Array, log_density: Array) -> Array:
    """sum counts * log_density with 0 * (-inf) = 0."""
    return jnp.sum(jnp.where(counts > 0, counts * log_density, 0.0))


def expected_factors(
    families: dict[str, Statistic], evaluation: Evaluation, statistics: Statistics
) -> dict[str, Array]:
    """Every factor of the expected complete log likelihood, by site: the parts of Q(theta)."""
    factors = {
        name: _weighted(
            statistics.counts[name] if table.ndim == 1 else statistics.responsibilities[name], table
        )
        for name, table in evaluation.latent.items()
    }
    for name, family in families.items():
        parameters = evaluation.components[name]
        if family is None:
            factors[name] = _weighted(statistics.responsibilities[name], parameters)
        elif isinstance(family, RowFamily):
            hidden = statistics.hidden[name]
            expected = family.expected_log_prob(parameters.parameters, hidden, parameters.value)
            weights = statistics.responsibilities[name] * parameters.present
            factors[name] = _weighted(weights, expected)
        else:
            expected = family.expected_log_prob(parameters, statistics.moments[name])
            factors[name] = jnp.sum(expected)
    return factors
