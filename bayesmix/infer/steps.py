"""The objective, and one pass over the rows at given parameters: what all E steps are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from ..program import parts
from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.evaluate import Values
from ..program.parts import Part
from ..program.plan import Plan


def log_posterior(plan: Plan, arguments: Arguments, blocks: Blocks) -> Callable[[Values], Array]:
    """log p(x | theta) + log p(theta), all hidden values summed out, as a function of theta."""

    # under jit the program is traced once, however often the function is differentiated
    @jax.jit
    def density(values: Values) -> Array:
        evaluation = plan.evaluate(arguments, values)
        found = row_pass.log_likelihood(plan.graph, plan.families, evaluation, blocks)
        return found + plan.log_prior(evaluation)

    return density


def pass_with(
    plan: Plan, arguments: Arguments, blocks: Blocks, values: Values, part: Part, told: Any = None
) -> tuple[Array, row_pass.Pass]:
    """One pass with a part (see :mod:`bayesmix.program.parts`), and the objective that it raises: the
    pass's log likelihood, or what stands in its place, plus the log prior."""
    evaluation = plan.evaluate(arguments, values)
    found = row_pass.passes(plan.graph, plan.families, evaluation, blocks, part, told)
    return found.log_likelihood + plan.log_prior(evaluation), found


def objective_and_statistics(
    plan: Plan, arguments: Arguments, blocks: Blocks, values: Values
) -> tuple[Array, row_pass.Statistics]:
    """The exact E step: log likelihood plus log prior, and the expected statistics."""
    objective, found = pass_with(plan, arguments, blocks, values, parts.expect)
    return objective, found.statistics
