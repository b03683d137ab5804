"""A table of posterior summaries that says when component values are not to be read yet."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arviz_compat, labels

if TYPE_CHECKING:
    import pandas as pd


def summary(idata: Any, prob: float = 0.94) -> pd.DataFrame:
    """Mean, spread, interval and diagnostics of every scalar parameter.

    One row per scalar of `posterior`, named from coords (`mean[0, eruptions]`). Columns:
    `mean`; `sd` (divisor S - 1); `hdi_low` and `hdi_high`, the shortest interval that holds
    `prob` of the draws; `ess_bulk` and `ess_tail`; `r_hat`. Units are those of the
    parameter. `attrs["prob"]` of the table keeps `prob`.

    Warns with :class:`~bayesmix.posterior.labels.LabelSwitchingWarning` when parameters that carry
    component labels are summarised before :func:`~bayesmix.posterior.labels.relabel`, unless the
    prior tells the components apart. Raises `ValueError` if `prob` is not between 0 and 1.

    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(3.0, 0.1, size=(4, 250))
    >>> table = summary(arviz_compat.make({"posterior": {"rate": draws}}))
    >>> table.round(1).loc["rate", ["mean", "sd", "hdi_low", "hdi_high"]].tolist()
    [3.0, 0.1, 2.8, 3.2]

    Source: Vehtari et al. (2021), Bayesian Analysis 16(2), for the diagnostics.
    """
    import pandas as pd

    posterior = arviz_compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    reason = _why_not_yet(idata, posterior)
    if reason:
        warnings.warn(reason, labels.LabelSwitchingWarning, stacklevel=2)
    blocks = [
        v.values.reshape(*v.shape[:2], -1).astype(float) for v in posterior.data_vars.values()
    ]
    draws = np.concatenate(blocks, -1)
    low, high = arviz_compat.hdi(draws, prob)
    flat = draws.reshape(-1, draws.shape[-1])
    spread = flat.std(0, ddof=1) if len(flat) > 1 else np.full(flat.shape[1], np.nan)
    found = arviz_compat.diagnostics(posterior)
    columns = {"mean": flat.mean(0), "sd": spread, "hdi_low": low, "hdi_high": high}
    table = pd.DataFrame(columns, index=found.index)
    table = table.join(found[["ess_bulk", "ess_tail", "r_hat"]])
    table.attrs["prob"] = prob
    return table


def _why_not_yet(idata: Any, posterior: Any) -> str | None:
    """The reason why component values should not be read, or None."""
    dims = [dim for dim in labels.label_dims(idata) if posterior.sizes.get(dim, 1) > 1]
    carrying = [f"`{name}`" for name in labels.carrying_labels(posterior, tuple(dims))]
    exchangeable = posterior.attrs.get("exchangeable", "unknown")
    relabelled = posterior.attrs.get("relabelled", "no")
    if not carrying or relabelled != "no" or exchangeable == "no":
        return None
    within, chains_differ, _ = labels.switches(labels.find_permutations(idata))
    seen = [f"labels switched {sum(within)} times within chains"] * any(within)
    seen += ["chains sit in different labellings"] * chains_differ
    prior = "is" if exchangeable == "yes" else "may be"
    return (
        f"Rows of {', '.join(carrying)} may average over different components: the prior {prior} "
        "the same under every renaming of the components, so their labels need not mean one thing "
        f"in all draws ({' and '.join(seen) or 'here no switch was seen'}). Relabel first "
        "(`bayesmix.relabel`); rows without component labels are not affected."
    )
