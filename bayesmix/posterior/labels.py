r"""Component labels in posterior draws: did they switch, and how to bring them into one order.

A mixture whose prior does not tell its components apart has K! copies of every mode. A sampler may
sit in any of them, so component values averaged over draws mean little until labels agree, while
everything that no renaming can change (density, log likelihood, sorted values) is fine as it is.

`posterior.attrs` says `label_dims` (the dimensions whose index is a label, with commas between
them; one that is always renamed with another, such as the second of a chain's transitions, follows it
and an equals sign: `state=state_next`), `exchangeable` ("yes", "no", "unknown": is the prior the
same under every renaming) and `relabelled` ("no" or a method). `label_complements` names
probabilities that are one minus themselves where two labels are swapped (`share=component`), and
`label_bound` variables that a renaming changes though no dimension counts labels. The group
`latents` may hold `<z>_probability` (chain, draw, rows, component) and drawn labels `<z>` (chain,
draw, rows), which are positions from 0 to K - 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..program.errors import ProgramError
from . import arviz_compat
from .label_dims import (
    bound_to_labels,
    complements,
    every_dim,
    label_dims,
    latents_of,
    named_dims,
)
from .labelled_draws import (
    draws_by_dim,
    latents_labelled_by,
    log_likelihood,
    method_name,
    sorted_along,
)
from .relabelling_confidence import refuse_below
from .relabelling_methods import Method, Pivot, apply_method

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class LabelSwitchingWarning(UserWarning):
    """Component values are being read while their labels may not mean one thing in all draws."""


@dataclass(frozen=True, eq=False)
class LabelSwitching:
    """What :func:`label_switching` found; printing it shows the sentence and a table.

    `invariant` and `labelled` are data frames (one row per scalar; columns `variable`,
    `r_hat`, `ess_bulk`, `ess_tail`); `switches` counts, for each chain, the draws whose
    labelling differs from that of the draw before; `chains_differ` says that two
    chains spend most of their draws in different labellings; `labellings` counts distinct ones.
    `pairs` holds for each label dimension :func:`switched_pairs`.
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
    pairs: dict[str, np.ndarray]

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
        facts += "".join(_pair_sentence(dim, counts) for dim, counts in self.pairs.items())
        table = self.table().round({"r_hat": 3, "ess_bulk": 0, "ess_tail": 0})
        return f"{self.sentence}\n{facts}\n{table.to_string(na_rep='-')}"

    __repr__ = __str__


def label_switching(idata: Any, method: Method | None = None) -> LabelSwitching:
    """Did the sampler mix, did labels switch, and may component values be read?

    Three answers are kept apart. *Mixing* is judged on label-invariant quantities: the log
    likelihood of each draw, label-free parameters, and label-carrying ones sorted along their label
    dimensions (order statistics do not know names). *Labelled* R-hat and ESS are those of the
    draws as they stand. *Switches* are draws at which the renaming that :func:`relabel` would apply
    (with the same `method`) changes, and *pairs* says between which components. With poorly
    separated components a change of the best renaming need not be a move of the sampler between
    modes; aligning such draws does no harm.

    With one component, or none, there is nothing to switch, and the report says so. R-hat is NaN
    where it has no meaning (fewer than 4 draws a chain, constants); see
    :func:`bayesmix.posterior.arviz_compat.rhat` for a single chain.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> mean = np.array([-4.0, 0.0, 9.0]) + rng.normal(size=(2, 100, 3))
    >>> mean[1] = mean[1][:, [2, 0, 1]]
    >>> groups, dims = {"posterior": {"mean": mean}}, {"mean": ["component"]}
    >>> attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    >>> found = label_switching(arviz_compat.make(groups, dims=dims, attrs=attrs))
    >>> found.switched, found.switches, found.chains_differ
    (True, (0, 0), True)

    Sources: Jasra, Holmes and Stephens (2005), Statistical Science 20(1), on switching; Vehtari et
    al. (2021), Bayesian Analysis 16(2), on R-hat and ESS.
    """
    posterior = arviz_compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    dims = label_dims(idata)
    nothing = (0,) * posterior.sizes["chain"], False, 1
    found = find_permutations(idata, method=method) if dims else {}
    within, chains_differ, labellings = switches(found) if dims else nothing
    every = every_dim(posterior, dims)
    carrying = carrying_labels(posterior, every)
    invariant = arviz_compat.diagnostics(_invariant(idata, posterior, every))
    labelled = arviz_compat.diagnostics(posterior[carrying])
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
        {dim: switched_pairs(order) for dim, order in found.items()},
    )  # fmt: skip


