"""What an observed site will be, given the rest of its row: means, modes, densities and quantiles.

With w_ik = p(z_i = k | all cells of row i but those of y), which for a mixture of experts is the gate,

    p(y_i | rest) = sum_k w_ik p_k(y_i | rest).

The functions are pure and to be jitted; their users are methods of :class:`Prediction`, which a fit has.

Source: Bishop (1994), *Mixture Density Networks*, report NCRG/94/004, Aston University.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..families.peel import peel
from ..program.errors import ProgramError
from ..program.evaluate import Values, joint_first
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.reading import Reading, Site
from . import predict
from .answer import Answer
from .cells import distribution_function
from .draws import log_mean_over_draws, num_draws, over_draws
from .moments import component_means

_DOUBLINGS, _HALVINGS = 60, 70


def _site(plan: Plan, name: str) -> Site:
    return next(site for site in plan.reading.observed if site.name == name)


def cells_by_component(array: Array, site: Site, reading: Reading) -> Array:
    """An array of a site's shape, left of it the latents' dimensions, as (K, N, D)."""
    depth = reading.plate_depth
    batch = len(site.shape) - site.event_ndim
    joint = joint_first(jnp.asarray(array), reading, site.name, site.event_ndim)
    shape = (joint.shape[0], *(1,) * (depth - batch), *site.shape)
    full = jnp.moveaxis(jnp.broadcast_to(joint, shape), 1 + depth + reading.rows.dim, 1)
    return full.reshape(*full.shape[:2], -1)


def as_site(cells: Array, site: Site, reading: Reading) -> Array:
    """Cells (N, D) in the shape that the site has in the program."""
    axis = len(site.shape) - site.event_ndim + reading.rows.dim
    others = (*site.shape[:axis], *site.shape[axis + 1 :])
    return jnp.moveaxis(cells.reshape(-1, *others), 0, axis)


@cache
def _weights_of(name: str) -> Callable[..., Array]:
    """Probabilities (N, K) of the joint values of the site's latents given the rest of each row."""

    def run(problem: Problem, values: Values, rest: predict.Rows) -> Array:
        shares = predict.posteriors(problem, values, rest)
        return shares[problem.plan.graph.clique_of[name]].T

    return run


@cache
def _experts_of(name: str) -> Callable[..., tuple[Array, Array]]:
    """Weights (N, K) given the rest of each row, and the site's means (K, N, D)."""

    def run(problem: Problem, values: Values, rest: predict.Rows) -> tuple[Array, Array]:
        weights = _weights_of(name)(problem, values, rest)
        means = component_means(problem, values)[name]
        if means.ndim == 2:
            means = means[:, None]
        return weights, jnp.broadcast_to(means, (len(means), len(weights), means.shape[-1]))

    return run


@cache
def _mean_of(name: str) -> Callable[..., Array]:
    """sum_k w_ik E_k[y_i], (N, D)."""

    def run(problem: Problem, values: Values, rest: predict.Rows) -> Array:
        return jnp.einsum("nk,knd->nd", *_experts_of(name)(problem, values, rest))

    return run


@cache
def log_density_of(name: str) -> Callable[..., Array]:
    """log p(y_i = grid_g | rest), (G, N): a function of the rest of each row and a grid (G, D)."""

    def run(problem: Problem, values: Values, rest: predict.Rows, grid: Array) -> Array:
        log_weights = jnp.log(_weights_of(name)(problem, values, rest))
        reading, site = problem.plan.reading, _site(problem.plan, name)
        traced = predict.sites_by_component(problem, values)[name]
        kind, whole = jnp.result_type(traced["value"]), of_call(site, traced)
        # a density has the site's shape but for the axes of one event
        dense = whole._replace(shape=whole.shape[: len(site.shape) - site.event_ndim], event_ndim=0)

        def one(point: Array) -> Array:
            cells = jnp.broadcast_to(point, (len(log_weights), len(point)))
            heights = traced["fn"].log_prob(as_site(cells, whole, reading).astype(kind))
            table = cells_by_component(heights, dense, reading).sum(axis=-1)
            return jax.nn.logsumexp(log_weights.T + table, axis=0)

        return jax.lax.map(one, grid)

    return run


def of_call(site: Site, traced: dict[str, Any]) -> Site:
    """The site with the shape that it has in this call."""
    return site._replace(shape=tuple(jnp.shape(traced["value"])))


