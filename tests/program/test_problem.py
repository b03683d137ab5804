"""A program with its data is a pytree: what is asked of it can be jitted, batched and differentiated."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesmix
from bayesmix.infer.m_steps import maximise_blocks
from bayesmix.program.arguments import split
from bayesmix.program.problem import Plans, Problem
from tests.programs import components_of, make_data, plan_of


@functools.cache
def problem(name: str) -> Problem:
    call = split((make_data(name), components_of(name)), {})
    return Problem(plan_of(name), call).with_rows()


def ordinary(plan: bayesmix.Plan) -> dict[str, np.ndarray]:
    return {name: value[0] for name, value in plan.points.items()}


def em_step(problem: Problem, values: dict) -> tuple:
    objective, statistics = problem.expected(values)
    return objective, maximise_blocks(problem, statistics, values)[0]


@pytest.mark.parametrize("name", ["niw", "poisson"])
def test_its_leaves_are_data_and_its_structure_is_the_program(name):
    whole = problem(name)
    leaves, structure = jax.tree.flatten(whole)
    assert all(hasattr(leaf, "dtype") for leaf in leaves)
    again = jax.tree.unflatten(structure, leaves)
    assert again.plan is whole.plan and again.arguments.layout == whole.arguments.layout
    moved = Problem(whole.plan, whole.arguments).with_rows()  # arranged anew: the same structure
    assert jax.tree.structure(moved) == structure


@pytest.mark.parametrize("name", ["niw", "poisson"])
def test_a_step_for_many_data_sets_is_a_step_for_each(name):
    """Data sets of one shape are leaves with another axis: here the rows with other weights, as in a
    bootstrap."""
    whole = problem(name)
    rng, values = np.random.default_rng(0), ordinary(whole.plan)
    blocks = whole.blocks
    weights = rng.poisson(1.0, size=(3, *blocks.weight.shape)) * np.asarray(blocks.weight)
    sets = [whole.at(replace(blocks, weight=jnp.asarray(weight))) for weight in weights]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)
    found = jax.jit(jax.vmap(em_step, (0, None)))(together, values)
    for i, one in enumerate(sets):
        for ours, theirs in zip(
            jax.tree.leaves(jax.jit(em_step)(one, values)), jax.tree.leaves(found), strict=True
        ):
            np.testing.assert_allclose(np.asarray(theirs)[i], ours, rtol=1e-9, atol=1e-12)


def test_what_is_compiled_serves_all_problems_of_a_plan():
    x, plans, seen = make_data("poisson"), Plans(plan_of("poisson")), []

    def height(problem, values):
        seen.append(1)
        return problem.log_likelihood(values)

    for data in (x, x[::-1], x[:9]):
        one = plans.call((data, 3), {}).with_rows()
        found = one.run(height, ordinary(one.plan))
        np.testing.assert_allclose(found, one.log_likelihood(ordinary(one.plan)), rtol=1e-12)
    assert len(seen) == 2  # of two shapes
