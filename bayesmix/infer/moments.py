"""Moments of observed sites at parameter values, and missing cells given those that are there.

With responsibilities r_k of the components, or their probabilities, and m_k and S_k the component's mean
and covariance, given the cells that are there or not,

    E[x] = sum_k r_k m_k = m,    Cov[x] = sum_k r_k (S_k + (m_k - m)(m_k - m)').

The functions of `(plan, arguments, values, ...)` are pure and to be jitted.

Source: McLachlan & Peel (2000), *Finite Mixture Models*, Wiley, section 1.4; Little & Rubin (2002),
*Statistical Analysis with Missing Data*, Wiley, section 11.2 (normal); Kotz & Nadarajah (2004),
*Multivariate t Distributions and Their Applications*, Cambridge, section 1.11 (Student-t).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..families.gaussian import PreparedGaussian, squared_length, whiten
from ..families.likelihoods import Family
from ..families.peel import peel
from ..families.student import PreparedStudent
from ..program.blocks import Blocks
from ..program.errors import ProgramError
from ..program.evaluate import Evaluation, Values, joint_first
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.reading import Reading, Site
from .predict import Rows, posteriors, priors, sites_by_component


class Moments(NamedTuple):
    """Mean (..., D) and covariance (..., D, D) of the D cells of an observed site."""

    mean: Any
    covariance: Any


# ------------------------------------------------------------------------------------------ moments
def mixture_moments(problem: Problem, values: Values) -> dict[str, Moments]:
    """Mean and covariance of every observed site, the latent summed out; by row where they differ."""
    evaluation = problem.evaluate(values)
    probabilities = priors(problem.plan, evaluation)
    moments = _component_moments(problem, values, evaluation)
    return {
        name: _mixed(probabilities[problem.plan.graph.clique_of[name]], *found)
        for name, found in moments.items()
    }


def component_means(problem: Problem, values: Values) -> dict[str, Array]:
    """Means by component of every observed site, (K, D); (K, N, D) where they differ by row."""
    evaluation = problem.evaluate(values)
    moments = _component_moments(problem, values, evaluation)
    return {name: mean for name, (mean, _) in moments.items()}


def _mixed(weights: Array, mean: Array, covariance: Array) -> Moments:
    """sum_k w_k m_k, and sum_k w_k (S_k + (m_k - m)(m_k - m)').

    Weights (K,), means (K, D) and covariances (K, D, D), each with an axis N after K or without.
    """
    w, m, c = ("n" * (part.ndim - own) for part, own in ((weights, 1), (mean, 2), (covariance, 3)))
    centre = jnp.einsum(f"k{w},k{m}i->{w or m}i", weights, mean)
    away = (mean[:, None] if w > m else mean) - centre
    within = jnp.einsum(f"k{w},k{c}ij->{w or c}ij", weights, covariance)
    between = jnp.einsum(f"k{w},k{w or m}i,k{w or m}j->{w or m}ij", weights, away, away)
    whole = within + between
    return Moments(jnp.broadcast_to(centre, whole.shape[:-1]), whole)


def _component_moments(
    problem: Problem, values: Values, evaluation: Evaluation
) -> dict[str, Moments]:
    """Means (K, D) and covariances (K, D, D) of every site; with an axis N after K where they differ
    by row."""
    plan = problem.plan
    sites = None
    found = {}
    for site in plan.reading.observed:
        family = plan.families[site.name]
        if isinstance(family, Family):
            found[site.name] = Moments(*family.moments(evaluation.components[site.name]))
            continue
        sites = sites or sites_by_component(problem, values)
        found[site.name] = _own_moments(sites[site.name], site, plan.reading)
    return found


def _own_moments(traced: dict[str, Any], site: Site, reading: Reading) -> Moments:
    """The moments that a NumPyro distribution gives of itself."""
    base = peel(traced["fn"]).base
    try:
        mean = _by_component(base.mean, 0, traced, reading)
        if base.event_dim == 0:
            variance = _by_component(base.variance, 0, traced, reading)
            same = jnp.eye(variance.shape[-1], dtype=bool)
            return Moments(mean, jnp.where(same, variance[..., None], 0.0))
        # NumPyro's matrix of a Student-t is its scatter: only the correlations are those of the values
        scatter = base.covariance_matrix
        inflation = jnp.sqrt(base.variance / jnp.diagonal(scatter, axis1=-2, axis2=-1))
        covariance = scatter * inflation[..., :, None] * inflation[..., None, :]
        covariance = _by_component(covariance, 1, traced, reading)
    except (AttributeError, NotImplementedError) as error:
        if site.name in reading.factors:
            raise ProgramError(
                f"'{site.name}' is a numpyro.factor, which has no data and so no mean"
            ) from error
        raise ProgramError(
            f"the mean and covariance of site '{site.name}' are not known to NumPyro "
            f"({site.family}); draw data with fit.sample and average them"
        ) from error
    size = mean.shape[-1] // covariance.shape[-1]
    if size > 1:
        raise ProgramError(
            f"site '{site.name}' has {size} vectors in each row, whose covariance is not put together "
            "where they differ from row to row; draw data with fit.sample and average them"
        )
    return Moments(mean, covariance)


def _by_component(array: Array, extra: int, traced: dict[str, Any], reading: Reading) -> Array:
    """A property of the peeled distribution as (K, D), or (K, N, D) where it differs from row to row;
    `extra` counts axes beyond those of the value, which are kept."""
    fn = traced["fn"]
    frames = [frame for frame in traced["cond_indep_stack"] if frame.name != reading.rows.name]
    inner = sorted((frame.dim, frame.size) for frame in frames)
    own = fn.event_shape[fn.event_dim - extra :]
    event = (*(size for _, size in inner), *fn.event_shape, *own)
    width = reading.plate_depth + 1
    full = joint_first(array, reading, traced["name"], fn.event_dim + extra)
    axes = [0, width + reading.rows.dim, *(width + dim for dim, _ in inner)]
    full = jnp.moveaxis(full, axes, range(len(axes)))  # other plates come next, all of size 1
    full = full.reshape(*full.shape[: len(axes)], *full.shape[width:])
    full = jnp.broadcast_to(full, (*full.shape[:2], *event))
    flat = full.reshape(*full.shape[:2], -1, *own)
    return flat if flat.shape[1] > 1 else flat[:, 0]


# ------------------------------------------------------------------------------------- missing cells
class Completion(NamedTuple):
    """The cells of rows given those that are there, in each component: mean (K, D, n), and
    mean + root e / sqrt(u) for a draw, with e standard normal.

    Where `scale` is None, u is 1; else it is the shape (K, 1) and rate (K, n) of u's gamma density.
    """

    mean: Array
    root: Array
    scale: tuple[Array, Array] | None


def _complete(family: Family, prepared: Any, rows: Any) -> Completion:
    """Normal and Student-t components: m + L U y, with root L R (see `families/gaussian.py`)."""
    gaussian = prepared.gaussian if isinstance(prepared, PreparedStudent) else prepared
    if not isinstance(gaussian, PreparedGaussian):
        raise ProgramError(
            f"what is missing given the rest is not known for family '{family.name}'; leave out rows "
            "with missing cells, or use a distribution with independent columns"
        )
    whitened = whiten(gaussian, rows)
    scale = None
    if isinstance(prepared, PreparedStudent):
        freedom = prepared.freedom[:, None]
        shape = (freedom + prepared.cells) / 2
        scale = (shape, (freedom + squared_length(whitened)) / 2)
    if isinstance(whitened, list):
        whitened = jnp.stack(whitened, axis=1)
    lower = gaussian.scale_tril
    mean = gaussian.mean[:, :, None] + lower @ (gaussian.completion @ whitened)
    return Completion(mean, lower @ gaussian.residual, scale)


def over_patterns(
    plan: Plan,
    evaluation: Evaluation,
    name: str,
    blocks: Blocks,
    function: Callable[[Completion, Any], Any],
    given: Any,
) -> Any:
    """`function(completion, given)` of each block (..., n), put back in the order of rows (..., N);
    `given` leads with blocks."""
    family = plan.families[name]
    assert isinstance(family, Family)
    parameters = evaluation.components[name]
    prepared = jax.vmap(family.prepare, (None, 0))(parameters, blocks.patterns[name])

    def one(block: Any) -> Any:
        rows, pattern, given = block
        here = jax.tree.map(lambda x: x[pattern], prepared)
        return function(_complete(family, here, rows), given)

    found = jax.lax.map(one, (blocks.rows[name], blocks.pattern, given))
    return jax.tree.map(blocks.restore, found)


def conditional_moments(
    problem: Problem, values: Values, rows: Rows, present: dict[str, Array]
) -> dict[str, Moments]:
    """Mean (N, D) and covariance (N, D, D) of every site in `present` given all cells that are there.

    Cells that are there have their own value, left to the caller, and covariance 0.
    """
    evaluation = problem.evaluate(values)
    shares = posteriors(problem, values, rows)
    blocks = rows.blocks
    components = None
    found = {}
    for name, there in present.items():
        responsibilities = shares[problem.plan.graph.clique_of[name]]
        if name in blocks.patterns:
            given = blocks.distribute(responsibilities)
            moments = over_patterns(
                problem.plan, evaluation, name, blocks, _mixed_completion, given
            )
            mean, covariance = moments.mean.T, jnp.moveaxis(moments.covariance, -1, 0)
        else:
            components = components or _component_moments(problem, values, evaluation)
            mean, covariance = _mixed(responsibilities, *components[name])
        hidden = ~there.reshape(there.shape[0], -1)
        both = hidden[:, :, None] & hidden[:, None, :]
        found[name] = Moments(mean, jnp.where(both, covariance, 0.0))
    return found


def conditional_means(
    problem: Problem, values: Values, rows: Rows, present: dict[str, Array]
) -> dict[str, Array]:
    """The means of :func:`conditional_moments`; when compiled, covariances are not computed."""
    found = conditional_moments(problem, values, rows, present)
    return {name: moments.mean for name, moments in found.items()}


def _mixed_completion(found: Completion, responsibilities: Array) -> Moments:
    """The mixture of completions: mean (D, n) and covariance (D, D, n)."""
    mean, root, scale = found
    weights = responsibilities
    if scale is not None:
        shape, rate = scale
        mean = jnp.where((shape > 0.5)[:, None], mean, jnp.nan)
        weights = weights * jnp.where(
            shape > 1, rate / jnp.where(shape > 1, shape - 1, 1.0), jnp.inf
        )
    centre = jnp.einsum("kn,kin->in", responsibilities, mean)
    away = mean - centre
    within = jnp.einsum("kn,kij->ijn", weights, root @ jnp.swapaxes(root, -1, -2))
    between = jnp.einsum("kn,kin,kjn->ijn", responsibilities, away, away)
    return Moments(centre, within + between)
