"""Gates whose slope the data do not bound: the likelihood rises for ever as the softmax grows steeper.

Where covariates separate the components, log p(z_i | x_i) has no largest value: a logistic regression on
such rows diverges, and so does a gate (Albert & Anderson 1984, *Biometrika* 71, 1-10). EM then stops
where the gain still to come is small, at coefficients that mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from ..program.evaluate import Values
from ..program.modules import array_names
from ..program.problem import Problem
from ..program.reading import Site
from ..program.statistics import Statistics
from .climb import LARGEST_HESSIAN

# information (nats) about one unit of log odds; at 1e-3 a standard error is 30 units of log odds
LEAST_INFORMATION = 1e-3


def least_information(problem: Problem, statistics: Statistics, values: Values) -> Array:
    """The curvature of Q + log prior in the gate's flattest direction, a scalar.

    Directions are scaled to change log p(z_i = k | x_i) by one unit in the mean square
    over rows and components; those that do not change them (a constant added to all logits) are left
    out. Infinite where no climbed site moves the log odds by the row, and linearly. To be called under
    jit.
    """
    plan = problem.plan
    climbed = {block.site for block in plan.blocks if block.form is None}
    climbed -= array_names(plan.program)  # networks have flat directions of their own
    sites = [site for site in plan.reading.parameters if site.name in climbed]
    smallest = jnp.asarray(jnp.inf)
    latent = jax.eval_shape(lambda v: problem.evaluate(v), values).latent
    if all(table.ndim == 1 for table in latent.values()):
        return smallest
    for site in sites:
        if values[site.name].size <= LARGEST_HESSIAN:
            found = _flattest(problem, statistics, values, site)
            smallest = jnp.minimum(smallest, found)
    return smallest


def _flattest(problem: Problem, statistics: Statistics, values: Values, site: Site) -> Array:
    bijection = biject_to(site.support)
    start, unravel = ravel_pytree(bijection.inv(values[site.name]))

    def moved(flat: Array) -> Values:
        return {**values, site.name: bijection(unravel(flat))}

    def by_row(flat: Array) -> dict[str, Array]:
        latent = problem.evaluate(moved(flat)).latent
        return {name: table for name, table in latent.items() if table.ndim > 1}

    def log_probabilities(flat: Array) -> Array:
        return jnp.concatenate([table.ravel() for table in by_row(flat).values()])

    def log_odds(flat: Array) -> Array:
        # a latent's own values come last among those of its parents and itself
        sizes = dict(zip(problem.plan.graph.names, problem.plan.graph.sizes, strict=True))
        split = [
            jnp.reshape(table, (-1, sizes[name], table.shape[1]))
            for name, table in by_row(flat).items()
        ]
        return jnp.concatenate([(table - table[:, :1]).ravel() for table in split])

    log_joint = problem.expected_log_joint(statistics)
    curvature = -jax.hessian(lambda flat: log_joint(moved(flat)))(start)
    slopes = jax.jacfwd(log_probabilities)(start)
    sizes, axes = jnp.linalg.eigh(slopes.T @ slopes / slopes.shape[0])
    moves = sizes > jnp.sqrt(jnp.finfo(sizes.dtype).eps) * jnp.max(sizes)
    scaled = axes / jnp.sqrt(jnp.where(moves, sizes, 1.0))
    scaled = jnp.where(moves, scaled, 0.0)
    seen = scaled.T @ ((curvature + curvature.T) / 2) @ scaled
    # directions left out must not be the smallest
    seen = seen + jnp.diag(jnp.where(moves, 0.0, jnp.max(jnp.abs(seen)) + 1.0))
    gate = (jnp.max(sizes) > 0) & _linear(log_odds, start)
    return jnp.where(gate, jnp.linalg.eigvalsh(seen)[0], jnp.inf)


def _linear(function: Callable[[Array], Array], at: Array) -> Array:
    """Is a function linear along a random direction, to first order of rounding?"""
    direction = random.normal(random.key(0), at.shape, at.dtype)

    def slope(flat: Array) -> Array:
        return jax.jvp(function, (flat,), (direction,))[1]

    first, second = jax.jvp(slope, (at,), (direction,))
    rounding = jnp.sqrt(jnp.finfo(first.dtype).eps)
    return jnp.max(jnp.abs(second)) <= rounding * (1 + jnp.max(jnp.abs(first)))
