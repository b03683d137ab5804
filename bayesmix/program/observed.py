"""What a call says of its rows: values, missing cells (NaN, or masked), row weights, known labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ..families.augmented import Statistic
from ..families.likelihoods import Family
from ..families.peel import peel
from .arguments import Arguments
from .blocks import Observed
from .errors import ProgramError

if TYPE_CHECKING:
    from .sites import Latent, Reading, Site


class Row(NamedTuple):
    """One site of the rows as the program has it, rows first.

    value (N, ..., *event), or None for a latent that nobody observed; supported and mask (N, ...): is
    the value inside the support, and does it count (None: everywhere); feasible (1 or N, ..., *event):
    values of the support; scale: (), (N,) or None.
    """

    value: Any
    feasible: Any
    supported: Any
    mask: Any
    scale: Any


RAW = "bayesmix_raw"  # where a reading keeps labels as they were given


def is_label(fn: Any) -> bool:
    """Is a site's value one of finitely many numbers?"""
    base = peel(fn).base
    return bool(base.is_discrete and base.has_enumerate_support and fn.event_dim == 0)


def rows_of(sites: dict[str, Any], reading: Reading) -> dict[str, Row]:
    """The observed sites of a plain trace, and the latents, rows first."""
    found = {site.name: _row(sites[site.name], site, reading) for site in reading.observed}
    for latent in reading.latents:
        row = _row(sites[latent.name], latent.site, reading)
        found[latent.name] = row if latent.observed else row._replace(value=None, supported=None)
    return found


def _row(traced: dict[str, Any], site: Site, reading: Reading) -> Row:
    fn = traced["fn"]
    given = value = traced["infer"].get(RAW, traced["value"])
    batch = tuple(jnp.shape(value)[: jnp.ndim(value) - site.event_ndim])
    axis = len(batch) + reading.rows.dim
    if batch and batch[axis] != reading.rows.size:
        raise ProgramError(
            f"site '{site.name}' has {batch[axis]} rows, and its plate '{reading.rows.name}' "
            f"{reading.rows.size}; give arguments with as many rows as each other"
        )

    def first(array: Any) -> Any:
        return jnp.moveaxis(jnp.broadcast_to(array, batch), axis, 0)

    masks = [layer for layer in _layers(fn) if isinstance(layer, dist.MaskedDistribution)]
    mask = None
    for layer in masks:
        own = first(layer._mask)
        mask = own if mask is None else mask & own
    bounds = jax.tree.leaves(fn.support)
    fixed = not any(isinstance(bound, jax.core.Tracer) for bound in bounds)
    scale = traced.get("scale")
    if scale is not None:
        scale = jnp.asarray(scale, float)
        if scale.ndim:
            scale = first(scale).reshape(batch[axis], -1)[:, 0]
    value = jnp.moveaxis(value, axis, 0) if batch else value
    if any(jnp.ndim(bound) for bound in bounds):  # totals by row, say
        feasible = jnp.moveaxis(fn.support.feasible_like(given), axis, 0)
    else:
        feasible = fn.support.feasible_like(value[:1]) if batch else value
    return Row(
        value=value,
        feasible=feasible,
        supported=first(fn.support(given)) if fixed and jnp.size(value) else None,
        mask=mask,
        scale=scale,
    )


def _layers(fn: Any) -> list[Any]:
    layers = [fn]
    while hasattr(layers[-1], "base_dist") and isinstance(
        layers[-1], dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution
    ):
        layers.append(layers[-1].base_dist)
    return layers


def unknown(labels: np.ndarray) -> np.ndarray:
    """Which labels are not known: NaN, or negative."""
    return _not_numbers(labels) | (labels < 0)


def _not_numbers(array: np.ndarray) -> np.ndarray:
    """Which entries are NaN."""
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)


def tidy(reading: Reading, rows: dict[str, Row]) -> Observed:
    """Check the rows and find what is missing, on the host.

    Raises :class:`ProgramError` naming site, rows and columns: infinite values, values outside the
    support, weights that differ between sites, labels outside the latent's values.
    """
    rows = jax.tree.map(np.asarray, rows)
    values, present = {}, {}
    for site in reading.observed:
        values[site.name], present[site.name] = _cells(site, rows[site.name])
    return Observed(values, present, _weight(rows, reading.rows.size), _labels(reading, rows))


def _cells(site: Site, row: Row) -> tuple[np.ndarray, np.ndarray | None]:
    """Values with missing cells filled, and which cells are there (None: all of them)."""
    name, value = site.name, row.value
    there = ~_not_numbers(value)
    if row.mask is not None:
        there &= row.mask.reshape(row.mask.shape + (1,) * (value.ndim - row.mask.ndim))
    if value.dtype.kind == "f" and np.isinf(value).any():
        raise ProgramError(
            f"observed site '{name}' holds infinite values ({_where(np.isinf(value))}); replace them, "
            "or set them to NaN if they are missing"
        )
    _check_support(site, row, there)
    if there.all():
        return value, None
    return np.where(there, value, row.feasible), there


