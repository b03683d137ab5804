"""Draws whose components carry labels, as plain arrays: what every method of relabelling reads.

The arrays may come from any sampler. :func:`draws_by_dim` reads them from a container of ArviZ, and
:func:`declare_labels` says of a container that this package did not make where its labels are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..program.errors import ProgramError
from . import arviz_compat
from .label_dims import every_dim, label_dims, latents_of

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
SUFFIX = "_probability"
_CURES = {
    "allocations": "give the drawn labels, or take a method that reads probabilities",
    "probabilities": "give p(z_i = k) at every draw, or take a method that reads drawn labels",
    "parameters": "give the parameters of the components at every draw",
    "data": "give the data as well",
}


@dataclass(frozen=True, eq=False)
class LabelledDraws:
    """S draws of a mixture with K components and N rows; what is not there is None.

    `allocations` (S, N) are drawn labels, positions from 0; `probabilities` (S, N, K) are
    p(z_i = k | theta_t); `parameters` (S, K, J) the parameters of each component, of which
    `columns` names the site of each of the J entries; `fit` (S,) says how good a pivot a draw
    is (its log likelihood); `data` is (N, D). `num_components` is needed only where nothing but
    allocations is given.

    Raises :class:`~bayesmix.program.errors.ProgramError` where shapes do not fit each other, or
    labels are not positions.

    >>> z = np.array([[0, 0, 1], [1, 1, 0]])
    >>> LabelledDraws(allocations=z, num_components=2).shape
    (2, 2)
    """

    allocations: Array | None = None
    probabilities: Array | None = None
    parameters: Array | None = None
    columns: tuple[str, ...] = ()
    fit: Array | None = None
    data: Array | None = None
    num_components: int | None = None

    def __post_init__(self) -> None:
        axes = {"allocations": 2, "probabilities": 3, "parameters": 3, "fit": 1, "data": 2}
        for name, count in axes.items():
            found = getattr(self, name)
            if found is None:
                continue
            if np.ndim(found) != count:
                raise ProgramError(
                    f"`{name}` has {count} axes, and not the shape {np.shape(found)}"
                )
            object.__setattr__(self, name, np.asarray(found))
        draws, rows, sizes = self._lengths()
        if not draws or not sizes:
            raise ProgramError(
                "draws of labels need `probabilities` or `parameters`, or `allocations` together with "
                "`num_components`"
            )
        if max(len(draws), len(rows), len(sizes)) > 1:
            raise ProgramError(
                f"arrays do not agree on how many draws ({_listed(draws)}), rows ({_listed(rows)}) or "
                f"components ({_listed(sizes)}) there are: give allocations (S, N), probabilities "
                "(S, N, K) and parameters (S, K, J) of the same draws"
            )
        z, size = self.allocations, self.shape[1]
        if z is not None and z.size and not 0 <= z.min() <= z.max() < size:
            raise ProgramError(
                f"labels run from {z.min()} to {z.max()} where there are {size} components: give them "
                f"as positions from 0 to {size - 1}"
            )

    def _lengths(self) -> tuple[set[int], set[int], set[int]]:
        """How many draws, rows and components there are, by each array that says so."""
        z, p, theta = self.allocations, self.probabilities, self.parameters
        tables = [table for table in (z, p) if table is not None]
        draws = {len(v) for v in (*tables, theta, self.fit) if v is not None}
        sizes = {v.shape[axis] for v, axis in ((p, 2), (theta, 1)) if v is not None}
        sizes |= set() if self.num_components is None else {self.num_components}
        return draws, {table.shape[1] for table in tables}, sizes

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of draws and of components."""
        draws, _, sizes = self._lengths()
        return next(iter(draws)), next(iter(sizes))

    def need(self, what: str, method: object) -> Array:
        """The array called `what`, or one sentence that says who misses it."""
        found = getattr(self, what)
        if found is None:
            raise ProgramError(f"{method_name(method)} needs `{what}`: {_CURES[what]}")
        return found


def _listed(lengths: set[int]) -> str:
    return " and ".join(map(str, sorted(lengths))) or "not said"


def method_name(method: object) -> str:
    """The name under which a method of relabelling is listed."""
    own = getattr(method, "name", None) or getattr(method, "__name__", None)
    return str(own or type(method).__name__)


