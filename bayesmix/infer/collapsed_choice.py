"""Which parameters can be integrated out together while labels are drawn, found and certified.

Given the labels, blocks can be integrated out together where the log joint is a sum of functions of one
block each: where a mixed difference J(a', b') - J(a', b) - J(a, b') + J(a, b) vanishes for every two of
them. The certificate of the choice is that log p(x, z, v) - log q(v | x, z), with q the product of the
claimed conditionals, is the same at random values v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from ..families.forms import base_support
from ..families.likelihoods import Family
from ..program.blocks import Blocks
from ..program.compiling import compile_lightly
from ..program.conjugacy import Conditional
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.probe import few_rows
from ..program.problem import Problem
from .collapsed_blocks import Unit, unit_of
from .collapsed_sweep import candidate, statistics_given

_RELATIVE, _ROUNDING = 1e-7, 1e-10
_CURE = "use bayesmix.ConjugateGibbs(program), which draws all parameters, instead"


@dataclass(frozen=True)
class Collapse:
    """What is integrated out while labels are drawn, and what is drawn.

    Attributes:
        units: the blocks that are integrated out.
        drawn: the blocks that are not, with the reason.
        departure: the certificate: how much log p(x, z, v) - log q(v | x, z) differs between random
            values v of the blocks, over what rounding allows (below 1 passes).

    `print` it.
    """

    units: tuple[Unit, ...]
    drawn: tuple[tuple[Conditional, str], ...]
    departure: float

    def __str__(self) -> str:
        lines = ["integrated out while labels are drawn:"]
        for unit in self.units:
            whose = "entries by component" if unit.groups > 1 else "shared by all components"
            lines.append(f"  {_named(unit.block)}: {unit.block.name}, {whose}")
        if self.drawn:
            lines.append("drawn after these (partially collapsed):")
            lines += [f"  {_named(block)}: {block.name}; {why}" for block, why in self.drawn]
        lines.append(
            "certified: log joint minus the claimed log conditionals is constant over random points "
            f"(departure {self.departure:.1e} of what is allowed)"
        )
        return "\n".join(lines)


def _named(block: Conditional) -> str:
    return ", ".join(block.sites)


def find_collapse(problem: Problem, integrate: Sequence[str] | None = None) -> Collapse:
    """Choose what to integrate out: what is asked for by site, or blocks in order of size, each that can
    go together with those before it.

    Raises :class:`ProgramError` naming the site where labels cannot be drawn row by row, where sites
    that are asked for cannot be integrated out together, and where a prior is not proper.
    """
    plan = problem.plan
    _check_rows(problem)
    with jax.core.eval_context(), jax.enable_x64(True):
        look = _Look(problem)
        chosen, why = _choose(plan, look.interactions(), integrate)
        units = tuple(unit_of(plan, block) for block in plan.blocks if block in chosen)
        departure = look.departure(units)
    if not departure < 1:
        names = ", ".join(f"'{name}'" for unit in units for name in unit.block.sites)
        raise ProgramError(
            f"{names} cannot be integrated out given the labels (the joint density departs from its "
            f"closed form {departure:.1g} times as far as is allowed), as where rows have hidden values "
            f"besides their labels, such as the scales of a Student-t; {_CURE}"
        )
    drawn = tuple((block, why[block.site]) for block in plan.blocks if block not in chosen)
    return Collapse(units, drawn, departure)


def check_blocks(blocks: Blocks) -> None:
    """Raise :class:`ProgramError` where cells of vectors are missing, or rows count more than once."""
    for name in blocks.patterns:
        raise ProgramError(
            f"'{name}' has rows of which some cells are missing, and its columns depend on each other, "
            f"so that these cells would have to be drawn with the labels; {_CURE}"
        )
    if not np.isin(np.asarray(blocks.weight), (0.0, 1.0)).all():
        raise ProgramError(
            "rows are weighted (handlers.scale), and one label cannot be drawn for a row that counts "
            "several times; repeat such rows, and leave the weights out"
        )


def _check_rows(problem: Problem) -> None:
    plan = problem.plan
    latents = plan.reading.latents
    if len(latents) != 1:
        names = ", ".join(f"'{latent.name}'" for latent in latents) or "none"
        raise ProgramError(
            f"CollapsedGibbs draws one label for every row, and the program has {len(latents)} latents "
            f"({names}); {_CURE}"
        )
    by_row = [name for name, family in plan.families.items() if not isinstance(family, Family)]
    if plan.by_row:
        names = ", ".join(f"'{name}'" for name in by_row or [latents[0].name])
        raise ProgramError(
            f"the density of {names} differs from row to row (a regression, a gate, or a family without "
            f"statistics), so that rows do not add up; {_CURE}"
        )


def _choose(
    plan: Plan, interactions: dict[frozenset[str], bool], integrate: Sequence[str] | None
) -> tuple[list[Conditional], dict[str, str]]:
    """Blocks that go together, and by site why another does not."""
    sizes = {site.name: int(np.prod(site.shape, dtype=int)) for site in plan.reading.parameters}
    by_size = sorted(plan.blocks, key=lambda block: -sum(sizes[name] for name in block.sites))
    if integrate is not None:
        unknown = [name for name in integrate if name not in sizes]
        if unknown or not integrate:
            asked = ", ".join(f"'{name}'" for name in unknown) or "nothing"
            raise ProgramError(
                f"integrate names {asked}, and the parameters of the program are "
                f"{', '.join(map(repr, sizes))}; name some of these"
            )
        by_size = [block for block in by_size if set(block.sites) & set(integrate)]
    chosen: list[Conditional] = []
    why = {block.site: "not asked for" for block in plan.blocks}
    for block in by_size:
        other = next((c for c in chosen if interactions[frozenset((c.site, block.site))]), None)
        if other is None:
            chosen.append(block)
            continue
        why[block.site] = f"its value moves the conditional of {_named(other)}"
        if integrate is not None:
            raise ProgramError(
                f"'{block.site}' and '{other.site}' cannot be integrated out together: the value of one "
                "moves the conditional of the other; name one of them in integrate"
            )
    return chosen, why


class _Look:
    """A plan at a few rows of unit scale with random labels and random parameters, in double
    precision."""

    def __init__(self, problem: Problem) -> None:
        plan = problem.plan
        rng = np.random.default_rng(4)
        few, reading, observed = few_rows(
            plan.program, problem.arguments, plan.reading, problem.observe()
        )
        values = {site.name: _rows_of(site, observed, rng) for site in reading.observed}
        plan = self.plan = replace(plan, reading=reading)
        self.problem = Problem(plan, few, plan.arrange(Observed(values, observed.present)))
        self.labels = jnp.asarray(rng.integers(reading.latents[0].size, size=observed.num_rows))

    def interactions(self) -> dict[frozenset[str], bool]:
        """For every two blocks: does the log joint of given labels mix them?"""
        blocks = self.plan.blocks

        @compile_lightly
        def heights(problem: Problem, start: Values, many: Values) -> Array:
            found = statistics_given(problem, start, self.labels)
            return jax.vmap(problem.expected_log_joint(found.statistics))(many)

        sets = [(), *((b,) for b in blocks), *combinations(blocks, 2)]
        start, other = ({n: v[i] for n, v in self.plan.points.items()} for i in (0, 1))
        places = [{name for block in each for name in block.sites} for each in sets]
        many = {
            name: np.stack([(other if name in moved else start)[name] for moved in places])
            for name in start
        }
        found = np.asarray(heights(self.problem, start, many))
        height = dict(zip((frozenset(b.site for b in each) for each in sets), found, strict=True))
        allowed = _RELATIVE * np.ptp(found) + _ROUNDING * np.max(np.abs(found))
        mixed = {}
        for pair in combinations(blocks, 2):
            one, two = (height[frozenset((block.site,))] for block in pair)
            both = frozenset(block.site for block in pair)
            mixed[both] = bool(abs(height[both] - one - two + height[frozenset()]) > allowed)
        return mixed

    def departure(self, units: tuple[Unit, ...]) -> float:
        """How much the evidence of the labels depends on the values of what is integrated out."""
        integrated = {name for unit in units for name in unit.block.sites}
        start = {n: v[0] for n, v in self.plan.points.items() if n not in integrated}
        points = {n: v for n, v in self.plan.points.items() if n in integrated}

        @compile_lightly
        def look(problem: Problem, start: Values, points: Values) -> Any:
            rows = problem.blocks

            def one(share: Array, point: Values) -> tuple[Array, Array]:
                counted = problem.at(replace(rows, weight=share * rows.weight))
                return candidate(counted, units, {**start, **point}, self.labels)

            # loops, not batches: they compile in half the time
            return jax.lax.map(
                lambda share: jax.lax.map(lambda point: one(share, point), points),
                jnp.array([0.0, 1.0]),
            )

        found = look(self.problem, start, points)
        heights, conditionals = map(np.asarray, found)  # without any row, and with all of them
        proper = np.isfinite(conditionals[0]).all(axis=0)
        for unit in (unit for unit, is_proper in zip(units, proper, strict=True) if not is_proper):
            names = " and ".join(f"'{name}'" for name in unit.block.sites)
            raise ProgramError(
                f"the prior of {names} does not integrate to one, so that a component without rows has "
                "no density; give it a proper prior"
            )
        evidence = heights - conditionals.sum(axis=-1)
        return float(np.max(np.ptp(evidence, axis=1) / (1e-8 * (1 + np.max(np.abs(heights))))))


def _rows_of(site: Any, observed: Observed, rng: np.random.Generator) -> np.ndarray:
    """Values of a site's rows: random ones at unit scale where any number will do."""
    value = np.asarray(observed.values[site.name])
    real = (dist.constraints.real, dist.constraints.real_vector)
    return rng.normal(size=value.shape) if base_support(site.support) in real else value
