"""Draws of any sampler as an answer, which is asked what a fit is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from ..infer.answer import Answer
from ..infer.draws import num_draws
from ..infer.regression import Prediction
from ..infer.variational_result import VariationalResult
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.settings import key_of, whole
from . import arviz_compat
from .convert import gather, origin
from .draws import flatten, replicate
from .imputation import impute_draws
from .labels import relabel
from .predictive_density import draws_of

_MOST = 400  # draws, where nothing else is asked for


@dataclass(frozen=True, eq=False)
class Posterior(Prediction):
    """Draws of the posterior, and what follows from them for rows seen or new: averages over draws.

    Made by :meth:`of`. Methods are those of a fit by EM (`responsibilities`, `labels`, `log_density`,
    `impute`, `moments`, `predict_mean`, `predict_quantiles`, ...): where EM has one value of the
    parameters, here each is averaged over. Components have one order in all draws.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1])
        >>> mcmc = MCMC(bayesmix.ConjugateGibbs(program), num_warmup=50, num_samples=200,
        ...             progress_bar=False)
        >>> mcmc.run(jax.random.key(0), x)
        >>> posterior = bayesmix.Posterior.of(mcmc)
        >>> new = jnp.array([0.0, 9.5])
        >>> posterior.responsibilities(new).round(2).max(axis=1).tolist()
        [1.0, 1.0]
        >>> posterior.log_density(new).shape
        (2,)
    """

    problem: Problem
    _drawn: Values

    @property
    def draws(self) -> Values:
        """Draws of all parameters by site, (S, ...)."""
        return self._drawn

    @classmethod
    def of(
        cls,
        run: Any,
        program: Callable[..., Any] | Plan | None = None,
        *args: Any,
        num_draws: int = _MOST,
        relabelled: bool = True,
        **kwargs: Any,
    ) -> Posterior:
        """The answer of a run.

        Args:
            run: a `numpyro.infer.MCMC` of one of our kernels, or of NUTS on `marginalize(program)`; a
                result of `TemperedSMC`, `VariationalBayes` or `EM`; or, with the program and its
                arguments behind it, draws by site (S, ...) or a container of ArviZ, such as one that was
                written to a file by `to_arviz(answer).to_netcdf(path)`.
            program, *args, **kwargs: the program, and the arguments that it was fitted with.
            num_draws: draws that are kept, evenly spread over the run.
            relabelled: bring components into one order, as :func:`bayesmix.relabel` does, where the
                prior does not tell them apart.

        Raises:
            ProgramError: where the run was made by something else, or draws do not fit the program.
        """
        whole("num_draws", num_draws)
        if program is not None:
            problem = Plans(program).call(args, kwargs)
            values = {n: v[None] for n, v in draws_of(problem.plan, run).items()}
        elif isinstance(run, VariationalResult):
            return cls(run.problem, run.sample(0, num_draws))
        elif isinstance(run, Answer):
            return cls(run.problem, run.draws)
        else:
            problem, values = origin(run), run.get_samples(group_by_chain=True)
        if relabelled and problem.plan.labels.hidden:
            values = _relabelled(problem, values)
        names = problem.plan.reading.parameter_names
        flat = flatten({name: values[name] for name in names})
        count = len(flat[names[0]])
        kept = np.linspace(0, count - 1, min(num_draws, count)).round().astype(int)
        return cls(problem, {name: np.asarray(value)[kept] for name, value in flat.items()})

    def sample(self, rng_key: Array, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """A data set drawn from the program at each draw, by observed site, (S, ...): the posterior
        predictive distribution of the rows."""
        return replicate(self._call(args, kwargs), self.draws, key_of(rng_key))

    def imputations(self, rng_key: Array, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """A completed data set for each draw, by site with missing cells, (S, ...); see
        :func:`bayesmix.posterior.imputation.multiple_imputations`. :meth:`impute` has their means."""
        return impute_draws(self._call(args, kwargs), self.draws, key_of(rng_key))

    def __str__(self) -> str:
        lines = [f"{num_draws(self.draws)} draws of the posterior: mean, then standard deviation"]
        for name, value in self.draws.items():
            lines.append(f"{name}:")
            for each in (value.mean(axis=0), value.std(axis=0)):
                text = np.array2string(each, precision=4, suppress_small=True, prefix="    ")
                lines.append(f"    {text}")
        return "\n".join(lines)

    __repr__ = __str__


def _relabelled(problem: Problem, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Draws (chain, draw, ...) with their components in one order."""
    raw = gather(
        problem,
        values,
        {},
        coords={},
        dims={},
        latents=False,
        posterior_predictive=False,
        rng_key=None,
        log_likelihood=False,
        imputed_data=False,
    )
    found = arviz_compat.dataset(relabel(raw), "posterior")
    return {name: found[name].values for name in problem.plan.reading.parameter_names}
