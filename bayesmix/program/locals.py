"""Continuous latents of a row: integrated out where a rule says how, refused otherwise."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..families.collapse import RULES, Rule
from ..families.peel import peel
from .arguments import Arguments
from .compiling import compile_lightly
from .errors import ProgramError
from .evaluate import enumerated_trace, log_prob_present
from .reading import Collapse, Program, Reading, Site


def collapse(program: Program, reading: Reading, arguments: Arguments) -> Reading:
    """The reading with a rule for every continuous latent of a row.

    Each latent may reach one observed site, in a way that some rule covers: this is checked by looking
    at the observed distribution at a few values of the latent. Raises :class:`ProgramError` otherwise.
    """
    for local in reading.locals:
        found = _collapse(program, reading, arguments, local)
        reading = reading._replace(collapsed=(*reading.collapsed, found))
    return reading


def _collapse(program: Program, reading: Reading, arguments: Arguments, local: Site) -> Collapse:
    # one value for all rows keeps parameters that do not depend on the row recognisable
    compact = (1,) * len(local.shape)
    for shape in (compact, local.shape):
        try:
            found = _rule(program, reading, arguments, local, shape)
        except (TypeError, ValueError):  # the program insists on its own shape
            continue
        if found is not None:
            return found
    if local.name.endswith("_unobserved"):
        raise ProgramError(
            f"site '{local.name}' holds the cells that obs_mask hides; leave obs_mask out and pass NaN "
            "in these cells, which are then integrated out"
        )
    raise ProgramError(
        f"site '{local.name}' is a continuous latent of every row that cannot be integrated out; draw "
        f"it by chains, bayesmix.MonteCarloEM(program, hidden='{local.name}'), or sum it out of the "
        "program by hand"
    )


def _rule(
    program: Program, reading: Reading, arguments: Arguments, local: Site, shape: tuple[int, ...]
) -> Collapse | None:
    rules = [rule for rule in RULES if rule.local.__name__ == local.family]
    values = {s.name: _ordinary(s) for s in (*reading.parameters, *reading.locals)}

    @compile_lightly
    def look(u: Any) -> _Seen:
        told = {**values, local.name: jnp.full(shape, u)}
        sites = enumerated_trace(program, reading, arguments, told)
        bases = {s.name: peel(sites[s.name]["fn"]) for s in reading.observed}
        return _Seen(
            {n: _finite(sites[n]["fn"], sites[n]["value"]) for n in bases},
            {
                (n, i): rule.read(bases[n].base)
                for n in bases
                for i, rule in enumerate(rules)
                if type(bases[n].base) is rule.observed
            },
        )

    points = sorted({u for rule in rules for u in rule.points})
    seen = {u: look(u) for u in points}
    first = seen[points[0]].log_prob if points else {}
    reached = [
        name
        for name, height in first.items()
        if any(not np.array_equal(height, other.log_prob[name]) for other in seen.values())
    ]
    if len(reached) != 1:
        return None
    for i, rule in enumerate(rules):
        key = (reached[0], i)
        if key not in seen[points[0]].arrays:
            continue
        if _holds(rule, [seen[u].arrays[key] for u in rule.points]):
            return Collapse(local.name, reached[0], rule, shape)
    return None


class _Seen(NamedTuple):
    """Log densities of the observed sites, and what each rule reads of them."""

    log_prob: dict[str, Any]
    arrays: dict[tuple[str, int], Any]


def _ordinary(site: Site) -> Any:
    return site.support.feasible_like(jnp.zeros(site.shape))


def _finite(fn: Any, value: Any) -> Any:
    return jnp.nan_to_num(log_prob_present(fn, value), neginf=-1e30)


def _holds(rule: Rule, seen: list[Any]) -> bool:
    invariants = [rule.invariant(a, u) for a, u in zip(seen, rule.points, strict=True)]
    first = invariants[0]
    return all(
        np.allclose(np.asarray(x), np.asarray(y), rtol=1e-9, atol=1e-12)
        for other in invariants[1:]
        for x, y in zip(first, other, strict=True)
    )
