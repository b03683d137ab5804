"""One pass through a program with its latent enumerated: every factor of the log joint.

The latent takes all K values of its support at once, in a dimension of its own left of the plates, so
that each site that depends on it comes out with K rows. No funsor is involved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, random
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ..families.likelihoods import Family, lookup
from ..families.peel import peel
from .arguments import Arguments
from .errors import ProgramError
from .reading import Program, Reading

Values = dict[str, Array]


class RowDependent(Exception):
    """A component parameter that differs from row to row, so that no K statistics suffice."""


class Evaluation(NamedTuple):
    """Factors of the log joint at given parameter values.

    `prior`: log density of each global site, a scalar; `latent`: log p(z = k), (K,) or (K, N);
    `components`: for each observed site its family's parameters (K, ...), or its table (K, N);
    `deterministic`: values of deterministic sites outside the plate of rows.
    """

    prior: dict[str, Array]
    latent: Array
    components: dict[str, Any]
    deterministic: dict[str, Array]


class _Enumerate(Messenger):
    """Give the latent its whole support, and deterministic sites the values they are told."""

    def __init__(self, fn: Any, latent: str, depth: int, fixed: Values) -> None:
        self.latent, self.depth, self.fixed = latent, depth, fixed
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self.latent and msg["value"] is None:
            support = msg["fn"].enumerate_support(expand=False)
            msg["value"] = jnp.reshape(support, (-1,) + (1,) * self.depth)
        elif msg["type"] == "deterministic" and msg["name"] in self.fixed:
            msg["value"] = self.fixed[msg["name"]]


def enumerated_trace(
    program: Program, reading: Reading, arguments: Arguments, values: Values
) -> dict[str, Any]:
    """Trace with parameters substituted and the latent enumerated left of all plates."""
    args, kwargs = arguments.call()
    inner = seed(substitute(program, data=values), random.key(0))
    run = _Enumerate(inner, reading.latent.name, reading.plate_depth, values)
    return trace(run).get_trace(*args, **kwargs)


def _lead(reading: Reading):
    """A function bringing an array of component parameters to (K, *event)."""

    def lead(array: Array, event_ndim: int) -> Array:
        shape = jnp.shape(array)
        batch, event = shape[: len(shape) - event_ndim], shape[len(shape) - event_ndim :]
        width = reading.plate_depth + 1
        batch = (1,) * (width - len(batch)) + batch
        if len(batch) > width or any(size != 1 for size in batch[1:]):
            raise RowDependent
        flat = jnp.reshape(array, (batch[0], *event))
        return jnp.broadcast_to(flat, (reading.num_components, *event))

    return lead


def _table(log_prob: Array, reading: Reading) -> Array:
    """A factor's log densities as (K, N), summed over plates other than the rows."""
    width = reading.plate_depth + 1
    shape = (1,) * (width - jnp.ndim(log_prob)) + jnp.shape(log_prob)
    table = jnp.reshape(log_prob, shape)
    row_axis = width + reading.rows.dim
    others = tuple(axis for axis in range(1, width) if axis != row_axis)
    table = jnp.sum(table, axis=others)
    return jnp.broadcast_to(table, (reading.num_components, table.shape[1]))


def family_of(site: dict[str, Any], reading: Reading) -> Family | None:
    """The family whose K statistics stand for this site's rows; None where the rows themselves must."""
    peeled = peel(site["fn"])
    family = lookup(peeled)
    plates = [frame for frame in site["cond_indep_stack"] if frame.name != reading.rows.name]
    if family is None or plates:
        return None
    try:
        family.parameters(peeled, _lead(reading))
    except RowDependent:
        return None
    return family


def evaluate(
    program: Program,
    reading: Reading,
    families: dict[str, Family | None],
    arguments: Arguments,
    values: Values,
) -> Evaluation:
    """Evaluate every factor of the log joint at `values`; pure, to be called under jit.

    `families` says for each observed site which family its statistics belong to (None: the rows).
    """
    sites = enumerated_trace(program, reading, arguments, values)
    observed = {site.name for site in reading.observed}
    shapes = {site.name: site.shape for site in reading.deterministic}
    prior, components, deterministic = {}, {}, {}
    latent = None
    for name, site in sites.items():
        if site["type"] == "deterministic":
            # one that depends on the latent comes out with K copies: it belongs to rows, not here
            if _outside(site, reading) and jnp.shape(site["value"]) == shapes.get(name):
                deterministic[name] = site["value"]
        elif site["type"] == "param":
            prior[name] = jnp.zeros(())
        elif site["type"] != "sample":
            continue
        elif name == reading.latent.name:
            latent = _latent_table(site, reading)
        elif name in observed:
            family = families[name]
            if family is None:
                log_prob = site["fn"].log_prob(site["value"])
                components[name] = _table(log_prob, reading)
            else:
                components[name] = family.parameters(peel(site["fn"]), _lead(reading))
        else:
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            prior[name] = jnp.sum(scale * log_prob)
    if latent is None:
        raise ProgramError(
            f"latent '{reading.latent.name}' was not reached; sample it in every call"
        )
    return Evaluation(prior, latent, components, deterministic)


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
