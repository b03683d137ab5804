"""One pass through a program with its latent enumerated: every factor of the log joint.

A latent takes all values of its support at once, in a dimension left of the plates, so that each site
that depends on it comes out with K rows. Latents that meet in no factor may share a dimension. No funsor
is involved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from numpyro.handlers import seed, substitute
from numpyro.primitives import Messenger

from ..families.augmented import RowFamily, Statistic, lookup_rows
from ..families.likelihoods import Family, lookup
from ..families.masked import masked
from ..families.peel import Peeled, peel
from .arguments import Arguments
from .errors import ProgramError
from .observed import mask_layers
from .sites import Collapse, Latent, Program, Reading
from .tracing import sites_of, unchecked

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

    `prior`: log density of each site outside the rows, a scalar; `latent`: for each latent the log
    probability of its values and its parents' jointly, (K,) or (K, N); `components`: for each observed
    site its family's parameters (K, ...), a row family's factor, or a table of log densities (K, N).
    K counts the joint values of the latents that the site depends on, in the order of its clique;
    `deterministic`: values of deterministic sites outside the plate of rows.
    """

    prior: dict[str, Array]
    latent: dict[str, Array]
    components: dict[str, Any]
    deterministic: dict[str, Array]

    @property
    def log_prior(self) -> Array:
        """log p(theta), in the constrained space (no Jacobian)."""
        return sum(self.prior.values(), jnp.zeros(()))


class _Enumerate(Messenger):
    """Give every latent its whole support, and deterministic sites the values they are told."""

    def __init__(self, fn: Any, latents: tuple[Latent, ...], fixed: Values) -> None:
        self.dims, self.fixed = {latent.name: latent.dim for latent in latents}, fixed
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.dims:
            support = msg["fn"].enumerate_support(expand=False)
            right = (1,) * (-self.dims[msg["name"]] - 1)
            msg["value"] = jnp.reshape(support, (-1, *right))
        elif msg["type"] == "deterministic" and msg["name"] in self.fixed:
            msg["value"] = self.fixed[msg["name"]]
        elif isinstance(msg["value"], np.ndarray):
            # a latent that is being traced cannot index an array of NumPy's
            msg["value"] = jnp.asarray(msg["value"])


def enumerated_trace(
    program: Program, reading: Reading, arguments: Arguments, values: Values
) -> dict[str, Any]:
    """Trace with parameters substituted and every latent enumerated, left of all plates."""
    args, kwargs = arguments.on_device().call()
    # a latent that is integrated out is looked at where its rule says
    hidden = {c.local: jnp.full(c.shape, c.rule.points[0]) for c in reading.collapsed}
    values = {**hidden, **values}
    inner = seed(substitute(program, data=values), random.key(0))
    run = _Enumerate(inner, reading.latents, values)
    sites = sites_of(run, args, kwargs)
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


def joint_first(array: Array, reading: Reading, factor: str, own: int = 0) -> Array:
    """An array with a batch (..., latents' dimensions, plates) and `own` further axes as
    (K, plates..., own axes...): the joint values of the latents that the factor depends on, in order.

    Axes of latents whose values make no difference may have size 1; they are not expanded where all do.
    """
    graph, width = reading.graph, reading.width
    event = array.shape[array.ndim - own :]
    batch = array.shape[: array.ndim - own]
    if len(batch) > width:
        raise RowDependent
    array = jnp.reshape(array, (1,) * (width - len(batch)) + array.shape)
    scope = graph.scope(factor)
    axes = [width + reading.latents[i].dim for i in scope]
    plates = array.shape[width - reading.plate_depth : width]
    sizes = [array.shape[axis] for axis in axes]
    if math.prod(array.shape[: width - reading.plate_depth]) != math.prod(sizes):
        raise ProgramError(
            f"site '{factor}' does not depend on the latents in the way that its density seems to "
            f"({', '.join(graph.names[i] for i in scope) or 'none'}); index tables with latents along "
            "leading axes (theta[z, w])"
        )
    array = jnp.moveaxis(array, axes, range(len(axes)))
    array = jnp.reshape(array, (*sizes, *plates, *event))
    full = tuple(graph.sizes[i] for i in scope)
    array = jnp.broadcast_to(array, (*full, *plates, *event))
    return jnp.reshape(array, (math.prod(full), *plates, *event))


