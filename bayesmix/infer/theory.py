"""The theory of EM as functions: the bound, the entropy, and what the bound leaves to gain.

For any distribution q over the latents,

    log p(x | theta) = E_q[log p(x, z | theta)] + H(q) + KL(q || p(z | x, theta)).

The first two terms are a lower bound. The E step sets q to the posterior at the current theta, so that
the divergence is zero; the M step raises the first term (and the log prior) at this q.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import biject_to

from ..program import elimination
from ..program.elimination import Tables
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from . import predict
from .result import EMResult


class Decomposition(NamedTuple):
    """The terms of log p(x | theta), sums over the rows, scalars or one for each of several steps.

    energy: E_q[log p(x, z | theta)], which is Q(theta) where q is the posterior at other parameters;
    entropy: H(q); divergence: KL(q || p(z | x, theta)); log_prior: log p(theta).
    """

    energy: Any
    entropy: Any
    divergence: Any
    log_prior: Any

    @property
    def bound(self) -> Any:
        """energy + entropy: the lower bound of the log likelihood that q gives."""
        return self.energy + self.entropy

    @property
    def log_likelihood(self) -> Any:
        """log p(x | theta) = bound + divergence."""
        return self.bound + self.divergence


def decompose(
    program: Callable[..., Any] | Plan,
    values: Values,
    *args: Any,
    at: Values | None = None,
    inverse_temperature: float = 1.0,
    **kwargs: Any,
) -> Decomposition:
    """The terms of log p(x | theta) at `values`, for q proportional to p(z | x, `at`)^beta.

    Hidden values of the rows that are not latents (the scales behind a Student-t) are summed out of
    every term. Rows count by their weights.

    Args:
        program: a NumPyro program, or a plan of one.
        values: theta, by site. With an axis of steps in front of every site of `values` and `at`, all
            terms have one too.
        *args, **kwargs: the program's own arguments.
        at: the parameters whose posterior q is; `values` itself where None: then the bound is the log
            likelihood.
        inverse_temperature: beta; 0 for q uniform.

    Raises:
        ProgramError: where the program or its data cannot be read, or sites are missing from `values`.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> here, there = {"mean": jnp.array([0.0, 5.0])}, {"mean": jnp.array([0.0, 1.0])}
        >>> x = jnp.array([-0.2, 0.1, 4.8, 5.1])
        >>> exact = bayesmix.theory.decompose(program, here, x)
        >>> loose = bayesmix.theory.decompose(program, here, x, at=there)
        >>> round(float(exact.divergence), 6), bool(loose.divergence > 0)
        (0.0, True)
        >>> bool(jnp.isclose(exact.log_likelihood, loose.log_likelihood))
        True

    Source: Neal & Hinton (1998), in *Learning in Graphical Models*, 355-368, eqs. 5-7.
    """
    problem = Plans(program).call(args, kwargs)
    return decompose_problem(problem, values, values if at is None else at, inverse_temperature)


def decompose_path(fit: EMResult) -> Decomposition:
    """The terms after each M step of a fit that kept its path, q being the posterior before that step.

    Entry t has theta_{t+1} and q = p(z | x, theta_t): its divergence is what the next E step gains, and
    its bound is above the log likelihood at theta_t by what the M step gained, but for the log prior.

    Raises:
        ProgramError: where the fit kept no path.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 2.8, 3.1])
        >>> fit = bayesmix.EM(program, keep_path=True).run(0, x)
        >>> terms = bayesmix.theory.decompose_path(fit)
        >>> gained = terms.bound + terms.log_prior - fit.objective[:-1]
        >>> bool((gained > -1e-9).all()), bool((terms.divergence > -1e-9).all())
        (True, True)
    """
    path = _path(fit)
    after = {name: value[1:] for name, value in path.items()}
    before = {name: value[:-1] for name, value in path.items()}
    return decompose_problem(fit.problem, after, before)


def along(fit: EMResult, step: int, places: np.ndarray) -> Values:
    """Parameters on the line from `step` (place 0) to the step after it (place 1), each (places, ...).

    The line is straight in unconstrained coordinates, so that no constraint is left.

    Raises:
        ProgramError: where the fit kept no path, or has no such step.
    """
    path = _path(fit)
    steps = len(next(iter(path.values()))) - 1
    if not 0 <= step < steps:
        raise ProgramError(f"the fit has {steps} steps; there is none after step {step}")
    found = {}
    for site in fit.plan.reading.parameters:
        bijection = biject_to(site.support)
        start, end = (bijection.inv(jnp.asarray(path[site.name][step + i])) for i in (0, 1))
        wide = jnp.asarray(places).reshape(-1, *(1,) * jnp.ndim(start))
        found[site.name] = jax.vmap(bijection)(start + wide * (end - start))
    return found


def _path(fit: EMResult) -> dict[str, np.ndarray]:
    if not fit.path:
        raise ProgramError("the fit kept no path; make it with EM(..., keep_path=True)")
    return fit.path


def decompose_problem(
    problem: Problem, values: Values, at: Values, inverse_temperature: float = 1.0
) -> Decomposition:
    """As :func:`decompose`, for a program with its data."""
    plan = problem.plan
    sites = {site.name: site for site in plan.reading.parameters}
    for name in sites:
        if name not in values or name not in at:
            raise ProgramError(f"the value of '{name}' is missing; give every parameter's")
    values, at = ({name: jnp.asarray(told[name], float) for name in sites} for told in (values, at))
    rows = predict.arrange(plan, problem.observe())
    beta = jnp.asarray(inverse_temperature, float)
    several = any(values[name].ndim > len(site.shape) for name, site in sites.items())
    found = problem.run(_each, rows, values, at, beta, static=(several,), fully=True)
    return jax.tree.map(np.asarray, found)


def _each(
    problem: Problem, several: bool, rows: Any, values: Values, at: Values, beta: Array
) -> Decomposition:
    """All terms at one theta, or at each of several."""

    def one(pair: tuple[Values, Values]) -> Decomposition:
        return _terms(problem, rows, *pair, beta)

    return jax.lax.map(one, (values, at)) if several else one((values, at))


def _terms(
    problem: Problem, rows: predict.Rows, values: Values, at: Values, beta: Array
) -> Decomposition:
    """All terms at one theta, q from one other."""
    graph, weight = problem.plan.graph, rows.blocks.restore(rows.blocks.weight)
    here, there = (predict.log_factors(problem, v, rows) for v in (values, at))
    # a temperature of zero leaves what is impossible impossible
    tempered = tuple(jnp.where(jnp.isneginf(each), each, beta * each) for each in there)
    evidence, shares = elimination.marginals(graph, tempered)

    def expected(tables: Tables) -> Array:
        pairs = zip(shares, tables, strict=True)
        return sum(jnp.sum(jnp.where(q > 0, q * t, 0.0), axis=0) for q, t in pairs)

    energy, own = expected(here), expected(tempered)
    bound = energy + (evidence - own)

    def total(each: Array) -> Array:
        return jnp.sum(jnp.where(weight > 0, weight * each, 0.0))

    log_prior = problem.log_prior(values)
    return Decomposition(
        total(energy),
        total(evidence - own),
        total(elimination.sum_out(graph, here) - bound),
        log_prior,
    )