def relabel(
    idata: Any,
    pivot: tuple[int, int] | None = None,
    method: Method | None = None,
    least_confidence: float | None = None,
) -> Any:
    r"""Rename the components of every draw so that they mean the same in all of them.

    By default (:class:`~bayesmix.relabelling.Pivot`) they match those of one draw, the
    pivot: the one with the highest log likelihood, else the one closest to the median of all
    draws in sorted parameters; or give the positions `(chain, draw)`. At draw t the renaming is
    the linear assignment with the least :math:`\sum_k cost_t[k, perm_t(k)]`. Where `latents` has
    `<z>_probability` p, the cost is that of equivalence classes representatives (ECR),

    .. math:: cost_t[k, j] = -\sum_i [z^*_i = k] \, p_t[i, j], \qquad z^*_i = argmax_k p^*_{ik},

    with drawn labels in place of p where only they are there; otherwise it is the squared distance
    between the parameter vectors of component k of the pivot and j of draw t, each entry in units
    of its spread within components (the deviation over draws of its sorted values). A draw whose
    present order is among the best keeps it.

    Args:
        idata: draws with component labels, of this package or told by
            :func:`~bayesmix.posterior.labelled_draws.declare_labels`.
        pivot: positions of the pivot, for the default method.
        method: another method: `OrderBy`, `PRA`, `ECR`, `IterativeECR`, `Stephens`,
            `OnlineStephens`, `DataBased`, or any function from
            :class:`~bayesmix.posterior.labelled_draws.LabelledDraws` to permutations (S, K).
        least_confidence: refuse where :func:`~bayesmix.posterior.relabelling_confidence.confidence`
            is below this.

    Returns:
        A new container: every variable of `posterior` permuted along each label dimension,
        probabilities and drawn labels of `latents` too, and `latents/permutation` with
        `new[k] = old[permutation[k]]` (`permutation_<dim>` for further label dimensions), composed
        with any that was there, so it always leads back to the original draws.
        `posterior.attrs["relabelled"]` becomes the method's name. Relabelling twice by the default
        changes nothing.

    Raises:
        ProgramError: if the posterior has no component labels, if the pivot is not a draw, if what is
            to be matched is not there or not finite, or if components cannot be told apart.

    Warns with :class:`LabelSwitchingWarning` if the prior tells components apart, as labels then have
    a meaning of their own; and names variables that follow the labels though none of their dimensions
    counts them (the first component's mean, say): they cannot be renamed, and are left out.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> order = rng.permuted(np.tile(np.arange(3), (2, 50, 1)), axis=-1)
    >>> mean = np.take_along_axis(np.array([-4.0, 0.0, 9.0]) + np.zeros((2, 50, 1)), order, -1)
    >>> groups, dims = {"posterior": {"mean": mean}}, {"mean": ["component"]}
    >>> idata = arviz_compat.make(groups, dims=dims, attrs={"posterior": {"label_dims": "component"}})
    >>> float(arviz_compat.dataset(relabel(idata), "posterior")["mean"].std("draw").max())
    0.0

    Sources: Papastamoulis and Iliopoulos (2010), Journal of Computational and Graphical Statistics
    19(2), for ECR; Marin, Mengersen and Robert (2005), Handbook of Statistics 25, for the pivot in
    parameters.
    """
    permutations = find_permutations(idata, pivot, method)
    if least_confidence is not None:
        for dim, draws in draws_by_dim(idata).items():
            refuse_below(draws, permutations[dim].reshape(draws.shape), least_confidence)
    posterior = arviz_compat.dataset(idata, "posterior")
    if posterior.attrs.get("exchangeable") == "no":
        warnings.warn(
            "The prior tells the components apart, so their labels have a meaning of their own, "
            "and renamed draws no longer follow this posterior: relabel only to describe them.",
            LabelSwitchingWarning,
            stacklevel=2,
        )
    bound = bound_to_labels(posterior)
    if bound:
        warnings.warn(
            f"{', '.join(map(repr, bound))} of the posterior cannot be renamed, as it depends on the "
            "labels and none of its dimensions counts them: it is left out; compute it from the renamed "
            "parameters.",
            LabelSwitchingWarning,
            stacklevel=2,
        )
    idata = renamed_draws(idata, permutations)
    done = arviz_compat.dataset(idata, "posterior").assign_attrs(
        relabelled=method_name(method or Pivot())
    )
    return arviz_compat.replace_group(idata, "posterior", done)


