"""Which axes of which sites carry the latent's labels: found by permuting them.

Moving an axis carries a label where permuting it (with all others that carry labels) permutes the rows
of the log joint table and changes nothing else. The prior is exchangeable where its density does not
change either; then the posterior has K! copies of every mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array
from scipy.special import logsumexp

Values = dict[str, Array]


class Labels(NamedTuple):
    """Label axes by site (parameters and deterministic sites), and whether the prior is exchangeable.

    `exchangeable` is False where permuting the labels changes the prior density, or where some site
    (a stick-breaking weight, say) cannot be permuted at all. `complements` names probabilities that must
    change to one minus themselves when two labels are swapped (a Bernoulli latent's).
    """

    axes: dict[str, int]
    exchangeable: bool
    complements: tuple[str, ...] = ()


def find_labels(
    table: Callable[[Values], tuple[Array, Array]],
    log_prior: Callable[[Values], Array],
    derive: Callable[[Values], Values],
    values: Values,
    probabilities: tuple[str, ...] = (),
) -> Labels:
    """Test every axis with K entries.

    `table(values)` gives (log p(z = k), log p(x_i | z_i = k)), each (K, rows), with any site named in
    `values`, deterministic ones too, replaced by what it is told; `log_prior` is the density of the
    parameters and `derive(values)` the deterministic sites. `values` should be random, so that nothing
    agrees by accident. `probabilities` names the parameters in (0, 1).
    """
    prior_table, row_table = table(values)
    size = row_table.shape[0]
    if size == 1:
        return Labels({}, True)
    derived = derive(values)
    found: dict[str, int] = {}
    for name, value in {**values, **derived}.items():
        for axis, length in enumerate(np.shape(value)):
            if length == size and name not in found:
                told = {**values, name: value}
                if _carries(table, told, name, axis, prior_table, row_table):
                    found[name] = axis
    axes = {name: axis for name, axis in found.items() if name in values}
    # hyperparameters with an entry per component reach the rows only through their children's priors
    hidden = {
        name: axis
        for name, value in values.items()
        for axis, length in reversed(list(enumerate(np.shape(value))))
        if length == size and name not in found
    }
    trials = [{}, *({name: axis} for name, axis in hidden.items()), hidden]
    for extra in trials:
        if _exchangeable(table, log_prior, values, {**axes, **extra}):
            return Labels({**found, **extra, **_follows(derive, values, {**axes, **extra})}, True)
    follows = {**found, **_follows(derive, values, axes)}
    for name in probabilities if size == 2 else ():
        if np.ndim(values[name]) == 0 and _exchangeable(table, log_prior, values, axes, (name,)):
            return Labels(follows, True, (name,))
    return Labels(follows, False)


def _follows(
    derive: Callable[[Values], Values], values: Values, axes: dict[str, int]
) -> dict[str, int]:
    """Deterministic sites that are permuted along an axis when the parameters are permuted."""
    if not axes:
        return {}
    size = next(np.shape(values[name])[axis] for name, axis in axes.items())
    order = np.roll(np.arange(size), 1)
    before, after = derive(values), derive(permute_labels(values, axes, order))
    return {
        name: axis
        for name, value in before.items()
        for axis, length in enumerate(np.shape(value))
        if length == size
        and not _close(value, after[name])
        and _close(np.take(value, order, axis=axis), after[name])
    }


def _carries(
    table: Callable[[Values], tuple[Array, Array]],
    told: Values,
    name: str,
    axis: int,
    prior_table: Array,
    row_table: Array,
) -> bool:
    """Does a change at index j of this axis move row j of the likelihood, and no other row; or does
    permuting the axis permute the latent's own probabilities?"""
    size, value = row_table.shape[0], told[name]
    order = np.roll(np.arange(size), 1)
    rolled_prior, rolled_rows = table({**told, name: np.take(value, order, axis=axis)})
    same_rows = _close(rolled_rows, row_table)
    if same_rows and not _close(rolled_prior, prior_table):
        return _close(rolled_prior, prior_table[order])
    if same_rows or not _close(rolled_prior, prior_table):
        return False

    def moved(j: int) -> np.ndarray:
        # index j takes a neighbour's value, which keeps it inside the support
        order = np.arange(size)
        order[j] = (j + 1) % size
        changed = table({**told, name: np.take(value, order, axis=axis)})[1]
        return np.max(np.abs(np.asarray(changed) - np.asarray(row_table)), axis=1)

    changes = np.stack([moved(j) for j in range(size)])
    own = np.diag(changes)
    others = changes - np.diag(own)
    return bool(own.min() > 1e-6 and others.max() <= 1e-9 * (1 + own.max()))


def _close(one: Array, two: Array) -> bool:
    return bool(np.allclose(np.asarray(one), np.asarray(two), rtol=1e-8, atol=1e-8))


def _exchangeable(
    table: Callable[[Values], tuple[Array, Array]],
    log_prior: Callable[[Values], Array],
    values: Values,
    axes: dict[str, int],
    complements: tuple[str, ...] = (),
) -> bool:
    """Do the two permutations that generate all others leave the whole density unchanged?"""
    size = table(values)[1].shape[0]
    swap = np.arange(size)
    swap[:2] = [1, 0]
    for order in (swap, np.roll(np.arange(size), 1)):
        permuted = permute_labels(values, axes, order)
        permuted |= {name: 1 - values[name] for name in complements}
        before = logsumexp(np.add(*table(values)), axis=0)
        after = logsumexp(np.add(*table(permuted)), axis=0)
        if not (_close(before, after) and _close(log_prior(values), log_prior(permuted))):
            return False
    return True


def permute_labels(values: Values, axes: dict[str, int], order: np.ndarray) -> Values:
    """Values with component `order[k]` put at label k, along each site's label axis."""
    return {
        name: np.take(value, order, axis=axes[name]) if name in axes else value
        for name, value in values.items()
    }