def check_enough(reading: Reading, observed: Observed) -> None:
    """Are there rows enough to fit: as many as components, and in every column something to see?

    Raises :class:`ProgramError` naming site and columns.
    """
    size = observed.num_rows
    most = max((latent.size for latent in reading.latents), default=1)
    if most > size:
        raise ProgramError(
            f"{most} components need at least as many rows, and there are {size}; lower K"
        )
    for name, there in observed.present.items():
        never = np.zeros(1, bool) if there is None else ~np.asarray(there).any(axis=0)
        if never.any():
            columns = ", ".join(map(str, np.unique(np.nonzero(np.atleast_1d(never))[-1])))
            raise ProgramError(
                f"observed site '{name}' has nothing but missing values"
                + (f" in column {columns} (counted from 0)" if np.ndim(never) else "")
                + "; leave out what was never observed"
            )


def check_numbers(arguments: Arguments, observed: Observed) -> None:
    """Are there missing values in arguments that nobody observes? They cannot be summed out.

    Raises :class:`ProgramError` naming argument, rows and columns.
    """
    gaps = [~np.asarray(there) for there in observed.present.values() if there is not None]
    gaps += [np.asarray(labels) < 0 for labels in (observed.labels or {}).values()]
    leaves, _ = jax.tree.flatten_with_path(arguments.call())
    for (_, *path), leaf in leaves:
        hidden = _not_numbers(np.asarray(leaf))
        # of an observed site more cells may be hidden, by a mask
        known = any(gap.shape == hidden.shape and gap[hidden].all() for gap in gaps)
        if hidden.any() and not known:
            name = jax.tree_util.keystr(tuple(path), simple=True, separator=".")
            raise ProgramError(
                f"argument {name} of the program holds NaN"
                + (f" ({_where(hidden)})" if hidden.ndim else "")
                + "; only observed sites may have missing values: fill it in, or drop these rows"
            )


def check_cells(reading: Reading, families: dict[str, Statistic], observed: Observed) -> None:
    """Can missing cells be integrated out? Not of a vector's density that is only known by the row.

    Raises :class:`ProgramError` naming site and rows.
    """
    for site in reading.observed:
        there = observed.present[site.name]
        if there is None or not site.joint or isinstance(families[site.name], Family):
            continue
        event = np.shape(there)[np.ndim(there) - site.event_ndim :]
        cells: Any = np.reshape(np.asarray(there, bool), (len(there), -1, math.prod(event)))
        partly = (cells.any(axis=2) & ~cells.all(axis=2)).any(axis=1)
        if bool(np.any(partly)):
            raise ProgramError(
                f"some cells of observed site '{site.name}' are missing ({_where(partly)}), and its "
                "parameters depend on the row, so that they cannot be integrated out; drop these rows, "
                "or set the whole vector to NaN"
            )


def _check_support(site: Site, row: Row, there: np.ndarray) -> None:
    if row.supported is None:
        return
    whole = there.reshape(*row.supported.shape, -1).all(axis=-1)
    outside = whole & ~row.supported
    if outside.any():
        raise ProgramError(
            f"observed site '{site.name}' holds values outside the support of its {site.family} "
            f"({_where(outside)}); correct them, or change the distribution"
        )


def _where(bad: np.ndarray) -> str:
    rows = np.unique(np.nonzero(bad)[0])
    shown = ", ".join(str(row) for row in rows[:5]) + (", ..." if rows.size > 5 else "")
    where = f"row{'s' if rows.size > 1 else ''} {shown}"
    if bad.ndim > 1:
        columns = np.unique(np.nonzero(bad)[1])
        where += f", column{'s' if columns.size > 1 else ''} " + ", ".join(map(str, columns))
    return where + ", counted from 0"


def _weight(rows: dict[str, Row], size: int) -> np.ndarray | None:
    """Row weights from `handlers.scale`: the same for every site of the rows."""
    scales = {name: 1.0 if row.scale is None else row.scale for name, row in rows.items()}
    name, weight = next(iter(scales.items()))
    for other, scale in scales.items():
        if not np.array_equal(np.broadcast_to(scale, size), np.broadcast_to(weight, size)):
            raise ProgramError(
                f"sites '{name}' and '{other}' of the rows are scaled differently; put the whole plate "
                "of rows, the latent and every observed site, under one handlers.scale"
            )
    weight = np.broadcast_to(np.asarray(weight, float), size)
    if not np.all(np.isfinite(weight) & (weight >= 0)):
        raise ProgramError(
            f"row weights (handlers.scale) are negative or not finite "
            f"({_where(~(np.isfinite(weight) & (weight >= 0)))}); give finite weights of at least 0"
        )
    return None if np.all(weight == 1) else weight


def _labels(reading: Reading, rows: dict[str, Row]) -> dict[str, np.ndarray] | None:
    """Known labels by latent, as indices into its values; -1 where they are not known."""
    found = {}
    for latent in reading.latents:
        name, row = latent.name, rows[latent.name]
        if row.mask is not None:
            raise ProgramError(
                f"latent '{name}' is masked; mask the observed sites alone (a row that says nothing "
                "needs no more than that)"
            )
        if row.value is not None:
            found[name] = _known(latent, row.value)
    return found or None


def _known(latent: Latent, value: np.ndarray) -> np.ndarray:
    hidden = unknown(value)
    index = np.where(hidden, 0, value).astype(int) - latent.lowest
    between = ~_not_numbers(value) & (value % 1 != 0)
    outside = between | (~hidden & ((index < 0) | (index >= latent.size)))
    if outside.any():
        raise ProgramError(
            f"known labels of '{latent.name}' are outside its {latent.size} values "
            f"({_where(outside)}); use -1 or NaN for a label that is not known"
        )
    return np.where(hidden, -1, index)
