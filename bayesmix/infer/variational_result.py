"""What variational Bayes returns, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..families.forms import Form
from ..program import elimination, row_pass
from ..program.conjugacy import Conditional
from ..program.elimination import Tables
from ..program.evaluate import Values
from ..program.problem import Problem
from ..program.settings import key_of, whole
from .mean_field import (
    Factorised,
    Scope,
    averaged_evaluation,
    averaged_families,
    density,
    log_joint_of,
)
from .modes import Mode
from .regression import Prediction
from .status import Status

_BATCH = 64  # draws made at a time
_AVERAGED = 400  # draws for averages


@dataclass(frozen=True, eq=False)
class VariationalResult(Prediction):
    """The best of the starts, what became of the others, and what follows from it.

    Attributes:
        bound: the whole trace of the evidence lower bound, (steps + 1,), with all constants.
        status: how the best start ended; truthy if it converged.
        modes: distinct optima up to relabelling, best first, each with its bound (`objective`), the
            number of starts that reached it, and a central value of every site (`parameters`).
        restart_bounds, restart_statuses, restart_steps: one entry per start.
        problem: the program and its data.
        q: the posterior itself, by block, as coefficients of its form.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         numpyro.sample("x", dist.Poisson(rate), obs=x)
        >>> fit = bayesmix.VariationalBayes(program).run(jax.random.key(0), jnp.array([3, 1, 4]))
        >>> posterior = fit.distributions["rate"]
        >>> float(posterior.concentration), float(posterior.rate)
        (10.0, 4.0)
        >>> float(fit.mean["rate"]), float(fit.variance["rate"])
        (2.5, 0.625)
        >>> fit.sample(jax.random.key(1), 1000)["rate"].shape
        (1000,)
    """

    bound: np.ndarray
    status: Status
    modes: tuple[Mode, ...]
    restart_bounds: np.ndarray
    restart_statuses: tuple[Status, ...]
    restart_steps: np.ndarray
    problem: Problem
    q: Factorised
    statistics: row_pass.Statistics
    scopes: tuple[Scope, ...]

    @property
    def log_evidence_bound(self) -> float:
        """L(q) <= log p(x). See :attr:`log_relabellings` for what relabelling adds."""
        return float(self.bound[-1])

    @property
    def log_relabellings(self) -> float:
        """log of the number of relabelled copies of q that the posterior has, log K! for a mixture whose
        prior is exchangeable. Where these hardly overlap, the bound plus this is a bound as well."""
        groups = [group for group in self.plan.labels.hidden if group.exchangeable]
        return math.fsum(math.lgamma(group.size + 1) for group in groups)

    # ------------------------------------------------------------------------------------ parameters
    @property
    def mean(self) -> dict[str, np.ndarray]:
        """Posterior mean of every parameter, by site; NaN or infinite where it does not exist."""
        return {name: moments[0] for name, moments in self._moments.items()}

    @property
    def variance(self) -> dict[str, np.ndarray]:
        """Posterior variance of every entry, by site; infinite where it does not exist."""
        return {name: moments[1] for name, moments in self._moments.items()}

    @cached_property
    def distributions(self) -> dict[str, Any]:
        """The posterior of each site as a NumPyro distribution, where it has one: not for the normal of
        a joint block (its density given the other site is normal), nor for normal matrices."""
        found: dict[str, Any] = {}
        for block, coefficients in zip(self.plan.blocks, self.q.coefficients, strict=True):
            assert block.form is not None
            coefficients = jax.tree.map(jnp.asarray, coefficients)
            found |= block.named(block.form.distribution(coefficients))
        return {name: each for name, each in found.items() if each is not None}

    @cached_property
    def draws(self) -> Values:
        """Draws of q, over which everything but `responsibilities` and `labels` is averaged."""
        return self.sample(random.key(0), _AVERAGED)

    def sample(self, rng_key: Array, num_draws: int = 1000) -> dict[str, np.ndarray]:
        """Independent draws of all parameters from q, (num_draws, ...) by site.

        Raises:
            ValueError: where `num_draws` is less than one.
        """
        num_draws = whole("num_draws", num_draws)
        key = key_of(rng_key)
        found = self._run(_draws, self.problem, self.statistics, random.split(key, num_draws))
        return {name: found[name] for name in self.plan.reading.parameter_names}

    # ---------------------------------------------------------------------------------------- labels
    def responsibilities(self, *args: Any, **kwargs: Any) -> Any:
        """q(z_i = k), (N, K); by latent where a row has several. For the rows of the fit, or for others
        when it is given the program's arguments."""
        problem = self.problem
        if args or kwargs:
            problem = replace(problem, arguments=self.plan.call(args, kwargs))
        found = self._run(_responsibilities, problem.with_rows())
        if len(self.plan.graph.cliques) == 1:
            return found[0].T
        return {name: found[self.plan.graph.own(name)].T for name in self.plan.graph.names}

    # --------------------------------------------------------------------------------------- reading
    def __str__(self) -> str:
        lines = [
            f"evidence lower bound: {self.log_evidence_bound:.6g} after {len(self.bound) - 1} steps"
        ]
        if self.log_relabellings:
            lines.append(
                f"    {self.log_evidence_bound + self.log_relabellings:.6g} with log K! = "
                f"{self.log_relabellings:.4g} for relabelled copies, where these do not overlap"
            )
        lines.append(str(self.status))
        forms = {name: block.name for block in self.plan.blocks for name in block.sites}
        for name, (mean, variance) in self._moments.items():
            lines.append(f"{name} ({forms[name]}): mean, then standard deviation")
            with np.errstate(invalid="ignore"):
                spread = np.sqrt(variance)
            for value in (mean, spread):
                text = np.array2string(value, precision=4, suppress_small=True, prefix="    ")
                lines.append(f"    {text}")
        lines.append("optima (up to relabelling):")
        for mode in self.modes:
            note = "" if mode.status else f"  [{mode.status.name.lower().replace('_', ' ')}]"
            lines.append(f"    {mode.objective:.6f}  reached by {mode.count} start(s){note}")
        return "\n".join(lines)

    __repr__ = __str__

    def print_summary(self) -> None:
        """Print the bound, the status, means and standard deviations, and the optima."""
        print(self)

    # ---------------------------------------------------------------------------------------- within
    @cached_property
    def _moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = self._run(_moments, self.problem, self.statistics)
        return {name: found[name] for name in self.plan.reading.parameter_names}

    def _run(self, function: Callable[..., Any], problem: Problem, *given: Any) -> Any:
        """`function(problem, scopes, q, *given)`, compiled once for each layout."""
        found = problem.run(function, self.q, *given, static=(self.scopes,))
        return jax.tree.map(np.asarray, found)


