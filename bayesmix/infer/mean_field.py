"""Mean-field posteriors of all blocks, and expectations under them, for any plan of closed forms.

Every factor of the log joint is linear in the sufficient statistics of each block (the plan certifies
it), so that its expectation under a product of such densities is its mean over a product of the
blocks' points (:mod:`bayesmix.families.forms`). A factor is averaged over the points of the blocks
that it depends on, and of no others; which these are is found by following the operations of an abstract
trace.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.ops.provenance import eval_provenance

from ..families.likelihoods import Family
from ..program import row_pass
from ..program.conjugacy import Conditional
from ..program.errors import ProgramError
from ..program.evaluate import Evaluation, Values
from ..program.parts import expect
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.statistics import expected_factors
from .kernel import Expected, Parameters, Visited

_MOST_POINTS = 4096


class Scope(NamedTuple):
    """Factors of the log joint, by site, that are averaged over the points of these blocks."""

    blocks: tuple[int, ...]
    factors: frozenset[str]


class Factorised(NamedTuple):
    """A density of all parameters, independent between blocks.

    coefficients: by block, those of its form; points: by site, values (J, *shape) of equal weight, the
    same J for sites of one block; centre: by site, a value in the middle; entropy: of each block, and
    is it a density that integrates, both (blocks,).
    """

    coefficients: tuple[Any, ...]
    points: Values
    centre: Values
    entropy: Array
    proper: Array


# ---------------------------------------------------------------------------- which factors go together
def find_scopes(problem: Problem) -> tuple[Scope, ...]:
    """Every factor of the log joint, with the blocks that it depends on; factors that depend on fewer
    blocks join those that depend on more. Nothing is computed."""
    block_of = {name: i for i, block in enumerate(problem.plan.blocks) for name in block.sites}

    def factors(**values: Array) -> dict[str, Any]:
        found = problem.evaluate(values)
        return {**found.prior, **found.latent, **found.components}

    values = {site.name: np.zeros(site.shape) for site in problem.plan.reading.parameters}
    reached: dict[tuple[int, ...], set[str]] = {}
    for factor, leaves in eval_provenance(factors, **values).items():
        names = frozenset().union(*jax.tree.leaves(leaves))
        reached.setdefault(tuple(sorted({block_of[name] for name in names})), set()).add(factor)
    scopes: list[Scope] = []
    for blocks in sorted(reached, key=len, reverse=True):
        for i, scope in enumerate(scopes):
            if set(blocks) <= set(scope.blocks):
                scopes[i] = Scope(scope.blocks, scope.factors | reached[blocks])
                break
        else:
            scopes.append(Scope(blocks, frozenset(reached[blocks])))
    return tuple(scopes)


def check_points(plan: Plan, scopes: tuple[Scope, ...], sizes: tuple[int, ...]) -> None:
    """Raise :class:`ProgramError` where a factor would be averaged over too many points."""
    for scope in scopes:
        count = math.prod(sizes[block] for block in scope.blocks)
        if count > _MOST_POINTS:
            names = ", ".join(f"'{name}'" for b in scope.blocks for name in plan.blocks[b].sites)
            raise ProgramError(
                f"the factors {', '.join(sorted(scope.factors))} depend on {names} at once, and would "
                f"be averaged over {count} points; use bayesmix.ConjugateGibbs(program) instead"
            )


# ---------------------------------------------------------------------------- values at the points
def _at_points(
    plan: Plan, blocks: tuple[int, ...], q: Factorised, function: Callable[[Values], Any]
) -> Any:
    """`function(values)` at all combinations of the points of these blocks, stacked (J, ...)."""
    sizes = [q.points[plan.blocks[block].site].shape[0] for block in blocks]
    places = np.array(list(itertools.product(*map(range, sizes))), int)

    def at(place: Array) -> Any:
        moved = {
            name: q.points[name][place[i]]
            for i, block in enumerate(blocks)
            for name in plan.blocks[block].sites
        }
        return function({**q.centre, **moved})

    return jax.vmap(at)(places)


def _only(evaluation: Evaluation, factors: frozenset[str]) -> Evaluation:
    prior, latent, components = (
        {name: value for name, value in part.items() if name in factors}
        for part in (evaluation.prior, evaluation.latent, evaluation.components)
    )
    return Evaluation(prior, latent, components, {})


class _Averaged(NamedTuple):
    """A family's parameters at the centre, and at points (J, K, ...)."""

    centre: Any
    points: Any


