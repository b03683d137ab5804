"""What a comparison finds in the engines' answers, as records: one a line of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..families.forms import base_support
from ..posterior.partitions import adjusted_rand_index, distance, variation_of_information
from ..program.plan import Plan

if TYPE_CHECKING:
    from .engines import EngineResult

_MOST_ENTRIES = 400


class Agreement(NamedTuple):
    """Between each two engines' hard clusterings (E, E): the adjusted Rand index, 1 where they are the
    same and 0 by chance, and the variation of information in bits, 0 where they are the same."""

    names: tuple[str, ...]
    adjusted_rand: np.ndarray
    variation_of_information: np.ndarray


def parameters(
    plan: Plan, results: Mapping[str, EngineResult], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """One record per scalar: a value for EM, (mean, low, high) for samplers.

    Symmetric matrices are listed once, on and above the diagonal.
    """
    records: list[dict[str, Any]] = []
    sites = (*plan.reading.parameters, *plan.reading.deterministic)
    for site in sites:
        labels = {axis for group in plan.labels.groups for axis in group.axes.get(site.name, ())}
        symmetric = type(base_support(site.support)).__name__ == "_PositiveDefinite"
        for index in np.ndindex(*site.shape):
            if symmetric and index[-1] < index[-2]:
                continue
            record: dict[str, Any] = {"parameter": _name(site, index, labels, columns)}
            for engine, result in results.items():
                if site.name in result.estimate:
                    record[engine] = _entry(result, site.name, index)
            records.append(record)
            if len(records) >= _MOST_ENTRIES:
                return records
    return records


def _name(site: Any, index: tuple[int, ...], labels: set[int], columns: Sequence[str]) -> str:
    parts = []
    for axis, i in enumerate(index):
        named = axis not in labels and site.shape[axis] == len(columns) > 1
        parts.append(columns[i] if named else str(i))
    return f"{site.name}[{', '.join(parts)}]" if parts else site.name


def _entry(result: EngineResult, name: str, index: tuple[int, ...]) -> Any:
    value = float(result.estimate[name][index])
    if name not in result.interval:
        return value
    low, high = result.interval[name]
    return (value, float(low[index]), float(high[index]))


def scores(results: Mapping[str, EngineResult]) -> list[dict[str, Any]]:
    """Mean held-out log density per row, its standard error, and the paired difference from MAP-EM."""
    base = results["MAP-EM"].held_out if "MAP-EM" in results else None
    records = []
    for name, result in results.items():
        if result.held_out is None:
            continue
        record: dict[str, Any] = {
            "engine": name,
            "plug_in": result.plug_in,
            "held_out": float(result.held_out.mean()),
            "se": _standard_error(result.held_out),
            "difference": None,
            "difference_se": None,
        }
        if base is not None and name != "MAP-EM":
            difference = result.held_out - base
            record["difference"] = float(difference.mean())
            record["difference_se"] = _standard_error(difference)
        records.append(record)
    return records


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def evidence(results: Mapping[str, EngineResult]) -> list[dict[str, Any]]:
    """log p(x) by the engines that give it, with its standard error and what kind of value it is."""
    records = [
        {"engine": name, **result.evidence._asdict()}
        for name, result in results.items()
        if result.evidence is not None
    ]
    bounds = [each["value"] for each in records if each["kind"].startswith("lower bound")]
    for each in records:
        error = each["error"]
        if bounds and error is not None and each["value"] + 3 * error < max(bounds) - 1:
            each["kind"] += "; below the lower bound, so too low: take more particles"
    return records


def agreements(results: Mapping[str, EngineResult]) -> dict[str, Agreement]:
    """How far the engines' hard clusterings agree, by latent; {} where there are not two to compare."""
    if len(results) < 2:
        return {}
    found = {}
    for latent in next(iter(results.values())).by_latent:
        each = [result.by_latent[latent].argmax(axis=1) for result in results.values()]
        labels = np.stack(each)
        found[latent] = Agreement(
            tuple(results),
            adjusted_rand_index(labels, labels),
            distance(labels, labels, variation_of_information),
        )
    return found


def diagnostics(results: Mapping[str, EngineResult]) -> list[dict[str, Any]]:
    """R-hat and ESS: label-invariant, and of labelled values before and after relabelling."""
    records = []
    for name, result in results.items():
        before, after = result.switching, result.switching_after
        if before is None or after is None:
            continue
        records.append(
            {
                "engine": name,
                "rhat_invariant": _worst(before.invariant, "r_hat", np.nanmax),
                "ess_invariant": _worst(before.invariant, "ess_bulk", np.nanmin),
                "rhat_labelled": _worst(before.labelled, "r_hat", np.nanmax),
                "rhat_relabelled": _worst(after.labelled, "r_hat", np.nanmax),
                "ess_relabelled": _worst(after.labelled, "ess_bulk", np.nanmin),
                "switches": int(np.sum(before.switches)),
            }
        )
    return records


def _worst(table: Any, column: str, choose: Any) -> float:
    values = np.asarray(table[column], dtype=float)
    return float(choose(values)) if np.isfinite(values).any() else float("nan")
