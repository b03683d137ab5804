"""Collapsed Gibbs sampling: labels drawn one row after another, parameters integrated out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jax import Array

from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from .collapsed_blocks import Unit
from .collapsed_choice import Collapse, check_blocks, find_collapse
from .collapsed_sweep import draw_labels, statistics_given
from .gibbs import GIBBS, ConjugateGibbs, GibbsState, Labels, Sampled
from .kernel import Expected, Kernel


@dataclass(frozen=True, eq=False)
class OneByOne:
    """Labels drawn one row after another, units of parameters integrated out."""

    verb: ClassVar[str] = "drawn one row after another, parameters integrated out"

    units: tuple[Unit, ...]

    def begin(self, problem: Problem, belief: Values, rng_key: Array) -> Labels:
        """Labels given parameters."""
        return GIBBS.latents(problem, belief, Labels(rng_key)).memory

    def __call__(self, problem: Problem, belief: Values, memory: Labels) -> Expected:
        labels, log_likelihood = draw_labels(
            problem, self.units, belief, memory.values, memory.rng_key
        )
        labels = labels.astype(memory.values.dtype)
        found = statistics_given(problem, belief, labels).statistics
        drawn = memory._replace(values=labels[None])
        return Expected(belief, log_likelihood, found, drawn, comparable=False)


class CollapsedGibbs(ConjugateGibbs):
    """Gibbs sampling in which parameters are integrated out while labels are drawn.

    One sweep visits the rows in order and draws each label given all other labels,

        p(z_i = k | z_-i, x)  proportional to  p(x, z_-i, z_i = k) / p(x_-i, z_-i),

    with the parameters integrated out; then it draws these from their conditionals given the labels, as
    :class:`ConjugateGibbs` does. Labels forget faster where a component's parameters would hold on to
    the rows that they were drawn from; a sweep is dearer, since rows are visited one after another.

    Blocks of parameters can be integrated out together where their conditionals do not depend on each
    other's values. Where only some can, the others are told while labels are drawn, and drawn
    afterwards, after the former (a partially collapsed sampler). :meth:`collapse` says which.

    Args:
        program: a NumPyro program, or a plan of one.
        integrate: names of the sites to integrate out (a pair by any of its sites). By default blocks
            in order of size, each that can go together with those before it.
        keep_latents: collect the labels of every draw, as the extra field `latents`.
        permute_labels: end each sweep with a random permutation of exchangeable labels.

    The state and its fields are those of :class:`ConjugateGibbs`.

    Raises:
        ProgramError: when run, where some site has no closed form, a row has several latents or hidden
            values besides its label, a factor differs from row to row, cells of a vector are missing,
            rows are weighted, or a prior is not proper; it names the site and what to use instead.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Poisson(rate[z]), obs=x)
        >>> kernel = bayesmix.CollapsedGibbs(program)
        >>> print(kernel.collapse(jnp.array([0, 2, 1, 9, 12])))
        integrated out while labels are drawn:
          weights: Dirichlet, shared by all components
          rate: gamma, entries by component
        certified: ...
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=200)  # run as any kernel

    Source: Liu (1994), *JASA* 89, 958-966; MacEachern (1994), *Communications in Statistics B* 23,
    727-741; the order of a partially collapsed sweep: van Dyk & Park (2008), *JASA* 103, 790-796.
    """

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        integrate: Sequence[str] | None = None,
        keep_latents: bool = True,
        permute_labels: bool = False,
    ) -> None:
        # labels are the chain: the state always has them
        super().__init__(program, keep_latents=True, permute_labels=permute_labels)
        self.integrate = None if integrate is None else tuple(integrate)
        self.collect_latents = keep_latents

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What MCMC collects besides the parameters."""
        return ("z", "latents") if self.collect_latents else ("z",)

    def collapse(self, *args: Any, **kwargs: Any) -> Collapse:
        """What is integrated out for these arguments, and what is not; `print` it."""
        return self._collapse(self.plans.call(args, kwargs))

    def _collapse(self, problem: Problem) -> Collapse:
        return problem.plan.remember(
            ("collapse", self.integrate), lambda: find_collapse(problem, self.integrate)
        )

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple[Any, ...],
        model_kwargs: dict[str, Any],
    ) -> GibbsState:
        """Start each chain as :class:`ConjugateGibbs` does, with labels drawn given parameters."""
        problem = self.plans.call(model_args, model_kwargs)
        self._check(problem.plan)
        check_blocks(problem.with_rows().blocks)
        self._collapse(problem)
        return super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)

    def kernel(self, problem: Problem) -> Kernel:
        """Labels, then what they were drawn without, then what they were drawn given."""
        collapse = self._collapse(problem)
        blocks = (*(unit.block for unit in collapse.units), *(each for each, _ in collapse.drawn))
        return Kernel(OneByOne(collapse.units), Sampled(blocks))
