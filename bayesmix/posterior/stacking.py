"""Stacking of chains that are stuck in different modes: weights by prediction, not by mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from ..program.errors import ProgramError
from . import arviz_compat

_HIGH_K = 0.7  # beyond it the estimate of a row is not to be trusted: Vehtari et al. (2024)


@dataclass(frozen=True, eq=False)
class Stacking:
    """Weights of chains by stacking; see :func:`stack_chains`.

    Attributes:
        weights: of each chain, (C,), summing to one.
        elpd: of each chain alone, its sum over rows of leave-one-out log predictive densities, (C,).
        stacked_elpd: that of the weighted mixture of chains.
        num_high_k: rows of each chain whose estimate is not to be trusted (Pareto k above 0.7), (C,).
    """

    weights: np.ndarray
    elpd: np.ndarray
    stacked_elpd: float
    num_high_k: np.ndarray

    def resample(self, idata: Any, rng_key: int = 0) -> Any:
        """Draws of all chains in proportion to the weights, as one chain of as many draws as there were
        in one; systematic, without replacement where it can be. Marked in `posterior.attrs["stacked"]`.
        """
        rng = np.random.default_rng(rng_key)
        posterior = arviz_compat.dataset(idata, "posterior")
        chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
        places = (np.arange(draws) + rng.uniform()) / draws
        chain = np.minimum(np.searchsorted(np.cumsum(self.weights), places), chains - 1)
        draw = rng.permutation(draws)
        found = idata
        for group in arviz_compat.groups(idata):
            each = arviz_compat.dataset(idata, group)
            if {"chain", "draw"} <= set(each.dims):
                stacked = each.stack(sample=("chain", "draw"))
                taken = stacked.isel(sample=chain * draws + draw).drop_vars(
                    ["sample", "chain", "draw"]
                )
                one = taken.rename(sample="draw").expand_dims(chain=[0])
                one = one.assign_coords(draw=np.arange(draws)).transpose("chain", "draw", ...)
                if group == "posterior":
                    one = one.assign_attrs(stacked="weights " + str(self.weights.round(4).tolist()))
                found = arviz_compat.replace_group(found, group, one)
        return found

    def __str__(self) -> str:
        lines = ["stacking of chains: weights by prediction, not by posterior mass"]
        for c, (weight, elpd, high) in enumerate(
            zip(self.weights, self.elpd, self.num_high_k, strict=True)
        ):
            note = f"  ({high} rows with Pareto k > {_HIGH_K})" if high else ""
            lines.append(f"  chain {c}: weight {weight:.3f}, elpd {elpd:.2f}{note}")
        lines.append(f"  stacked: elpd {self.stacked_elpd:.2f}")
        return "\n".join(lines)

    __repr__ = __str__


def stack_chains(idata: Any, var_name: str | None = None) -> Stacking:
    """Weights for chains that do not mix with one another.

    The weights maximise the leave-one-out log score of the mixture of chains,

        sum_i log sum_c w_c p_c(x_i | all other rows).

    They are an alternative to a sampler that crosses between modes, and another thing: a chain's weight
    says how much it helps to predict, not how much posterior mass its mode has. Chains in relabelled
    copies of one mode predict alike, and share their weight in any way.

    Args:
        idata: what :func:`bayesmix.to_arviz` returns, with its `log_likelihood` group.
        var_name: which variable of that group, where there are several.

    Raises:
        ProgramError: where there is one chain only.
        KeyError, ValueError: where the group is missing, or the variable is not clear.

    Example:
        >>> import numpy as np
        >>> from bayesmix.posterior import arviz_compat
        >>> rng = np.random.default_rng(0)
        >>> good, poor = (rng.normal(place, 0.05, size=(1, 200, 30)) for place in (-1.0, -3.0))
        >>> rows = {"x": np.concatenate([good, poor])}
        >>> idata = arviz_compat.make({"log_likelihood": rows})
        >>> stack_chains(idata).weights.round(3).tolist()
        [1.0, 0.0]

    Source: Yao, Vehtari & Gelman (2022), *JMLR* 23 (79), 1-45.
    """
    found = arviz_compat.dataset(idata, "log_likelihood")
    chains = found.sizes["chain"]
    if chains < 2:
        raise ProgramError("there is one chain; stacking weighs several against each other")
    from scipy.optimize import minimize

    by_chain, high = [], []
    for c in range(chains):
        alone = arviz_compat.replace_group(idata, "log_likelihood", found.isel(chain=[c]))
        elpd, pareto_k = arviz_compat.loo_by_row(alone, var_name)
        by_chain.append(elpd.reshape(-1))
        high.append(int(np.sum(pareto_k > _HIGH_K)))
    table = np.stack(by_chain, axis=1)  # (N, C)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        joint = table + log_softmax(free)
        evidence = logsumexp(joint, axis=1)
        share = np.exp(joint - evidence[:, None]).sum(axis=0)
        return -float(evidence.sum()), -(share - len(table) * softmax(free))

    best = minimize(
        loss, np.zeros(chains), jac=True, method="L-BFGS-B", bounds=[(-30, 30)] * chains
    )
    return Stacking(softmax(best.x), table.sum(axis=0), -float(best.fun), np.asarray(high))
