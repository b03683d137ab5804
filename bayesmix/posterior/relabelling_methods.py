r"""Ways to bring the components of all draws into one order, on plain arrays.

A method takes :class:`~bayesmix.posterior.labelled_draws.LabelledDraws` and returns permutations
(S, K) with `new[k] = old[permutation[k]]`. Any function of that kind can be passed to
:func:`bayesmix.relabel`. All of these minimise, draw by draw, :math:`\sum_k cost_t[k, perm_t(k)]` over
permutations, a linear assignment; they differ in what the cost compares a draw with.

>>> z = np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
>>> ECR(pivot=0)(LabelledDraws(allocations=z, num_components=2)).tolist()
[[0, 1], [1, 0], [0, 1]]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..program.errors import ProgramError
from .labelled_draws import LabelledDraws, centrality, method_name
from .partitions import binder, expected_loss

Array = np.ndarray
Method = Callable[[LabelledDraws], Array]
_CHUNK = 4_000_000  # entries of one-hot or probability tables held at a time


# --- the assignment


def assign(cost: Array) -> Array:
    """The least costly permutation of each draw, (S, K) from costs (S, K, K).

    Where the present order is among the best it is kept. Raises
    :class:`~bayesmix.program.errors.ProgramError` where a cost is not finite.

    >>> assign(np.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])).tolist()
    [[1, 0], [0, 1]]
    """
    from scipy.optimize import linear_sum_assignment

    wrong = ~np.isfinite(cost).all((1, 2))
    if wrong.any():
        raise ProgramError(
            f"what is to be matched is not finite in {int(wrong.sum())} draws: look at the draws "
            f"{np.flatnonzero(wrong)[:5].tolist()} first."
        )
    identity, found = np.arange(cost.shape[1]), cost.argmin(-1)
    clash = (np.sort(found, -1) != identity).any(-1)  # else the best of each row is the solution
    for draw in np.flatnonzero(clash):
        found[draw] = linear_sum_assignment(cost[draw])[1]
    best = np.take_along_axis(cost, found[..., None], -1).sum((1, 2))
    slack = 1e-9 * np.abs(cost).max((1, 2), initial=0.0)
    found[np.trace(cost, axis1=1, axis2=2) <= best + slack] = identity
    return found


def inner_products(weights: Array, table: Array) -> Array:
    """sum_i weights[i, k] table[t, i, j] as (S, K, K), for probabilities or drawn labels (S, N)."""
    size = weights.shape[1]
    drawn = table.ndim == 2
    found = np.empty((len(table), size, size))
    step = max(1, _CHUNK // max(1, weights.size))
    for start in range(0, len(table), step):
        part = table[start : start + step]
        part = (part[..., None] == np.arange(size)).astype(float) if drawn else part
        found[start : start + step] = weights.T @ part
    return found


def average_table(table: Array, permutations: Array) -> Array:
    """The mean over draws of the renamed table, (N, K), of probabilities or drawn labels."""
    size = permutations.shape[1]
    total = np.zeros((table.shape[1], size))
    step = max(1, _CHUNK // max(1, total.size))
    for start in range(0, len(table), step):
        part, order = table[start : start + step], permutations[start : start + step]
        if table.ndim == 2:
            renamed = np.take_along_axis(np.argsort(order, -1), part, -1)
            total += (renamed[..., None] == np.arange(size)).sum(0)
        else:
            total += np.take_along_axis(part, order[:, None, :], -1).sum(0)
    return total / len(table)


def apply_method(method: Method, draws: LabelledDraws) -> Array:
    """The permutations (S, K) that a method returns, or an error where they are none."""
    found = np.asarray(method(draws))
    if found.shape != draws.shape or (np.sort(found, -1) != np.arange(draws.shape[1])).any():
        raise ProgramError(
            f"{method_name(method)} must return a permutation of {draws.shape[1]} components for each "
            f"of {draws.shape[0]} draws; it returned an array of shape {found.shape}"
        )
    return found


# --- what a method looks at, and which draw is the pivot: functions to pass


def drawn_labels(draws: LabelledDraws) -> Array:
    """The drawn labels (S, N)."""
    return draws.need("allocations", drawn_labels)


def label_probabilities(draws: LabelledDraws) -> Array:
    """The probabilities of labels (S, N, K)."""
    return draws.need("probabilities", label_probabilities)


def best_draw(draws: LabelledDraws) -> int:
    """The draw with the highest `fit`.

    Without `fit`, the one closest to the median of all draws in sorted parameters; without
    parameters, the medoid.
    """
    fit = draws.fit
    if fit is None and draws.parameters is not None:
        fit = centrality(np.sort(draws.parameters, 1).reshape(len(draws.parameters), -1))
    return medoid(draws) if fit is None else int(np.argmax(fit))


def medoid(draws: LabelledDraws) -> int:
    """The draw whose partition of the rows is closest to the others, by Binder's loss.

    Most probable labels are taken where none were drawn. Of more than 500 draws, 500 evenly spaced
    ones are looked at.

    Source: Dahl (2006), in Bayesian Inference for Gene Expression and Proteomics, 201-218.
    """
    z = draws.allocations
    if z is None:
        z = draws.need("probabilities", medoid).argmax(-1)
    some = np.unique(np.linspace(0, len(z) - 1, 500).astype(int))
    return int(some[np.argmin(expected_loss(z[some], z[some], binder))])


def _pivot_of(pivot: int | Callable[[LabelledDraws], int], draws: LabelledDraws) -> int:
    found = pivot if isinstance(pivot, int | np.integer) else pivot(draws)
    if not 0 <= found < draws.shape[0]:
        raise ProgramError(
            f"the pivot {found} is not a draw: give a position below {draws.shape[0]}"
        )
    return int(found)


def within_spread(parameters: Array) -> Array:
    """The spread of each entry within components, (J,): the deviation of its sorted values over draws.

    In units of the overall spread, entries that tell components apart would count no more than noise.
    """
    centred = parameters - parameters.mean((0, 1))
    within = np.sqrt(np.sort(centred, axis=1).var(0).mean(0))
    overall = np.sqrt((centred**2).mean((0, 1)))
    return np.maximum(within, np.where(overall > 0, 1e-3 * overall, 1.0))


def raw_units(parameters: Array) -> Array:
    """Ones: distances in the units that parameters come in."""
    return np.ones(parameters.shape[-1])


# --- the methods


@dataclass(frozen=True)
class OrderBy:
    """Components in rising order of entry `column` of the site `site`, draw by draw.

    Without a site, `column` counts the entries of `parameters`. Simple, but where components
    overlap in this entry it cuts through modes (Celeux, Hurn and Robert 2000, JASA 95).

    >>> mean = np.array([[[3.0], [1.0], [2.0]]])
    >>> OrderBy()(LabelledDraws(parameters=mean)).tolist()
    [[1, 2, 0]]
    """

    site: str | None = None
    column: int = 0
    name: ClassVar[str] = "ordering"

    def __call__(self, draws: LabelledDraws) -> Array:
        parameters = draws.need("parameters", self)
        entries = np.arange(parameters.shape[-1])
        if self.site is not None:
            entries = np.flatnonzero(np.array(draws.columns) == self.site)
        if not 0 <= self.column < len(entries):
            sites = dict.fromkeys(draws.columns)
            known = ", ".join(f"`{site}` ({draws.columns.count(site)})" for site in sites)
            raise ProgramError(
                f"there is no entry {self.column} of {self.site or 'the parameters'} to order by; "
                f"entries that carry labels: {known or parameters.shape[-1]}"
            )
        return np.argsort(parameters[..., entries[self.column]], axis=1, kind="stable")


@dataclass(frozen=True)
class PRA:
    r"""Pivotal reordering: parameters as close as can be to those of the pivot (squared distance).

    :math:`cost_t[k, j] = -\sum_d a_{kd} b_{jd}`, where a and b are the parameters of component k of
    the pivot and j of draw t in units of `scale`. `scale` takes parameters (S, K, J) and returns
    the units (J,); `raw_units` is the algorithm as it was published.

    Source: Marin, Mengersen and Robert (2005), Handbook of Statistics 25, 459-507.

    >>> mean = np.array([[[3.0], [1.0]], [[1.1], [2.9]]])
    >>> PRA(pivot=0)(LabelledDraws(parameters=mean)).tolist()
    [[0, 1], [1, 0]]
    """

    pivot: int | Callable[[LabelledDraws], int] = best_draw
    scale: Callable[[Array], Array] = within_spread
    name: ClassVar[str] = "PRA"

    def __call__(self, draws: LabelledDraws) -> Array:
        parameters = draws.need("parameters", self)
        table = parameters / self.scale(parameters)
        if self.scale is not raw_units:
            table = table - table.mean((0, 1))
        return assign(-(table[_pivot_of(self.pivot, draws)] @ table.transpose(0, 2, 1)))


@dataclass(frozen=True, eq=False)
class ECR:
    r"""Equivalence classes representatives: rows keep the labels that they have in the pivot.

    :math:`cost_t[k, j] = -\sum_i [z^*_i = k] [z_{ti} = j]`: the fewest rows change their label. With
    `match=label_probabilities` the expectation of that cost is taken, and :math:`z^*` is the most
    probable label. The pivot may also be given as the labels :math:`z^*` of the rows, (N,): those of a
    MAP fit, or of a point partition.

    Source: Papastamoulis and Iliopoulos (2010), J. Comput. Graph. Statist. 19(2), 313-331.
    """

    pivot: int | Callable[[LabelledDraws], int] | Array = best_draw
    match: Callable[[LabelledDraws], Array] = drawn_labels
    name: ClassVar[str] = "ECR"

    def __call__(self, draws: LabelledDraws) -> Array:
        table, size = self.match(draws), draws.shape[1]
        return assign(-inner_products(np.eye(size)[self._labels(table, draws)], table))

    def _labels(self, table: Array, draws: LabelledDraws) -> Array:
        """The labels of the rows in the pivot."""
        if not isinstance(self.pivot, np.ndarray):
            found = table[_pivot_of(self.pivot, draws)]
            return found if found.ndim == 1 else found.argmax(-1)
        labels, size = self.pivot, draws.shape[1]
        if labels.shape != table.shape[1:2] or not 0 <= labels.min() <= labels.max() < size:
            raise ProgramError(
                f"a pivot of labels has one for each of the {table.shape[1]} rows, positions from 0 to "
                f"{size - 1}; this one has shape {labels.shape}"
            )
        return labels


@dataclass(frozen=True)
class Pivot:
    """What `relabel` does by itself: ECR on probabilities, else on drawn labels, else PRA.

    >>> p = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.9, 0.1]]])
    >>> Pivot(pivot=0)(LabelledDraws(probabilities=p)).tolist()
    [[0, 1], [1, 0]]
    """

    pivot: int | Callable[[LabelledDraws], int] = best_draw
    name: ClassVar[str] = "pivot"

    def __call__(self, draws: LabelledDraws) -> Array:
        if draws.probabilities is not None:
            return ECR(self.pivot, label_probabilities)(draws)
        return (PRA if draws.allocations is None else ECR)(self.pivot)(draws)
