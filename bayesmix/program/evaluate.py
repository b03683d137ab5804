"""One pass through a program with its latent enumerated: every factor of the log joint.

The latent takes all K values of its support at once, in a dimension of its own left of the plates, so
that each site that depends on it comes out with K rows. No funsor is involved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from numpyro.distributions.distribution import validation_enabled
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ..families.augmented import RowFamily, Statistic, lookup_rows
from ..families.likelihoods import Family, lookup
from ..families.peel import Peeled, peel
from .arguments import Arguments
from .errors import ProgramError
from .reading import Collapse, Program, Reading

Values = dict[str, Array]


class RowDependent(Exception):
    """A component parameter that differs from row to row, so that no K statistics suffice."""


class RowFactor(NamedTuple):
    """A factor of a row family: log densities (K, N), its parameters (arrays (K, N)), values (N,) and
    where they are there (N,)."""

    log_prob: Array
    parameters: Any
    value: Array
    present: Array


class Evaluation(NamedTuple):
    """Factors of the log joint at given parameter values.

    `prior`: log density of each site outside the rows, a scalar; `latent`: log p(z = k), (K,) or (K, N);
    `components`: for each observed site its family's parameters (K, ...), a row family's factor, or a
    table of log densities (K, N);
    `deterministic`: values of deterministic sites outside the plate of rows.
    """

    prior: dict[str, Array]
    latent: Array
    components: dict[str, Any]
    deterministic: dict[str, Array]


class _Enumerate(Messenger):
    """Give the latent its whole support, and deterministic sites the values they are told."""

    def __init__(self, fn: Any, latent: str | None, depth: int, fixed: Values) -> None:
        self.latent, self.depth, self.fixed = latent, depth, fixed
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self.latent:
            support = msg["fn"].enumerate_support(expand=False)
            msg["value"] = jnp.reshape(support, (-1,) + (1,) * self.depth)
        elif msg["type"] == "deterministic" and msg["name"] in self.fixed:
            msg["value"] = self.fixed[msg["name"]]
        elif isinstance(msg["value"], np.ndarray):
            # a latent that is being traced cannot index an array of NumPy's
            msg["value"] = jnp.asarray(msg["value"])


def enumerated_trace(
    program: Program, reading: Reading, arguments: Arguments, values: Values
) -> dict[str, Any]:
    """Trace with parameters substituted and the latent enumerated left of all plates."""
    args, kwargs = arguments.call()
    # a latent that is integrated out is looked at where its rule says
    hidden = {c.local: jnp.full(c.shape, c.rule.points[0]) for c in reading.collapsed}
    values = {**hidden, **values}
    inner = seed(substitute(program, data=values), random.key(0))
    latent = reading.latent.name if reading.latent else None
    run = _Enumerate(inner, latent, reading.plate_depth, values)
    sites = trace(run).get_trace(*args, **kwargs)
    for found in reading.collapsed:
        sites[found.observed] = _integrated(sites, found)
        del sites[found.local]
    return sites


def _integrated(sites: dict[str, Any], found: Collapse) -> dict[str, Any]:
    """The observed site with its distribution integrated over the hidden value."""
    site = sites[found.observed]
    peeled = peel(site["fn"])
    local = peel(sites[found.local]["fn"]).base
    marginal = found.rule.marginal(local, found.rule.read(peeled.base), peeled.reinterpreted)
    if marginal is None:
        raise ProgramError(
            f"site '{found.local}' cannot be integrated out of '{found.observed}', whose entries are "
            "several to a row; use a multivariate distribution there"
        )
    layers = site["fn"]
    while not isinstance(layers, dist.MaskedDistribution) and hasattr(layers, "base_dist"):
        layers = layers.base_dist
    masked = isinstance(layers, dist.MaskedDistribution)
    return {**site, "fn": marginal.mask(layers._mask) if masked else marginal}


def _lead(reading: Reading, inner: tuple[int, ...]) -> Callable[[Array, int], Array]:
    """A function bringing an array of component parameters to (K, *event).

    `inner` are the dimensions of plates inside a row: they count as the first axes of the event.
    """

    def lead(array: Array, event_ndim: int) -> Array:
        own = event_ndim - len(inner)
        shape = (1,) * (own - jnp.ndim(array)) + jnp.shape(array)
        split = len(shape) - own
        batch, event = shape[:split], shape[split:]
        width = reading.plate_depth + 1
        if len(batch) > width:
            raise RowDependent
        batch = (1,) * (width - len(batch)) + batch
        kept = [width + dim for dim in inner]
        if any(size != 1 for axis, size in enumerate(batch) if axis and axis not in kept):
            raise RowDependent
        flat = jnp.reshape(array, (batch[0], *(batch[axis] for axis in kept), *event))
        return jnp.broadcast_to(flat, (reading.num_components, *flat.shape[1:]))

    return lead


def _inner_plates(site: dict[str, Any], reading: Reading) -> dict[int, int]:
    """Dimension and size of the plates of a site inside a row, left to right."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.name != reading.rows.name]
    return dict(sorted((frame.dim, frame.size) for frame in frames))


def _peeled(site: dict[str, Any], reading: Reading) -> tuple[Peeled, Callable[..., Array]]:
    """The distribution with plates inside a row counted as axes of its event, and its `lead`."""
    inner = _inner_plates(site, reading)
    peeled = peel(site["fn"])
    peeled = peeled._replace(
        reinterpreted=peeled.reinterpreted + len(inner),
        event_shape=(*inner.values(), *peeled.event_shape),
    )
    return peeled, _lead(reading, tuple(inner))


