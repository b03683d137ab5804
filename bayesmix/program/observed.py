"""What a call says of its rows: values, missing cells (NaN, or masked), row weights, known labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.sharding import Mesh

from ..families.augmented import Statistic
from ..families.likelihoods import Family
from ..families.peel import peel
from .arguments import Arguments
from .errors import ProgramError

if TYPE_CHECKING:
    from .labels import Labels
    from .sites import Latent, Reading, Site


class Observed(NamedTuple):
    """What a call says of its rows, rows first.

    values: each observed site's value (N, *event), with some feasible number in missing cells;
    present: the same shape, False where missing, or None where the site is complete;
    weight: (N,), or None where every row counts once; labels: for each latent that the program
    observes the index of a row's value, (N,), -1 where it is not known; or None where there is none;
    mesh: the devices that the rows are to be spread over, or None.
    """

    values: dict[str, Any]
    present: dict[str, Any]
    weight: Any = None
    labels: Any = None
    mesh: Mesh | None = None

    @property
    def num_rows(self) -> int:
        """N."""
        return int(next(iter({**self.values, **(self.labels or {})}.values())).shape[0])

    @property
    def row_weights(self) -> Any:
        """How often each row counts, (N,)."""
        return np.ones(self.num_rows) if self.weight is None else self.weight

    @property
    def given(self) -> dict[str, Any]:
        """What the call gave of each site, known labels too: NaN where it is missing."""
        found, arrays = dict(self.values), jnp if self.traced else np
        for name, there in self.present.items():
            if there is not None:
                found[name] = arrays.where(there, found[name], np.nan)
        for name, labels in (self.labels or {}).items():
            found[name] = arrays.where(labels < 0, np.nan, labels)
        return found

    @property
    def traced(self) -> bool:
        """Are rows being traced by a JAX transformation?"""
        return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self))

    def take(self, index: Any) -> Observed:
        """Some of the rows, on one device."""
        return jax.tree.map(lambda array: array[index], self._replace(mesh=None))


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
    if len(batch) < -reading.rows.dim and reading.rows.size == 1:
        # one row, whose plate the program leaves to broadcasting
        given = value = jnp.reshape(
            value, (1,) * (-reading.rows.dim - len(batch)) + jnp.shape(value)
        )
        batch = tuple(jnp.shape(value)[: jnp.ndim(value) - site.event_ndim])
    axis = len(batch) + reading.rows.dim
    if batch and batch[axis] != reading.rows.size:
        raise ProgramError(
            f"site '{site.name}' has {batch[axis]} rows, and its plate '{reading.rows.name}' "
            f"{reading.rows.size}; give arguments with as many rows as each other"
        )

    def first(array: Any, shape: tuple[int, ...] = batch) -> Any:
        return jnp.moveaxis(jnp.broadcast_to(array, shape), axis, 0)

    mask = None
    layers = mask_layers(fn)
    for layer, hidden in zip(layers, site.masks or (False,) * len(layers), strict=True):
        if not hidden:
            entries = len(layer.batch_shape) - len(fn.batch_shape)  # of a vector
            own = first(layer._mask, jnp.shape(value)[: len(batch) + entries])
            mask = own if mask is None else _both(mask, own)
    bounds = jax.tree.leaves(fn.support)
    # not of a made-up value; a mask of labels may leave some values out
    known = any(site.masks) or not site.bounded
    fixed = not any(isinstance(bound, jax.core.Tracer) for bound in bounds)
    scale = traced.get("scale")
    if scale is not None:
        scale = jnp.asarray(scale, float)
        if scale.ndim:
            scale = first(scale).reshape(batch[axis], -1)[:, 0]
    value = jnp.moveaxis(value, axis, 0) if batch else value
    if site.bounded:
        feasible = value
    elif any(jnp.ndim(bound) for bound in bounds):  # totals by row, say
        feasible = jnp.moveaxis(fn.support.feasible_like(given), axis, 0)
    else:
        feasible = fn.support.feasible_like(value[:1]) if batch else value
    return Row(
        value=value,
        feasible=feasible,
        supported=first(fn.support(given)) if fixed and known and jnp.size(value) else None,
        mask=mask,
        scale=scale,
    )


def _both(one: Any, other: Any) -> Any:
    """Masks of rows, or of entries of their vectors."""
    most = max(one.ndim, other.ndim)
    one, other = (jnp.reshape(m, (*m.shape, *(1,) * (most - m.ndim))) for m in (one, other))
    return one & other


def mask_layers(fn: Any) -> list[Any]:
    """The masked distributions among the layers of one, outermost first."""
    layers = [fn]
    while isinstance(
        layers[-1], dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution
    ):
        layers.append(layers[-1].base_dist)
    return [layer for layer in layers if isinstance(layer, dist.MaskedDistribution)]


def outside_where_masked(reading: Reading, rows: dict[str, Row]) -> frozenset[str]:
    """Sites under a mask of labels with values outside their support: those labels are impossible."""
    found = set()
    for site in reading.observed:
        supported = rows[site.name].supported
        if any(site.masks) and supported is not None and not np.asarray(supported).all():
            found.add(site.name)
    return frozenset(found)


def unknown(labels: Any, lowest: int = 0) -> Any:
    """Which labels are not known: NaN, or below the lowest value where that is not negative."""
    return _not_numbers(labels) | ((labels < 0) & (lowest >= 0))


def _not_numbers(array: Any) -> Any:
    """Which entries are NaN."""
    return array != array


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


def tidy_traced(reading: Reading, rows: dict[str, Row], whole: frozenset[str]) -> Observed:
    """As :func:`tidy`, of rows that are being traced: nothing can be checked, and what is missing is
    found when the compiled function runs. Sites in `whole` have no missing cells but masked ones.

    Raises :class:`ProgramError` where sites of the rows are weighted differently.
    """
    values, present, labels = {}, {}, {}
    for site in reading.observed:
        name, row = site.name, rows[site.name]
        values[name] = row.value
        floating = jnp.issubdtype(jnp.result_type(row.value), jnp.floating)
        there = ~jnp.isnan(row.value) if floating and name not in whole else None
        if row.mask is not None:
            mask = jnp.reshape(
                row.mask, (*row.mask.shape, *(1,) * (row.value.ndim - row.mask.ndim))
            )
            there = jnp.broadcast_to(mask if there is None else there & mask, row.value.shape)
        present[name] = there
        if there is not None:
            values[name] = jnp.where(there, row.value, row.feasible)
    for latent in reading.latents:
        value = rows[latent.name].value
        if value is not None:
            value = jnp.reshape(value, value.shape[0])
            hidden = unknown(value, latent.lowest)
            index = jnp.nan_to_num(value).astype(int) - latent.lowest
            outside = (index < 0) | (index >= latent.size)
            labels[latent.name] = jnp.where(hidden, -1, jnp.where(outside, latent.size, index))
    weights = [row.scale for row in rows.values()]
    if any((weight is None) != (weights[0] is None) for weight in weights):
        raise ProgramError(f"sites of the rows are scaled differently; {_ONE_SCALE}")
    weight = weights[0]
    if weight is not None:
        weight = jnp.broadcast_to(weight, reading.rows.size)
    return Observed(values, present, weight, labels or None)


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


def check_components(labels: Labels, observed: Observed) -> None:
    """Are there as many rows as components? The steps of a series are data as rows are.

    Raises :class:`ProgramError`.
    """
    size = observed.num_rows
    for group in labels.groups:
        if group.size > size * len(group.latents):
            raise ProgramError(
                f"{group.size} components need at least as many rows, and there are {size}; lower K"
            )


def check_seen(observed: Observed) -> None:
    """Is there something to see in every column? A single row is a series, and may have gaps.

    Raises :class:`ProgramError` naming site and columns, and where no row has any weight.
    """
    if observed.weight is not None and not np.any(observed.weight):
        raise ProgramError(
            "every row has weight 0 (handlers.scale), so that nothing is observed; give some row "
            "a weight"
        )
    seen = {n: there is None or np.asarray(there).any() for n, there in observed.present.items()}
    for name, there in observed.present.items():
        never = np.zeros(1, bool) if there is None else ~np.asarray(there).any(axis=0)
        if observed.num_rows == 1:
            never = never.all(keepdims=True)
        # a step that no series reaches is one of several sites
        if never.any() and (seen[name] or not any(seen.values())):
            columns = ", ".join(map(str, np.unique(np.nonzero(np.atleast_1d(never))[-1])))
            raise ProgramError(
                f"observed site '{name}' has nothing but missing values"
                + (f" in column {columns} (counted from 0)" if np.ndim(never) else "")
                + "; leave out what was never observed"
            )


def check_alike(reading: Reading, look: Callable[[], dict[str, Site]]) -> None:
    """Has a call the sites that were read, but for the number of rows? `look` gives its sites.

    Raises :class:`ProgramError` naming the first site whose shape differs.
    """
    usual = {site.name: site for site in (*reading.parameters, *reading.data)}
    cure = ", ".join(f"{site.name} {_of_row(site, reading)}" for site in reading.data)
    cure = f"give arguments like those of before: the same K, and in each row of shape {cure}"
    try:
        found = look()
    except ProgramError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ProgramError(
            f"the program cannot be run with these arguments ({said}); {cure}"
        ) from error
    for name, site in found.items():
        if name in usual and _of_row(site, reading) != _of_row(usual[name], reading):
            before, now = (_of_row(one, reading) for one in (usual[name], site))
            where = " in each row" if name in {s.name for s in reading.data} else ""
            raise ProgramError(
                f"site '{name}' has shape {now}{where} with these arguments, and had {before}; {cure}"
            )


def _of_row(site: Site, reading: Reading) -> tuple[int, ...]:
    """A site's shape without the axis of rows."""
    if reading.rows.name not in {plate.name for plate in site.plates}:
        return site.shape
    axis = len(site.shape) - site.event_ndim + reading.rows.dim
    return tuple(size for i, size in enumerate(site.shape) if i != axis)


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
    if row.supported is None or site.bounded:
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