def renamed_draws(idata: Any, permutations: Mapping[str, np.ndarray]) -> Any:
    """Draws with component `permutation[..., k]` at label k, in `posterior` and `latents`; one
    permutation (chain, draw, K) for each label dimension."""
    posterior = arviz_compat.dataset(idata, "posterior")
    latents = _permute_latents(latents_of(idata), permutations, posterior)
    idata = arviz_compat.replace_group(idata, "posterior", renamed(posterior, permutations))
    return arviz_compat.replace_group(idata, "latents", latents)


def renamed(posterior: xr.Dataset, permutations: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Every variable permuted along its label dimensions, and along those that go with them; without
    those that cannot be."""
    every = dict(permutations)
    for dim, *others in named_dims(posterior):
        every |= {other: permutations[dim] for other in others if dim in permutations}
    posterior = posterior.drop_vars(bound_to_labels(posterior))
    found = {name: _permute(v, every) for name, v in posterior.data_vars.items()}
    for name, dim in complements(posterior).items():
        if dim in permutations:
            share = posterior[name].transpose("chain", "draw")
            turned = np.where(permutations[dim][..., 0] != 0, 1 - share.values, share.values)
            found[name] = share.copy(data=turned)
    return posterior.assign(found)


def carrying_labels(posterior: xr.Dataset, dims: tuple[str, ...]) -> list[str]:
    """Variables whose values change when labels, which these dimensions count, are renamed."""
    names = [str(name) for name, v in posterior.data_vars.items() if set(dims) & set(v.dims)]
    return [*names, *complements(posterior), *bound_to_labels(posterior)] if dims else names


def switches(permutations: Mapping[str, np.ndarray]) -> tuple[tuple[int, ...], bool, int]:
    """Changes of labelling: how many in each chain, whether chains differ, how many labellings.

    Counted on what :func:`find_permutations` returns; the fields of :class:`LabelSwitching` say what
    is meant.
    """
    found = np.concatenate(list(permutations.values()), axis=-1)
    chains, draws, width = found.shape
    changed = (found[:, 1:] != found[:, :-1]).any(-1).sum(1)
    kinds, code = np.unique(found.reshape(-1, width), axis=0, return_inverse=True)
    counts = np.zeros((chains, len(kinds)), int)
    np.add.at(counts, (np.arange(chains)[:, None], code.reshape(chains, draws)), 1)
    settled = 2 * counts.max(1) > draws
    differ = len(set(counts.argmax(1)[settled].tolist())) > 1
    return tuple(changed.tolist()), differ, len(kinds)


def switched_pairs(permutations: np.ndarray) -> np.ndarray:
    """Who took whose label: (chain, K, K) from permutations (chain, draw, K).

    Entry [c, k, j] counts the draws of chain c at which component k (numbered as in the relabelled
    draws) has the label that component j had at the draw before. An exchange of two components counts
    at [k, j] and at [j, k]; a longer cycle only one way round.

    >>> switched_pairs(np.array([[[0, 1, 2], [1, 0, 2], [1, 0, 2]]]))[0].tolist()
    [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    before, after = permutations[:, :-1, None, :], permutations[:, 1:, :, None]
    taken = (before == after).sum(1)
    return taken * ~np.eye(permutations.shape[-1], dtype=bool)


def find_permutations(
    idata: Any, pivot: tuple[int, int] | None = None, method: Method | None = None
) -> dict[str, np.ndarray]:
    """For each label dimension, the `(chain, draw, K)` renaming that :func:`relabel` applies."""
    if not label_dims(idata):
        raise ProgramError(
            "this posterior has no component labels: name the dimensions that carry them in "
            '`posterior.attrs["label_dims"]` (for example "component"), by `declare_labels` for draws '
            "of another program, or leave it as it is."
        )
    sizes = arviz_compat.dataset(idata, "posterior").sizes
    shape = (sizes["chain"], sizes["draw"])
    chosen = _chosen(method, pivot, shape)
    found = {dim: apply_method(chosen, draws) for dim, draws in draws_by_dim(idata).items()}
    return {dim: order.reshape(*shape, -1) for dim, order in found.items()}


def _chosen(method: Method | None, pivot: tuple[int, int] | None, shape: tuple[int, int]) -> Method:
    """The method, or the default one with the pivot that was asked for."""
    if pivot is None:
        return Pivot() if method is None else method
    if method is not None:
        raise ProgramError(
            "give the pivot to the method itself, as in ECR(pivot=...), not beside it"
        )
    chain, draw = pivot
    if not (0 <= chain < shape[0] and 0 <= draw < shape[1]):
        raise ProgramError(
            f"the pivot {pivot} is not a draw: give positions (chain, draw) below {shape}."
        )
    return Pivot(int(chain) * shape[1] + int(draw))


def _permute(array: xr.DataArray, permutations: Mapping[str, np.ndarray]) -> xr.DataArray:
    """`array` with `new[k] = old[permutation[k]]` along each of its label dimensions."""
    for dim, permutation in permutations.items():
        if dim in array.dims:
            lead = array.transpose("chain", "draw", dim, ...)
            index = permutation.reshape(permutation.shape + (1,) * (lead.ndim - 3))
            moved = lead.copy(data=np.take_along_axis(lead.values, index, axis=2))
            array = moved.transpose(*array.dims)
    return array


def _permute_latents(
    latents: xr.Dataset, permutations: Mapping[str, np.ndarray], posterior: xr.Dataset
) -> xr.Dataset:
    """Probabilities and drawn labels renamed, and the permutation from the original draws."""
    import xarray as xr

    dims = tuple(permutations)
    kept = {n: v for n, v in latents.data_vars.items() if not n.startswith("permutation")}
    renamed = {name: _permute(v, permutations) for name, v in kept.items()}
    for position, (dim, permutation) in enumerate(permutations.items()):
        inverse = np.argsort(permutation, -1)
        for name in set(latents_labelled_by(latents, dims, dim)[0]) & set(kept):
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
    fit = log_likelihood(idata)
    if fit is not None and fit.shape == tuple(posterior.sizes[d] for d in ("chain", "draw")):
        found["log likelihood"] = xr.DataArray(fit, dims=("chain", "draw"))
    kept = posterior.drop_vars([*dims, *bound_to_labels(posterior)], errors="ignore")
    for name, v in sorted_along(kept, dims).items():
        found[f"{name} (sorted)" if set(dims) & set(v.dims) else name] = v
    for name in complements(kept):
        found[f"{name} (smaller share)"] = np.minimum(found[name], 1 - found.pop(name))
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


def _pair_sentence(dim: str, counts: np.ndarray) -> str:
    """The pairs that exchanged labels most often, from :func:`switched_pairs`."""
    both = np.triu(counts.sum(0) + counts.sum(0).T)
    first, second = np.unravel_index(np.argsort(-both, axis=None, kind="stable")[:4], both.shape)
    most = [f"{a}-{b} ({both[a, b] // 2})" for a, b in zip(first, second) if both[a, b] > 1]
    return f"; {dim} pairs that switched most: {', '.join(most)}" if most else ""


def _label_sentence(
    value: float, least: float, how: str, exchangeable: str, relabelled: str
) -> str:
    """What the labelled R-hat `value` means beside the invariant one, `least`."""
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
