r"""Component labels in posterior draws: did they switch, and how to bring them into one order.

A mixture whose prior does not tell its components apart has K! copies of every mode. A sampler may
sit in any of them, so component values averaged over draws mean little until labels agree, while
everything that no renaming can change (density, log likelihood, sorted values) is fine as it is.

``posterior.attrs`` says ``label_dims`` (the dimensions whose index is a label, with commas between
them; one that is always renamed with another, such as the second of a chain's transitions, follows it
and an equals sign: ``state=state_next``), ``exchangeable`` ("yes", "no", "unknown": is the prior the
same under every renaming) and ``relabelled`` ("no" or a method). The group ``latents`` may hold
``<z>_probability`` (chain, draw, rows, component) and drawn labels ``<z>`` (chain, draw, rows), which
are positions from 0 to K - 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.posterior import arviz_compat as compat
from bayesmix.posterior.label_dims import every_dim, label_dims, latents_of, named_dims

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_CHUNK = 4_000_000  # entries of one-hot or probability tables held at a time
_SUFFIX = "_probability"


class LabelSwitchingWarning(UserWarning):
    """Component values are being read while their labels may not mean one thing in all draws."""


@dataclass(frozen=True, eq=False)
class LabelSwitching:
    """What :func:`label_switching` found; printing it shows the sentence and a table.

    ``invariant`` and ``labelled`` are data frames (one row per scalar; columns ``variable``,
    ``r_hat``, ``ess_bulk``, ``ess_tail``); ``switches`` counts, for each chain, the draws whose
    labelling differs from that of the draw before; ``chains_differ`` says that two
    chains spend most of their draws in different labellings; ``labellings`` counts distinct ones.
    """

    sentence: str
    switched: bool
    switches: tuple[int, ...]
    chains_differ: bool
    labellings: int
    exchangeable: str
    relabelled: str
    invariant: pd.DataFrame
    labelled: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The worst scalar of each variable: label-invariant first, then as labelled."""
        import pandas as pd

        parts = {"label-invariant": self.invariant, "as labelled": self.labelled}
        worst = {"r_hat": "max", "ess_bulk": "min", "ess_tail": "min"}
        kept = [name for name, part in parts.items() if len(part)] or ["label-invariant"]
        blocks = [parts[name].groupby("variable", sort=False).agg(worst) for name in kept]
        return pd.concat(blocks, keys=kept)

    def __str__(self) -> str:
        per_chain = ", ".join(map(str, self.switches))
        facts = (
            f"switches per chain: {per_chain}; labellings visited: {self.labellings}; chains "
            f"{'sit in different labellings' if self.chains_differ else 'share one labelling'}; "
            f"prior exchangeable: {self.exchangeable}; relabelled: {self.relabelled}"
        )
        table = self.table().round({"r_hat": 3, "ess_bulk": 0, "ess_tail": 0})
        return f"{self.sentence}\n{facts}\n{table.to_string(na_rep='-')}"

    __repr__ = __str__


def label_switching(idata: Any) -> LabelSwitching:
    """Did the sampler mix, did labels switch, and may component values be read?

    Three answers are kept apart. *Mixing* is judged on label-invariant quantities: the log
    likelihood of each draw, label-free parameters, and label-carrying ones sorted along their label
    dimensions (order statistics do not know names). *Labelled* R-hat and ESS are those of the
    draws as they stand. *Switches* are draws at which the renaming that :func:`relabel` would apply
    changes. With poorly separated components a change of the best renaming need not be a move of
    the sampler between modes; aligning such draws does no harm.

    With one component, or none, there is nothing to switch, and the report says so. R-hat is NaN
    where it has no meaning (fewer than 4 draws a chain, constants); see
    :func:`bayesmix.posterior.arviz_compat.rhat` for a single chain.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> mean = np.array([-4.0, 0.0, 9.0]) + rng.normal(size=(2, 100, 3))
    >>> mean[1] = mean[1][:, [2, 0, 1]]
    >>> groups, dims = {"posterior": {"mean": mean}}, {"mean": ["component"]}
    >>> attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    >>> found = label_switching(compat.make(groups, dims=dims, attrs=attrs))
    >>> found.switched, found.switches, found.chains_differ
    (True, (0, 0), True)

    Sources: Jasra, Holmes and Stephens (2005), Statistical Science 20(1), on switching; Vehtari et
    al. (2021), Bayesian Analysis 16(2), on R-hat and ESS.
    """
    posterior = compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    dims = label_dims(idata)
    nothing = (0,) * posterior.sizes["chain"], False, 1
    within, chains_differ, labellings = switches(idata) if dims else nothing
    every = every_dim(posterior, dims)
    carrying = [name for name, v in posterior.data_vars.items() if set(every) & set(v.dims)]
    invariant = compat.diagnostics(_invariant(idata, posterior, every))
    labelled = compat.diagnostics(posterior[carrying])
    exchangeable = posterior.attrs.get("exchangeable", "unknown")
    relabelled = posterior.attrs.get("relabelled", "no")
    names = [f"labels switched {sum(within)} times within chains"] * any(within)
    names += ["chains sit in different labellings"] * chains_differ
    mixing = _mixing_sentence(invariant, posterior.sizes)
    meaning = "there is at most one component, so no label can switch"
    if any(posterior.sizes.get(dim, 2) > 1 for dim in dims):
        value, least = labelled["r_hat"].max(), invariant["r_hat"].max()
        meaning = _label_sentence(value, least, " and ".join(names), exchangeable, relabelled)
    return LabelSwitching(
        f"{mixing}; {meaning}", bool(names), within, chains_differ, labellings,
        exchangeable, relabelled, invariant, labelled,
    )  # fmt: skip


