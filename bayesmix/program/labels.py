"""Which axes of which sites carry a latent's labels: found by permuting them.

An axis carries a latent's labels where a change at one of its entries moves the tables of the rows at
that value of the latent and at no other, or where permuting it permutes the latent's own probabilities.
Latents that share such an axis (the states of a chain) share their labels: they are one group. A group's
prior is exchangeable where permuting all of its axes changes neither the density of the rows nor that of
the parameters; then the posterior has K! copies of every mode.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from jax import Array

Values = dict[str, Array]
# a factor's log density, (values of each latent that it depends on..., rows)
Factors = dict[str, np.ndarray]


class LabelGroup(NamedTuple):
    """Latents with the same labels, and the axes that carry them, by site (parameters and deterministic
    sites).

    `exchangeable` is False where permuting the labels changes the prior density, or where some site (a
    stick-breaking weight, say) cannot be permuted at all. `complements` names probabilities that must
    change to one minus themselves when two labels are swapped (a Bernoulli latent's). `bound` names
    deterministic sites that a renaming changes though no axis counts labels: the first component's mean,
    a flat vector of all. `known`: the program observes some of the latents, so that the data tell the
    labels apart.
    """

    latents: tuple[str, ...]
    size: int
    axes: dict[str, tuple[int, ...]]
    exchangeable: bool
    complements: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    known: bool = False


class Labels(NamedTuple):
    """The groups of latents whose labels are carried by axes of parameters."""

    groups: tuple[LabelGroup, ...] = ()

    @property
    def axes(self) -> dict[str, int]:
        """The first label axis of each site that has one."""
        first: dict[str, int] = {}
        for group in self.groups:
            first |= {name: axes[0] for name, axes in group.axes.items() if name not in first}
        return first

    @property
    def exchangeable(self) -> bool:
        """Is the prior the same under every renaming of every group whose labels nothing tells?"""
        return all(group.exchangeable for group in self.hidden)

    @property
    def hidden(self) -> tuple[LabelGroup, ...]:
        """The groups whose labels the data do not tell."""
        return tuple(group for group in self.groups if not group.known)

    @property
    def complements(self) -> tuple[str, ...]:
        """Probabilities that turn into one minus themselves when labels are swapped."""
        return tuple(name for group in self.groups for name in group.complements)

    def group_of(self, latent: str) -> LabelGroup | None:
        """The group of a latent; None where no parameter carries its labels."""
        return next((group for group in self.groups if latent in group.latents), None)


class Tested(NamedTuple):
    """What is permuted, and what it is judged by: `scopes` names the latents of each factor, `factors`
    gives them at values (deterministic sites too where they are named there), `density` (rows,) and
    `log_prior` () at parameter values, `derive` the deterministic sites; `known` are latents that the
    program observes."""

    sizes: dict[str, int]
    scopes: dict[str, tuple[str, ...]]
    factors: Callable[[Values], Factors]
    density: Callable[[Values], np.ndarray]
    log_prior: Callable[[Values], Array]
    derive: Callable[[Values], Values]
    known: frozenset[str] = frozenset()


def find_labels(tested: Tested, values: Values, probabilities: tuple[str, ...] = ()) -> Labels:
    """Test every axis that has as many entries as some latent has values.

    `values` should be random, so that nothing agrees by accident. `probabilities` names the parameters
    in (0, 1).
    """
    derived = tested.derive(values)
    carried: dict[tuple[str, int], set[str]] = {}
    before = tested.factors(values)
    for name, value in {**values, **derived}.items():
        for axis, length in enumerate(np.shape(value)):
            told = {**values, name: value}
            found = _carried(tested, before, told, name, axis) if length > 1 else set()
            if found:
                carried[name, axis] = found
    groups = []
    for latents in _tied(tested, carried):
        axes: dict[str, tuple[int, ...]] = {}
        for (name, axis), found in carried.items():
            if found & set(latents):
                axes[name] = (*axes.get(name, ()), axis)
        group = _group(tested, values, latents, axes, probabilities)
        groups.append(group._replace(known=bool(tested.known & set(latents))))
    return Labels(tuple(groups))


def _tied(tested: Tested, carried: dict[tuple[str, int], set[str]]) -> list[tuple[str, ...]]:
    """Latents that share an axis, together; in the order of the program."""
    groups: list[set[str]] = []
    for found in carried.values():
        apart = [group for group in groups if not group & found]
        joined = set().union(found, *(group for group in groups if group & found))
        groups = [*apart, joined]
    ordered = [tuple(name for name in tested.sizes if name in group) for group in groups]
    return sorted(ordered, key=lambda group: list(tested.sizes).index(group[0]))


def _group(
    tested: Tested,
    values: Values,
    latents: tuple[str, ...],
    found: dict[str, tuple[int, ...]],
    probabilities: tuple[str, ...],
) -> LabelGroup:
    size = tested.sizes[latents[0]]
    axes = {name: each for name, each in found.items() if name in values}

    def exchangeable(axes: dict[str, tuple[int, ...]], complements: tuple[str, ...] = ()) -> bool:
        return _exchangeable(tested, values, size, axes, complements)

    # hyperparameters with an entry per component reach the rows only through their children's priors
    hidden = {
        name: (axis,)
        for name, value in values.items()
        for axis, length in reversed(list(enumerate(np.shape(value))))
        if length == size and name not in found
    }
    trials = [{}, *({name: axis} for name, axis in hidden.items()), hidden]
    shares = [n for n in probabilities if size == 2 and np.ndim(values[n]) == 0]
    choices = [({**axes, **extra}, ()) for extra in trials] + [(axes, (name,)) for name in shares]
    chosen = next((choice for choice in choices if exchangeable(*choice)), None)
    carrying, complements = (axes, ()) if chosen is None else chosen
    follows, bound = _follows(tested, values, size, carrying, complements)
    every = {**found, **carrying, **follows}
    return LabelGroup(latents, size, every, chosen is not None, complements, bound)


def _follows(
    tested: Tested,
    values: Values,
    size: int,
    axes: dict[str, tuple[int, ...]],
    complements: tuple[str, ...],
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Deterministic sites that are permuted when the labels are, with the axes; and the names of those
    that change in another way."""
    order = np.roll(np.arange(size), 1)
    before = tested.derive(values)
    after = tested.derive(permute_labels(values, axes, order, complements))
    follows, bound = {}, []
    for name, value in before.items():
        if np.array_equal(value, after[name], equal_nan=True) or _close(value, after[name]):
            continue
        long = [axis for axis, length in enumerate(np.shape(value)) if length == size]
        sets = chain.from_iterable(combinations(long, n + 1) for n in range(len(long)))
        for some in sets:
            if _close(permute_labels({name: value}, {name: some}, order)[name], after[name]):
                follows[name] = some
                break
        else:
            bound.append(name)
    return follows, tuple(bound)


def _carried(tested: Tested, before: Factors, told: Values, name: str, axis: int) -> set[str]:
    """The latents whose labels an axis carries: one for each factor that it moves, or else none."""
    value = told[name]
    size = np.shape(value)[axis]
    candidates = [latent for latent, count in tested.sizes.items() if count == size]
    if not candidates:
        return set()

    def at(order: np.ndarray) -> Factors:
        return tested.factors({**told, name: np.take(value, order, axis=axis)})

    roll = np.roll(np.arange(size), 1)
    rolled = at(roll)
    moved = [factor for factor, table in before.items() if not _close(table, rolled[factor])]
    if not moved:
        return set()

    def neighbour(j: int) -> np.ndarray:
        # index j takes a neighbour's value, which keeps it inside the support
        order = np.arange(size)
        order[j] = (j + 1) % size
        return order

    changed = [at(neighbour(j)) for j in range(size)]
    found = set()
    for factor in moved:
        table, scope = before[factor], tested.scopes[factor]
        matching = [
            latent
            for latent in candidates
            if latent in scope
            and (
                (
                    factor in tested.sizes
                    and _rolls(table, rolled[factor], scope.index(latent), roll)
                )
                or _local(table, [each[factor] for each in changed], scope.index(latent))
            )
        ]
        if not matching:
            return set()
        found.add(matching[0])
    return found


def _rolls(table: np.ndarray, rolled: np.ndarray, axis: int, order: np.ndarray) -> bool:
    return _close(np.take(table, order, axis=axis), rolled)


def _local(table: np.ndarray, changed: list[np.ndarray], axis: int) -> bool:
    """Does a change at entry j move this factor at value j of the latent, and nowhere else?"""
    others = tuple(i for i in range(table.ndim) if i != axis)
    moves = np.stack([np.max(_moved(each, table), axis=others) for each in changed])
    own = np.diag(moves)
    apart = moves - np.diag(own)
    return bool(own.min() > 1e-6 and apart.max() <= 1e-9 * (1 + own.max()))


def _moved(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far log densities are apart; what is impossible in both has not moved."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, np.abs(one - other))


def _close(one: Array, two: Array) -> bool:
    return bool(np.allclose(np.asarray(one), np.asarray(two), rtol=1e-8, atol=1e-8))


def _exchangeable(
    tested: Tested,
    values: Values,
    size: int,
    axes: dict[str, tuple[int, ...]],
    complements: tuple[str, ...],
) -> bool:
    """Do the two permutations that generate all others leave the whole density unchanged?"""
    swap = np.arange(size)
    swap[:2] = [1, 0]
    for order in (swap, np.roll(np.arange(size), 1)):
        permuted = permute_labels(values, axes, order, complements)
        same = _close(tested.density(values), tested.density(permuted))
        if not (same and _close(tested.log_prior(values), tested.log_prior(permuted))):
            return False
    return True


def permute_labels(
    values: Values,
    axes: dict[str, tuple[int, ...]],
    order: np.ndarray,
    complements: tuple[str, ...] = (),
) -> Values:
    """Values with component `order[k]` put at label k, along each site's label axes; where that swaps
    two labels, complements are one minus themselves."""
    permuted = dict(values)
    for name, value in values.items():
        for axis in axes.get(name, ()):
            value = np.take(value, order, axis=axis)
        permuted[name] = 1 - value if name in complements and order[0] else value
    return permuted
