"""The tables of a comparison: records, their text, and the sentence that they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..families.forms import base_support
from ..program.plan import Plan
from .partitions import adjusted_rand_index, distance, variation_of_information

if TYPE_CHECKING:
    from .engines import EngineResult

Comparison = Any  # the object of bayesmix.comparison, which stands a floor above

_MOST_ENTRIES = 400
_MOST_SHOWN = 8


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
    return [
        {"engine": name, **result.evidence._asdict()}
        for name, result in results.items()
        if result.evidence is not None
    ]


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


def least_agreement(agreements: Mapping[str, Agreement]) -> list[dict[str, Any]]:
    """For each latent the two engines whose clusterings agree least, and by how much."""
    records = []
    for latent, found in agreements.items():
        index = np.where(np.eye(len(found.names), dtype=bool), np.inf, found.adjusted_rand)
        one, other = np.unravel_index(np.argmin(index), index.shape)
        records.append(
            {
                "latent": latent,
                "adjusted_rand": float(index[one, other]),
                "variation": float(found.variation_of_information[one, other]),
                "between": f"{found.names[one]} and {found.names[other]}",
            }
        )
    return records


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


# ------------------------------------------------------------------------------------------------ text
def render(comparison: Comparison) -> str:
    """The whole comparison as text for a terminal."""
    engines = list(comparison.engines)
    lines = [comparison.title, "=" * len(comparison.title), ""]
    if comparison.interrupted:
        lines += ["Interrupted: only the engines that had finished are shown.", ""]
    lines += [
        "Parameters (EM: the mode; samplers: posterior mean [94% interval] after relabelling)"
    ]
    rows = [
        [record["parameter"], *(_text(record.get(name)) for name in engines)]
        for record in comparison.parameters
    ]
    lines += grid(["", *engines], rows)
    for part in (
        _scores_text,
        _evidence_text,
        _calibration_text,
        _agreement_text,
        _modes_text,
        _diagnostics_text,
    ):
        lines += part(comparison)
    lines += ["", "Time on all rows (seconds)"]
    rows = [
        ["in all", *(f"{r.seconds:.1f}" for r in comparison.engines.values())],
        ["of it, compiling", *(f"{r.compiling:.1f}" for r in comparison.engines.values())],
    ]
    lines += grid(["", *engines], rows)
    for name, reason in comparison.left_out.items():
        lines += ["", f"{name} was left out: {reason}."]
    return "\n".join([*lines, "", comparison.verdict])


def _scores_text(comparison: Comparison) -> list[str]:
    if not comparison.scores:
        return []
    rows = [
        [
            record["engine"],
            "plug-in" if record["plug_in"] else "posterior average",
            f"{record['held_out']:.4f}",
            f"{record['se']:.4f}",
            _difference(record),
        ]
        for record in comparison.scores
    ]
    heads = ["engine", "prediction", "score", "s.e.", "minus MAP (s.e.)"]
    return ["", "Held-out rows: mean log predictive density per row", *grid(heads, rows)]


def _evidence_text(comparison: Comparison) -> list[str]:
    if not comparison.evidence:
        return []
    rows = [
        [record["engine"], f"{record['value']:.3f}", _text(record["error"]), record["kind"]]
        for record in comparison.evidence
    ]
    return ["", "Log evidence, log p(x)", *grid(["engine", "value", "s.e.", "kind"], rows)]


def _diagnostics_text(comparison: Comparison) -> list[str]:
    if not comparison.diagnostics:
        return []
    heads = ["engine", "R-hat, label-invariant", "ESS", "R-hat as drawn", "relabelled", "ESS"]
    rows = [
        [
            record["engine"],
            f"{record['rhat_invariant']:.3f}",
            f"{record['ess_invariant']:.0f}",
            f"{record['rhat_labelled']:.3f}",
            f"{record['rhat_relabelled']:.3f}",
            f"{record['ess_relabelled']:.0f}",
        ]
        for record in comparison.diagnostics
    ]
    lines = ["", "Convergence of the samplers (worst over quantities)", *grid(heads, rows)]
    sentences = {name: result.diagnostics for name, result in comparison.engines.items()}
    return lines + [f"  {name}: {sentence}" for name, sentence in sentences.items() if sentence]


def _calibration_text(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.calibration_scores:
        lines += ["", "Calibration: is the predictive distribution function at the rows uniform?"]
        rows = [
            [
                record["engine"],
                record["rows"],
                str(record["cells"]),
                f"{record['distance']:.3f}",
                f"{record['p_value']:.3g}",
                f"{record['inside_50']:.1%}",
                f"{record['inside_90']:.1%}",
            ]
            for record in comparison.calibration_scores
        ]
        heads = ["engine", "rows", "cells", "distance", "p-value", "in 50%", "in 90%"]
        lines += grid(heads, rows)
    if comparison.calibration_note:
        lines += ["", comparison.calibration_note]
    for record in comparison.calibration_scores:
        if record["high_pareto_k"]:
            lines.append(
                f"  {record['engine']}: {record['high_pareto_k']} row(s) cannot be left out by weights "
                "(Pareto k above 0.7)"
            )
    return lines


def _agreement_text(comparison: Comparison) -> list[str]:
    agreements = comparison.agreements
    if len(agreements) > 1:
        rows = [
            [
                row["latent"],
                f"{row['adjusted_rand']:.3f}",
                f"{row['variation']:.3f}",
                row["between"],
            ]
            for row in least_agreement(agreements)
        ]
        heads = ["latent", "adjusted Rand index", "variation of information, bits", "between"]
        return ["", "Least agreement of the clusterings", *grid(heads, rows)]
    lines = []
    for found in agreements.values():
        for what, matrix in (
            ("adjusted Rand index", found.adjusted_rand),
            ("variation of information, bits", found.variation_of_information),
        ):
            rows = [
                [name, *(f"{value:.3f}" for value in row)]
                for name, row in zip(found.names, matrix, strict=True)
            ]
            lines += ["", f"Agreement of the clusterings ({what})", *grid(["", *found.names], rows)]
    return lines


def _modes_text(comparison: Comparison) -> list[str]:
    lines: list[str] = []
    for name, result in comparison.engines.items():
        if not result.starts:
            continue
        lines += ["", f"{name}: {result.status}"]
        weighed = comparison.modes if name == "MAP-EM" else []
        for i, (objective, count) in enumerate(result.modes[:_MOST_SHOWN]):
            weight = _weight_text(weighed[i], len(weighed) == 1) if i < len(weighed) else ""
            lines.append(f"  mode at {objective:.4f}, reached by {count} start(s){weight}")
        if len(result.modes) > _MOST_SHOWN:
            lines.append(f"  and {len(result.modes) - _MOST_SHOWN} more")
        if result.failed:
            kinds = ", ".join(sorted(set(result.failed)))
            lines.append(f"  {len(result.failed)} start(s) did not converge ({kinds})")
    return lines


def _weight_text(mode: Mapping[str, Any], alone: bool) -> str:
    copies = f" with its {mode['copies']} relabelled copies" if mode["copies"] > 1 else ""
    if alone:
        return copies and f",{copies}"
    weight = f"no weight: {mode['reason']}"
    if mode["weight"] is not None:
        weight = f"weight {mode['weight']:.3f}"
    shares = [f"{share:.0%} of {name}'s draws" for name, share in mode["draws"].items()]
    nearest = f"; nearest to {', '.join(shares)}" if shares else ""
    return f"; {weight}{copies}{nearest}"


def _difference(record: Mapping[str, Any]) -> str:
    if record["difference"] is None:
        return "-"
    return f"{record['difference']:+.4f} ({record['difference_se']:.4f})"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        mean, low, high = value
        return f"{mean:.4g} [{low:.4g}, {high:.4g}]"
    return f"{value:.4g}"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text, the first aligned left and the others right."""
    table = [list(heads), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return [lines[0], "  " + "  ".join("-" * width for width in widths), *lines[1:]]


# ------------------------------------------------------------------------------------------------ json
def record(comparison: Comparison) -> dict[str, Any]:
    """Everything but draws and pictures, in types that JSON holds."""
    return _plain(
        {
            "title": comparison.title,
            "columns": comparison.columns,
            "rows": comparison.data.shape[0],
            "num_components": comparison.num_components,
            "seed": comparison.seed,
            "versions": comparison.versions,
            "interrupted": comparison.interrupted,
            "parameters": comparison.parameters,
            "held_out": comparison.scores,
            "evidence": comparison.evidence,
            "left_out": comparison.left_out,
            "calibration": comparison.calibration_scores,
            "calibration_note": comparison.calibration_note,
            "modes": comparison.modes,
            "agreement": {
                latent: found._asdict() for latent, found in comparison.agreements.items()
            },
            "diagnostics": comparison.diagnostics,
            "engines": {
                name: {
                    "seconds": result.seconds,
                    "compiling": result.compiling,
                    "status": result.status,
                    "modes": [{"objective": o, "starts": c} for o, c in result.modes],
                    "estimate": result.estimate,
                    "weights": result.weights,
                    "labels": result.labels,
                    "diagnostics": result.diagnostics,
                }
                for name, result in comparison.engines.items()
            },
            "plan": comparison.plan_text,
            "verdict": comparison.verdict,
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
