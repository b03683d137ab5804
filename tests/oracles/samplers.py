"""Every sampler on a small program: how to run it on data that are traced, many data sets at a time.

A kernel is made of a plan and started on data of the right shape; from then on parameter values and data
are put into its state, so that one compiled function serves all data sets. Rows are complete: what is
missing is arranged on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import NUTS
from numpyro.infer.hmc import HMCState
from numpyro.infer.util import potential_energy

import bayesmix
from bayesmix import CollapsedGibbs, ConjugateGibbs, MixedGibbs, ParallelTempering, Plan
from bayesmix.infer.coordinates import constrained, unconstrained
from bayesmix.infer.mixed import open_sites
from bayesmix.infer.smc import _advance, _begin, _Walk
from bayesmix.infer.tempering import (
    HamiltonianMoves,
    Tuning,
    first_tuning,
)
from bayesmix.program import row_pass
from bayesmix.program.arguments import Arguments, split
from bayesmix.program.compiling import compile_fully, compile_lightly
from bayesmix.program.problem import Problem
from tests.oracles import families
from tests.oracles.families import NUMBERS, Family

Values = dict[str, Any]


# ------------------------------------------------------------------------------------------- programs
def normals(x, shape):
    """Two normal components, and a prior of the variances whose shape is told."""
    weights = families.weights_of(2)
    with numpyro.plate("component", 2):
        variance = numpyro.sample("variance", dist.InverseGamma(shape, 3.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.2)))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def one_normal(x):
    """A single joint block: what variational Bayes makes independent is, and its density is exact."""
    variance = numpyro.sample("variance", dist.InverseGamma(4.0, 3.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.2)))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Normal(mean, jnp.sqrt(variance)), obs=x)


def scaled(x):
    """A scale with no closed form beside means that have one."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mean[z], scale), obs=x)


def experts(x, u):
    """A gate, and degrees of freedom. Priors of the centres say which expert is which, so that chains
    need not find a mirrored mode, where the gate is turned round."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    df = numpyro.sample("df", dist.LogNormal(1.5, 0.5))
    centre = numpyro.sample("centre", dist.Normal(jnp.array([-2.0, 2.0]), 0.7).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("x", dist.StudentT(df, centre[z], 1.0), obs=x)


ROWS = NUMBERS[:12, 0]
NORMALS = Family(normals, (ROWS, jnp.asarray(4.0)))
SCALED = Family(scaled, (ROWS,))
SEVERAL = families.FEW["Poisson, Bernoulli, categorical, t"]
EXPERTS = Family(experts, (ROWS, NUMBERS[:12, 1]))


# -------------------------------------------------------------------------------------------- kernels
class Sampler(NamedTuple):
    """A kernel, made of a plan; how chains begin, (kernel, keys, num_warmup, values, args) to their
    states; how a state takes parameter values and new data; how values are read from it; and after how
    many steps draws are nearly independent on the programs above."""

    make: Callable[[Plan], Any]
    begin: Callable[..., Any]
    put: Callable[[Any, Any, Values, Arguments], Any]
    read: Callable[[Any, Any], Values] = lambda kernel, state: state.z
    thin: int = 10


STEP = 0.25  # of NUTS where no warm-up adapts it, in unconstrained coordinates


def begin_there(kernel: Any, keys: Any, num_warmup: int, values: Values, args: Any) -> Any:
    state = kernel.init(keys, num_warmup, values, args, {})
    if not isinstance(getattr(state, "nuts", ()), HMCState):
        return state
    return state._replace(nuts=with_step(state.nuts))


def begin_by_itself(kernel: Any, keys: Any, num_warmup: int, values: Values, args: Any) -> Any:
    return kernel.init(keys, num_warmup, None, args, {})


def begin_alike(kernel: Any, keys: Any, num_warmup: int, values: Values, args: Any) -> Any:
    """Chains that differ in their keys alone: what NumPyro begins with many keys steps many chains."""
    state = with_step(kernel.init(keys[0], num_warmup, None, args, {}))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *jnp.shape(x))), state)
    return state._replace(rng_key=keys)


def with_step(state: HMCState) -> HMCState:
    """The same state with the first step size, which is one by default: too long to move far."""
    size = jnp.full_like(state.adapt_state.step_size, STEP)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=size))


def put_gibbs(kernel: Any, state: Any, values: Values, call: Arguments) -> Any:
    """Values, and the coordinates of those that NUTS moves; its energy is computed anew in a sweep."""
    state = state._replace(z=values)
    if not isinstance(getattr(state, "nuts", ()), HMCState):
        return state
    free = unconstrained(open_sites(kernel.plans.given), values)
    return state._replace(nuts=state.nuts._replace(z=free))


def put_nuts(kernel: Any, state: Any, values: Values, call: Arguments) -> Any:
    """Coordinates, and the energy and slope there given the data."""
    args, kwargs = call.call()
    free = unconstrained(kernel.model.plans.given.reading.parameters, values)
    energy = jax.value_and_grad(lambda free: potential_energy(kernel.model, args, kwargs, free))
    height, slope = energy(free)
    return state._replace(z=free, potential_energy=height, z_grad=slope)


def read_nuts(kernel: Any, state: Any) -> Values:
    return constrained(kernel.model.plans.given.reading.parameters, state.z)


def put_ladder(kernel: Any, state: Any, values: Values, call: Arguments) -> Any:
    """Values of the chain at the posterior; the others keep theirs."""
    ladder = {name: value.at[-1].set(values[name]) for name, value in state.ladder.items()}
    return state._replace(z=values, ladder=ladder)


def put_collapsed(kernel: Any, state: Any, values: Values, call: Arguments) -> Any:
    """Values, and labels drawn given these and the data."""
    plan = kernel.plans.given
    label_key, next_key = random.split(state.rng_key)
    blocks, evaluation = Problem(plan, call).with_rows().blocks, plan.evaluate(call, values)
    (labels,) = row_pass.drawn_pass(plan.graph, plan.families, evaluation, blocks, label_key).rows
    return state._replace(z=values, latents=labels.astype(state.latents.dtype), rng_key=next_key)


class MovedState(NamedTuple):
    """Parameters, and the next step's key."""

    z: Values
    rng_key: Any
    tuning: Tuning


