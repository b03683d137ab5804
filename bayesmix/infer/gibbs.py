"""Conjugate Gibbs sampling, derived from the plan: EM's conditionals, drawn from, not maximised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from ..program import row_pass
from ..program.conjugacy import Conditional, sample
from ..program.errors import ProgramError
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Plans, Problem
from ..program.transforms import Marginal
from .kernel import Expected, Kernel, Parameters, Visited
from .starts import SeedingRows, kmeans_plus_plus, seeding_rows, starting_values

_PERMUTATION_STREAM = 0x7065726D


class GibbsState(NamedTuple):
    """State of :class:`ConjugateGibbs`.

    z: parameters by site (the field that MCMC collects); latents: the labels drawn with them, (N,), by
    latent where there are several, or an empty tuple where they are not kept; log_likelihood:
    sum_i log p(x_i), the labels summed out, at the parameters that the labels were drawn from;
    rng_key: the next step's key.
    """

    z: Values
    latents: Any
    log_likelihood: Array
    rng_key: Array


class Labels(NamedTuple):
    """The key that labels are drawn with, and the labels: the last, then the new ones (latents, N)."""

    rng_key: Array
    values: Any = ()


@dataclass(frozen=True)
class Drawn:
    """Labels of all rows at once, and their other hidden values, from p(z_i | x_i, theta); the objective
    is log p(x | theta), at the parameters that they are drawn given."""

    verb: ClassVar[str] = "drawn"

    def begin(self, problem: Problem, belief: Values, rng_key: Array) -> Labels:
        """No labels yet."""
        return Labels(rng_key)

    def __call__(self, problem: Problem, belief: Values, memory: Labels) -> Expected:
        plan, evaluation = problem.plan, problem.evaluate(belief)
        drawn = row_pass.drawn_pass(
            plan.graph, plan.families, evaluation, problem.blocks, memory.rng_key
        )
        labels = memory._replace(values=drawn.rows)
        return Expected(belief, drawn.log_likelihood, drawn.statistics, labels, comparable=False)


@dataclass(frozen=True)
class Sampled(Parameters):
    """Every closed block in turn drawn from its complete conditional given the statistics; the memory is
    a key. `blocks` are those of the plan, or others in their place."""

    verb: ClassVar[str] = "drawn"

    blocks: tuple[Conditional, ...] = ()

    def __call__(
        self,
        problem: Problem,
        statistics: row_pass.Statistics,
        belief: Values,
        memory: Any = None,
    ) -> Visited:
        log_joint, blocks = problem.expected_log_joint(statistics), self.blocks
        blocks, values = blocks or problem.plan.blocks, belief
        for block, key in zip(blocks, random.split(memory, len(blocks)), strict=True):
            if block.form is not None:
                values = sample(block, log_joint, values, key)
        return Visited(values)


GIBBS = Kernel(Drawn(), Sampled())


class ConjugateGibbs(MCMCKernel):
    """Gibbs sampling for any program whose conditionals are all closed form.

    One sweep draws every row's label at once from p(z_i | x_i, theta), then each block of parameters
    from its complete conditional given the K sufficient statistics; joint blocks (such as
    normal-inverse-Wishart) are drawn jointly. Use it as any NumPyro kernel, or as a block of
    `numpyro.infer.Gibbs`.

    Args:
        program: a NumPyro program, or a plan of one.
        keep_latents: collect the labels of every draw, as the extra field `latents`
            (N integers a draw). They are left out of `get_samples()` and of `print_summary()`.
        permute_labels: end each sweep with a random permutation of labels, of every group of latents
            whose prior is exchangeable. All K! copies of a mode are then visited equally often, and a
            component's own draws mean nothing before relabelling.

    Raises:
        ProgramError: when run, where some site has no closed-form conditional; it names the sites.
            :class:`MixedGibbs` takes those too.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1])
        >>> mcmc = MCMC(bayesmix.ConjugateGibbs(program), num_warmup=50, num_samples=200,
        ...             progress_bar=False)
        >>> mcmc.run(jax.random.key(0), x)
        >>> mcmc.get_samples()["mean"].shape
        (200, 2)
        >>> mcmc.get_extra_fields()["latents"].shape
        (200, 5)

    Source: Diebolt & Robert (1994), *JRSS B* 56, 363-375; permutations: Fruehwirth-Schnatter (2001),
    *JASA* 96, 194-209.
    """

    sample_field = "z"

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        keep_latents: bool = True,
        permute_labels: bool = False,
    ) -> None:
        self.plans = Plans(program)
        self.keep_latents = keep_latents
        self.permute_labels = permute_labels
        self._told: Values = {}
        self._alone = False

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What MCMC collects besides the parameters."""
        return ("z", "latents") if self.keep_latents else ("z",)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for these arguments; read once per layout."""
        return self.plans.call(args, kwargs).plan

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple[Any, ...],
        model_kwargs: dict[str, Any],
    ) -> GibbsState:
        """Start each chain from a partition of its own, or from given parameter values (constrained)."""
        problem = self.plans.call(model_args, model_kwargs)
        plan = problem.plan
        self._check(plan)
        self._told = (model_kwargs or {}).get(GIBBS_SITES_KWARG, {})
        self._alone = GIBBS_SITES_KWARG not in (model_kwargs or {})
        observed = problem.observe(fitting=True)
        if problem.arranged is None:
            problem = problem.at(plan.arrange(observed))
        several = not is_prng_key(rng_key)
        static = (self.keep_latents, several)
        if init_params is None:
            rows = seeding_rows(problem, observed)
            return checked(problem.run(_started, rng_key, rows, static=static))
        missing = set(plan.reading.parameter_names) - set(init_params)
        if missing:
            raise ProgramError(
                f"init_params lacks {', '.join(sorted(missing))}; give every parameter, or none"
            )
        drawn = set(plan.graph.names) & set(init_params)
        if drawn:
            raise ProgramError(
                f"labels {', '.join(map(repr, sorted(drawn)))} are drawn with the parameters, and have "
                "no value of their own: leave them out; as a block of numpyro.infer.Gibbs, mark them "
                "with infer={'enumerate': 'parallel'}"
            )
        values = {name: jnp.asarray(init_params[name]) for name in plan.reading.parameter_names}
        return checked(problem.run(_started_from, rng_key, values, static=static))

    def sample(
        self, state: GibbsState, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]
    ) -> GibbsState:
        """One sweep: labels given parameters, then parameters given labels."""
        problem = self.plans.call(model_args, model_kwargs)
        if problem.arranged is None:
            first = self._at_first(model_args, model_kwargs or {}).with_rows()
            problem = problem.specialised().at(first.blocks)

        def sweep(state: GibbsState) -> GibbsState:
            return self._end(problem.plan, self._sweep(problem, state)[0])

        return sweep(state) if is_prng_key(state.rng_key) else jax.vmap(sweep)(state)

    def kernel(self, problem: Problem) -> Kernel:
        """What a sweep is made of."""
        return GIBBS

    def _sweep(self, problem: Problem, state: Any, carried: Any = None) -> tuple[Any, Visited]:
        """One chain's sweep: its next state, and what was found of the parameters, whose part is given a
        key, and what else it carries."""
        kernel = self.kernel(problem)
        label_key, block_key, next_key = random.split(state.rng_key, 3)
        drawn = kernel.latents(problem, state.z, Labels(label_key, state.latents))
        memory = block_key if carried is None else (block_key, carried)
        moved = kernel.parameters(problem, drawn.statistics, state.z, memory)
        labels = _named(problem.plan, drawn.memory.values) if self.keep_latents else ()
        return GibbsState(moved.belief, labels, drawn.objective, next_key), moved

    def _end(self, plan: Plan, state: Any) -> Any:
        """What comes after all sites have been drawn: labels permuted, where asked for."""
        if not self.permute_labels:
            return state
        key = random.fold_in(state.rng_key, _PERMUTATION_STREAM)
        values, labels = _permuted(plan, state.z, state.latents, key)
        return state._replace(z=values, latents=labels)

    def _check(self, plan: Plan) -> None:
        _check_closed(plan)

    # ------------------------------------------------------------------ a block of numpyro.infer.Gibbs
    @property
    def model(self) -> Callable[..., Any]:
        """The program, which all blocks share; of a kernel that has run by itself, the program with the
        latents summed out, which has the sites of its draws and one log likelihood for each row."""
        return Marginal(self.plans) if self._alone else self.plans.program

    def refresh(
        self, state: Any, model_args: tuple[Any, ...], model_kwargs: dict[str, Any] | None
    ) -> Any:
        """The state as it is: nothing in it depends on what other blocks draw."""
        return state

    def wrap_model(self, wrapper: Callable[..., Any]) -> ConjugateGibbs:
        """The same kernel on `wrapper(program)`."""
        block = copy.copy(self)
        block.plans = Plans(wrapper(self.plans.program))
        return block

    def _at_first(self, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> Problem:
        """The call with what other blocks drew first: rows are read on the host, from real numbers, and
        do not depend on it."""
        told = {GIBBS_SITES_KWARG: self._told} if GIBBS_SITES_KWARG in model_kwargs else {}
        return self.plans.call(model_args, {**model_kwargs, **told})

    def get_diagnostics_str(self, state: GibbsState) -> str:
        """What the progress bar shows: the log likelihood."""
        return f"log likelihood {float(checked(state).log_likelihood):.4g}"


def checked(state: GibbsState) -> GibbsState:
    """The state, whose draws are numbers where they can be looked at.

    Raises :class:`ProgramError` naming the sites of which some are NaN.
    """
    if not isinstance(state.log_likelihood, jax.core.Tracer):
        check_draws({name: np.asarray(value) for name, value in state.z.items()})
        if np.isnan(state.log_likelihood).any():
            _refuse("the labels")
    return state


def check_draws(draws: dict[str, np.ndarray]) -> None:
    """Raise :class:`ProgramError` where some of the draws are NaN, naming the sites."""
    missing = [repr(name) for name, value in draws.items() if np.isnan(value).any()]
    if missing:
        _refuse(", ".join(missing))


def _refuse(names: str) -> None:
    raise ProgramError(
        f"draws of {names} are NaN: given all else, a conditional has no finite density there; look for "
        "a probability that is exactly 0 or 1, or a scale of zero, in the program"
    )


def _started(
    problem: Problem, keep_latents: bool, several: bool, rng_key: Array, rows: SeedingRows
) -> GibbsState:
    """States from partitions of the rows: of one chain, or of several, whose keys lead."""
    halves = jax.vmap(random.split)(rng_key if several else rng_key[None])
    values = starting_values(problem, kmeans_plus_plus, rows, halves[:, 0])
    states = _started_from(problem, keep_latents, True, halves[:, 1], values)
    return states if several else jax.tree.map(lambda x: x[0], states)


def _started_from(
    problem: Problem, keep_latents: bool, several: bool, rng_key: Array, values: Values
) -> GibbsState:
    """States at given parameters, with labels drawn given them."""

    def one(key: Array, values: Values) -> GibbsState:
        draw_key, next_key = random.split(key)
        drawn = GIBBS.latents(problem, values, Labels(draw_key))
        labels = _named(problem.plan, drawn.memory.values) if keep_latents else ()
        return GibbsState(values, labels, drawn.objective, next_key)

    return jax.vmap(one)(rng_key, values) if several else one(rng_key, values)


def _named(plan: Plan, labels: Array) -> Any:
    """Labels (latents, N) as (N,) where there is one latent, else by latent."""
    if len(plan.graph.names) == 1:
        return labels[0]
    return dict(zip(plan.graph.names, labels, strict=True))


def _permuted(plan: Plan, values: Values, labels: Any, rng_key: Array) -> tuple[Values, Any]:
    """Parameters, and labels where they are kept, with those of exchangeable groups in random order."""
    for i, group in enumerate(plan.labels.hidden):
        if not group.exchangeable:
            continue
        order = random.permutation(random.fold_in(rng_key, i), group.size)
        for name, axes in group.axes.items():
            for axis in axes if name in values else ():
                values = {**values, name: jnp.take(values[name], order, axis=axis)}
        for name in group.complements:  # the share of one of two labels
            turned = jnp.where(order[0] == 0, values[name], 1 - values[name])
            values = {**values, name: turned}
        place = jnp.argsort(order).astype(jnp.int32)
        if isinstance(labels, dict):
            labels = {n: place[z] if n in group.latents else z for n, z in labels.items()}
        elif not isinstance(labels, tuple):
            labels = place[labels]
    return values, labels


def _check_closed(plan: Plan) -> None:
    open_sites = [block.site for block in plan.blocks if block.form is None]
    if open_sites:
        names = ", ".join(f"'{name}'" for name in open_sites)
        raise ProgramError(
            f"no closed-form conditional to draw {names} from (print the plan for the reason); "
            "use bayesmix.MixedGibbs(program), which draws the rest by NUTS, or "
            "numpyro.infer.NUTS(bayesmix.marginalize(program)) instead"
        )
