"""How much probability lies about a mode: Laplace's approximation, in unconstrained coordinates."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.flatten_util import ravel_pytree

from ..program.compiling import compile_lightly
from ..program.evaluate import Values
from ..program.labels import permute_labels
from ..program.plan import Plan
from ..program.problem import Problem
from .coordinates import constrained, potential_energy, unconstrained

_MOST_COORDINATES = 2000
_NEWTON_STEPS = 20
_NEAR = 1e-9  # nats still to gain by a Newton step
_FURTHEST = 0.5  # nats by a Newton step and coordinate: one standard deviation


class LogWeight(NamedTuple):
    """log of the joint density's integral about a mode and its relabelled copies, or None and why."""

    value: float | None
    reason: str = ""


class Laplace(NamedTuple):
    """The normal density about a mode, in unconstrained coordinates: its centre (d,), and a square root
    of its covariance (d, d); None where there is none, for the reason that the weight gives."""

    log_weight: LogWeight
    centre: np.ndarray | None = None
    spread: np.ndarray | None = None

    def sample(self, plan: Plan, rng_key: Array, num_draws: int) -> dict[str, np.ndarray]:
        """Draws of all parameters by site, (num_draws, ...)."""
        assert self.centre is not None and self.spread is not None
        like = {site.name: jnp.zeros(site.free_shape) for site in plan.reading.parameters}
        unravel = ravel_pytree(like)[1]
        noise = random.normal(rng_key, (num_draws, self.centre.size))

        def one(noise: Array) -> Values:
            return constrained(plan.reading.parameters, unravel(self.centre + self.spread @ noise))

        return jax.tree.map(np.asarray, compile_lightly(jax.vmap(one))(noise))


def laplace_log_weight(problem: Problem, parameters: dict[str, np.ndarray]) -> LogWeight:
    """The log weight of :func:`laplace`, without the rest."""
    return laplace(problem, parameters).log_weight


def laplace(problem: Problem, parameters: dict[str, np.ndarray]) -> Laplace:
    """Laplace's approximation to the posterior about one mode, and to the log of its integral there.

    In unconstrained coordinates u (NumPyro's `biject_to` for each site's support) with f(u) =
    log p(x, theta(u)) + log|d theta / d u|, Newton steps lead from the mode of the density of theta to
    the mode of f nearby; with H = -f'' there,

        log int exp(f) du = f + (d / 2) log 2 pi - log|H| / 2.

    The log of the number of distinct relabelled copies (K! for each group of exchangeable labels, less
    where components are the same) is added.

    Args:
        problem: the program with its data, arranged.
        parameters: values by site, a mode.

    Returns:
        A :class:`Laplace`; its weight is None where H is not positive definite, where the mode of f is
        not near, where a parameter is on the boundary of its support, or where there are more than 2000
        coordinates.

    Source: Tierney & Kadane (1986), *JASA* 81, 82-86; copies: Fruehwirth-Schnatter (2006), *Finite
    Mixture and Markov Switching Models*, Springer, section 5.5.
    """
    plan = problem.plan
    count = sum(np.size(value) for value in parameters.values())
    if count > _MOST_COORDINATES:
        return _none(f"{count} coordinates are too many for a Hessian")
    told = {name: jnp.asarray(value) for name, value in parameters.items()}
    flat, unravel = ravel_pytree(unconstrained(plan.reading.parameters, told))
    for _ in range(_NEWTON_STEPS):
        found = problem.run(_expand, unravel(flat))
        height, slope, curvature = (np.asarray(each) for each in found)
        if not all(np.isfinite(each).all() for each in (height, slope, curvature)):
            return _none("a parameter is on the boundary of its support")
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        if values[0] <= values[-1] * len(values) * np.finfo(curvature.dtype).eps:
            return _none("the Hessian is not positive definite")
        along = vectors.T @ slope / values
        gain = np.sum(values * along**2) / 2
        if gain > _FURTHEST * len(values):
            break
        if gain < _NEAR:
            volume = 0.5 * len(values) * math.log(2 * math.pi) - 0.5 * np.sum(np.log(values))
            weight = float(height + volume) + log_copies(plan, parameters)
            return Laplace(LogWeight(weight), np.asarray(flat), vectors / np.sqrt(values))
        flat = flat + vectors @ along
    return _none("the mode in unconstrained coordinates is far away")


def _none(reason: str) -> Laplace:
    return Laplace(LogWeight(None, reason))


def log_copies(plan: Plan, parameters: dict[str, np.ndarray]) -> float:
    """log of the number of distinct copies of a mode that the prior cannot tell from it."""
    found = 0.0
    for group in plan.labels.hidden:
        if not group.exchangeable:
            continue
        found += math.lgamma(group.size + 1)
        left = list(range(group.size))
        while left:
            alike = [k for k in left if _swapped_alike(parameters, group.axes, left[0], k)]
            found -= math.lgamma(len(alike) + 1)
            left = [k for k in left if k not in alike]
    return found


def _swapped_alike(
    parameters: dict[str, np.ndarray], axes: dict[str, tuple[int, ...]], one: int, other: int
) -> bool:
    """Does swapping two labels leave every value as it was?"""
    for name, (first, *_) in axes.items():
        if name in parameters:
            order = np.arange(np.shape(parameters[name])[first])
            order[[one, other]] = order[[other, one]]
            swapped = permute_labels({name: parameters[name]}, {name: axes[name]}, order)
            if not np.allclose(swapped[name], parameters[name], rtol=1e-6, atol=0):
                return False
    return True


def _expand(problem: Problem, free: Values) -> tuple[Array, Array, Array]:
    """f, its slope (d,), and minus its Hessian (d, d)."""
    sites = problem.plan.reading.parameters
    potential = potential_energy(sites, problem.log_posterior(), {})
    flat, unravel = ravel_pytree(free)

    def height(flat: Array) -> Array:
        return -potential(unravel(flat))

    slope = jax.grad(height)
    columns = jax.lax.map(
        lambda direction: jax.jvp(slope, (flat,), (direction,))[1], jnp.eye(flat.size)
    )
    return height(flat), slope(flat), -columns
