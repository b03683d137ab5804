"""What a fit returns and what can be asked of it, and the distinct modes among its restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import softmax

from ..program.errors import ProgramError
from ..program.modules import site_values
from ..program.observed import Observed
from ..program.problem import Problem
from ..program.settings import key_of
from . import predict
from .modes import Mode
from .moments import (
    Moments,
    component_means,
    conditional_means,
    conditional_moments,
    mixture_moments,
)
from .regression import Prediction
from .status import Status


class Explanation(NamedTuple):
    """Joint values of a row's latents by name, each (N,), and their log p(x_i, z_i), (N,)."""

    values: dict[str, np.ndarray]
    log_joint: np.ndarray


class OutlierScores(NamedTuple):
    """How unusual rows are: `score`, minus log p(x_i), and `share` of the fitted rows that are at least
    as unusual, both (N,)."""

    score: np.ndarray
    share: np.ndarray


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

    # ------------------------------------------------------------------------------------- densities
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
        found, graph = self._of_rows(predict.posteriors, args, kwargs), self.plan.graph
        return {name: found[graph.own(name)].T for name in graph.names}

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log p(x_i | parameters) of each row, (N,), over the cells that are there.

        Latents are summed out; in a row where one is known, it is log p(x_i, z_i | parameters).
        """
        return self._of_rows(predict.log_density, args, kwargs)

    def conditional_log_density(
        self, *args: Any, of: Mapping[str, Any], **kwargs: Any
    ) -> np.ndarray:
        """log p(x_a | x_b) = log p(x_a, x_b) - log p(x_b) of each row, the latent summed out, (N,).

        Args:
            *args, **kwargs: the program's arguments; none for the rows of the fit.
            of: the columns a, by observed site: a list of column numbers, or `slice(None)` for all of
                them. The columns b are all others, of all sites; cells that are missing are in neither.

        Raises:
            ProgramError: where a site has no such column, or its density does not come apart into
                columns (a regression, a multinomial); whole sites can always be named.
        """
        problem, observed = self._rows(args, kwargs)
        hidden = predict.columns(observed, of)
        rest = predict.hide(problem, self.parameters, observed, hidden)
        joint, marginal = (self._log_density(problem, rows) for rows in (observed, rest))
        return joint - marginal

    def outlier_scores(self, *args: Any, **kwargs: Any) -> OutlierScores:
        """How unusual each row is under the fitted density.

        `score` is -log p(x_i), whatever is known of its label. `share` is the share, by weight, of the
        fitted rows j with -log p(x_j) at least as large; small values are outliers, and of the rows of
        the fit none is below 1/N. Where cells of row i are missing, row j is judged by the same cells,
        and rows that lack some of these are left out (NaN, where none remains).

        Source: Lei, Robins & Wasserman (2013), *JASA* 108, 278-287.
        """
        problem, observed = self._rows(args, kwargs)
        observed = observed._replace(labels=None)
        score = -self._log_density(problem, observed)
        share = np.empty_like(score)
        missing = {name: there for name, there in observed.present.items() if there is not None}
        joined = [~np.asarray(there).reshape(len(score), -1) for there in missing.values()]
        table = np.concatenate([np.zeros((len(score), 0), bool), *joined], axis=1)
        patterns, which = np.unique(table, axis=0, return_inverse=True)
        ends = np.cumsum([part.shape[1] for part in joined])[:-1]
        for number, pattern in enumerate(patterns):
            hidden = dict(zip(missing, np.split(pattern, ends), strict=True)) if missing else {}
            here = which.reshape(-1) == number
            share[here] = predict.share_above(score[here], *self._reference(hidden))
        return OutlierScores(score, share)

    # ---------------------------------------------------------------------------------------- labels
    def labels(self, *args: Any, **kwargs: Any) -> Any:
        """The most probable value of each row's latent, argmax_k r_ik, (N,).

        Where a row has several, by latent, each by itself; :meth:`most_probable` takes them together.
        """
        found = self.responsibilities(*args, **kwargs)
        lowest = {latent.name: latent.lowest for latent in self.plan.reading.latents}
        if isinstance(found, dict):
            return {name: np.argmax(each, axis=1) + lowest[name] for name, each in found.items()}
        return np.argmax(found, axis=1) + sum(lowest.values())  # of one latent, or none

    def uncertainty(self, *args: Any, **kwargs: Any) -> Any:
        """1 - max_k r_ik, (N,): the probability that :meth:`labels` is wrong, if the fit is right.

        By latent where a row has several.
        """
        # exact also where one minus the largest is rounded to 1
        return jax.tree.map(
            lambda each: np.sort(each, axis=1)[:, :-1].sum(axis=1),
            self.responsibilities(*args, **kwargs),
        )

    def most_probable(self, *args: Any, **kwargs: Any) -> Explanation:
        """The joint values of all latents of a row that are most probable given its data.

        argmax_z p(x_i, z | parameters) by max-sum elimination (for a chain, the Viterbi path).

        Source: Dechter (1999), *Artificial Intelligence* 113, section 4 (most probable explanation).
        """
        values, log_joint = self._of_rows(predict.explain, args, kwargs)
        latents = zip(self.plan.reading.latents, values, strict=True)
        return Explanation({latent.name: v + latent.lowest for latent, v in latents}, log_joint)

    # --------------------------------------------------------------------------------------- moments
    def moments(self, *args: Any, **kwargs: Any) -> dict[str, Moments]:
        """Mean (D,) and covariance (D, D) of every observed site, the latent summed out.

        E[x] = sum_k pi_k mu_k = m and Cov[x] = sum_k pi_k (Sigma_k + (mu_k - m)(mu_k - m)'), which is
        sum_k pi_k (Sigma_k + mu_k mu_k') - m m'. Where pi_k, mu_k or Sigma_k differ from row to row (a
        gate, a regression), they are those of each row: (N, D) and (N, D, D).

        Raises:
            ProgramError: where NumPyro has no mean and covariance of a site's distribution.

        Source: McLachlan & Peel (2000), *Finite Mixture Models*, Wiley, section 1.4.
        """
        return self._by_row(mixture_moments, self._call(args, kwargs), axis=0)

    def prototypes(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """The mean of each component by observed site, (K, D); (K, N, D) where it differs by row.

        Where a site depends on several latents, K counts their joint values, the last one fastest.

        Raises:
            ProgramError: where NumPyro has no mean of a site's distribution.
        """
        return self._by_row(component_means, self._call(args, kwargs), axis=1)

    # --------------------------------------------------------------------------------- missing cells
    def impute(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Observed sites with each missing cell at its conditional mean, in the shape of the data.

        E[x_mis | x_obs] = sum_k r_k E[x_mis | x_obs, z = k], with r_k = p(z = k | x_obs); other cells
        are unchanged. Means of discrete cells need not be whole. For draws instead of means see
        :func:`bayesmix.posterior.imputation.multiple_imputations`.

        Raises:
            ProgramError: where a component's conditional mean is not known, or does not exist.

        Source: Little & Rubin (2002), *Statistical Analysis with Missing Data*, Wiley, section 11.2.
        """
        problem, observed = self._rows(args, kwargs)
        means = self._given_rows(conditional_means, problem, observed)
        filled = {}
        for site in self.plan.reading.observed:
            value = np.asarray(observed.values[site.name])
            if site.name in means:
                there = np.asarray(observed.present[site.name])
                value = np.where(there, value, means[site.name].reshape(value.shape))
                _check_finite(site.name, value[~there])
            filled[site.name] = predict.as_program(site, self.plan.reading, value)
        return filled

    def conditional_moments(self, *args: Any, **kwargs: Any) -> dict[str, Moments]:
        """Mean (N, D) and covariance (N, D, D) of each row given its cells that are there, by site.

        Mean as in :meth:`impute`; covariance sum_k r_k (C_k + (m_k - m)(m_k - m)'), where m_k and C_k
        are those of component k. Cells that are there have their value and covariance 0.

        Raises:
            ProgramError: as :meth:`impute`.
        """
        problem, observed = self._rows(args, kwargs)
        moments = self._given_rows(conditional_moments, problem, observed)
        found = {}
        for name, value in observed.values.items():
            value = np.asarray(value).reshape(observed.num_rows, -1)
            covariance = np.zeros((*value.shape, value.shape[1]), jnp.result_type(float))
            if name in moments:
                there = np.asarray(observed.present[name]).reshape(value.shape)
                value = np.where(there, value, moments[name].mean)
                _check_finite(name, value[~there])
                covariance = moments[name].covariance
            found[name] = Moments(value, covariance)
        return found

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
        return self._run(predict.draw_rows, self._call(args, kwargs), key)

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

    # --------------------------------------------------------------------------------------- within
    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
        if not (args or kwargs):
            return self.problem
        arguments = self.plan.call(args, kwargs)
        self.plan.check_call(arguments)
        return Problem(self.plan, arguments)

    def _rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Problem, Observed]:
        problem = self._call(args, kwargs)
        return problem, problem.observe()

    def _of_rows(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`function(problem, parameters, rows)` of the rows of a call."""
        problem, observed = self._rows(args, kwargs)
        return self._run(function, problem, predict.arrange(self.plan, observed))

    def _run(self, function: Callable[..., Any], problem: Problem, *given: Any) -> Any:
        """`function(problem, parameters, *given)`, compiled once for each layout."""
        found = problem.run(function, self.parameters, *given, fully=True)
        return jax.tree.map(np.asarray, found)

    def _by_row(self, function: Callable[..., Any], problem: Problem, axis: int) -> Any:
        """`function(problem, parameters)`; what has an axis of rows in the fit has one here too, though
        there be one row only."""
        found = self._run(function, problem)
        usual = jax.eval_shape(partial(function, self.problem), self.parameters)
        return jax.tree.map(
            lambda one, like: one if one.ndim == like.ndim else np.expand_dims(one, axis),
            found,
            usual,
        )

    def _log_density(self, problem: Problem, observed: Observed) -> np.ndarray:
        return self._run(predict.log_density, problem, predict.arrange(self.plan, observed))

    def _reference(self, hidden: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and weights of the fitted rows, with these columns integrated out of all of them; rows
        that lack others are left out."""
        observed = self.problem.observe()
        complete = observed._replace(labels=None, present=dict.fromkeys(observed.present))
        rows = predict.hide(self.problem, self.parameters, complete, hidden)
        there = np.ones(observed.num_rows, bool)
        for name, present in observed.present.items():
            if present is not None:
                cells = np.asarray(present).reshape(observed.num_rows, -1)
                there &= np.all(cells | hidden.get(name, False), axis=1)
        weight = there * (1.0 if observed.weight is None else np.asarray(observed.weight))
        return -self._log_density(self.problem, rows), weight

    def _given_rows(
        self, function: Callable[..., Any], problem: Problem, observed: Observed
    ) -> dict[str, Any]:
        """A function of rows for the sites that miss something; {} where none does."""
        names = predict.check_missing(problem, self.parameters, observed)
        if not names:
            return {}
        present = {name: observed.present[name] for name in names}
        return self._run(function, problem, predict.arrange(self.plan, observed), present)


def _check_finite(name: str, imputed: np.ndarray) -> None:
    if not np.isfinite(imputed).all():
        raise ProgramError(
            f"missing cells of site '{name}' have no mean that is finite; draw them with "
            "bayesmix.posterior.imputation.multiple_imputations"
        )
