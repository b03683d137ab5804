"""One M step, shared by every engine that maximises."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from ..program import rows as row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks
from ..program.conjugacy import maximise
from ..program.evaluate import Values
from ..program.plan import Plan
from .climb import climb


def maximise_blocks(
    plan: Plan,
    arguments: Arguments,
    statistics: row_pass.Statistics,
    values: Values,
    left: tuple[str, ...] = (),
) -> tuple[Values, Array]:
    """Visit every block in turn, each at its mode given the others (conditional maximisation).

    Sites without a closed form are climbed together at the end, but for those that are `left` to
    another step. Returns the values and, for each closed block, whether its mode was proper.
    Source: Meng & Rubin (1993), *Biometrika* 80, 267-278 (ECM).
    """
    log_joint = plan.expected_log_joint(arguments, statistics)
    proper = []
    for block in plan.blocks:
        if block.form is not None:
            values, found = maximise(block, log_joint, values)
            proper.append(found)
    climbed = {block.site for block in plan.blocks if block.form is None} - set(left)
    if climbed:
        sites = tuple(site for site in plan.reading.parameters if site.name in climbed)
        values = climb(sites, log_joint, values)
    return values, jnp.stack(proper) if proper else jnp.ones(1, bool)


def climb_marginal(
    plan: Plan, arguments: Arguments, blocks: Blocks, values: Values, names: tuple[str, ...]
) -> Values:
    """Climb the named sites on the objective itself, log p(x | theta) + log p(theta), all else fixed.

    After conditional maximisation of Q over the others this is ECME, in the order in which it cannot
    lower the objective: first Q, which touches it at the values that the statistics were made at, then
    the objective. Every climb visits all rows a few times.
    Source: Liu & Rubin (1994), *Biometrika* 81, 633-648; the order: Meng & van Dyk (1997), *JRSS B* 59,
    511-567.
    """
    sites = tuple(site for site in plan.reading.parameters if site.name in names)
    return climb(sites, log_posterior(plan, arguments, blocks), values)


def log_posterior(plan: Plan, arguments: Arguments, blocks: Blocks) -> Callable[[Values], Array]:
    """log p(x | theta) + log p(theta), all hidden values summed out, as a function of theta."""

    # under jit the program is traced once, however often the function is differentiated
    @jax.jit
    def density(values: Values) -> Array:
        evaluation = plan.evaluate(arguments, values)
        found = row_pass.log_likelihood(plan.graph, plan.families, evaluation, blocks)
        return found + plan.log_prior(evaluation)

    return density


def objective_and_statistics(
    plan: Plan, arguments: Arguments, blocks: Blocks, values: Values
) -> tuple[Array, row_pass.Statistics]:
    """The E step: log likelihood plus log prior, and the expected statistics."""
    evaluation = plan.evaluate(arguments, values)
    found = row_pass.passes(
        plan.graph, plan.families, evaluation, blocks, row_pass.expect, jax.random.key(0)
    )
    return found.log_likelihood + plan.log_prior(evaluation), found.statistics
