"""The tables of a comparison: records, their text, and the sentence that they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..families.forms import base_support
from ..program.plan import Plan
from .partitions import adjusted_rand_index

if TYPE_CHECKING:
    from .engines import EngineResult

Comparison = Any  # the object of bayesmix.comparison, which stands a floor above

_MOST_ENTRIES = 400


def parameters(
    plan: Plan, results: Mapping[str, EngineResult], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """One record per scalar: a value for EM, (mean, low, high) for samplers.

    Symmetric matrices are listed once, on and above the diagonal.
    """
    records: list[dict[str, Any]] = []
    sites = (*plan.reading.parameters, *plan.reading.deterministic)
    for site in sites:
        label = plan.labels.axes.get(site.name)
        symmetric = type(base_support(site.support)).__name__ == "_PositiveDefinite"
        for index in np.ndindex(*site.shape):
            if symmetric and index[-1] < index[-2]:
                continue
            record: dict[str, Any] = {"parameter": _name(site, index, label, columns)}
            for engine, result in results.items():
                if site.name in result.estimate:
                    record[engine] = _entry(result, site.name, index)
            records.append(record)
            if len(records) >= _MOST_ENTRIES:
                return records
    return records


def _name(site: Any, index: tuple[int, ...], label: int | None, columns: Sequence[str]) -> str:
    parts = []
    for axis, i in enumerate(index):
        named = axis != label and site.shape[axis] == len(columns) > 1
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


def agreement(results: Mapping[str, EngineResult]) -> tuple[list[str], np.ndarray] | None:
    """Adjusted Rand index between each two engines' hard clusterings."""
    if len(results) < 2:
        return None
    labels = np.stack([result.labels for result in results.values()])
    return list(results), adjusted_rand_index(labels, labels)


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


def verdict(
    plan: Plan,
    results: Mapping[str, EngineResult],
    scored: Sequence[Mapping[str, Any]],
    agreed: tuple[list[str], np.ndarray] | None,
) -> str:
    """In plain words: is plugging in the mode safe for these data?"""
    sentences = []
    for record in scored:
        if results[record["engine"]].plug_in or record["difference"] is None:
            continue
        gain, error = record["difference"], record["difference_se"]
        if not np.isfinite(error):
            continue
        if abs(gain) <= 2 * error or abs(gain) < 0.005:
            sentences.append(
                f"Averaging over the posterior ({record['engine']}) predicts held-out rows as well as "
                f"plugging in the MAP ({gain:+.4f} nats a row, standard error {error:.4f})."
            )
        else:
            better = "better" if gain > 0 else "worse"
            sentences.append(
                f"Averaging over the posterior ({record['engine']}) predicts held-out rows {better} "
                f"than plugging in the MAP ({gain:+.4f} nats a row, standard error {error:.4f})."
            )
    if agreed is not None and "MAP-EM" in agreed[0]:
        names, matrix = agreed
        row = {n: matrix[names.index("MAP-EM"), names.index(n)] for n in names if n != "MAP-EM"}
        lowest = min(row, key=lambda n: row[n])
        if row[lowest] > 0.95:
            sentences.append("All engines put nearly every row in the same cluster as MAP does.")
        else:
            sentences.append(
                f"The clusterings differ: the adjusted Rand index of {lowest} with MAP is "
                f"{row[lowest]:.2f}."
            )
    sentences += _mode_sentence(results) + _mixing_sentence(results)
    return " ".join(sentences)


def _mode_sentence(results: Mapping[str, EngineResult]) -> list[str]:
    fit = results.get("MAP-EM")
    if fit is None or fit.fit is None or len(fit.modes) < 2:
        return []
    starts = len(fit.fit.restart_objectives)
    gap = fit.modes[0][0] - fit.modes[1][0]
    return [
        f"EM found {len(fit.modes)} distinct modes from {starts} starts (the second is {gap:.2f} nats "
        "below the first), so one start is not enough."
    ]


def _mixing_sentence(results: Mapping[str, EngineResult]) -> list[str]:
    bad = [
        record["engine"] for record in diagnostics(results) if not record["rhat_invariant"] < 1.05
    ]
    if not bad:
        return []
    return [
        f"{' and '.join(bad)} did not mix, labels aside (label-invariant R-hat above 1.05): "
        "read those intervals with care, and run longer."
    ]


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
    if comparison.scores:
        lines += ["", "Held-out rows: mean log predictive density per row"]
        rows = [
            [
                record["engine"],
                "plug-in" if comparison.engines[record["engine"]].plug_in else "posterior average",
                f"{record['held_out']:.4f}",
                f"{record['se']:.4f}",
                _difference(record),
            ]
            for record in comparison.scores
        ]
        lines += grid(["engine", "prediction", "score", "s.e.", "minus MAP (s.e.)"], rows)
    if comparison.evidence:
        lines += ["", "Log evidence, log p(x)"]
        rows = [
            [record["engine"], f"{record['value']:.3f}", _text(record["error"]), record["kind"]]
            for record in comparison.evidence
        ]
        lines += grid(["engine", "value", "s.e.", "kind"], rows)
    if comparison.agreement is not None:
        names, matrix = comparison.agreement
        lines += ["", "Agreement of the clusterings (adjusted Rand index)"]
        rows = [[n, *(f"{v:.3f}" for v in row)] for n, row in zip(names, matrix, strict=True)]
        lines += grid(["", *names], rows)
    lines += _modes_text(comparison)
    if comparison.diagnostics:
        lines += ["", "Convergence of the samplers (worst over quantities)"]
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
        lines += grid(heads, rows)
        for result in comparison.engines.values():
            if result.diagnostics:
                lines.append(f"  {result.name}: {result.diagnostics}")
    lines += ["", "Time on all rows (seconds, compiling included)"]
    lines += grid(engines, [[f"{r.seconds:.1f}" for r in comparison.engines.values()]])
    for name, reason in comparison.left_out.items():
        lines += ["", f"{name} was left out: {reason}."]
    return "\n".join([*lines, "", comparison.verdict])


def _modes_text(comparison: Comparison) -> list[str]:
    lines: list[str] = []
    for name, result in comparison.engines.items():
        if result.fit is None:
            continue
        lines += ["", f"{name}: {result.status}"]
        shown = result.modes[:8]
        for objective, count in shown:
            lines.append(f"  mode at {objective:.4f}, reached by {count} start(s)")
        if len(result.modes) > len(shown):
            lines.append(f"  and {len(result.modes) - len(shown)} more")
        failed = [s for s in result.fit.restart_statuses if not s]
        if failed:
            kinds = ", ".join(sorted({s.name.lower().replace("_", " ") for s in failed}))
            lines.append(f"  {len(failed)} start(s) did not converge ({kinds})")
    return lines


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
            "agreement": comparison.agreement
            and {"engines": comparison.agreement[0], "adjusted_rand": comparison.agreement[1]},
            "diagnostics": comparison.diagnostics,
            "engines": {
                name: {
                    "seconds": result.seconds,
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