def draws_by_dim(idata: Any) -> dict[str, LabelledDraws]:
    """For each label dimension of a container of ArviZ, the draws that its labels belong to.

    Chains follow one another in S. Probabilities and drawn labels of several latents with the same
    labels (the states of a chain) are put side by side in N. `fit` is the log likelihood of each
    draw; without it, minus the squared distance to the median of all draws in sorted parameters.
    """
    dims = label_dims(idata)
    posterior = arviz_compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    latents, fit, found = latents_of(idata), _fit(idata, posterior, dims, shape), {}
    for dim in dims:
        size = posterior.sizes.get(dim) or latents.sizes[dim]
        drawn, probable = _rows(latents, dim, dims, shape, size)
        parameters, columns = _parameters(posterior, dim, dims, size)
        if drawn is None and probable is None and parameters is None:
            raise ProgramError(
                f"nothing in `posterior` or `latents` tells the entries of the label dimension `{dim}` "
                "apart: name in `label_dims` only dimensions that carry labels."
            )
        rows = next((table.shape[1] for table in (probable, drawn) if table is not None), 0)
        data = _data(idata, rows, latents)
        found[dim] = LabelledDraws(drawn, probable, parameters, columns, fit, data, size)
    return found


def latents_labelled_by(
    latents: xr.Dataset, dims: tuple[str, ...], dim: str
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Drawn labels and probabilities of the latents labelled by `dim`, by latent."""
    ordered = latents.transpose("chain", "draw", ..., dim, missing_dims="ignore").data_vars
    probable = {
        name.removesuffix(SUFFIX): v
        for name, v in ordered.items()
        if name.endswith(SUFFIX) and v.dims[-1] == dim
    }
    whole = {
        str(n): v
        for n, v in ordered.items()
        if np.issubdtype(v.dtype, np.integer) and not set(dims) & set(v.dims)
    }
    own = probable or (whole if len(dims) == 1 else {})
    return {n: v for n, v in whole.items() if n in own}, probable


def _rows(
    latents: xr.Dataset, dim: str, dims: tuple[str, ...], shape: tuple[int, ...], size: int
) -> tuple[Array | None, Array | None]:
    """Drawn labels (S, N) and probabilities (S, N, K) of all latents that `dim` labels."""
    tables: list[Array | None] = []
    for part, own in zip(latents_labelled_by(latents, dims, dim), ((), (size,)), strict=True):
        for v in part.values():
            if v.shape[:2] != shape or v.sizes.get(dim, size) != size:
                raise ProgramError(
                    f"`{v.name}` in `latents` has sizes {dict(v.sizes)} where `posterior` has {shape} "
                    f"chains and draws and {size} entries along `{dim}`: give both the same."
                )
            if not own and v.size and not 0 <= v.min() <= v.max() < size:
                raise ProgramError(
                    f"labels `{v.name}` run from {int(v.min())} to {int(v.max())} where `{dim}` has "
                    f"{size} entries: give them as positions from 0 to {size - 1}."
                )
        flat = [v.values.reshape(shape[0] * shape[1], -1, *own) for v in part.values()]
        tables.append(np.concatenate(flat, 1) if flat else None)
    return tables[0], tables[1]


def _parameters(
    posterior: xr.Dataset, dim: str, dims: tuple[str, ...], size: int
) -> tuple[Array | None, tuple[str, ...]]:
    """Finite parameters (S, K, J), other label dimensions sorted away, and the site of each entry."""
    others = tuple(other for other in every_dim(posterior, dims) if other != dim)
    parts, columns = [], []
    for name, v in sorted_along(posterior, others).items():
        if dim in v.dims and np.issubdtype(v.dtype, np.number):
            lead = v.transpose("chain", "draw", dim, ...).values
            lead = lead.reshape(lead.shape[0] * lead.shape[1], size, -1).astype(float)
            kept = np.isfinite(lead).all((0, 1))
            parts.append(lead[..., kept])
            columns += [str(name)] * int(kept.sum())
    return (np.concatenate(parts, -1), tuple(columns)) if parts else (None, ())


def _data(idata: Any, rows: int, latents: xr.Dataset) -> Array | None:
    """Observed numbers of each row, (N, D), where there is one latent with as many rows."""
    if not rows or "observed_data" not in arviz_compat.groups(idata):
        return None
    observed = arviz_compat.dataset(idata, "observed_data").data_vars
    known = {str(name).removesuffix(SUFFIX) for name in latents.data_vars}
    parts = [
        v.values.reshape(rows, -1).astype(float)
        for name, v in observed.items()
        if name not in known and v.shape[:1] == (rows,) and np.issubdtype(v.dtype, np.number)
    ]
    return np.concatenate(parts, 1) if parts else None


def sorted_along(dataset: xr.Dataset, dims: tuple[str, ...]) -> dict[str, xr.DataArray]:
    """Every variable, sorted along its label dimensions in turn: invariant under renaming each.

    (What is sorted along one dimension still only changes places when another is renamed.)
    """
    found = {str(name): v for name, v in dataset.data_vars.items()}
    for dim in dims:
        found = {
            name: v.copy(data=np.sort(v.values, axis=v.dims.index(dim))) if dim in v.dims else v
            for name, v in found.items()
        }
    return found


def log_likelihood(idata: Any) -> Array | None:
    """Total log likelihood of each draw, (chain, draw), or None."""
    if "log_likelihood" not in arviz_compat.groups(idata):
        return None
    found = arviz_compat.dataset(idata, "log_likelihood").transpose("chain", "draw", ...)
    return sum(v.values.reshape(*v.shape[:2], -1).sum(-1) for v in found.data_vars.values())


def _fit(
    idata: Any, posterior: xr.Dataset, dims: tuple[str, ...], shape: tuple[int, ...]
) -> Array | None:
    found = log_likelihood(idata)
    if found is not None and found.shape == shape and np.isfinite(found).any():
        return np.where(np.isfinite(found), found, -np.inf).ravel()
    every = sorted_along(posterior, every_dim(posterior, dims)).values()
    flat = [v.values.reshape(shape[0] * shape[1], -1) for v in every]
    return centrality(np.concatenate(flat, 1).astype(float)) if flat else None


def centrality(table: Array) -> Array:
    """Minus the squared distance of each row of (S, M) to the median, in units of each column."""
    table = table[:, np.isfinite(table).all(0)]
    table, scale = table - np.median(table, 0), table.std(0)
    return -((table / np.where(scale > 0, scale, 1.0)) ** 2).sum(1)


def declare_labels(
    idata: Any,
    carried: Mapping[str, str],
    *,
    allocations: str | None = None,
    probabilities: str | None = None,
    first_label: int = 0,
    exchangeable: str = "unknown",
) -> Any:
    """Say where component labels are in draws of another program (Stan, PyMC, ...).

    Args:
        idata: a container of ArviZ with a group `posterior`.
        carried: for each variable of `posterior` that has one, the dimension that counts
            components. It is called `component` in what is returned.
        allocations: the variable of drawn labels, (chain, draw, rows).
        probabilities: the variable of p(z_i = k), (chain, draw, rows, component).
        first_label: the label of the first component: 1 for Stan.
        exchangeable: "yes", "no" or "unknown": is the prior the same under every renaming?

    Returns:
        A new container that `relabel`, `label_switching`, `compare_relabellings`, `summary`
        and `point_partition` read like one of this package.

    Raises:
        ProgramError: for a variable or a dimension that is not there.

    >>> mean = np.random.default_rng(0).normal([0.0, 5.0], 0.1, size=(1, 20, 2))
    >>> idata = arviz_compat.make({"posterior": {"mu": mean}})
    >>> declared = declare_labels(idata, {"mu": "mu_dim_0"})
    >>> arviz_compat.dataset(declared, "posterior")["mu"].dims
    ('chain', 'draw', 'component')
    """
    import xarray as xr

    posterior = arviz_compat.dataset(idata, "posterior")
    moved = [name for name in (allocations, probabilities) if name is not None]
    for name in (*carried, *moved):
        if name not in posterior:
            there = ", ".join(map(str, posterior.data_vars))
            raise ProgramError(f"there is no variable `{name}` in `posterior`; it has: {there}")
    for name, dim in carried.items():
        if dim not in posterior[name].dims:
            raise ProgramError(
                f"`{name}` has no dimension `{dim}`; it has: {', '.join(map(str, posterior[name].dims))}"
            )
    renamed = {name: _renamed(posterior[name], dim) for name, dim in carried.items()}
    latents = {}
    if allocations is not None:
        latents["z"] = posterior[allocations].astype(int) - first_label
    if probabilities is not None:
        latents["z" + SUFFIX] = _renamed(
            posterior[probabilities], posterior[probabilities].dims[-1]
        )
    attrs = {"label_dims": "component", "exchangeable": exchangeable, "relabelled": "no"}
    others = [name for name in posterior.data_vars if name not in (*renamed, *moved)]
    kept = posterior[others].assign(renamed).assign_attrs(attrs)
    idata = arviz_compat.replace_group(idata, "posterior", kept)
    return arviz_compat.replace_group(idata, "latents", xr.Dataset(latents)) if latents else idata


def _renamed(v: xr.DataArray, dim: Any) -> xr.DataArray:
    return v.drop_vars(dim, errors="ignore").rename({dim: "component"})
