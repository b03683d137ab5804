"""The predictive density of rows, averaged over draws of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..program.errors import ProgramError
from ..program.plan import Plan
from ..program.problem import Plans
from . import arviz_compat
from .draws import at_draws, average_log_density, flatten


def predictive_log_density(
    program: Callable[..., Any] | Plan, draws: Any, *args: Any, **kwargs: Any
) -> np.ndarray:
    """log (1/S) sum_s p(x_i | theta_s) for each row, latents summed out; no renaming of components
    changes it.

    Args:
        program: a NumPyro program, or a plan of one.
        draws: parameters by site (S, ...), as `mcmc.get_samples()` gives them, or a container of ArviZ
            with a group `posterior`.
        *args, **kwargs: the program's own arguments, with any rows: new ones, or points of a grid.

    Returns:
        An array (N,). The average is taken by log-sum-exp.

    Raises:
        ProgramError: where the program cannot be read, or draws of a parameter are missing.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> grid = jnp.linspace(-3.0, 3.0, 5)
        >>> draws = {"mean": jnp.array([[-2.0, 2.0], [1.5, -1.5]])}  # labels switched in between
        >>> bayesmix.predictive_log_density(program, draws, grid).round(2).tolist()
        [-2.38, -1.67, -2.39, -1.67, -2.38]

    Source: Gelman et al. (2013), *Bayesian Data Analysis*, section 7.1.
    """
    problem = Plans(program).call(args, kwargs)
    values = draws_of(problem.plan, draws)
    return average_log_density(at_draws(problem, values).log_likelihood)


def draws_of(plan: Plan, draws: Any) -> dict[str, np.ndarray]:
    """Draws of the plan's parameters, (S, ...) by site, from as much or from a container of ArviZ.

    Raises :class:`ProgramError` where a parameter is missing, or has another shape than in the program.
    """
    if isinstance(draws, Mapping) and "posterior" not in draws:
        found = {name: np.asarray(value) for name, value in draws.items()}
    else:
        posterior = arviz_compat.dataset(draws, "posterior")
        chains = {str(name): posterior[name].values for name in posterior.data_vars}
        found = dict(flatten(chains))
    shapes = {site.name: site.shape for site in plan.reading.parameters}
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ProgramError(
            f"draws lacks {', '.join(map(repr, missing))}; give draws of every parameter"
        )
    count = len(np.atleast_1d(found[next(iter(shapes))]))
    for name, shape in shapes.items():
        if found[name].shape != (count, *shape):
            raise ProgramError(
                f"draws of '{name}' have shape {found[name].shape}, where the program has {shape} at "
                f"each of {count} draws: give (S, ...) of the same S for every parameter"
            )
    return {name: found[name] for name in plan.reading.parameter_names}