@dataclass(frozen=True)
class AtThePosterior:
    """The moves of tempered SMC in its last stage, as a kernel."""

    plan: Plan
    moves: HamiltonianMoves

    def init(self, keys: Any, num_warmup: int, values: Values, args: Any, kwargs: Any) -> Any:
        return MovedState(
            values, keys, jax.vmap(lambda each: first_tuning(self.plan, each))(values)
        )

    def sample(self, state: MovedState, args: Any, kwargs: Any) -> MovedState:
        call = split(args, kwargs)
        here = Problem(self.plan, call).with_rows()
        key, next_key = random.split(state.rng_key)
        values, _ = self.moves.move(key, here, state.z, jnp.ones(()), state.tuning)
        return state._replace(z=values, rng_key=next_key)


def gibbs(**options: Any) -> Sampler:
    return Sampler(lambda plan: ConjugateGibbs(plan, **options), begin_there, put_gibbs)


def collapsed(**options: Any) -> Sampler:
    return Sampler(lambda plan: CollapsedGibbs(plan, **options), begin_there, put_collapsed, thin=5)


def moved(moves: HamiltonianMoves) -> Sampler:
    return Sampler(lambda plan: AtThePosterior(plan, moves), begin_there, put_gibbs)


def mixed(**options: Any) -> Sampler:
    def make(plan: Plan) -> MixedGibbs:
        return MixedGibbs(plan, max_tree_depth=5, **options)

    return Sampler(make, begin_there, put_gibbs, thin=5)


def nuts(**options: Any) -> Sampler:
    def make(plan: Plan) -> NUTS:
        return NUTS(bayesmix.marginalize(plan), max_tree_depth=5, **options)

    return Sampler(make, begin_alike, put_nuts, read_nuts, thin=2)


def tempering(moves: HamiltonianMoves, betas: Any) -> Sampler:
    def make(plan: Plan) -> ParallelTempering:
        return ParallelTempering(plan, moves=moves, betas=betas)

    return Sampler(make, begin_by_itself, put_ladder)


