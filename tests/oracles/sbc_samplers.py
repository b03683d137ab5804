"""Simulation-based calibration of whole runs of every sampler, with their warm-up and adaptation.

Parameters are drawn from the prior and data given them; a sampler starts at other draws from the prior
and runs on the data. The rank of the true parameters among its draws, by any function of them and of the
data, is uniform if the draws are from the posterior and nearly independent. The log likelihood and the log
prior are looked at too: a sampler may have all marginal distributions right and not these.

`python -m tests.oracles.sbc` runs it at full size.

Sources: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; functions of the data:
Modrak et al. (2023), *Bayesian Analysis*, doi:10.1214/23-BA1404.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import random

import bayesmix
from bayesmix import Plan
from bayesmix.infer.tempering import Moves
from bayesmix.program.arguments import Arguments, compile_lightly, split
from tests.oracles.families import Family
from tests.oracles.samplers import (
    LADDERS,
    PARTICLES,
    SAMPLERS,
    Sampler,
    Values,
    particles,
    running,
)
from tests.oracles.simulate import invariants, simulate, with_data


class Runs(NamedTuple):
    """How many data sets; the length of a warm-up; draws that the truth is compared with, and how many
    times the sampler's own number of steps is between them; how many particles."""

    datasets: int
    warmup: int
    states: int
    patience: int
    particles: int


SMALL, FULL = Runs(300, 80, 19, 1, 100), Runs(2000, 200, 19, 2, 400)
CASES = SAMPLERS | LADDERS


class Simulated(NamedTuple):
    """True parameters, other draws from the prior, and the arguments' arrays; all lead with data sets."""

    truth: Values
    others: Values
    arrays: Any


def simulated(plan: Plan, call: Arguments, count: int, key: Any) -> Simulated:
    """Data sets from the program."""

    def one(key: Any) -> Simulated:
        here, there = random.split(key)
        truth, data = simulate(plan.program, plan, call, here)
        others, _ = simulate(plan.program, plan, call, there)
        return Simulated(truth, others, with_data(plan, call, data).arrays)

    return compile_lightly(jax.vmap(one))(random.split(key, count))


def looked_at(plan: Plan, call: Arguments, values: Values) -> dict[str, Any]:
    """Functions of parameters and data that relabelling does not change."""
    evaluation, blocks = plan.evaluate(call, values), plan.blocks_of_rows(call)
    return {
        "log likelihood": plan.log_likelihood(call, blocks, values),
        "log prior": plan.log_prior(evaluation),
        **invariants(plan, values),
    }


def ranks(sampler: Sampler, family: Family, size: Runs, key: Any) -> dict[str, np.ndarray]:
    """Ranks of the truth, 0 to `size.states`, by what is looked at, (datasets,)."""
    made = running(sampler, family)
    data_key, start_key = random.split(key)
    told = simulated(made.plan, made.call, size.datasets, data_key)
    states = made.begin(start_key, size.warmup, told.others)
    thin = size.patience * sampler.thin

    def chain(told: Simulated, state: Any) -> tuple[Any, Any]:
        call = made.call._replace(arrays=told.arrays)

        def step(state: Any, _: None) -> tuple[Any, Any]:
            state = made.step(state, call)
            return state, looked_at(made.plan, call, made.read(state))

        length = size.warmup + size.states * thin
        found = jax.lax.scan(step, made.put(state, told.others, call), length=length)[1]
        return looked_at(made.plan, call, told.truth), found

    truth, found = compile_lightly(jax.vmap(chain))(told, states)
    kept = slice(size.warmup + thin - 1, None, thin)
    return _compare(truth, {name: value[:, kept] for name, value in found.items()})


def ranks_of_particles(
    moves: Moves, family: Family, size: Runs, key: Any
) -> dict[str, np.ndarray]:
    """As :func:`ranks`, among particles of tempered SMC taken at random."""
    plan, call = bayesmix.plan(family.program, *family.arguments), split(family.arguments, {})
    data_key, run_key, choice_key = random.split(key, 3)
    told = simulated(plan, call, size.datasets, data_key)
    keys = random.split(run_key, size.datasets)
    drawn = particles(plan, call, moves, keys, told.arrays, size.particles)
    chosen = random.choice(choice_key, size.particles, (size.states,), replace=False)
    drawn = {name: value[:, chosen] for name, value in drawn.items()}

    def one(told: Simulated, drawn: Values) -> tuple[Any, Any]:
        here = call._replace(arrays=told.arrays)
        return looked_at(plan, here, told.truth), jax.vmap(lambda v: looked_at(plan, here, v))(drawn)

    return _compare(*compile_lightly(jax.vmap(one))(told, drawn))


def _compare(truth: Values, drawn: Values) -> dict[str, np.ndarray]:
    found = {}
    for name, value in drawn.items():
        value, own = np.asarray(value), np.asarray(truth[name])
        assert np.isfinite(value).all() and np.isfinite(own).all(), name
        found[name] = (value < own[:, None]).sum(axis=1)
    return found
