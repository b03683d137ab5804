"""Which dimensions of draws count labels, as `posterior.attrs["label_dims"]` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import arviz_compat

if TYPE_CHECKING:
    import xarray as xr


def label_dims(idata: Any) -> tuple[str, ...]:
    """The dimensions of `posterior` and `latents` whose index is a component label."""
    posterior = arviz_compat.dataset(idata, "posterior")
    present = set(posterior.dims) | set(latents_of(idata).dims)
    return tuple(dim for dim, *_ in named_dims(posterior) if dim in present)


def named_dims(posterior: xr.Dataset) -> list[list[str]]:
    """Label dimensions, each followed by those that are renamed with it."""
    text = str(posterior.attrs.get("label_dims", ""))
    return [[dim.strip() for dim in part.split("=")] for part in text.split(",")]


def every_dim(posterior: xr.Dataset, dims: tuple[str, ...]) -> tuple[str, ...]:
    """Label dimensions and those that are renamed with them."""
    tied = [other for dim, *others in named_dims(posterior) if dim in dims for other in others]
    return (*dims, *(dim for dim in tied if dim in posterior.dims))


def complements(posterior: xr.Dataset) -> dict[str, str]:
    """Probabilities that turn into one minus themselves where two labels are swapped, each with the
    label dimension."""
    text = str(posterior.attrs.get("label_complements", ""))
    pairs = [part.split("=") for part in text.split(",") if "=" in part]
    return {name.strip(): dim.strip() for name, dim in pairs if name.strip() in posterior}


def bound_to_labels(posterior: xr.Dataset) -> tuple[str, ...]:
    """Variables that a renaming changes though no dimension of theirs counts labels."""
    text = str(posterior.attrs.get("label_bound", ""))
    return tuple(name.strip() for name in text.split(",") if name.strip() in posterior)


def latents_of(idata: Any) -> xr.Dataset:
    """The group `latents`, or a data set without variables where there is none."""
    import xarray as xr

    return (
        arviz_compat.dataset(idata, "latents")
        if "latents" in arviz_compat.groups(idata)
        else xr.Dataset()
    )
