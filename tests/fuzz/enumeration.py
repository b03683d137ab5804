"""The density of a NumPyro program by enumeration, on a road of its own: nothing of bayesmix is used.

Every labelling of all rows is substituted into the program as it stands, and NumPyro's own
`log_density` is summed over them. What the rows have to do with each other makes no difference here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import validation_enabled
from numpyro.infer.util import log_density

Values = dict[str, Any]
_MOST_LABELLINGS = 1500


class Latent(NamedTuple):
    """A finite site that nobody observed: its shape, and the values of an entry."""

    shape: tuple[int, ...]
    support: np.ndarray


class Look(NamedTuple):
    """The density at some values; its gradient in unconstrained coordinates, by site; and log p(data,
    labels, values) of every labelling, rows counted once."""

    height: float
    slopes: dict[str, np.ndarray]
    log_joints: np.ndarray


class Enumeration:
    """A program, its arguments, and every labelling of its rows.

    Args:
        program: a NumPyro program that runs as it is: NaN would count as a value.
        args, kwargs: its arguments.
        known: for some latents, labels by cell of which those that are not NaN are kept.
        weight: how often every row counts, log p(x_i) and not log p(x_i, z_i) times so much; the program
            then has an argument `weight` that scales its rows, which are independent.

    Attributes:
        latents: the sites that are summed out.
        supports: the supports of all others, the parameters; None where a support depends on another.
        masked: is some latent masked? NumPyro counts it once for each of its values then.
        labellings: by latent, all values of all cells jointly, (M, *shape).
    """

    def __init__(
        self,
        program: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        known: dict[str, np.ndarray] | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        self.program, self.args, self.kwargs = program, args, kwargs or {}
        self.weight = weight
        self.latents: dict[str, Latent] = {}
        self.supports: dict[str, Any] = {}
        self.masked = False
        try:
            jax.eval_shape(self._look)  # nothing is computed
        except jax.errors.TracerArrayConversionError:  # a label indexes an array of NumPy's
            self._look()
        self.labellings = _labellings(self.latents, known or {})
        # a row of weight zero still counts its labels
        self._free = sum(
            _log_count(latent, (known or {}).get(n)) for n, latent in self.latents.items()
        )

    def _look(self) -> None:
        with validation_enabled(False):
            sites = self.trace(jax.random.key(0))
        for name, site in sites.items():
            if site["type"] != "sample" or site["is_observed"] or isinstance(site["fn"], dist.Unit):
                continue
            if site["fn"].is_discrete:
                with jax.ensure_compile_time_eval():
                    support = _support_of(site["fn"])
                self.latents[name] = Latent(np.shape(site["value"]), support)
                self.masked |= isinstance(site["fn"], dist.MaskedDistribution)
            else:
                support = site["fn"].support
                moves = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(support))
                self.supports[name] = None if moves else support

    def trace(self, key: Array) -> dict[str, Any]:
        """The program's sites, with values drawn from its priors."""
        run = handlers.trace(handlers.seed(self.program, key))
        ones = {} if self.weight is None else {"weight": jnp.ones(len(self.weight))}
        return run.get_trace(*self.args, **{**self.kwargs, **ones})

    @cached_property
    def draw(self) -> Callable[[int], Values]:
        """A function of a seed: values of the parameters, drawn from their priors."""

        def drawn(seed: int) -> Values:
            with validation_enabled(False):
                sites = self.trace(jax.random.key(seed))
            return {name: sites[name]["value"] for name in self.supports}

        try:
            jax.eval_shape(drawn, 0)
        except jax.errors.TracerArrayConversionError:
            return drawn
        return jax.jit(drawn)

    def log_joint(self, values: Values, labels: Values, weight: Any = 1.0) -> Array:
        """log p(data, labels, values): NumPyro's own, rows counted by `weight`."""
        weighted = {} if self.weight is None else {"weight": weight * jnp.ones(len(self.weight))}
        with validation_enabled(False):
            kwargs = {**self.kwargs, **weighted}
            value, sites = log_density(self.program, self.args, kwargs, {**values, **labels})
            inside = [_is_inside(site) for site in sites.values() if site["type"] == "sample"]
            return jnp.where(jnp.all(jnp.stack(inside)), value, -jnp.inf)

    def log_joints(self, values: Values, weight: Any = 1.0) -> Array:
        """That of every labelling, (M,)."""
        if not self.latents:
            return jnp.reshape(self.log_joint(values, {}, weight), (1,))
        try:
            return jax.vmap(lambda labels: self.log_joint(values, labels, weight))(self.labellings)
        except jax.errors.JAXTypeError:  # the program indexes an array of NumPy's
            count = len(next(iter(self.labellings.values())))
            one = [{n: z[i] for n, z in self.labellings.items()} for i in range(count)]
            return jnp.stack([self.log_joint(values, labels, weight) for labels in one])

    def log_marginal(self, values: Values) -> Array:
        """log p(data, values) with the labels summed out."""
        if self.weight is None:
            return logsumexp(self.log_joints(values))
        one = jnp.concatenate([jnp.zeros((1, len(self.weight))), jnp.eye(len(self.weight))])
        none, *rows = jax.vmap(lambda w: logsumexp(self.log_joints(values, w)))(one)
        rows = jnp.stack(rows) - none + self._free  # log p(x_i)
        return none - jnp.sum(self._free) + jnp.sum(self.weight * rows)

    @cached_property
    def look(self) -> Callable[[Values], Look]:
        """A compiled function of values: all that the engines are held against."""

        @jax.jit
        def looked(free: Values) -> tuple[Any, Values, Array]:
            def height(free: Values) -> tuple[Array, Array]:
                values = self.constrained(free)
                return self.log_marginal(values), self.log_joints(values)

            (value, joints), slopes = jax.value_and_grad(height, has_aux=True)(free)
            return value, slopes, joints

        def found(values: Values) -> Look:
            value, slopes, joints = looked(self.unconstrained(values))
            return Look(float(value), jax.tree.map(np.asarray, slopes), np.asarray(joints))

        return found

    def constrained(self, free: Values) -> Values:
        """Values from unconstrained coordinates; those of a support that moves stay as they are."""
        maps = self.supports
        return {n: biject_to(maps[n])(v) if maps.get(n) else v for n, v in free.items()}

    def unconstrained(self, values: Values) -> Values:
        """The inverse of :meth:`constrained`."""
        maps = self.supports
        return {
            n: biject_to(maps[n]).inv(jnp.asarray(v)) if maps.get(n) else jnp.asarray(v)
            for n, v in values.items()
        }

    def posterior(self, look: Look) -> dict[str, np.ndarray]:
        """p(z = k | data, values) of every cell of every latent, (*shape, K)."""
        share = np.exp(look.log_joints - np.logaddexp.reduce(look.log_joints))
        found = {}
        for name, latent in self.latents.items():
            hits = self.labellings[name][..., None] == latent.support
            found[name] = np.clip(np.tensordot(share, hits.astype(float), 1), 0.0, 1.0)
        return found


