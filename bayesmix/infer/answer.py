"""What can be asked of any engine's answer: densities, labels, moments, missing cells, by row.

An answer is draws of the parameters, one (a mode) or many, with the program and its data. What is asked
of one draw is averaged over all: a density as (1/S) sum_s p(x_i | theta_s), a covariance with the spread
of means between draws. What is asked of components, such as responsibilities, means something where
their labels mean the same in all draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.observed import Observed
from ..program.problem import OfProblem, Problem
from . import predict
from .draws import log_mean_over_draws, mean_over_draws, moments_over_draws, over_draws
from .moments import (
    Moments,
    component_means,
    conditional_means,
    conditional_moments,
    mixture_moments,
)


class OutlierScores(NamedTuple):
    """How unusual rows are: `score`, minus log p(x_i), and `share` of the fitted rows that are at least
    as unusual, both (N,)."""

    score: np.ndarray
    share: np.ndarray


class Answer(OfProblem, ABC):
    """Draws of the parameters, and what follows from them for each row.

    Methods that take `*args, **kwargs` answer for the rows of the fit, or for others when they are given
    the program's arguments; those without rows (K, hyperparameters) may be left out, and are then those
    of the fit. Missing cells (NaN) are integrated out everywhere, also in new rows. A call
    with arguments of shapes seen before compiles nothing.
    """

    @property
    @abstractmethod
    def draws(self) -> Values:
        """Draws of all parameters by site, (S, ...)."""

    # ------------------------------------------------------------------------------------- densities
    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log of the average of p(x_i | parameters), (N,), over the cells of each row that are there.

        Latents are summed out; in a row where one is known, it is log p(x_i, z_i | parameters).
        """
        return self._log_density(*self._rows(args, kwargs))

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
        rest = predict.hide(problem, self._first, observed, hidden)
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
    def responsibilities(self, *args: Any, **kwargs: Any) -> Any:
        """p(z_i = k | x_i, parameters), (N, K); by latent where a row has several."""
        problem, observed = self._rows(args, kwargs)
        found = self._mean(predict.posteriors, problem, predict.arrange(self.plan, observed))
        if len(self.plan.graph.cliques) == 1:
            return found[0].T
        return {name: found[self.plan.graph.own(name)].T for name in self.plan.graph.names}

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

    # --------------------------------------------------------------------------------------- criteria
    def log_likelihood(self) -> float:
        """sum_i w_i log p(x_i | parameters) of the rows of the fit, the latents summed out; of several
        draws the largest."""
        return float(self._likelihoods[0].max())

    def aic(self) -> float:
        """-2 log L + 2 d, with d = `plan.num_parameters`; smaller is better.

        log L is :meth:`log_likelihood`: the criterion is meant for a maximum likelihood fit, and at a
        mode of the posterior it is a little larger.

        Source: Akaike (1974), *IEEE Transactions on Automatic Control* 19, 716-723.
        """
        return -2 * self.log_likelihood() + 2 * self.plan.num_parameters

    def bic(self, num_observations: float | None = None) -> float:
        """-2 log L + d log n, with d = `plan.num_parameters`; smaller is better (as in scikit-learn;
        mclust and flexmix differ in sign).

        Args:
            num_observations: n; the sum of the weights of the rows, if not given.

        Raises:
            ProgramError: where the program has one row, and n is not given.

        Source: Schwarz (1978), *Annals of Statistics* 6, 461-464; for mixtures: Keribin (2000),
        *Sankhya A* 62, 49-66.
        """
        size = self._likelihoods[1] if num_observations is None else float(num_observations)
        if num_observations is None and self.problem.plan.reading.rows.size == 1:
            raise ProgramError(
                "the program has one row, which is not its number of observations; give "
                "num_observations, the number of steps of a series, say"
            )
        return -2 * self.log_likelihood() + self.plan.num_parameters * float(np.log(size))

    def icl(self, num_observations: float | None = None) -> float:
        """BIC + 2 sum_i w_i H_i, with H_i the entropy of row i's latents given its data, which adds a
        price for components that overlap; smaller is better.

        Source: Biernacki, Celeux & Govaert (2000), *IEEE PAMI* 22, 719-725, with the entropy in the
        place of that of hard labels.
        """
        problem, observed = self._rows((), {})
        heights = self._likelihoods[0]
        best = {name: value[[int(heights.argmax())]] for name, value in self.draws.items()}
        rows = predict.arrange(self.plan, observed)
        entropy = mean_over_draws(predict.entropy, problem, best, rows)
        return self.bic(num_observations) + 2 * float(np.asarray(observed.row_weights) @ entropy)

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
        problem = self._call(args, kwargs)
        found = moments_over_draws(mixture_moments, problem, self.draws)
        return self._with_rows(found, mixture_moments, axis=0)

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
        moments = self._given_rows(conditional_moments, problem, observed, over=moments_over_draws)
        found = {}
        for name, value in observed.values.items():
            value = np.asarray(value).reshape(observed.num_rows, -1)
            covariance = np.zeros((*value.shape, value.shape[1]), jnp.result_type(float))
            if name in moments:
                there = np.asarray(observed.present[name]).reshape(value.shape)
                value = np.where(there, value, moments[name].mean)
                _check_finite(name, value[~there])
                both = ~there[:, :, None] & ~there[:, None, :]
                covariance = np.where(both, moments[name].covariance, 0.0)
            found[name] = Moments(value, covariance)
        return found

    # --------------------------------------------------------------------------------------- within
    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
        if not (args or kwargs):
            return self.problem
        arguments = self.plan.call(*self.problem.completed(args, kwargs))
        self.plan.check_call(arguments)
        return Problem(self.plan, arguments)

    def _rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Problem, Observed]:
        problem = self._call(args, kwargs)
        return problem, problem.observe()

    @cached_property
    def _likelihoods(self) -> tuple[np.ndarray, float]:
        """The log likelihood at each draw, (S,), and the sum of the rows' weights."""
        problem, observed = self._rows((), {})
        rows, weight = predict.arrange(self.plan, observed), np.asarray(observed.row_weights)
        found = over_draws(predict.log_likelihood, problem, self.draws, rows, weight)
        return found, float(weight.sum())

    @property
    def _first(self) -> Values:
        """The first draw."""
        return {name: value[0] for name, value in self.draws.items()}

    def _mean(self, function: Callable[..., Any], problem: Problem, *given: Any) -> Any:
        """`function(problem, draw, *given)`, averaged; compiled once for each layout."""
        return mean_over_draws(function, problem, self.draws, *given)

    def _by_row(self, function: Callable[..., Any], problem: Problem, axis: int) -> Any:
        """`function(problem, draw)`, averaged; what has an axis of rows in the fit has one here too,
        though there be one row only."""
        return self._with_rows(self._mean(function, problem), function, axis)

    def _with_rows(self, found: Any, function: Callable[..., Any], axis: int) -> Any:
        usual = jax.eval_shape(partial(function, self.problem), self._first)
        return jax.tree.map(
            lambda one, like: one if one.ndim == like.ndim else np.expand_dims(one, axis),
            found,
            usual,
        )

    def _log_density(self, problem: Problem, observed: Observed) -> np.ndarray:
        rows = predict.arrange(self.plan, observed)
        return log_mean_over_draws(predict.log_density, problem, self.draws, rows)

    def _reference(self, hidden: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and weights of the fitted rows, with these columns integrated out of all of them; rows
        that lack others are left out."""
        observed = self.problem.observe()
        complete = observed._replace(labels=None, present=dict.fromkeys(observed.present))
        rows = predict.hide(self.problem, self._first, complete, hidden)
        there = np.ones(observed.num_rows, bool)
        for name, present in observed.present.items():
            if present is not None:
                cells = np.asarray(present).reshape(observed.num_rows, -1)
                there &= np.all(cells | hidden.get(name, False), axis=1)
        weight = there * np.asarray(observed.row_weights)
        return -self._log_density(self.problem, rows), weight

    def _given_rows(
        self,
        function: Callable[..., Any],
        problem: Problem,
        observed: Observed,
        over: Callable[..., Any] = mean_over_draws,
    ) -> dict[str, Any]:
        """A function of rows for the sites that miss something, averaged; {} where none does."""
        names = predict.check_missing(problem, self._first, observed)
        if not names:
            return {}
        present = {name: observed.present[name] for name in names}
        rows = predict.arrange(self.plan, observed)
        return over(function, problem, self.draws, rows, present)


def _check_finite(name: str, imputed: np.ndarray) -> None:
    if not np.isfinite(imputed).all():
        raise ProgramError(
            f"missing cells of site '{name}' have no mean that is finite; draw them with "
            "bayesmix.posterior.imputation.multiple_imputations"
        )