@cache
def quantiles_of(name: str) -> Callable[..., Array]:
    """Where the distribution function of each cell reaches levels (L,): (L, N, D), by bisection.

    A function of draws, weights (S, N, K), levels, and values (D,) at either end of where to look first.
    The distribution function is the average over draws. For whole numbers it is the smallest value at
    which the level is reached.
    """

    def run(
        problem: Problem,
        draws: Values,
        weights: Array,
        levels: Array,
        ends: tuple[Array, Array],
    ) -> Array:
        reading, count = problem.plan.reading, num_draws(draws)
        first = jax.tree.map(lambda x: x[0], draws)
        whole = peel(predict.sites_by_component(problem, first)[name]["fn"]).base.is_discrete

        def below(y: Array) -> Array:
            """The distribution function at y (N, D)."""

            def at(drawn: tuple[Values, Array]) -> Array:
                traced = predict.sites_by_component(problem, drawn[0])[name]
                site, base = of_call(_site(problem.plan, name), traced), peel(traced["fn"]).base
                found = distribution_function(base, as_site(y, site, reading))
                return jnp.einsum("nk,knd->nd", drawn[1], cells_by_component(found, site, reading))

            def add(total: Array, drawn: tuple[Values, Array]) -> tuple[Array, None]:
                return total + at(drawn), None

            if count == 1:
                return at((first, weights[0]))
            return jax.lax.scan(add, jnp.zeros(y.shape), (draws, weights))[0] / count

        def one(level: Array) -> Array:
            cells = (weights.shape[1], ends[0].size)
            low, high = (jnp.broadcast_to(end, cells) for end in ends)
            return _root(below, level, low, high, whole=whole)

        return jax.lax.map(one, levels)

    return run