def _lead(reading: Reading, factor: str, inner: tuple[int, ...]) -> Callable[[Array, int], Array]:
    """A function bringing an array of component parameters to (K, *event).

    `inner` are the dimensions of plates inside a row: they count as the first axes of the event.
    """

    def lead(array: Array, event_ndim: int) -> Array:
        array = jnp.asarray(
            array, jnp.result_type(array, float)
        )  # a scale of 1 is a number as well
        own = event_ndim - len(inner)
        array = jnp.reshape(array, (1,) * (own - jnp.ndim(array)) + jnp.shape(array))
        found = joint_first(array, reading, factor, own)
        depth = reading.plate_depth
        kept = [1 + depth + dim for dim in inner]
        others = [axis for axis in range(1, depth + 1) if axis not in kept]
        if any(found.shape[axis] != 1 for axis in others):
            raise RowDependent
        return jnp.squeeze(found, tuple(others))

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
        mask=_label_mask(site, reading),
    )
    return peeled, _lead(reading, site["name"], tuple(inner))


def _label_mask(site: dict[str, Any], reading: Reading) -> Array | None:
    """Under which components the rows of a site count, (K,); None where no label has a say.

    Raises :class:`RowDependent` where that differs from row to row.
    """
    flags = next(s.masks for s in reading.observed if s.name == site["name"])
    mask = None
    for layer, hidden in zip(mask_layers(site["fn"]), flags, strict=False):
        if hidden and len(layer.batch_shape) > len(site["fn"].batch_shape):
            raise RowDependent  # some entries of a vector
        if hidden:
            own = joint_first(layer._mask, reading, site["name"])
            if math.prod(own.shape[1:]) != 1:
                raise RowDependent
            own = jnp.reshape(own, (-1,))
            mask = own if mask is None else mask & own
    return mask


def _table(array: Array, reading: Reading, factor: str, rows: int) -> Array:
    """A factor's log densities as (K, N), summed over plates other than the rows."""
    joint = joint_first(array, reading, factor)
    row_axis = joint.ndim + reading.rows.dim
    others = tuple(axis for axis in range(1, joint.ndim) if axis != row_axis)
    table = jnp.sum(joint, axis=others)
    return jnp.broadcast_to(table, (table.shape[0], rows))


def log_prob_present(fn: Any, value: Array, bounded: bool = False) -> Array:
    """log p(value), with missing cells (NaN) integrated out of independent entries.

    Where `bounded`, the support is part of the density, which is zero outside it; NumPyro's uniform, for
    one, says nothing of that.
    """
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.where(fn._mask, log_prob_present(fn.base_dist, value, bounded), 0.0)
    if isinstance(fn, dist.Independent):
        count = fn.reinterpreted_batch_ndims
        entries = log_prob_present(fn.base_dist, value, bounded)
        return jnp.sum(entries, axis=tuple(range(-count, 0)))
    if isinstance(fn, dist.ExpandedDistribution):
        log_prob = log_prob_present(fn.base_dist, value, bounded)
        return jnp.broadcast_to(log_prob, jnp.broadcast_shapes(log_prob.shape, fn.batch_shape))
    if isinstance(fn, dist.Unit):
        return _impossible(jnp.asarray(fn.log_factor, float))
    events = tuple(range(-fn.event_dim, 0))

    def by_cell(flags: Array) -> Array:
        return jnp.any(flags, axis=events) if events else flags

    missing = jnp.isnan(value) if jnp.issubdtype(jnp.result_type(value), jnp.floating) else None
    inside = fn.support(value) if bounded else None
    if inside is not None:
        # what is impossible has no derivative: it is looked at elsewhere
        event = jnp.shape(value)[jnp.ndim(value) - fn.event_dim :]
        value = jnp.broadcast_to(
            value, (*jnp.broadcast_shapes(inside.shape, fn.batch_shape), *event)
        )
        kept = inside.reshape(*inside.shape, *(1,) * fn.event_dim)
        value = jnp.where(kept, value, fn.support.feasible_like(value))
    elif missing is not None:
        value = jnp.where(missing, fn.support.feasible_like(value), value)
    if fn.is_discrete and missing is not None and fn.has_enumerate_support:
        value = value.astype(int)  # categories with gaps come as floating-point numbers
    log_prob = _impossible(fn.log_prob(value))
    if inside is not None:
        log_prob = jnp.where(inside, log_prob, -jnp.inf)
    return log_prob if missing is None else jnp.where(by_cell(missing), 0.0, log_prob)


def _impossible(log_prob: Array) -> Array:
    """Log densities with minus infinity for the most negative number, which some distributions give."""
    lowest = 0.5 * jnp.finfo(log_prob.dtype).min
    return jnp.where(log_prob <= lowest, -jnp.inf, log_prob)


