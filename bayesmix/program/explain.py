"""A plan in words, for `print(plan)` and `python -m bayesmix plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..families.augmented import RowFamily
from .mixtures import opened_in

if TYPE_CHECKING:
    from .conjugacy import Conditional
    from .labels import LabelGroup
    from .plan import Plan
    from .sites import Reading

_CLIMBED = "climbed on Q (Newton, or L-BFGS)"


def explain(plan: Plan) -> str:
    """The whole explanation: sites and roles, links, conditionals, engines, labels."""
    reading = plan.reading
    rows = reading.rows
    lines = [
        f"program: {getattr(plan.program, '__name__', 'a NumPyro program')}",
        f"  plate '{rows.name}' of {rows.size} rows was probed; " + _latents(reading),
        *_opened(plan.program),
        "",
        "sites",
    ]
    table = [("site", "role", "shape", "family", "dimensions")]
    for site in reading.parameters:
        dims = ", ".join(plan.dims(site.name)) or "-"
        table.append((site.name, "parameter", _shape(site.shape), site.family, dims))
    for latent in reading.latents:
        role = "latent, known where given" if latent.observed else "latent, summed out"
        table.append((latent.name, role, "one per row", latent.site.family, rows.name))
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
    lines += [f"  {text}" for text in _all_links(plan)]
    lines += ["", "engines"]
    engines = [("parameters", "conditional", "EM", "ConjugateGibbs", "NUTS")]
    for block in plan.blocks:
        engines.append((", ".join(block.sites), *_treatment(block)))
    lines += _columns(engines)
    lines += [f"  {reason}" for reason in _reasons(plan)]
    lines += ["", "labels", *(f"  {text}" for text in _labels(plan))]
    return "\n".join(lines)


def _latents(reading: Reading) -> str:
    if not reading.latents:
        return "no latent"
    if reading.latent:
        latent = reading.latent
        taken = f"{latent.size} value" + ("s" if latent.size > 1 else "")
        return f"latent '{latent.name}' ({latent.site.family}) takes {taken}"
    graph = reading.graph
    largest = max(math.prod(graph.sizes[i] for i in step.scope) for step in graph.steps)
    return (
        f"{len(reading.latents)} latents, summed out one after another "
        f"(largest table: {largest} numbers a row)"
    )


def _opened(program: Any) -> list[str]:
    """Which marginal mixtures are read as latents and components, and which are not."""
    found = opened_in(program)
    if found is None:
        return []
    lines = []
    for site, (family, latents) in found.sites.items():
        names = ", ".join(f"'{latent}'" for latent in latents)
        lines.append(f"  '{site}' is a {family}, opened: its component is latent {names}")
    for site, reason in found.closed.items():
        lines.append(f"  '{site}' is a mixture that stays summed out, without labels: {reason}")
    return lines


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


def _all_links(plan: Plan) -> list[str]:
    """The links of every observed site; of those that only differ in their names, the first's."""
    lines: list[str] = []
    alike: dict[str, list[str]] = {}
    for site in plan.reading.observed:
        own = _links(plan, site.name)
        text = "\n".join(own)
        for i, latent in enumerate(plan.graph.scope(site.name)):
            text = text.replace(plan.graph.names[latent], f"<{i}>")
        same = alike.setdefault(text.replace(site.name, "<>"), [])
        same.append(site.name)
        lines += own if len(same) == 1 else []
    for first, *others in alike.values():
        lines += [f"{', '.join(others)}: as {first}"] if others else []
    return lines


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
        f"{name}: {family.name}; Q depends on {plan.graph.size(plan.graph.clique_of[name])} sets of "
        "statistics, not on the rows",
    ]


def _treatment(block: Conditional) -> tuple[str, str, str, str]:
    if block.form is None:
        return "no closed form", _CLIMBED, "refused: use MixedGibbs", "gradient"
    exact = "joint mode, closed form" if len(block.sites) > 1 else "mode, closed form"
    return block.name, exact, "exact draw", "gradient"


def _reasons(plan: Plan) -> list[str]:
    reasons = [
        "certified: at random labels the log joint equals NumPyro's, site by site and row by row "
        f"({plan.certificate.draws} draws; largest relative departure {plan.certificate.departure:.0e})"
    ]
    for block in plan.blocks:
        if block.form is None:
            worst, where = plan.certificates[block.site]
            cause = where if not np.isfinite(worst) else f"{where} is not conjugate"
            reasons.append(f"why not closed form: {block.site}: {cause}")
    closed = [plan.certificates[s][0] for b in plan.blocks if b.form is not None for s in b.sites]
    if closed:
        reasons.append(
            "certified: log joint minus each claimed log conditional is constant over random points "
            f"(largest departure {max(closed):.1e} of what is allowed)"
        )
    climbed = sum(block.form is None for block in plan.blocks)
    if len(plan.blocks) > 1 or climbed:
        reasons.append("blocks are visited in turn, each given the others (conditional M steps)")
    return reasons


def _labels(plan: Plan) -> list[str]:
    if plan.reading.num_components == 1:
        return ["one component: nothing to switch"]
    if not plan.labels.groups:
        return ["no parameter carries a component label"]
    return [_group(group, len(plan.reading.latents) > 1) for group in plan.labels.groups]


def _group(group: LabelGroup, several: bool) -> str:
    text = f"of {', '.join(group.latents)}: " if several else ""
    axes = [f"{name} (axis {axis})" for name, each in group.axes.items() for axis in each]
    text += f"carried by {', '.join(axes)}"
    if group.known:
        return text + "; the program observes some of them: labels have a meaning of their own"
    if group.complements:
        name = group.complements[0]
        return text + (
            f", and by {name} (swapping labels turns it into 1 - {name}); the prior "
            "is symmetric, so every mode has 2! copies: relabel before reading component parameters"
        )
    if group.exchangeable:
        return text + (
            f"; the prior is exchangeable, so every mode has {group.size}! copies: "
            "relabel before reading component parameters"
        )
    return text + "; the prior is not exchangeable: labels have a meaning of their own"
