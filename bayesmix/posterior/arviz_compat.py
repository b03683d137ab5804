"""The only file that knows ArviZ: 0.23 (`InferenceData`) and 1.x (xarray's `DataTree`).

Everything above asks for groups as plain xarray datasets, so nothing else in the package needs to
know which generation is installed. ArviZ costs seconds to import: that is paid inside the functions
that need it, never when this module is imported.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .netcdf import write_groups

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_WITHOUT_DRAWS = ("observed_data", "constant_data", "predictions_constant_data")


def _arviz() -> tuple[Any, int]:
    """ArviZ and its generation (0 or 1), without the announcement that 0.23 makes on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz, min(int(arviz.__version__.split(".")[0]), 1)


def _is_tree(idata: Any) -> bool:
    return hasattr(idata, "children")


def make(
    groups: Mapping[str, Mapping[str, Any]],
    coords: Mapping[str, Sequence] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """Put arrays into the container of the installed ArviZ.

    `groups` maps a group to its variables. Arrays lead with `(chain, draw)`, except in the
    data groups (`observed_data`, `constant_data`). `dims` names the trailing dimensions of a
    variable (`name_dim_0`, ... where it is silent), `coords` gives values along dimensions, and
    `attrs` strings to keep with a group (`"/"` for the container itself). A group may have any
    name. Raises `ValueError` when an array does not fit its dimensions.

    >>> import numpy as np
    >>> idata = make({"posterior": {"mean": np.zeros((2, 5, 3))}}, dims={"mean": ["component"]})
    >>> dataset(idata, "posterior")["mean"].dims
    ('chain', 'draw', 'component')
    """
    attrs = attrs or {}
    datasets = {
        group: _as_dataset(group, variables, coords or {}, dims or {}, attrs.get(group, {}))
        for group, variables in groups.items()
    }
    return assemble(datasets, attrs.get("/", {}))


def _as_dataset(
    group: str,
    variables: Mapping[str, Any],
    coords: Mapping[str, Any],
    dims: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    import xarray as xr

    lead = () if group in _WITHOUT_DRAWS else ("chain", "draw")
    arrays: dict[str, tuple] = {}
    sizes: dict[str, int] = {}
    for name, value in variables.items():
        value = np.asarray(value)
        trailing = value.ndim - len(lead)
        names = tuple(dims.get(name, [f"{name}_dim_{i}" for i in range(trailing)]))
        if trailing != len(names):
            raise ValueError(
                f"`{name}` in group `{group}` has shape {value.shape}, which does not fit the "
                f"dimensions {lead + names}: name one dimension for each axis."
            )
        for dim, size in zip(lead + names, value.shape, strict=True):
            expected = len(coords[dim]) if dim in coords else sizes.get(dim, size)
            if expected != size:
                raise ValueError(
                    f"`{name}` in group `{group}` has {size} entries along `{dim}` where "
                    f"{expected} were expected: give arrays and coords the same length."
                )
            sizes[dim] = size
        arrays[name] = (lead + names, value)
    index = {dim: np.asarray(coords[dim]) for dim in sizes if dim in coords}
    index |= {dim: np.arange(sizes[dim]) for dim in lead if dim in sizes and dim not in coords}
    return xr.Dataset(arrays, coords=index, attrs=dict(attrs))


def assemble(datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Any:
    """A container of the installed ArviZ with these groups."""
    arviz, generation = _arviz()
    if generation == 0:
        return arviz.InferenceData(attrs=dict(attrs), **datasets)
    import xarray as xr

    tree = xr.DataTree.from_dict({f"/{group}": data for group, data in datasets.items()})
    tree.attrs.update(attrs)
    return tree


def groups(idata: Any) -> tuple[str, ...]:
    """Names of the groups, without the root.

    >>> import numpy as np
    >>> groups(make({"posterior": {"a": np.zeros((1, 4))}}))
    ('posterior',)
    """
    return tuple(idata.children) if _is_tree(idata) else tuple(idata.groups())


def dataset(idata: Any, group: str) -> xr.Dataset:
    """One group as a plain `xarray.Dataset`; `KeyError` says which groups there are."""
    if group not in groups(idata):
        raise KeyError(f"there is no group `{group}`; these are there: {', '.join(groups(idata))}.")
    return idata[group].to_dataset() if _is_tree(idata) else idata[group]


def replace_group(idata: Any, group: str, dataset: xr.Dataset) -> Any:
    """A new container in which `group` is `dataset`; the old one stays as it was."""
    if not _is_tree(idata):
        arviz, _ = _arviz()
        kept = {name: idata[name] for name in idata.groups()}
        return arviz.InferenceData(attrs=idata.attrs, **(kept | {group: dataset}))
    import xarray as xr

    tree = idata.copy()
    tree[group] = xr.DataTree(dataset)
    return tree


def to_netcdf(idata: Any, path: str | os.PathLike) -> Path:
    """Write every group to one netCDF-4 file that both ArviZ generations read; returns its path.

    The file appears whole or not at all: it is written beside its destination, then renamed.
    """
    import xarray as xr

    data = {group: dataset(idata, group) for group in groups(idata)}
    return write_groups(path, {"": xr.Dataset(attrs=dict(idata.attrs)), **data})


def rhat(dataset: xr.Dataset) -> xr.Dataset:
    r"""Rank-normalised split R-hat (the larger of bulk and folded) of every scalar.

    A single chain is compared with itself: its two halves stand in for chains. NaN where R-hat has
    no meaning: fewer than 4 draws a chain (8 for a single one), a constant or a non-finite column.

    Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Bayesian Analysis 16(2).

    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> idata = make({"posterior": {"fine": draws, "split": draws + 5.0 * np.arange(4)[:, None]}})
    >>> found = rhat(dataset(idata, "posterior"))
    >>> bool(found["fine"] < 1.02), bool(found["split"] > 2)
    (True, True)
    """
    if dataset.sizes["chain"] == 1:
        import xarray as xr

        half = dataset.sizes["draw"] // 2
        bare = dataset.drop_vars(["chain", "draw"], errors="ignore")
        halves = [bare.isel(draw=slice(start, start + half)) for start in (0, half)]
        how = {"data_vars": "all", "coords": "minimal", "compat": "override", "join": "override"}
        dataset = xr.concat(halves, "chain", **how)
    return _diagnose(dataset, lambda arviz, data: arviz.rhat(data, method="rank"))


def ess(dataset: xr.Dataset, kind: str = "bulk") -> xr.Dataset:
    """Effective sample size of every scalar: rank-normalised `"bulk"`, or `"tail"`.

    Tail is the smaller of the effective sizes of the 5% and 95% quantiles. NaN with fewer than 4
    draws a chain or a non-finite column. Source: as :func:`rhat`.
    """
    if kind not in ("bulk", "tail"):
        raise ValueError(f'`kind` is "bulk" or "tail", not {kind!r}.')
    options = {"method": kind} | ({"prob": (0.05, 0.95)} if kind == "tail" else {})
    return _diagnose(dataset, lambda arviz, data: arviz.ess(data, **options))


def _diagnose(
    dataset: xr.Dataset, diagnostic: Callable[[Any, xr.Dataset], xr.Dataset]
) -> xr.Dataset:
    """Apply a diagnostic; NaN, without ArviZ's log lines, where it has nothing to say."""
    if not dataset.data_vars:
        return dataset
    axes = ["chain", "draw"]
    usable = np.isfinite(dataset.astype(float)).all(axes)
    if dataset.sizes["draw"] < 4:
        return usable.map(lambda v: v.where(False).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        return diagnostic(_arviz()[0], dataset.astype(float).where(usable, 0.0)).where(usable)


def scalar_names(array: xr.DataArray) -> list[str]:
    """Names of the scalars of one variable in C order, from coords: `mean[0, eruptions]`.

    >>> import numpy as np
    >>> idata = make({"posterior": {"mean": np.zeros((1, 4, 2))}}, dims={"mean": ["side"]})
    >>> scalar_names(dataset(idata, "posterior")["mean"])
    ['mean[0]', 'mean[1]']
    """
    trailing = [dim for dim in array.dims if dim not in ("chain", "draw")]
    if not trailing:
        return [str(array.name)]
    values = [[str(entry) for entry in array[dim].values] for dim in trailing]
    return [f"{array.name}[{', '.join(index)}]" for index in itertools.product(*values)]


def diagnostics(dataset: xr.Dataset) -> pd.DataFrame:
    """R-hat and effective sample sizes of every scalar, one row each.

    Columns `variable`, `r_hat`, `ess_bulk`, `ess_tail`; the index is :func:`scalar_names`.
    """
    import pandas as pd

    if not dataset.data_vars:
        return pd.DataFrame(columns=["variable", "r_hat", "ess_bulk", "ess_tail"], dtype=float)
    dataset = dataset.transpose("chain", "draw", ...)
    names = [(name, label) for name, v in dataset.data_vars.items() for label in scalar_names(v)]
    columns = {"r_hat": rhat(dataset), "ess_bulk": ess(dataset), "ess_tail": ess(dataset, "tail")}
    values = {
        column: np.concatenate([v.values.ravel() for v in found.data_vars.values()])
        for column, found in columns.items()
    }
    index = [label for _, label in names]
    return pd.DataFrame({"variable": [name for name, _ in names]} | values, index=index)


def hdi(array: Any, prob: float = 0.94) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest point of the shortest interval that holds `prob` of the draws.

    `array` is `(chain, draw, ...)`; both results are `(...)`. With S draws in order, the
    interval is the shortest `[x_(i), x_(i + floor(prob S))]`. NaN where a draw is not finite.

    >>> import numpy as np
    >>> low, high = hdi(np.arange(100.0).reshape(2, 50) ** 2, prob=0.5)
    >>> float(low), float(high)
    (0.0, 2500.0)
    """
    if not 0 < prob < 1:
        raise ValueError(f"`prob` is a probability between 0 and 1, not {prob}.")
    array = np.asarray(array, dtype=float)
    ordered = np.sort(array.reshape(-1, *array.shape[2:]), axis=0)
    inside = int(np.floor(prob * len(ordered)))
    with np.errstate(invalid="ignore"):
        width = ordered[inside:] - ordered[: len(ordered) - inside]
    start = np.argmin(width, axis=0)[None]
    finite = np.isfinite(ordered).all(0)
    ends = (np.take_along_axis(ordered, start + shift, 0)[0] for shift in (0, inside))
    low, high = (np.where(finite, end, np.nan) for end in ends)
    return low, high


def loo(idata: Any, var_name: str | None = None) -> tuple[float, float, np.ndarray]:
    """Leave-one-row-out expected log predictive density by Pareto-smoothed importance sampling.

    Returns `(elpd, se, pareto_k)` on the log scale, `pareto_k` one per row. The relative
    efficiency that sets the length of the smoothed tail is that of exp(log likelihood), which label
    switching leaves alone (ArviZ's own default looks at the parameters), over at most 64 rows.

    Rows whose `pareto_k` is above the limit for so many draws are named in a warning: there the
    importance weights are too uneven, and the estimate is as a rule too high.

    Raises `KeyError` without a `log_likelihood` group and `ValueError` when it holds several
    variables and `var_name` does not choose one.

    Source: Vehtari, Gelman and Gabry (2017), Statistics and Computing 27.

    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(-1.0, 0.1, size=(4, 250, 9))
    >>> elpd, se, pareto_k = loo(make({"log_likelihood": {"x": rows}}))
    >>> round(elpd), pareto_k.shape
    (-9, (9,))
    """
    result, _ = _loo(idata, var_name)
    elpd = result.elpd_loo if hasattr(result, "elpd_loo") else result.elpd
    return float(elpd), float(result.se), np.asarray(result.pareto_k)


def loo_by_row(idata: Any, var_name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`loo`, by row: log predictive densities of each row left out, and `pareto_k`.

    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(-1.0, 0.1, size=(4, 250, 9))
    >>> elpd, pareto_k = loo_by_row(make({"log_likelihood": {"x": rows}}))
    >>> elpd.shape, pareto_k.shape
    ((9,), (9,))
    """
    result, generation = _loo(idata, var_name)
    each = result.loo_i if generation == 0 else result.elpd_i
    return np.asarray(each), np.asarray(result.pareto_k)


def _loo(idata: Any, var_name: str | None) -> tuple[Any, int]:
    """ArviZ's own result, and its generation."""
    found = dataset(idata, "log_likelihood")
    if var_name is None and len(found.data_vars) == 1:
        (var_name,) = found.data_vars
    if var_name not in found.data_vars:
        raise ValueError(
            f"`var_name` chooses one variable of `log_likelihood`, and {var_name!r} does not: "
            f"pass one of {', '.join(map(repr, found.data_vars))}."
        )
    values = found[var_name].transpose("chain", "draw", ...).values
    flat = values.reshape(*values.shape[:2], -1)
    some = flat[:, :, np.unique(np.linspace(0, flat.shape[2] - 1, 64).astype(int))]
    some = _as_dataset("", {"x": np.exp(some - some.max((0, 1)))}, {}, {}, {})
    arviz, generation = _arviz()
    size = float(np.prod(flat.shape[:2]))
    effective = _diagnose(some, lambda arviz, data: arviz.ess(data, method="mean"))["x"]
    efficiency = float(np.nanmean(effective)) / size if effective.notnull().any() else 1.0
    alone = assemble({"log_likelihood": found[[var_name]]}, {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto")  # names no row
        result = arviz.loo(alone, pointwise=True, var_name=var_name, reff=efficiency)
    _warn_of_rows(np.ravel(result.pareto_k), float(result.good_k), found[var_name])
    return result, generation


def _warn_of_rows(pareto_k: np.ndarray, limit: float, rows: Any) -> None:
    """Name the rows whose Pareto k is above the limit."""
    high = np.flatnonzero(~(pareto_k <= limit))
    if not high.size:
        return
    dims = [dim for dim in rows.dims if dim not in ("chain", "draw")]
    named = len(dims) == 1 and dims[0] in rows.coords
    names = rows.coords[dims[0]].values[high] if named else high
    shown = ", ".join(
        f"{name} (k = {k:.2f})" for name, k in zip(names[:8], pareto_k[high], strict=False)
    )
    warnings.warn(
        f"Estimated shape parameter of Pareto distribution is above {limit:.2f} for "
        f"{high.size} of {pareto_k.size} rows: {shown}{', ...' if high.size > 8 else ''}. Weighted "
        "draws cannot stand in for leaving these out: run the sampler again without each of them",
        stacklevel=4,
    )


def smoothed_log_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed log importance weights (S, N) that add up to one for each row, and the shape of
    each row's tail, (N,), from log ratios (S, N).

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Journal of Machine Learning Research 25(72).

    >>> log_weights, pareto_k = smoothed_log_weights(np.random.default_rng(0).normal(size=(200, 3)))
    >>> np.exp(log_weights).sum(0).round(6).tolist(), pareto_k.shape
    ([1.0, 1.0, 1.0], (3,))
    """
    arviz, generation = _arviz()
    if generation == 0:
        found, pareto_k = arviz.psislw(log_ratios.T)
    else:
        import xarray as xr

        # given log likelihoods, it turns them into ratios
        rows = xr.DataArray(-log_ratios.T, dims=("row", "draw"))
        found, pareto_k = (each.values for each in rows.azstats.psislw(dim="draw"))
    top = found.max(1, keepdims=True)
    total = top + np.log(np.exp(found - top).sum(1, keepdims=True))
    return (found - total).T, np.asarray(pareto_k)