def row_family_of(site: dict[str, Any], reading: Reading) -> RowFamily | None:
    """The row family that could stand for a site of one number per row, or None."""
    if next(s.bounded for s in reading.observed if s.name == site["name"]):
        return None
    if _inner_plates(site, reading) or site["fn"].event_shape:
        return None
    layers, fn = 0, site["fn"]
    while isinstance(fn, dist.MaskedDistribution):
        layers, fn = layers + 1, fn.base_dist
    return None if layers else lookup_rows(peel(fn).base)


def family_of(site: dict[str, Any], reading: Reading) -> Family | None:
    """The family whose K statistics stand for this site's rows; None where the rows themselves must."""
    if any(s.bounded for s in reading.observed if s.name == site["name"]):
        return None  # rows outside the support are impossible one by one
    try:
        peeled, lead = _peeled(site, reading)
        family = lookup(peeled)
        if family is None:
            return None
        family.parameters(peeled, lead)
    except RowDependent:
        return None
    return family if peeled.mask is None else masked(family)


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
    with unchecked():
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
    sizes = {latent.name: latent.size for latent in reading.latents}
    names = set(sizes)
    latent: dict[str, Array] = {}
    for name, site in sites.items():
        if site["type"] == "deterministic":
            # one that depends on the latent comes out with K copies: it belongs to rows, not here
            if _outside(site, reading) and jnp.shape(site["value"]) == shapes.get(name):
                deterministic[name] = site["value"]
        elif site["type"] == "param":
            prior[name] = jnp.zeros(())
        elif site["type"] != "sample":
            continue
        elif name in names:
            latent[name] = _latent_table(site, reading, sizes[name])
        elif name in observed:
            components[name] = _component(site, families[name], reading)
        else:
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            prior[name] = jnp.sum(scale * log_prob)
    for name in names - set(latent):
        raise ProgramError(f"latent '{name}' was not reached; sample it in every call")
    return Evaluation(prior, latent, components, deterministic)


def _component(site: dict[str, Any], family: Statistic, reading: Reading) -> Any:
    if isinstance(family, Family):
        return family.parameters(*_peeled(site, reading))
    name = site["name"]
    bounded = next(s.bounded for s in reading.observed if s.name == name)
    log_prob = log_prob_present(site["fn"], site["value"], bounded)
    table = _table(log_prob, reading, name, _num_rows(site, reading))
    if family is None:
        return table
    value = jnp.ravel(site["value"]).astype(table.dtype)
    missing = jnp.isnan(value)
    parameters = jax.tree.map(
        lambda array: _table(array, reading, name, table.shape[1]),
        family.parameters(peel(site["fn"]).base),
    )
    return RowFactor(table, parameters, jnp.where(missing, 0.0, value), ~missing)


def _outside(site: dict[str, Any], reading: Reading) -> bool:
    return all(frame.name != reading.rows.name for frame in site.get("cond_indep_stack", ()))


def _latent_table(site: dict[str, Any], reading: Reading, size: int) -> Array:
    """log p(z | parents) of all joint values, (K,), or (K, N) where it depends on the row."""
    name = site["name"]
    fn = peel(site["fn"]).base
    log_prob = _log_prob_of_label(fn, site["value"])
    for layer in mask_layers(site["fn"]):
        # what is not there takes any value, so that it says nothing
        log_prob = jnp.where(layer._mask, log_prob, -jnp.log(float(size)))
    joint = joint_first(log_prob, reading, name)
    if math.prod(joint.shape[1:]) == 1:
        return jnp.reshape(joint, (-1,))
    return _table(log_prob, reading, name, _num_rows(site, reading))


def _num_rows(site: dict[str, Any], reading: Reading) -> int:
    """The rows of a call, which may be others than those of the reading."""
    return next(f.size for f in site["cond_indep_stack"] if f.name == reading.rows.name)


def _log_prob_of_label(fn: Any, value: Array) -> Array:
    """log p(z = value), whose derivative where a probability is zero is zero."""
    if isinstance(fn, dist.CategoricalProbs):
        there = fn.probs > 0
        logs = jnp.where(there, jnp.log(jnp.where(there, fn.probs, 1.0)), -jnp.inf)
        value = jnp.expand_dims(value, -1)
        shape = jnp.broadcast_shapes(value.shape[:-1], logs.shape[:-1])
        logs = jnp.broadcast_to(logs, (*shape, logs.shape[-1]))
        value = jnp.broadcast_to(value, (*shape, 1))
        return jnp.take_along_axis(logs, value, axis=-1)[..., 0]
    return _impossible(fn.log_prob(value))
