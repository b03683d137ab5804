"""What variational Bayes does not take, each with one sentence and the cure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..families.augmented import RowFamily
from ..families.likelihoods import Family
from ..program import row_pass
from ..program.arguments import Arguments
from ..program.blocks import Blocks, arrange
from ..program.compiling import compile_lightly
from ..program.errors import ProgramError
from ..program.evaluate import Values, evaluate
from ..program.observed import Observed
from ..program.plan import Plan
from ..program.probe import few_rows
from ..program.problem import Problem
from ..program.statistics import expected_factors

_CURE = "use bayesmix.EM, or numpyro.infer.NUTS(bayesmix.marginalize(program)) instead"


def check_program(problem: Problem) -> None:
    """Raise :class:`ProgramError` where a program has no mean-field posterior in closed form: a site has
    no conditional in closed form, or a row has hidden values besides finite latents."""
    open_sites = [f"'{block.site}'" for block in problem.plan.blocks if block.form is None]
    if open_sites:
        raise ProgramError(
            f"no closed-form conditional of {', '.join(open_sites)} (print the plan for the reason), "
            f"so that variational Bayes has no density for it; {_CURE}"
        )
    hidden = [
        name for name, family in problem.plan.families.items() if isinstance(family, RowFamily)
    ]
    hidden += _not_expected(problem)
    if hidden:
        raise ProgramError(
            f"the rows of '{hidden[0]}' have hidden values besides finite latents (the scales of a "
            f"Student-t, the normals behind a probit), which variational Bayes does not take; {_CURE}"
        )


def check_complete(blocks: Blocks) -> None:
    """Raise :class:`ProgramError` where cells are missing that depend on others of their row."""
    for name in blocks.patterns:
        raise ProgramError(
            f"'{name}' has rows of which some cells are missing, and its columns depend on each other, "
            f"so that these are hidden values, which variational Bayes does not take; {_CURE}, or "
            "bayesmix.ConjugateGibbs"
        )


def check_proper(plan: Plan, good: np.ndarray) -> None:
    """Raise :class:`ProgramError` where the density of some block, (blocks,), does not integrate."""
    for block, is_proper in zip(plan.blocks, good, strict=True):
        if not is_proper:
            names = " and ".join(f"'{name}'" for name in block.sites)
            raise ProgramError(
                f"the posterior of {names} does not integrate to one given the rest; give it a proper "
                "prior (numpyro.sample in the place of numpyro.param), or use bayesmix.EM"
            )


def _not_expected(problem: Problem) -> list[str]:
    """Observed sites whose log density is not what their statistics expect, as a function of the
    parameters: then Q stands for a density of more than the row. In double precision, on a few rows."""
    plan = problem.plan
    with jax.core.eval_context(), jax.enable_x64(True):
        few, reading, observed = few_rows(
            plan.program, problem.arguments, plan.reading, problem.observe()
        )
        complete = Observed(observed.values, dict.fromkeys(observed.values))
        blocks = arrange(plan.families, complete, plan.graph, whole=True)

        @compile_lightly
        def differences(told: Arguments, blocks: Blocks, points: Values) -> Any:
            def at(values: Values) -> Any:
                return evaluate(plan.program, reading, plan.families, told, values)

            evaluations = jax.vmap(at)(points)
            first = jax.tree.map(lambda x: x[0], evaluations)
            ones = tuple(jnp.ones((size, blocks.num_rows)) for size in plan.graph.table_sizes)
            statistics = row_pass.weighted_statistics(
                plan.graph, plan.families, first, blocks, ones
            )

            def both(evaluation: Any) -> Any:
                expected = expected_factors(plan.families, evaluation, statistics)
                tables = row_pass.each_factor(plan.families, evaluation, blocks)
                return {n: (expected[n], jnp.sum(tables[n])) for n in plan.families}

            return jax.vmap(both)(evaluations)

        found = jax.tree.map(np.asarray, differences(few, blocks, plan.points))
    return [
        name
        for name, (expected, exact) in found.items()
        if isinstance(plan.families[name], Family)
        and np.ptp(exact - expected) > 1e-6 * (np.ptp(exact) + np.ptp(expected))
    ]