def relabel(idata: Any, pivot: tuple[int, int] | None = None) -> Any:
    r"""Rename the components of every draw so that they match those of one draw, the pivot.

    The pivot is the draw with the highest log likelihood, else the one closest to the median of all
    draws in sorted parameters; or give the positions ``(chain, draw)``. At draw t the renaming is
    the linear assignment with the least :math:`\sum_k cost_t[k, perm_t(k)]`. Where ``latents`` has
    ``<z>_probability`` p, the cost is that of equivalence classes representatives (ECR),

    .. math:: cost_t[k, j] = -\sum_i [z^*_i = k] \, p_t[i, j], \qquad z^*_i = argmax_k p^*_{ik},

    with drawn labels in place of p where only they are there; otherwise it is the squared distance
    between the parameter vectors of component k of the pivot and j of draw t, each entry in units
    of its spread within components (the deviation over draws of its sorted values). A draw whose
    present order is among the best keeps it.

    Returns a new container: every variable of ``posterior`` permuted along each label dimension,
    probabilities and drawn labels of ``latents`` too, and ``latents/permutation`` with
    ``new[k] = old[permutation[k]]`` (``permutation_<dim>`` for further label dimensions), composed
    with any that was there, so it always leads back to the original draws.
    ``posterior.attrs["relabelled"]`` becomes ``"pivot"``. Relabelling twice changes nothing.

    Raises ``ValueError`` if the posterior has no component labels, if the pivot is not a draw, or
    if what is to be matched is not finite. Warns with :class:`LabelSwitchingWarning` if the prior
    tells components apart, as labels then have a meaning of their own.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> order = rng.permuted(np.tile(np.arange(3), (2, 50, 1)), axis=-1)
    >>> mean = np.take_along_axis(np.array([-4.0, 0.0, 9.0]) + np.zeros((2, 50, 1)), order, -1)
    >>> groups, dims = {"posterior": {"mean": mean}}, {"mean": ["component"]}
    >>> idata = compat.make(groups, dims=dims, attrs={"posterior": {"label_dims": "component"}})
    >>> float(compat.dataset(relabel(idata), "posterior")["mean"].std("draw").max())
    0.0

    Sources: Papastamoulis and Iliopoulos (2010), Journal of Computational and Graphical Statistics
    19(2), for ECR; Marin, Mengersen and Robert (2005), Handbook of Statistics 25, for the pivot in
    parameters.
    """
    permutations = find_permutations(idata, pivot)
    posterior = compat.dataset(idata, "posterior")
    if posterior.attrs.get("exchangeable") == "no":
        warnings.warn(
            "The prior tells the components apart, so their labels have a meaning of their own, "
            "and renamed draws no longer follow this posterior: relabel only to describe them.",
            LabelSwitchingWarning,
            stacklevel=2,
        )
    every = dict(permutations)
    for dim, *others in named_dims(posterior):
        every |= {other: permutations[dim] for other in others if dim in permutations}
    renamed = {name: _permute(v, every) for name, v in posterior.data_vars.items()}
    renamed = posterior.assign(renamed).assign_attrs(relabelled="pivot")
    latents = _permute_latents(latents_of(idata), permutations, posterior)
    idata = compat.replace_group(idata, "posterior", renamed)
    return compat.replace_group(idata, "latents", latents)


