"""Gibbs where a conditional has a closed form, NUTS for all other sites together, in one kernel.

Given the labels and the closed sites, the other sites have the density of the expected log joint at the
statistics of the drawn labels: a step of NUTS costs nothing in N wherever an M step costs nothing in N.
With the labels summed out they have that of the marginal, which visits all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import ParamInfo
from numpyro.util import is_prng_key

from ..program import row_pass
from ..program.evaluate import Values
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.reading import Site
from ..program.settings import number, whole
from .coordinates import LogDensity, Potential, constrained, potential_energy, unconstrained
from .gibbs import GIBBS, ConjugateGibbs, GibbsState
from .kernel import Kernel, Parameters, Visited

_NUTS_STREAM = 0x6E757473  # keeps the keys of NUTS apart from those of the sweeps


class MixedState(NamedTuple):
    """State of :class:`MixedGibbs`: that of :class:`ConjugateGibbs`, and of the NUTS part.

    accept_prob, num_steps, diverging: of the last trajectory, as in NumPyro's HMC (1, 0 and False where
    every site has a closed form and nothing is left to move); nuts: NumPyro's HMCState, with its
    adaptation, or an empty tuple then.
    """

    z: Values
    latents: Any
    log_likelihood: Array
    rng_key: Array
    accept_prob: Array
    num_steps: Array
    diverging: Array
    nuts: Any


Trajectory = Callable[[HMCState, Potential], HMCState]


@dataclass(frozen=True)
class SampledAndMoved(Parameters):
    """Closed blocks drawn, then the other sites moved together by one NUTS trajectory, on the density
    given the statistics or, where `marginal`, with everything hidden summed out; the memory is a key and
    the state of NUTS."""

    verb: ClassVar[str] = "drawn, moved along gradients"

    sites: tuple[Site, ...]
    trajectory: Trajectory
    marginal: bool

    def __call__(
        self,
        problem: Problem,
        statistics: row_pass.Statistics,
        belief: Values,
        memory: Any = None,
    ) -> Visited:
        values = GIBBS.parameters(problem, statistics, belief, memory[0]).belief
        density = (
            problem.log_posterior() if self.marginal else problem.expected_log_joint(statistics)
        )
        values, moved = move(self.sites, density, values, memory[1], self.trajectory)
        return Visited(values, memory=moved)


class MixedGibbs(ConjugateGibbs):
    """Gibbs sampling for any program: sites without a closed-form conditional are moved by NUTS.

    One sweep draws labels z (and other hidden values of the rows) from p(z | x, theta), then every
    closed block from its conditional, as :class:`ConjugateGibbs` does. Then it moves the remaining sites
    v together by one NUTS trajectory on log p(v | z, x, closed sites), in unconstrained coordinates with
    their Jacobian. Step size and mass matrix adapt during warm-up. Where every block is closed, the
    draws are those of :class:`ConjugateGibbs` for the same key.

    Args:
        program: a NumPyro program, or a plan of one.
        keep_latents: collect the labels of every draw, as the extra field `latents`.
        permute_labels: end each sweep with a random permutation of exchangeable labels.
        target_accept_prob, max_tree_depth: of NUTS, as in :class:`numpyro.infer.NUTS`.
        dense_mass: adapt a full mass matrix of the open sites, not a diagonal one.
        marginal: move the open sites on log p(v | x, closed sites), with labels and other hidden values
            summed out (a collapsed step). Draws are less dependent where hidden values say much about v,
            as the scale of each row does about degrees of freedom; every gradient visits all rows.

    Extra fields collected: `latents`; `accept_prob`, `num_steps` and `diverging` of the NUTS part.

    Raises:
        ProgramError: when run, where the program or its data cannot be read.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> import bayesmix
        >>> def program(x):
        ...     df = numpyro.sample("df", dist.Gamma(2.0, 0.1))  # no closed form
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.StudentT(df, mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1, 14.0])
        >>> mcmc = MCMC(bayesmix.MixedGibbs(program), num_warmup=50, num_samples=200,
        ...             progress_bar=False)
        >>> mcmc.run(jax.random.key(0), x)
        >>> mcmc.get_samples()["df"].shape, mcmc.get_extra_fields()["num_steps"].shape
        ((200,), (200,))

    Source: Neal (2011), *Handbook of Markov Chain Monte Carlo*, section 5.5.5 (HMC combined with other
    updates); Hoffman & Gelman (2014), *JMLR* 15, 1593-1623 (NUTS); Liu (1994), *JASA* 89, 958-966
    (collapsed steps).
    """

    def __init__(
        self,
        program: Callable[..., Any] | Plan,
        *,
        keep_latents: bool = True,
        permute_labels: bool = False,
        target_accept_prob: float = 0.8,
        max_tree_depth: int = 10,
        dense_mass: bool = False,
        marginal: bool = False,
    ) -> None:
        super().__init__(program, keep_latents=keep_latents, permute_labels=permute_labels)
        self.target_accept_prob = number("target_accept_prob", target_accept_prob, 0.0, 1.0)
        self.max_tree_depth = whole("max_tree_depth", max_tree_depth)
        self.dense_mass = dense_mass
        self.marginal = marginal
        self._trajectory: Trajectory | None = None

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What MCMC collects besides the parameters."""
        return (*super().default_fields, "accept_prob", "num_steps", "diverging")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_trajectory": None}  # made again by `init`

    def _check(self, plan: Plan) -> None:
        """Every program will do."""

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Values | None,
        model_args: tuple[Any, ...],
        model_kwargs: dict[str, Any],
    ) -> Any:
        """Start each chain as :class:`ConjugateGibbs` does, and NUTS with a unit mass matrix."""
        state = super().init(rng_key, num_warmup, init_params, model_args, model_kwargs)
        sites = open_sites(self.plan(*model_args, **(model_kwargs or {})))
        begin, self._trajectory = nuts(
            num_warmup,
            target_accept_prob=self.target_accept_prob,
            max_tree_depth=self.max_tree_depth,
            dense_mass=[tuple(sorted(site.name for site in sites))] if self.dense_mass else [],
        )

        def complete(state: GibbsState) -> MixedState:
            if not sites:
                return _unmoved(state)
            key = random.fold_in(state.rng_key, _NUTS_STREAM)
            return _with_nuts(state, begin(unconstrained(sites, state.z), key))

        return complete(state) if is_prng_key(rng_key) else jax.vmap(complete)(state)

    def kernel(self, problem: Problem) -> Kernel:
        sites = open_sites(problem.plan)
        if not sites:
            return GIBBS
        assert self._trajectory is not None, "init comes before sample"
        return Kernel(GIBBS.latents, SampledAndMoved(sites, self._trajectory, self.marginal))

    def _sweep(self, problem: Problem, state: Any, carried: Any = None) -> tuple[Any, Visited]:
        carried = state.nuts if open_sites(problem.plan) else None
        swept, moved = super()._sweep(problem, state, carried)
        return (_unmoved(swept) if carried is None else _with_nuts(swept, moved.memory)), moved

    def _end(self, plan: Plan, state: Any) -> Any:
        ended = super()._end(plan, state)
        if not (self.permute_labels and isinstance(state.nuts, HMCState)):
            return ended
        return ended._replace(nuts=state.nuts._replace(z=unconstrained(open_sites(plan), ended.z)))

    def get_diagnostics_str(self, state: Any) -> str:
        """What the progress bar shows: the log likelihood, and how the NUTS part fares."""
        shown = super().get_diagnostics_str(state)
        if not isinstance(state.nuts, HMCState):
            return shown
        size, accepted = state.nuts.adapt_state.step_size, state.nuts.mean_accept_prob
        return f"{shown}, {state.num_steps} steps of size {size:.1e}, acc. prob={accepted:.2f}"