def _root(
    below: Callable[[Array], Array], level: Array, low: Array, high: Array, whole: bool
) -> Array:
    """The smallest y with below(y) >= level: ends moved apart until they hold it, then bisection."""

    def apart(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        width = high - low
        return (
            jnp.where(below(low) >= level, low - width, low),
            jnp.where(below(high) < level, high + width, high),
        )

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        middle = jnp.floor(middle) if whole else middle
        reached = below(middle) >= level
        return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    ends = jax.lax.fori_loop(0, _DOUBLINGS, apart, (low, high))
    return jax.lax.fori_loop(0, _HALVINGS, halve, ends)[1]


class Prediction(Answer):
    """What a fit says of an observed site given the rest of each row; see the module's text.

    Methods take the program's arguments, for rows other than those of the fit; the values of the site
    that is asked for are not looked at, and may be NaN. `of` names it, where there are several.

    Example:
        >>> import jax, numpy as np, numpyro, bayesmix
        >>> from bayesmix import datasets, zoo
        >>> oxide, richness = datasets.load("ethanol").values.T
        >>> fit = bayesmix.EM(zoo.linear_experts).run(jax.random.key(0), oxide[:, None], richness, K=2)
        >>> new, unknown = np.array([[1.0], [4.0]]), np.full(2, np.nan)
        >>> fit.predict_mean(new, unknown, K=2).round(2)
        array([0.95, 0.91])
        >>> fit.predict_mode(new, unknown, K=2).round(2)
        array([1.16, 0.91])
        >>> fit.predict_interval(new, unknown, K=2, mass=0.8).shape
        (2, 2)
        >>> fit.predict_log_density(new, unknown, K=2, grid=np.linspace(0.5, 1.5, 50)).shape
        (2, 50)
    """

    def predict_weights(self, *args: Any, of: str | None = None, **kwargs: Any) -> np.ndarray:
        """w_ik = p(z_i = k | all cells of row i but those of the site), (N, K): of experts, the gate.

        Where the site depends on several latents, k counts their joint values, the last one fastest.
        """
        name = self._asked(of)
        return self._given_rest(_weights_of(name), args, kwargs, name)

    def predict_mean(self, *args: Any, of: str | None = None, **kwargs: Any) -> np.ndarray:
        """E[y_i | rest] = sum_k w_ik E_k[y_i], (N, *event).

        Where the relation is many-to-one the other way round, this may be a value that no row can have.

        Raises:
            ProgramError: where NumPyro has no mean of the site's distribution.
        """
        name = self._asked(of)
        return self._shaped(self._given_rest(_mean_of(name), args, kwargs, name), name)

    def predict_mode(self, *args: Any, of: str | None = None, **kwargs: Any) -> np.ndarray:
        """The mean of the most probable component, E_k[y_i] at k = argmax_k w_ik, (N, *event).

        Raises:
            ProgramError: where NumPyro has no mean of the site's distribution.
        """
        name = self._asked(of)
        weights, means = self._given_rest(_experts_of(name), args, kwargs, name)
        best = np.argmax(weights, axis=1)
        return self._shaped(means[best, np.arange(len(best))], name)

    def predict_log_density(
        self, *args: Any, grid: Any, of: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """log p(y_i = grid_g | rest), (N, G), at values of the site (G, *event) that all rows share."""
        name = self._asked(of)
        problem, observed = self._rows(args, kwargs)
        grid = np.asarray(grid, float)
        size = int(np.prod(np.shape(observed.values[name])[1:], dtype=int))
        if grid.ndim == 0 or grid[0].size != size:
            raise ProgramError(
                f"the grid has shape {grid.shape}; give values of site '{name}' one after the other, "
                f"(G, {size})" + (" or (G,)" if size == 1 else "")
            )
        rest, grid = self._rest(problem, observed, name), grid.reshape(len(grid), -1)
        return log_mean_over_draws(log_density_of(name), problem, self.draws, rest, grid).T

    def predict_quantiles(
        self, *args: Any, levels: Any, of: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Where the distribution function of each cell given the rest reaches levels, (L, N, *event).

        The root of sum_k w_ik F_k(y) - level, by bisection; for whole numbers, the smallest value at
        which the level is reached.

        Raises:
            ProgramError: where NumPyro has no distribution function of the site, or a level is not
                between 0 and 1.
        """
        name = self._asked(of)
        levels = np.atleast_1d(np.asarray(levels, float))
        if not np.all((levels > 0) & (levels < 1)):
            raise ProgramError(
                f"the levels {levels} are not all between 0 and 1; give probabilities"
            )
        problem, observed = self._rows(args, kwargs)
        rest, ends = self._rest(problem, observed, name), self._ends(name)
        weights = over_draws(_weights_of(name), problem, self.draws, rest)
        given = (self.draws, weights, levels, ends)
        try:
            found = np.asarray(problem.run(quantiles_of(name), *given, fully=True))
        except NotImplementedError as error:
            raise ProgramError(
                f"the distribution function of site '{name}' ({_site(self.plan, name).family}) is not "
                "known to NumPyro; draw data with fit.sample and take their quantiles"
            ) from error
        return np.stack([self._shaped(each, name) for each in found])

    def predict_interval(
        self, *args: Any, mass: float = 0.9, of: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """The interval of each cell between the quantiles that leave out equal tails, (2, N, *event).

        Raises:
            ProgramError: as :meth:`predict_quantiles`.
        """
        tails = ((1 - mass) / 2, (1 + mass) / 2)
        return self.predict_quantiles(*args, levels=tails, of=of, **kwargs)

    # --------------------------------------------------------------------------------------- within
    def _asked(self, of: str | None) -> str:
        names = [site.name for site in self.plan.reading.observed]
        if of is None and len(names) == 1:
            return names[0]
        if of not in names:
            told = "say which to predict" if of is None else f"'{of}' is not one of them"
            listed = ", ".join(f"'{name}'" for name in names)
            raise ProgramError(f"the observed sites are {listed}; {told}, with of=")
        return of

    def _rest(self, problem: Problem, observed: Any, name: str) -> predict.Rows:
        """The rows without the site."""
        mask = np.ones(np.shape(observed.values[name])[1:], bool).reshape(-1)
        rest = predict.hide(problem, self._first, observed, {name: mask})
        return predict.arrange(self.plan, rest)

    def _given_rest(self, function: Any, args: Any, kwargs: Any, name: str) -> Any:
        """A function of the rows of a call without the site, averaged over draws."""
        problem, observed = self._rows(args, kwargs)
        return self._mean(function, problem, self._rest(problem, observed, name))

    def _shaped(self, cells: np.ndarray, name: str) -> np.ndarray:
        """Cells (N, D) as (N, *event)."""
        site, reading = _site(self.plan, name), self.plan.reading
        axis = len(site.shape) - site.event_ndim + reading.rows.dim
        return cells.reshape(-1, *site.shape[:axis], *site.shape[axis + 1 :])

    def _ends(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest values of each cell among the rows of the fit, (D,), and apart."""
        observed = self._rows((), {})[1]
        value, there = np.asarray(observed.values[name], float), observed.present[name]
        value = value if there is None else np.where(there, value, np.nan)
        value = value.reshape(len(value), -1)
        low, high = np.nanmin(value, axis=0), np.nanmax(value, axis=0)
        return np.floor(low - 1), np.ceil(high + 1)