def switches(idata: Any) -> tuple[tuple[int, ...], bool, int]:
    """Changes of labelling: how many in each chain, whether chains differ, how many labellings.

    Counted on the renamings to the pivot; the fields of :class:`LabelSwitching` say what is meant.
    """
    found = np.concatenate(list(find_permutations(idata).values()), axis=-1)
    chains, draws, width = found.shape
    changed = (found[:, 1:] != found[:, :-1]).any(-1).sum(1)
    kinds, code = np.unique(found.reshape(-1, width), axis=0, return_inverse=True)
    counts = np.zeros((chains, len(kinds)), int)
    np.add.at(counts, (np.arange(chains)[:, None], code.reshape(chains, draws)), 1)
    settled = 2 * counts.max(1) > draws
    differ = len(set(counts.argmax(1)[settled].tolist())) > 1
    return tuple(changed.tolist()), differ, len(kinds)


def find_permutations(idata: Any, pivot: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """For each label dimension, the ``(chain, draw, K)`` renaming that :func:`relabel` applies."""
    dims = label_dims(idata)
    if not dims:
        raise ValueError(
            "this posterior has no component labels: name the dimensions that carry them in "
            '`posterior.attrs["label_dims"]` (for example "component"), or leave it as it is.'
        )
    posterior = compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    at = _pivot(idata, posterior, dims, shape, pivot)
    latents, found = latents_of(idata), {}
    for dim in dims:
        size = posterior.sizes.get(dim) or latents.sizes[dim]
        cost = _allocation_cost(latents, dim, dims, shape, size, at)
        if cost is None:
            cost = _parameter_cost(posterior, dim, dims, size, at)
        found[dim] = _assign(cost, dim).reshape(*shape, -1)
    return found


def _pivot(idata, posterior, dims, shape, pivot) -> int:
    """Position of the pivot among all draws, chain by chain."""
    if pivot is not None:
        chain, draw = pivot
        if not (0 <= chain < shape[0] and 0 <= draw < shape[1]):
            raise ValueError(
                f"the pivot {pivot} is not a draw: give positions (chain, draw) below {shape}."
            )
        return int(chain) * shape[1] + int(draw)
    fit = _log_likelihood(idata)
    if fit is not None and fit.shape == shape and np.isfinite(fit).any():
        return int(np.argmax(np.where(np.isfinite(fit), fit, -np.inf)))
    every = _sorted(posterior, every_dim(posterior, dims)).values()
    found = [v.values.reshape(shape[0] * shape[1], -1) for v in every]
    table = np.concatenate(found, 1).astype(float)
    table = table[:, np.isfinite(table).all(0)]
    table, scale = table - np.median(table, 0), table.std(0)
    return int(np.argmin(((table / np.where(scale > 0, scale, 1.0)) ** 2).sum(1)))


def _log_likelihood(idata: Any) -> np.ndarray | None:
    """Total log likelihood of each draw, (chain, draw)."""
    if "log_likelihood" not in compat.groups(idata):
        return None
    found = compat.dataset(idata, "log_likelihood").transpose("chain", "draw", ...)
    return sum(v.values.reshape(*v.shape[:2], -1).sum(-1) for v in found.data_vars.values())


def _sorted(posterior: xr.Dataset, dims: tuple[str, ...]) -> dict[str, xr.DataArray]:
    """Every variable, sorted along its label dimensions in turn: invariant under renaming each.

    (What is sorted along one dimension still only changes places when another is renamed.)
    """
    found = dict(posterior.data_vars)
    for dim in dims:
        found = {
            name: v.copy(data=np.sort(v.values, axis=v.dims.index(dim))) if dim in v.dims else v
            for name, v in found.items()
        }
    return found


def _allocations(latents: xr.Dataset, dims: tuple[str, ...], dim: str) -> dict[str, xr.DataArray]:
    """Per latent labelled by ``dim``, its probabilities or, where there are none, its draws."""
    ordered = latents.transpose("chain", "draw", ..., dim, missing_dims="ignore").data_vars
    found = {
        name.removesuffix(_SUFFIX): v
        for name, v in ordered.items()
        if name.endswith(_SUFFIX) and latents[name].dims[-1] == dim
    }
    if found or dims != (dim,):
        return found
    whole = {name: v for name, v in ordered.items() if np.issubdtype(v.dtype, np.integer)}
    return {name: v for name, v in whole.items() if dim not in v.dims}


def _allocation_cost(latents, dim, dims, shape, size, at) -> np.ndarray | None:
    """ECR cost, (draws, K, K), summed over the latents that ``dim`` labels; None without any."""
    total = None
    for name, v in _allocations(latents, dims, dim).items():
        if v.shape[:2] != shape or v.sizes.get(dim, size) != size:
            raise ValueError(
                f"`{v.name}` in `latents` has sizes {dict(v.sizes)} where `posterior` has {shape} "
                f"chains and draws and {size} entries along `{dim}`: give both the same."
            )
        drawn = v.name == name
        flat = v.values.reshape(shape[0] * shape[1], -1, *(() if drawn else (size,)))
        if drawn and flat.size and not 0 <= flat.min() <= flat.max() < size:
            raise ValueError(
                f"labels `{name}` run from {flat.min()} to {flat.max()} where `{dim}` has {size} "
                f"entries: give them as positions from 0 to {size - 1}."
            )
        total = _overlap(flat, at, size) + (0.0 if total is None else total)
    return None if total is None else -total


def _overlap(table: np.ndarray, at: int, size: int) -> np.ndarray:
    """sum_i [z*_i = k] p_t[i, j] as (draws, K, K), for probabilities or drawn labels."""
    drawn = table.ndim == 2
    pivot = np.eye(size)[table[at] if drawn else table[at].argmax(-1)].T
    found = np.empty((len(table), size, size))
    step = max(1, _CHUNK // max(1, pivot.size))
    for start in range(0, len(table), step):
        part = table[start : start + step]
        part = (part[..., None] == np.arange(size)).astype(float) if drawn else part
        found[start : start + step] = pivot @ part
    return found


def _parameter_cost(posterior, dim, dims, size, at) -> np.ndarray:
    """Minus the inner product of standardised parameter vectors, (draws, K, K).

    The squared distance is this, twice, plus terms of k alone and of j alone, and those add the
    same to every assignment. An entry is measured in units of its spread within components, read
    off the sorted values: in units of its overall spread, entries that tell components apart would
    count no more than noise. Further label dimensions are sorted away first.
    """
    others = tuple(other for other in every_dim(posterior, dims) if other != dim)
    found = [
        v.transpose("chain", "draw", dim, ...).values.reshape(-1, np.prod(v.shape[2:]) // size)
        for v in _sorted(posterior, others).values()
        if dim in v.dims
    ]
    if not found:
        raise ValueError(
            f"nothing in `posterior` or `latents` tells the entries of the label dimension `{dim}` "
            "apart: name in `label_dims` only dimensions that carry labels."
        )
    table = np.concatenate(found, 1).astype(float)
    table = table[:, np.isfinite(table).all(0)].reshape(len(table) // size, size, -1)
    table = table - table.mean((0, 1))
    within = np.sqrt(np.sort(table, axis=1).var(0).mean(0))
    overall = np.sqrt((table**2).mean((0, 1)))
    table = table / np.maximum(within, np.where(overall > 0, 1e-3 * overall, 1.0))
    return -(table[at] @ table.transpose(0, 2, 1))


def _assign(cost: np.ndarray, dim: str) -> np.ndarray:
    """The least costly permutation of each draw; the identity wherever it is one of the best."""
    from scipy.optimize import linear_sum_assignment

    if not np.isfinite(cost).all():
        raise ValueError(
            f"the allocation probabilities along `{dim}` are not finite in "
            f"{int((~np.isfinite(cost).all((1, 2))).sum())} draws: look at those draws first."
        )
    identity, found = np.arange(cost.shape[1]), cost.argmin(-1)
    clash = (np.sort(found, -1) != identity).any(-1)
    for draw in np.flatnonzero(clash):
        found[draw] = linear_sum_assignment(cost[draw])[1]
    best = np.take_along_axis(cost, found[..., None], -1).sum((1, 2))
    slack = 1e-9 * np.abs(cost).max((1, 2), initial=0.0)
    found[np.trace(cost, axis1=1, axis2=2) <= best + slack] = identity
    return found


def _permute(array: xr.DataArray, permutations: Mapping[str, np.ndarray]) -> xr.DataArray:
    """``array`` with ``new[k] = old[permutation[k]]`` along each of its label dimensions."""
    for dim, permutation in permutations.items():
        if dim in array.dims:
            lead = array.transpose("chain", "draw", dim, ...)
            index = permutation.reshape(permutation.shape + (1,) * (lead.ndim - 3))
            moved = lead.copy(data=np.take_along_axis(lead.values, index, axis=2))
            array = moved.transpose(*array.dims)
    return array


def _permute_latents(latents, permutations, posterior) -> xr.Dataset:
    """Probabilities and drawn labels renamed, and the permutation from the original draws."""
    import xarray as xr

    dims = tuple(permutations)
    kept = {n: v for n, v in latents.data_vars.items() if not n.startswith("permutation")}
    renamed = {name: _permute(v, permutations) for name, v in kept.items()}
    for position, (dim, permutation) in enumerate(permutations.items()):
        inverse = np.argsort(permutation, -1)
        for name in set(_allocations(latents, dims, dim)) & set(kept):
            drawn = kept[name].transpose("chain", "draw", ...)
            flat = drawn.values.reshape(*drawn.shape[:2], -1)
            moved = np.take_along_axis(inverse, flat, -1).astype(drawn.dtype)
            moved = drawn.copy(data=moved.reshape(drawn.shape))
            renamed[name] = moved.transpose(*kept[name].dims)
        name, axes = f"permutation_{dim}" if position else "permutation", ("chain", "draw", dim)
        if name in latents:
            before = latents[name].transpose(*axes).values
            permutation = np.take_along_axis(before, permutation, -1)
        index = {axis: posterior[axis] for axis in axes if axis in posterior.coords}
        renamed[name] = xr.DataArray(permutation, index, axes)
    return latents.assign(renamed)


def _invariant(idata: Any, posterior: xr.Dataset, dims: tuple[str, ...]) -> xr.Dataset:
    """Label-invariant quantities of every draw."""
    import xarray as xr

    found = {}
    fit = _log_likelihood(idata)
    if fit is not None and fit.shape == tuple(posterior.sizes[d] for d in ("chain", "draw")):
        found["log likelihood"] = xr.DataArray(fit, dims=("chain", "draw"))
    for name, v in _sorted(posterior.drop_vars(dims, errors="ignore"), dims).items():
        found[f"{name} (sorted)" if set(dims) & set(v.dims) else name] = v
    return xr.Dataset(found)


def _mixing_sentence(invariant: pd.DataFrame, sizes: Mapping[str, int]) -> str:
    if not invariant["r_hat"].notna().any():
        few = sizes["draw"] < (4 if sizes["chain"] > 1 else 8)
        why = f"{sizes['draw']} draws a chain are too few" if few else "nothing varies"
        return f"whether the chains mix cannot be judged: {why}"
    worst, value = invariant["r_hat"].idxmax(), invariant["r_hat"].max()
    who = "the chains" if sizes["chain"] > 1 else "the two halves of the one chain"
    if value <= 1.01:
        return f"{who} mix: label-invariant R-hat {value:.2f}"
    if value <= 1.1:
        return f"{who} nearly mix, run longer: label-invariant R-hat {value:.2f} (`{worst}`)"
    return f"{who} do not mix, labels aside: label-invariant R-hat {value:.2f} (`{worst}`)"


def _label_sentence(value, least, how, exchangeable, relabelled) -> str:
    """What the labelled R-hat ``value`` means beside the invariant one, ``least``."""
    r_hat = "" if np.isnan(value) else f" (labelled R-hat {value:.2f})"
    if relabelled != "no":
        rest = ", and some draws would fit the pivot better renamed" if how else ""
        return f"labels were aligned by {relabelled}{r_hat}{rest}"
    if exchangeable == "no":
        meaning = "labels have meaning, as the prior tells the components apart"
        if how:
            return f"{meaning}, yet {how}{r_hat}: run longer or sharpen the prior, do not relabel"
        return f"{meaning}: component values can be read as they stand"
    if not how:
        return f"no label switched{r_hat}, so component values can be read as they stand"
    cause = f"{how}, so component means average over different components"
    if value > max(1.05, np.nan_to_num(least)):
        cause = f"labelled values have R-hat {value:.2f} because {how}"
    return f"{cause}; relabel before reading component means"
