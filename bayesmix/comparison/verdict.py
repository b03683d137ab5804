"""In plain words, from numbers alone: is plugging in the mode safe here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]

_NEGLIGIBLE = 0.005  # nats a row
_TOLERABLE = 0.05  # nats a row: a density that is 5% lower
_SIGNIFICANT = 0.01
_MIXED = 1.05
_MOST_OF_IT = 0.9
_SAME_CLUSTERS = 0.95


def verdict(
    scores: Records,
    calibration: Records,
    modes: Records,
    agreements: Mapping[str, Any],
    diagnostics: Records,
) -> str:
    """One judgement, and the numbers that it rests on.

    Args:
        scores, calibration, modes, diagnostics: tables of a comparison.
        agreements: by latent, with `names` of engines and `adjusted_rand` between their clusterings.

    Only samplers that mixed are heard, by their label-invariant R-hat in `diagnostics`; draws from an
    approximation about a mode (Laplace, VB) cannot tell what lies elsewhere, and have no line there.

    Plugging in the mode is called safe where no sampler that mixed predicts held-out rows better by more
    than two standard errors (and 0.005 nats a row), where the mode's predictions are not further from
    calibrated than a sampler's (a p-value below 0.01 beside one that is not), and where the mode's basin
    has 90% of the weight of all modes and of each sampler's draws. Where a loss of 0.05 nats a row is
    within two standard errors, nothing speaks against it, and it is not called safe. It is not judged
    without held-out rows or a sampler that mixed.
    """
    mixed = [row["engine"] for row in diagnostics if row["rhat_invariant"] < _MIXED]
    unmixed = [row["engine"] for row in diagnostics if row["engine"] not in mixed]
    trusted = [row for row in scores if row["engine"] in mixed and _has_error(row)]
    against = [*_predicts_worse(trusted), *_calibrated_worse(calibration, mixed)]
    against += _mass_elsewhere(modes, mixed)
    return " ".join(
        [
            _judgement(trusted, against),
            *_predicts_alike(trusted),
            *_miscalibrated_all(calibration, mixed),
            *_clusters(agreements),
            *_several_modes(modes),
            *_disagree(modes, mixed),
            *_unmixed(unmixed),
        ]
    )


def _has_error(row: Mapping[str, Any]) -> bool:
    return row["difference_se"] is not None and bool(np.isfinite(row["difference_se"]))


def _judgement(trusted: list[Mapping[str, Any]], against: list[str]) -> str:
    if against:
        return f"Plugging in the MAP is not safe here: {'; '.join(against)}."
    if not trusted:
        return (
            "Whether plugging in the MAP is safe cannot be judged: that needs MAP-EM, a sampler that "
            "mixed, and several held-out rows."
        )
    worst = max(row["difference"] + 2 * row["difference_se"] for row in trusted)
    if worst > _TOLERABLE:
        return (
            "Nothing speaks against plugging in the MAP here, but the held-out rows are too few to call "
            f"it safe: it may lose up to {worst:.3f} nats a held-out row (difference plus two standard "
            "errors)."
        )
    return (
        "Plugging in the MAP looks safe for prediction here: it loses at most "
        f"{max(worst, 0.0):.3f} nats a held-out row (difference plus two standard errors)."
    )


def _is_better(row: Mapping[str, Any]) -> bool:
    gain = row["difference"]
    return gain > 2 * row["difference_se"] and gain >= _NEGLIGIBLE


def _shown(rows: Sequence[Mapping[str, Any]]) -> str:
    each = [f"{r['engine']} {r['difference']:+.4f}, s.e. {r['difference_se']:.4f}" for r in rows]
    return f"in nats a row: {'; '.join(each)}"


def _predicts_worse(trusted: list[Mapping[str, Any]]) -> list[str]:
    better = [row for row in trusted if _is_better(row)]
    if not better:
        return []
    return [f"averaging over the posterior predicts held-out rows better ({_shown(better)})"]


def _predicts_alike(trusted: list[Mapping[str, Any]]) -> list[str]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for row in trusted if not _is_better(row)):
        worse = -row["difference"] > max(2 * row["difference_se"], _NEGLIGIBLE)
        groups.setdefault("worse than" if worse else "as well as", []).append(row)
    return [
        f"Averaging over the posterior predicts held-out rows {how} plugging in the MAP "
        f"({_shown(rows)})."
        for how, rows in groups.items()
    ]


def _held_out_p_values(calibration: Records) -> dict[str, float]:
    return {row["engine"]: row["p_value"] for row in calibration if row["rows"] == "held out"}


def _calibrated_worse(calibration: Records, mixed: Sequence[str]) -> list[str]:
    found = _held_out_p_values(calibration)
    own = found.get("MAP-EM", 1.0)
    fine = {name: p for name, p in found.items() if name in mixed and p >= _SIGNIFICANT}
    if not own < _SIGNIFICANT or not fine:
        return []
    best = max(fine, key=lambda name: fine[name])
    return [
        f"its predictions of held-out rows are not calibrated (p = {own:.2g}), while those of {best} "
        f"are (p = {fine[best]:.2g})"
    ]


def _miscalibrated_all(calibration: Records, mixed: Sequence[str]) -> list[str]:
    found = _held_out_p_values(calibration)
    own, others = found.get("MAP-EM", 1.0), [p for name, p in found.items() if name in mixed]
    if own < _SIGNIFICANT and others and max(others) < _SIGNIFICANT:
        return [
            f"No engine's predictions are calibrated (MAP: p = {own:.2g}), so that the model is at "
            "fault and not the plug-in: look at the picture of calibration."
        ]
    return []


def _mass_elsewhere(modes: Records, mixed: Sequence[str]) -> list[str]:
    if len(modes) < 2:
        return []
    found, first = [], modes[0]
    if first["weight"] is not None and first["weight"] < _MOST_OF_IT:
        found.append(
            f"the best mode has {first['weight']:.0%} of the weight of the {len(modes)} modes found"
        )
    found += [
        f"{share:.0%} of the draws of {name} are nearest the best mode"
        for name, share in first["draws"].items()
        if share < _MOST_OF_IT and name in mixed
    ]
    return found


def _several_modes(modes: Records) -> list[str]:
    if len(modes) < 2:
        return []
    starts = sum(mode["starts"] for mode in modes)
    gap = modes[0]["objective"] - modes[1]["objective"]
    share = modes[0]["starts"] / starts
    return [
        f"EM found {len(modes)} distinct modes; {share:.0%} of the {starts} starts that converged "
        f"reached the best, and the second is {gap:.2f} nats below it: one start is not enough."
    ]


def _disagree(modes: Records, mixed: Sequence[str]) -> list[str]:
    shares = {n: p for mode in modes[:1] for n, p in mode["draws"].items() if n in mixed}
    if not shares or max(shares.values()) - min(shares.values()) <= 1 - _MOST_OF_IT:
        return []
    each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return [
        f"The samplers do not agree how many draws are nearest the best mode ({each}), though each "
        "seems to have mixed: at least one of them misses a mode or stays in one; run all longer."
    ]


def _clusters(agreements: Mapping[str, Any]) -> list[str]:
    sentences = []
    for latent, found in agreements.items():
        names = list(found.names)
        if "MAP-EM" not in names:
            continue
        row = np.asarray(found.adjusted_rand)[names.index("MAP-EM")]
        others = {name: row[i] for i, name in enumerate(names) if name != "MAP-EM"}
        lowest = min(others, key=lambda name: others[name])
        if others[lowest] > _SAME_CLUSTERS:
            continue
        of = f" by '{latent}'" if len(agreements) > 1 else ""
        sentences.append(
            f"The clusterings{of} differ: the adjusted Rand index of {lowest} with MAP is "
            f"{others[lowest]:.2f}."
        )
    if not sentences and any("MAP-EM" in found.names for found in agreements.values()):
        return ["All engines put nearly every row in the same cluster as MAP does."]
    return sentences


def _unmixed(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{' and '.join(names)} did not mix, labels aside (label-invariant R-hat above {_MIXED}): read "
        "those intervals with care, and run longer."
    ]
