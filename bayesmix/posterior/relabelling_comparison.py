"""Relabelling by several methods side by side: where do they agree, and which is to be believed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..program.errors import ProgramError
from . import arviz_compat, labels
from .labelled_draws import LabelledDraws, draws_by_dim
from .relabelling_confidence import ambiguity, confidence
from .relabelling_iterative import (
    DataBased,
    IterativeECR,
    OnlineStephens,
    Stephens,
    stephens_loss,
)
from .relabelling_methods import (
    ECR,
    PRA,
    Array,
    Method,
    OrderBy,
    Pivot,
    apply_method,
    label_probabilities,
)

if TYPE_CHECKING:
    import pandas as pd


def agreement(one: Array, other: Array) -> float:
    """The share of draws that two sets of permutations (S, K) rename alike, up to one global renaming.

    The global renaming is the most frequent difference between the two, which makes the share largest.

    >>> agreement(np.array([[0, 1], [1, 0], [0, 1]]), np.array([[1, 0], [0, 1], [0, 1]]))
    0.67
    """
    difference = np.take_along_axis(np.argsort(one, -1), other, -1)
    return float(np.unique(difference, axis=0, return_counts=True)[1].max() / len(one))


def applicable_methods(draws: LabelledDraws) -> dict[str, Method]:
    """The methods that have what they need, by name, with their default settings."""
    found: dict[str, Method] = {}
    if draws.allocations is not None:
        found |= {"ECR": ECR(), "iterative ECR 1": IterativeECR(start=Pivot())}
    if draws.probabilities is not None:
        expected = IterativeECR(label_probabilities, label_probabilities, Pivot())
        found |= {"expected ECR": ECR(match=label_probabilities), "iterative ECR 2": expected}
        found |= {"Stephens": Stephens(), "Stephens, online": OnlineStephens()}
    if draws.allocations is not None and draws.data is not None:
        found["data-based"] = DataBased()
    if draws.parameters is not None:
        found |= {"PRA": PRA()}
        found |= {f"ordering of {site}": OrderBy(site) for site in dict.fromkeys(draws.columns)}
    return found


@dataclass(frozen=True, eq=False)
class RelabellingComparison:
    """Several relabellings of the same draws; printing it shows a verdict and two tables.

    `agreement` is a data frame of the share of draws on which two methods agree. `table` has one
    row for each method: `confidence` (see
    :func:`~bayesmix.posterior.relabelling_confidence.confidence`), the `Stephens loss`, the worst
    `r_hat` and least `ess_bulk` and `ess_tail` of labelled values after relabelling. `best` is
    the method with the highest confidence, the one listed first among equals; `reason` says why
    components cannot be told apart where even its confidence is below `least_confidence`, and is
    empty otherwise. `pairs` (K, K) is the confidence in each pair by the best method.
    """

    agreement: pd.DataFrame
    table: pd.DataFrame
    permutations: dict[str, Array]
    best: str
    reason: str
    pairs: Array | None

    def __str__(self) -> str:
        sure = self.table["confidence"].get(self.best, np.nan)
        verdict = f"components cannot be told apart: {self.reason}"
        if np.isnan(sure):
            verdict = "there are no labels of rows, so only the agreement of methods can be judged"
        elif not self.reason:
            verdict = f"components can be told apart: confidence {sure:.3f} by {self.best}"
        digits = {"confidence": 3, "Stephens loss": 1, "r_hat": 3, "ess_bulk": 0, "ess_tail": 0}
        return (
            f"{verdict}\n\n{self.table.round(digits).to_string(na_rep='-')}"
            f"\n\nshare of draws renamed alike\n{self.agreement.round(3).to_string()}"
        )

    __repr__ = __str__


def compare_relabellings(
    idata: Any,
    methods: Mapping[str, Method] | None = None,
    *,
    dim: str | None = None,
    least_confidence: float = 0.9,
) -> RelabellingComparison:
    """Relabel draws by several methods: agreement, confidence, and R-hat of labelled values after it.

    Args:
        idata: draws with component labels (ArviZ); see
            :func:`~bayesmix.posterior.labelled_draws.declare_labels` for those of other programs.
        methods: by the names to show; by default all whose needs are met, with default settings.
        dim: which label dimension, where there are several; by default the first.
        least_confidence: below this the components count as not identifiable.

    Raises:
        ProgramError: without labels, without methods, or for another dimension.

    >>> rng = np.random.default_rng(0)
    >>> mean = np.array([-4.0, 0.0, 9.0]) + rng.normal(size=(2, 50, 3))
    >>> attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    >>> idata = arviz_compat.make({"posterior": {"mean": mean}}, None, {"mean": ["component"]}, attrs)
    >>> compare_relabellings(idata).agreement.round(2)
                      PRA  ordering of mean
    PRA               1.0               1.0
    ordering of mean  1.0               1.0
    """
    import pandas as pd

    known = draws_by_dim(idata)
    if not known or (dim is not None and dim not in known):
        raise ProgramError(
            f"no label dimension {dim or ''}: there are {', '.join(known) or 'none'}"
        )
    dim = next(iter(known)) if dim is None else dim
    draws = known[dim]
    chosen = applicable_methods(draws) if methods is None else dict(methods)
    if not chosen:
        raise ProgramError("there is no method to compare: name one at least")
    found = {name: apply_method(method, draws) for name, method in chosen.items()}
    names = list(found)
    shares = [[agreement(found[a], found[b]) for b in names] for a in names]
    judged = draws.probabilities is not None or draws.allocations is not None
    sure = {name: confidence(draws, order) for name, order in found.items() if judged}
    rows = {name: _row(idata, draws, dim, order) for name, order in found.items()}
    means = [sure[name].mean if judged else np.nan for name in names]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.insert(0, "confidence", means)
    best = names[int(np.argmax(np.round(means, 6)))]
    reason = ""
    if judged and sure[best].mean < least_confidence:
        reason = ambiguity(draws, found[best], sure[best], least_confidence)
    return RelabellingComparison(
        agreement=pd.DataFrame(shares, names, names),
        table=table,
        permutations=found,
        best=best,
        reason=reason,
        pairs=sure[best].pairs if judged else None,
    )


def _row(idata: Any, draws: LabelledDraws, dim: str, order: Array) -> dict[str, float]:
    """What the table says of one method beside the confidence in it."""
    posterior = arviz_compat.dataset(idata, "posterior").transpose("chain", "draw", ...)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"], -1)
    renamed = labels.renamed(posterior, {dim: order.reshape(shape)})
    carrying = [name for name, v in renamed.data_vars.items() if dim in v.dims]
    seen = arviz_compat.diagnostics(renamed[carrying])
    p = draws.probabilities
    return {
        "Stephens loss": np.nan if p is None else stephens_loss(p, order),
        "r_hat": seen["r_hat"].max(),
        "ess_bulk": seen["ess_bulk"].min(),
        "ess_tail": seen["ess_tail"].min(),
    }