class Running(NamedTuple):
    """A sampler on the plan of a program, and arguments of the right shape."""

    sampler: Sampler
    kernel: Any
    plan: Plan
    call: Arguments

    def begin(self, key: Any, num_warmup: int, values: Values) -> Any:
        """States of as many chains as `values` lead with, on the template data."""
        args, _ = self.call.call()
        keys = random.split(key, jax.tree.leaves(values)[0].shape[0])
        return self.sampler.begin(self.kernel, keys, num_warmup, values, args)

    def put(self, state: Any, values: Values, call: Arguments) -> Any:
        """One chain's state with these values, given these data."""
        return self.sampler.put(self.kernel, state, values, call)

    def step(self, state: Any, call: Arguments) -> Any:
        """One chain's next state."""
        args, kwargs = call.call()
        return self.kernel.sample(state, args, kwargs)

    def read(self, state: Any) -> Values:
        """One chain's parameter values."""
        return self.sampler.read(self.kernel, state)


def running(sampler: Sampler, family: Family) -> Running:
    """A sampler on a program, read once."""
    plan = bayesmix.plan(family.program, *family.arguments)
    return Running(sampler, sampler.make(plan), plan, split(family.arguments, {}))


# -------------------------------------------------------------------------------------- tempered SMC
def particles(
    plan: Plan, call: Arguments, moves: HamiltonianMoves, keys: Any, arrays: Any, count: int
) -> Values:
    """Particles (data sets, `count`, ...) of a run of SMC for each data set, all in one loop."""
    walk = _Walk(count, 1, 0.5, moves)
    told = jax.jit(jax.vmap(lambda each: Problem(plan, call.with_arrays(each)).with_rows()))(arrays)
    states = compile_lightly(jax.vmap(lambda problem, key: _begin(problem, walk, key)))(told, keys)
    stage = jax.vmap(lambda problem, states: _advance(problem, walk, states))

    @compile_fully
    def run(told: Any, states: Any) -> Any:
        def again(states: Any) -> Any:
            return jnp.any(states.beta < 1)

        return jax.lax.while_loop(again, lambda states: stage(told, states), states)

    return jax.tree.map(lambda x: x[:, 0], run(told, states).values)


SAMPLERS: dict[str, tuple[Sampler, Family]] = {
    "ConjugateGibbs": (gibbs(), NORMALS),
    "ConjugateGibbs, labels permuted": (gibbs(permute_labels=True), NORMALS),
    "ConjugateGibbs, four sites": (gibbs(), SEVERAL),
    "CollapsedGibbs": (collapsed(), NORMALS),
    "CollapsedGibbs, weights told": (collapsed(integrate=["mean"]), NORMALS),
    "MixedGibbs": (mixed(), SCALED),
    "MixedGibbs, marginal": (mixed(marginal=True), SCALED),
    "MixedGibbs, experts": (mixed(), EXPERTS),
    "MixedGibbs, marginal, experts": (mixed(marginal=True), EXPERTS),
    "NUTS": (nuts(), NORMALS),
}
# of a ladder of two the lower end is the prior, whatever the data: all its states are known in law
TWO_RUNGS: dict[str, tuple[Sampler, Family]] = {
    "ParallelTempering": (tempering(HamiltonianMoves(1, 8), (0.0, 1.0)), NORMALS),
}
LADDERS: dict[str, tuple[Sampler, Family]] = {
    "ParallelTempering": (tempering(HamiltonianMoves(1, 8), 4), NORMALS),
}
MOVES: dict[str, tuple[Sampler, Family]] = {
    "TemperedSMC": (moved(HamiltonianMoves(1, 8)), NORMALS),
}
PARTICLES: dict[str, tuple[HamiltonianMoves, Family]] = {
    "TemperedSMC": (HamiltonianMoves(3, 8), NORMALS),
}
# variational Bayes is calibrated where its factors are independent in the posterior, and nowhere else
EXACT: dict[str, Family] = {"VariationalBayes, one block": Family(one_normal, (ROWS,))}