def averaged(family: Family) -> Family:
    """The family whose log density is the mean over points of this one's; parameters are `_Averaged`.

    Statistics are accumulated about the centre: they say the same wherever they are about.
    """

    def prepare(parameters: _Averaged, pattern: Array | None) -> _Averaged:
        points = jax.vmap(family.prepare, (0, None))(parameters.points, pattern)
        return _Averaged(family.prepare(parameters.centre, pattern), points)

    def log_prob(prepared: _Averaged, rows: Any) -> Array:
        return jnp.mean(jax.vmap(family.log_prob, (0, None))(prepared.points, rows), axis=0)

    def at_centre(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda prepared, *rest: function(prepared.centre, *rest)

    return family._replace(
        prepare=prepare,
        log_prob=log_prob,
        accumulate=at_centre(family.accumulate),
        finish=at_centre(family.finish),
        complete=family.complete and at_centre(family.complete),
    )


def averaged_families(plan: Plan) -> dict[str, Any]:
    """The plan's families, averaged; sites without one are averaged as tables."""
    return {
        name: averaged(family) if isinstance(family, Family) else family
        for name, family in plan.families.items()
    }


def averaged_evaluation(problem: Problem, scopes: tuple[Scope, ...], q: Factorised) -> Evaluation:
    """E_q of every log prior density and of every table of log probabilities; components of families as
    :func:`averaged` takes them."""
    centre = problem.evaluate(q.centre)
    prior: dict[str, Array] = {}
    latent: dict[str, Array] = {}
    components: dict[str, Any] = {}
    for scope in scopes:

        def at(values: Values, scope: Scope = scope) -> Evaluation:
            return _only(problem.evaluate(values), scope.factors)

        found = _at_points(problem.plan, scope.blocks, q, at)
        prior |= jax.tree.map(partial(jnp.mean, axis=0), found.prior)
        latent |= jax.tree.map(partial(jnp.mean, axis=0), found.latent)
        for name, points in found.components.items():
            if isinstance(problem.plan.families[name], Family):
                components[name] = _Averaged(centre.components[name], points)
            else:
                components[name] = jnp.mean(points, axis=0)
    return Evaluation(prior, latent, components, {})


# ------------------------------------------------------------------------------ the bound and its ascent
@dataclass(frozen=True)
class Averaged:
    """The best q(z) under a density q of the parameters: responsibilities from expected tables.

    The objective is the evidence lower bound, with all constants,

        sum_i w_i log sum_z exp E_q[log p(x_i, z | theta)] + E_q[log p(theta)] + H(q(theta)),

    NaN where some block's density does not integrate. Where starts are `given`, the first is that of no
    density, and is not compared.
    """

    verb: ClassVar[str] = "expected"

    scopes: tuple[Scope, ...]
    given: bool = False

    def begin(self, problem: Problem, belief: Factorised, rng_key: Array) -> Any:
        """The number of steps made, where it matters."""
        return jnp.zeros((), int) if self.given else ()

    def __call__(self, problem: Problem, belief: Factorised, memory: Any) -> Expected:
        plan = problem.plan
        evaluation = averaged_evaluation(problem, self.scopes, belief)
        families = averaged_families(plan)
        found = row_pass.passes(plan.graph, families, evaluation, problem.blocks, expect)
        bound = found.log_likelihood + evaluation.log_prior + jnp.sum(belief.entropy)
        bound = jnp.where(jnp.all(belief.proper), bound, jnp.nan)
        if not self.given:
            return Expected(belief, bound, found.statistics, memory)
        return Expected(belief, bound, found.statistics, memory + 1, comparable=memory != 1)


@dataclass(frozen=True)
class Spread(Parameters):
    """Every block in turn at its best given the others, q(block) proportional to exp E[log joint]
    (coordinate ascent)."""

    verb: ClassVar[str] = "expected"

    scopes: tuple[Scope, ...]

    def __call__(
        self,
        problem: Problem,
        statistics: row_pass.Statistics,
        belief: Factorised,
        memory: Any = None,
    ) -> Visited:
        q = belief
        for number, block in enumerate(problem.plan.blocks):
            log_joint = log_joint_of(problem, self.scopes, statistics, q, number)
            q = update(block, number, log_joint, q)
        unclimbed = jnp.full(len(problem.plan.reading.parameters), jnp.inf)
        return Visited(q, q.proper, jnp.zeros(()), unclimbed)

    def with_values(self, belief: Factorised, values: Values) -> Factorised:
        """q with all points of some sites at these values."""
        points = {
            name: jnp.broadcast_to(value, belief.points[name].shape)
            for name, value in values.items()
        }
        return belief._replace(
            points={**belief.points, **points}, centre={**belief.centre, **values}
        )


def log_joint_of(
    problem: Problem,
    scopes: tuple[Scope, ...],
    statistics: row_pass.Statistics,
    q: Factorised,
    number: int,
) -> Callable[[Values], Array]:
    """E[log joint] over all but one block, as a function of that block's sites, up to a constant."""
    inside = [scope for scope in scopes if number in scope.blocks]

    # under jit the program is traced once, however often a conditional is read from it
    @jax.jit
    def log_joint(own: Values) -> Array:
        total = jnp.zeros(())
        for scope in inside:
            families = {n: f for n, f in problem.plan.families.items() if n in scope.factors}

            def at(values: Values, scope=scope, families=families) -> Array:
                evaluation = _only(problem.evaluate({**values, **own}), scope.factors)
                factors = expected_factors(families, evaluation, statistics)
                return sum(factors.values(), evaluation.log_prior)

            others = tuple(block for block in scope.blocks if block != number)
            total += jnp.mean(_at_points(problem.plan, others, q, at))
        return total

    return log_joint


def update(
    block: Conditional, number: int, log_joint: Callable[[Values], Array], q: Factorised
) -> Factorised:
    """q with one block at its best given all else: the density proportional to exp E[log joint]."""
    form, centre = block.form, {name: q.centre[name] for name in block.sites}
    assert form is not None
    found = form.read(density(block, log_joint, centre), block.of(centre))
    spread = form.spread(found)
    coefficients = list(q.coefficients)
    coefficients[number] = form.looking_at(found, None)
    return Factorised(
        tuple(coefficients),
        {**q.points, **block.named(spread.points)},
        {**q.centre, **block.named(spread.centre)},
        q.entropy.at[number].set(spread.entropy),
        q.proper.at[number].set(spread.proper),
    )


def density(block: Conditional, log_joint: Callable[[Values], Array], values: Values) -> Any:
    """What the form of a block reads, of a function of its sites."""
    return block.density(lambda at, name: lambda value: log_joint({**at, name: value}), values)


def point_masses(
    problem: Problem, scopes: tuple[Scope, ...], statistics: Any, values: Values
) -> Factorised:
    """All points at `values`, in the shape that updates keep; its coefficients say nothing yet."""
    count = len(problem.plan.blocks)
    single = {name: value[None] for name, value in values.items()}
    none = Factorised((None,) * count, single, values, jnp.zeros(count), jnp.ones(count, bool))
    like = jax.eval_shape(partial(Spread(scopes), problem), statistics, none).belief
    coefficients = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.coefficients)
    points = {name: jnp.broadcast_to(values[name], x.shape) for name, x in like.points.items()}
    return none._replace(coefficients=coefficients, points=points)