def _table(array: Array, reading: Reading, shape: tuple[int, ...] | None = None) -> Array:
    """A factor's log densities as (K, N), summed over plates other than the rows."""
    width = reading.plate_depth + 1
    batch = (1,) * (width - jnp.ndim(array)) + jnp.shape(array)
    table = jnp.reshape(array, batch)
    row_axis = width + reading.rows.dim
    others = tuple(axis for axis in range(1, width) if axis != row_axis)
    table = jnp.sum(table, axis=others)
    return jnp.broadcast_to(table, shape or (reading.num_components, table.shape[1]))


def log_prob_present(fn: Any, value: Array) -> Array:
    """log p(value), with missing cells (NaN) integrated out of independent entries."""
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.where(fn._mask, log_prob_present(fn.base_dist, value), 0.0)
    if isinstance(fn, dist.Independent):
        count = fn.reinterpreted_batch_ndims
        entries = log_prob_present(fn.base_dist, value)
        return jnp.sum(entries, axis=tuple(range(-count, 0)))
    if isinstance(fn, dist.ExpandedDistribution):
        return log_prob_present(fn.base_dist, value)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return fn.log_prob(value)
    missing = jnp.isnan(value)
    log_prob = fn.log_prob(jnp.where(missing, fn.support.feasible_like(value), value))
    events = tuple(range(-fn.event_dim, 0))
    return jnp.where(jnp.any(missing, axis=events) if events else missing, 0.0, log_prob)


def row_family_of(site: dict[str, Any], reading: Reading) -> RowFamily | None:
    """The row family that could stand for a site of one number per row, or None."""
    if _inner_plates(site, reading) or site["fn"].event_shape:
        return None
    layers, fn = 0, site["fn"]
    while isinstance(fn, dist.MaskedDistribution):
        layers, fn = layers + 1, fn.base_dist
    return None if layers else lookup_rows(peel(fn).base)


def family_of(site: dict[str, Any], reading: Reading) -> Family | None:
    """The family whose K statistics stand for this site's rows; None where the rows themselves must."""
    peeled, lead = _peeled(site, reading)
    family = lookup(peeled)
    if family is None:
        return None
    try:
        family.parameters(peeled, lead)
    except RowDependent:
        return None
    return family


def evaluate(
    program: Program,
    reading: Reading,
    families: dict[str, Statistic],
    arguments: Arguments,
    values: Values,
) -> Evaluation:
    """Evaluate every factor of the log joint at `values`; pure, to be called under jit.

    `families` says for each observed site which family its statistics belong to (None: the rows).
    """
    # supports are checked once, on the data: inside every density the checks cost more than the density
    with validation_enabled(False):
        return _evaluate(program, reading, families, arguments, values)


def _evaluate(
    program: Program,
    reading: Reading,
    families: dict[str, Statistic],
    arguments: Arguments,
    values: Values,
) -> Evaluation:
    sites = enumerated_trace(program, reading, arguments, values)
    observed = {site.name for site in reading.observed}
    shapes = {site.name: site.shape for site in reading.deterministic}
    prior, components, deterministic = {}, {}, {}
    latent = None if reading.latent else jnp.zeros(1)
    for name, site in sites.items():
        if site["type"] == "deterministic":
            # one that depends on the latent comes out with K copies: it belongs to rows, not here
            if _outside(site, reading) and jnp.shape(site["value"]) == shapes.get(name):
                deterministic[name] = site["value"]
        elif site["type"] == "param":
            prior[name] = jnp.zeros(())
        elif site["type"] != "sample":
            continue
        elif reading.latent and name == reading.latent.name:
            latent = _latent_table(site, reading)
        elif name in observed:
            components[name] = _component(site, families[name], reading)
        else:
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            prior[name] = jnp.sum(scale * log_prob)
    if latent is None and reading.latent:
        raise ProgramError(
            f"latent '{reading.latent.name}' was not reached; sample it in every call"
        )
    return Evaluation(prior, latent, components, deterministic)


def _component(site: dict[str, Any], family: Statistic, reading: Reading) -> Any:
    if isinstance(family, Family):
        return family.parameters(*_peeled(site, reading))
    table = _table(log_prob_present(site["fn"], site["value"]), reading)
    if family is None:
        return table
    value = jnp.ravel(site["value"]).astype(table.dtype)
    missing = jnp.isnan(value)
    parameters = jax.tree.map(
        lambda array: _table(array, reading, table.shape), family.parameters(peel(site["fn"]).base)
    )
    return RowFactor(table, parameters, jnp.where(missing, 0.0, value), ~missing)


def _outside(site: dict[str, Any], reading: Reading) -> bool:
    return all(frame.name != reading.rows.name for frame in site.get("cond_indep_stack", ()))


def _latent_table(site: dict[str, Any], reading: Reading) -> Array:
    base = peel(site["fn"]).base
    log_prob = base.log_prob(site["value"])
    batch = jnp.shape(log_prob)
    width = reading.plate_depth + 1
    batch = (1,) * (width - len(batch)) + batch
    if all(size == 1 for size in batch[1:]):
        flat = jnp.reshape(log_prob, (batch[0],))
        return jnp.broadcast_to(flat, (reading.num_components,))
    return _table(site["fn"].log_prob(site["value"]), reading)