def _with_nuts(state: GibbsState, moved: HMCState) -> MixedState:
    said = (moved.accept_prob, moved.num_steps, moved.diverging)
    return MixedState(state.z, state.latents, state.log_likelihood, state.rng_key, *said, moved)


def _unmoved(state: GibbsState) -> MixedState:
    nothing = (jnp.ones(()), jnp.zeros((), int), jnp.asarray(False))
    return MixedState(state.z, state.latents, state.log_likelihood, state.rng_key, *nothing, ())


# ------------------------------------------------------------------------------------- the open sites
def open_sites(plan: Plan) -> tuple[Site, ...]:
    """Parameters whose conditional has no closed form."""
    names = {block.site for block in plan.blocks if block.form is None}
    return tuple(site for site in plan.reading.parameters if site.name in names)


def nuts(num_warmup: int, **options: Any) -> tuple[Callable[[Values, Array], HMCState], Trajectory]:
    """NumPyro's NUTS for a potential that changes with every step.

    Returns (begin, trajectory): `begin(free, key)` makes a state and evaluates nothing;
    `trajectory(state, potential)` takes one step from a state whose energy is up to date. `options` are
    those of `numpyro.infer.hmc.hmc`.
    """
    begin, step = hmc(potential_fn_gen=lambda potential: potential, algo="NUTS")

    def start(free: Values, rng_key: Array) -> HMCState:
        unknown = ParamInfo(free, jnp.zeros(()), jax.tree.map(jnp.zeros_like, free))
        return begin(unknown, num_warmup, rng_key=rng_key, model_args=(None,), **options)

    return start, lambda state, potential: step(state, model_args=(potential,))


def move(
    sites: tuple[Site, ...],
    log_density: LogDensity,
    values: Values,
    state: HMCState,
    trajectory: Trajectory,
) -> tuple[Values, HMCState]:
    """Move the sites by one NUTS trajectory on `log_density` given all other `values`.

    `state` holds their unconstrained values; its energy and gradient are those of another density, and
    are computed anew. Returns all values, with the moved ones, and the new state.
    """
    potential = potential_energy(sites, log_density, values)
    energy, slope = jax.value_and_grad(potential)(state.z)
    moved = trajectory(state._replace(potential_energy=energy, z_grad=slope), potential)
    return {**values, **constrained(sites, moved.z)}, moved
