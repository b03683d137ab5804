"""What a fit returns and what can be asked of it, and the distinct modes among its restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from scipy.special import softmax

from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.modules import site_values
from ..program.problem import Problem
from ..program.settings import key_of
from . import predict
from .modes import Mode
from .regression import Prediction
from .status import Status


class Explanation(NamedTuple):
    """Joint values of a row's latents by name, each (N,), and their log p(x_i, z_i), (N,)."""

    values: dict[str, np.ndarray]
    log_joint: np.ndarray


@dataclass(frozen=True, eq=False)
class EMResult(Prediction):
    """The best of the starts, what became of the others, and what follows from the fit.

    Methods that take `*args, **kwargs` answer for the rows of the fit, or for others when they are given
    the program's arguments. Missing cells (NaN) are integrated out everywhere, also in new rows. Methods
    `predict_...` are of one observed site given the rest of its row (covariates, say). A call
    with arguments of shapes seen before compiles nothing.

    Attributes:
        parameters: site name to value, at the best start. A mode of the density in the constrained
            space (no Jacobian).
        deterministic: the program's deterministic sites at those parameters.
        objective: the whole trace, (steps + 1,): log likelihood plus log prior; entry 0 is the start.
        status: how the best start ended; truthy if it converged.
        status_sites: the parameters that this status is about, where it is about some.
        modes: distinct modes up to relabelling, best first, each with the number of starts that reached
            it. Starts that did not converge are listed too, each with its own status.
        restart_objectives, restart_statuses, restart_steps: one entry per start.
        restart_parameters: where each start ended, by site, leading with starts.
        path: the parameters of every step of the best start, (steps + 1, ...), where they were kept.
        problem: the program and its data.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x, K=2):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K, 2]).to_event(2))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0).to_event(1), obs=x)
        >>> x = np.array([[-0.2, 4.0], [0.3, 4.1], [9.8, 0.2], [10.1, 0.1]])
        >>> init = {"mean": np.array([[0.0, 4.0], [10.0, 0.0]])}
        >>> fit = bayesmix.EM(program).run(jax.random.key(0), x, init=init)
        >>> fit.moments()["x"].mean.round(1)
        array([5. , 2.1])
        >>> new = np.array([[9.0, np.nan], [0.0, 4.0]])
        >>> fit.labels(new)
        array([1, 0])
        >>> fit.impute(new)["x"].round(1)
        array([[9. , 0.1],
               [0. , 4. ]])
        >>> fit.conditional_log_density(new, of={"x": [0]}).shape
        (2,)
        >>> fit.sample(jax.random.key(1), np.zeros((5, 2)))["x"].shape
        (5, 2)
    """

    parameters: dict[str, np.ndarray]
    deterministic: dict[str, np.ndarray]
    objective: np.ndarray
    status: Status
    modes: tuple[Mode, ...]
    restart_objectives: np.ndarray
    restart_statuses: tuple[Status, ...]
    restart_steps: np.ndarray
    problem: Problem
    status_sites: tuple[str, ...] = ()
    restart_parameters: dict[str, np.ndarray] = field(default_factory=dict)
    path: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def site_values(self) -> dict[str, Any]:
        """The parameters as the program's own sites have them, a network's weights as one pytree: for
        `numpyro.handlers.substitute(program, data=fit.site_values)`."""
        return site_values(self.plan.program, self.parameters)

    @property
    def draws(self) -> Values:
        """The parameters, as one draw."""
        return {name: np.asarray(value)[None] for name, value in self.parameters.items()}

    def log_joint_table(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log p(x_i, z_i = k | parameters), (N, K), of a program with one latent or none.

        Raises:
            ProgramError: where a row has several latents; ask for :meth:`responsibilities`.
        """
        if len(self.plan.graph.cliques) > 1:
            names = ", ".join(f"'{name}'" for name in self.plan.graph.names)
            raise ProgramError(
                f"the program has several latents ({names}) and no table of all their joint values; "
                "ask for responsibilities, or for most_probable"
            )
        return self._of_rows(predict.log_factors, args, kwargs)[0].T

    def responsibilities(self, *args: Any, **kwargs: Any) -> Any:
        """r_ik = p(z_i = k | x_i, parameters), (N, K); by latent where a row has several."""
        if len(self.plan.graph.cliques) == 1:
            return softmax(self.log_joint_table(*args, **kwargs), axis=1)
        return super().responsibilities(*args, **kwargs)

    def most_probable(self, *args: Any, **kwargs: Any) -> Explanation:
        """The joint values of all latents of a row that are most probable given its data.

        argmax_z p(x_i, z | parameters) by max-sum elimination (for a chain, the Viterbi path).

        Source: Dechter (1999), *Artificial Intelligence* 113, section 4 (most probable explanation).
        """
        values, log_joint = self._of_rows(predict.explain, args, kwargs)
        latents = zip(self.plan.reading.latents, values, strict=True)
        return Explanation({latent.name: v + latent.lowest for latent, v in latents}, log_joint)

    # ------------------------------------------------------------------------------- data drawn anew
    def sample(self, rng_key: Array, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Data drawn from the program at the fit's parameters: every observed site, and the latent.

        Args:
            rng_key: a JAX random key (or an integer seed).
            *args, **kwargs: the program's arguments, whose shapes say how many rows; none for as many
                as in the fit. What the program observes in its rows is drawn instead.

        Returns:
            By site, arrays of the shape that the site has in the program.
        """
        key = key_of(rng_key)
        return self._mean(predict.draw_rows, self._call(args, kwargs), key)

    def print_summary(self) -> None:
        """Print the parameters, the objective, the status and the modes."""
        print(self)

    def __str__(self) -> str:
        lines = [
            f"objective (log joint): {self.objective[-1]:.6g} after {len(self.objective) - 1} steps"
        ]
        lines.append(str(self.status))
        if self.status_sites:
            lines.append(f"(about {', '.join(self.status_sites)})")
        for name, value in {**self.parameters, **self.deterministic}.items():
            text = np.array2string(
                np.asarray(value), precision=4, suppress_small=True, prefix="    "
            )
            lines.append(f"{name}:\n    {text}")
        lines.append("modes (up to relabelling):")
        for mode in self.modes:
            note = "" if mode.status else f"  [{mode.status.name.lower().replace('_', ' ')}]"
            lines.append(f"    {mode.objective:.6f}  reached by {mode.count} start(s){note}")
        return "\n".join(lines)

    __repr__ = __str__

    def _of_rows(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`function(problem, parameters, rows)` of the rows of a call."""
        problem, observed = self._rows(args, kwargs)
        return self._mean(function, problem, predict.arrange(self.plan, observed))