def _is_inside(site: dict[str, Any]) -> Array:
    """Is an observed value in its support? Not every log density of NumPyro's is -inf elsewhere."""
    fn = site["fn"]
    factor = isinstance(getattr(fn, "base_dist", fn), dist.Unit)
    if factor or not site["is_observed"]:
        return jnp.asarray(True)
    inside = fn.support(jnp.asarray(site["value"]))
    while hasattr(fn, "base_dist"):
        if isinstance(fn, dist.MaskedDistribution):
            mask = jnp.asarray(fn._mask)
            inside = inside | ~mask if fn.event_dim == site["fn"].event_dim else True
        fn = fn.base_dist
    return jnp.all(inside)


def _support_of(fn: Any) -> np.ndarray:
    while isinstance(fn, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        fn = fn.base_dist
    return np.ravel(fn.enumerate_support(False))


def _log_count(latent: Latent, known: np.ndarray | None) -> np.ndarray:
    """The log of the number of labels that are possible in every row, (N,)."""
    free = (
        np.ones(latent.shape) if known is None else np.isnan(np.broadcast_to(known, latent.shape))
    )
    return np.log(len(latent.support)) * free.reshape(*latent.shape[:1], -1).sum(-1)


def _labellings(latents: dict[str, Latent], known: Values) -> dict[str, np.ndarray]:
    choices, ends = [], [0]
    for name, latent in latents.items():
        told = np.broadcast_to(known.get(name, np.nan), latent.shape)
        choices += [latent.support if np.isnan(label) else [label] for label in told.ravel()]
        ends.append(len(choices))
    count = np.prod([float(len(choice)) for choice in choices])
    if count > _MOST_LABELLINGS:
        raise ValueError(f"{count:g} labellings are too many to enumerate")
    table = np.array(list(itertools.product(*choices)))
    return {
        name: table[:, start:end].reshape(-1, *latent.shape).astype(int)
        for (name, latent), start, end in zip(latents.items(), ends[:-1], ends[1:], strict=True)
    }