def _responsibilities(problem: Problem, scopes: tuple[Scope, ...], q: Factorised) -> Tables:
    plan = problem.plan
    evaluation = averaged_evaluation(problem, scopes, q)
    tables = row_pass.log_factors(plan.graph, averaged_families(plan), evaluation, problem.blocks)
    return elimination.marginals(plan.graph, tables)[1]


def _draws(
    problem: Problem,
    scopes: tuple[Scope, ...],
    q: Factorised,
    statistics: row_pass.Statistics,
    rng_keys: Array,
) -> Values:
    """Draws of every site."""

    def one(rng_key: Array) -> Values:
        drawn: Values = {}
        for number, (block, form, found) in enumerate(_densities(problem, scopes, q, statistics)):
            keys = block.keys(random.fold_in(rng_key, number))
            drawn |= block.named(form.sample(keys, found))
        return drawn

    return jax.lax.map(one, rng_keys, batch_size=_BATCH)


def _moments(
    problem: Problem,
    scopes: tuple[Scope, ...],
    q: Factorised,
    statistics: row_pass.Statistics,
) -> dict[str, tuple[Array, Array]]:
    """Mean and variance of every site."""
    found: dict[str, tuple[Array, Array]] = {}
    for block, form, own in _densities(problem, scopes, q, statistics):
        means, variances = (block.named(each) for each in form.moments(own))
        found |= {name: (means[name], variances[name]) for name in block.sites}
    return found


def _densities(
    problem: Problem, scopes: tuple[Scope, ...], q: Factorised, statistics: row_pass.Statistics
) -> Iterator[tuple[Conditional, Form, Any]]:
    """Every block, its form, and its coefficients in q with the density that they were read from."""
    for number, (block, found) in enumerate(zip(problem.plan.blocks, q.coefficients, strict=True)):
        assert block.form is not None
        log_joint = log_joint_of(problem, scopes, statistics, q, number)
        centre = {name: q.centre[name] for name in block.sites}
        yield block, block.form, block.form.looking_at(found, density(block, log_joint, centre))
