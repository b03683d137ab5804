"""A picture of EM's lower bound touching the objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..infer import theory
from ..infer.result import EMResult
from . import common

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLACES = 161


@common.picture
def plot_bound(fit: EMResult, step: int = 0, reach: float = 2.0) -> Figure:
    """Show one step of EM: the objective along its line, and the bounds before and after its E step.

    The line goes through the parameters at `step` (place 0) and at the step after it (place 1), straight
    in unconstrained coordinates. The bound that was made at place 0 touches the objective there, and EM
    goes where it is highest, if all parameters move together; the next one touches at place 1. Both
    include the log prior.

    Args:
        fit: an :class:`EMResult` of ``EM(..., keep_path=True)``.
        step: which step.
        reach: how far past place 1 the line goes, in steps.

    Returns:
        A `matplotlib.figure.Figure` with one panel.

    Raises:
        ProgramError: where the fit kept no path, or has no such step.
        ImportError: without matplotlib.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> import bayesmix
    >>> def program(x):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    ...     with numpyro.plate("rows", x.shape[0]):
    ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
    ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
    >>> fit = bayesmix.EM(program, keep_path=True).run(0, jnp.array([-0.2, 0.1, 2.8, 3.1]))
    >>> len(plot_bound(fit).axes)
    1
    """
    places = np.union1d(np.linspace(-0.5, reach, _PLACES), [0.0, 1.0])
    line = theory.along(fit, step, places)
    ends = {
        end: {
            name: np.broadcast_to(value[step + end], line[name].shape)
            for name, value in fit.path.items()
        }
        for end in (0, 1)
    }
    terms = {end: theory.decompose_problem(fit.problem, line, at) for end, at in ends.items()}
    objective = terms[0].log_likelihood + terms[0].log_prior
    figure = common.new_figure(6.5, 4.0, f"EM's step {step + 1}: the bound touches, and is climbed")
    axes = figure.subplots()
    axes.plot(places, objective, color=common.INK, label="objective")
    for end, color in ((0, "#0072B2"), (1, "#D55E00")):
        bound = terms[end].bound + terms[end].log_prior
        made = "before the step" if end == 0 else "after it"
        axes.plot(places, bound, color=color, linestyle="--", label=f"bound made {made}")
        place = np.searchsorted(places, end)
        axes.plot(places[place], objective[place], "o", color=color)
    inside = objective[(places >= 0) & (places <= 1)]
    height = max(float(np.ptp(objective)), 1e-9)
    axes.set_ylim(inside.min() - 0.8 * height, objective.max() + 0.1 * height)
    axes.set(
        xlabel="place along the step (0: before, 1: after)", ylabel="log likelihood + log prior"
    )
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(frameon=False)
    return figure