_ONE_SCALE = (
    "where the weights count rows, put the whole plate of rows, the latent and every observed site, "
    "under one handlers.scale; where they are a power of one density alone, write it as "
    "numpyro.factor(name, weight * log_density)"
)


def _weight(rows: dict[str, Row], size: int) -> np.ndarray | None:
    """Row weights from `handlers.scale`: the same for every site of the rows."""
    scales = {name: 1.0 if row.scale is None else row.scale for name, row in rows.items()}
    name, weight = next(iter(scales.items()))
    for other, scale in scales.items():
        one, two = (np.broadcast_to(np.asarray(each, float), size) for each in (scale, weight))
        if not np.array_equal(one, two, equal_nan=True):
            raise ProgramError(
                f"sites '{name}' and '{other}' of the rows are scaled differently; {_ONE_SCALE}"
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
        value = rows[latent.name].value
        if value is not None:
            found[latent.name] = _known(latent, np.reshape(value, len(value)))
    return found or None


def _known(latent: Latent, value: np.ndarray) -> np.ndarray:
    hidden = unknown(value, latent.lowest)
    index = np.where(hidden, 0, value).astype(int) - latent.lowest
    between = ~_not_numbers(value) & (value % 1 != 0)
    outside = between | (~hidden & ((index < 0) | (index >= latent.size)))
    if outside.any():
        raise ProgramError(
            f"known labels of '{latent.name}' are outside its {latent.size} values "
            f"({_where(outside)}); use -1 or NaN for a label that is not known"
        )
    return np.where(hidden, -1, index)
