"""A plan in words, for `print(plan)` and `python -m bayesmix plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..families.augmented import RowFamily

if TYPE_CHECKING:
    from .conjugacy import Conditional
    from .plan import Plan

_CLIMBED = "climbed on Q (Newton, or L-BFGS)"


def explain(plan: Plan) -> str:
    """The whole explanation: sites and roles, links, conditionals, engines, labels."""
    reading = plan.reading
    latent, rows = reading.latent, reading.rows
    taken = f"{reading.num_components} value" + ("s" if reading.num_components > 1 else "")
    lines = [
        f"program: {getattr(plan.program, '__name__', 'a NumPyro program')}",
        f"  plate '{rows.name}' of {rows.size} rows was probed; "
        + (f"latent '{latent.name}' ({latent.family}) takes {taken}" if latent else "no latent"),
        "",
        "sites",
    ]
    table = [("site", "role", "shape", "family", "dimensions")]
    for site in reading.parameters:
        dims = ", ".join(plan.dims(site.name)) or "-"
        table.append((site.name, "parameter", _shape(site.shape), site.family, dims))
    if latent:
        table.append((latent.name, "latent, summed out", "one per row", latent.family, rows.name))
    table += [(name, "told", "-", "-", "-") for name in reading.fixed]
    for site in reading.observed:
        table.append(
            (site.name, "observed", _shape(("N", *site.shape[1:])), site.family, rows.name)
        )
    for site in reading.deterministic:
        dims = ", ".join(plan.dims(site.name)) or "-"
        table.append((site.name, "deterministic", _shape(site.shape), "-", dims))
    lines += _columns(table)
    lines += ["", "links"]
    for site in reading.observed:
        lines += [f"  {text}" for text in _links(plan, site.name)]
    lines += ["", "engines"]
    engines = [("parameters", "conditional", "EM", "ConjugateGibbs", "NUTS")]
    for block in plan.blocks:
        engines.append((", ".join(block.sites), *_treatment(block)))
    lines += _columns(engines)
    lines += [f"  {reason}" for reason in _reasons(plan)]
    lines += ["", "labels", f"  {_labels(plan)}"]
    return "\n".join(lines)


def _shape(shape: tuple[object, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return [lines[0], "  " + "  ".join("-" * width for width in widths), *lines[1:]]


def _links(plan: Plan, name: str) -> list[str]:
    family = plan.families[name]
    if isinstance(family, RowFamily):
        return [f"{name}: {family.name}; every M step visits all rows"]
    if family is None:
        return [
            f"{name}: its density depends on the row or has no registered statistics, "
            "so every M step visits all rows"
        ]
    mean, covariance = plan.links[name]
    return [
        f"{name}.mean = {mean}",
        f"{name}.covariance = {covariance}",
        f"{name}: {family.name}; Q depends on {plan.reading.num_components} sets of statistics, "
        "not on the rows",
    ]


def _treatment(block: Conditional) -> tuple[str, str, str, str]:
    if block.form is None:
        return "no closed form", _CLIMBED, "refused: use NUTS", "gradient"
    exact = "joint mode, closed form" if block.integrated else "mode, closed form"
    return block.name, exact, "exact draw", "gradient"


def _reasons(plan: Plan) -> list[str]:
    reasons = []
    for block in plan.blocks:
        if block.form is None:
            worst, where = plan.certificates[block.site]
            cause = where if not np.isfinite(worst) else f"{where} is not conjugate"
            reasons.append(f"why not closed form: {block.site}: {cause}")
    closed = [plan.certificates[s][0] for b in plan.blocks if b.form for s in b.sites]
    if closed:
        reasons.append(
            "certified: log joint minus each claimed log conditional is constant over random points "
            f"(largest departure {max(closed):.1e} of what is allowed)"
        )
    climbed = sum(block.form is None for block in plan.blocks)
    if len(plan.blocks) > 1 or climbed:
        reasons.append("blocks are visited in turn, each given the others (conditional M steps)")
    return reasons


def _labels(plan: Plan) -> str:
    if plan.reading.num_components == 1:
        return "one component: nothing to switch"
    if not plan.labels.axes:
        return "no parameter carries a component label"
    where = ", ".join(f"{name} (axis {axis})" for name, axis in plan.labels.axes.items())
    if plan.labels.complements:
        name = plan.labels.complements[0]
        return (
            f"carried by {where}, and by {name} (swapping labels turns it into 1 - {name}); the prior "
            f"is symmetric, so every mode has 2! copies, and relabelling cannot reach {name}: write the "
            "weights as a Dirichlet over two categories"
        )
    if plan.labels.exchangeable:
        factorial = f"{plan.reading.num_components}!"
        return (
            f"carried by {where}; the prior is exchangeable, so every mode has {factorial} copies: "
            "relabel before reading component parameters"
        )
    return f"carried by {where}; the prior is not exchangeable: labels have a meaning of their own"
