"""Simulation-based calibration of whole runs of every sampler, with their warm-up and adaptation.

Parameters are drawn from the prior and data given them; a sampler starts at other draws from the prior
and runs on the data. The rank of the true parameters among its draws, by any function of them and of
the data, is uniform if the draws are from the posterior and nearly independent. The log likelihood and
the log prior are looked at too: a sampler may have all marginal distributions right and not these.

`python -m tests.oracles.sbc_samplers` runs all at full size and prints a table.

Sources: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; functions of the data:
Modrak et al. (2023), *Bayesian Analysis*, doi:10.1214/23-BA1404.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import bayesmix
from bayesmix import Plan
from bayesmix.infer.kernel import Kernel
from bayesmix.infer.loop import Fixed, Settings, advance
from bayesmix.infer.mean_field import Averaged, Spread, find_scopes
from bayesmix.infer.starts import kmeans_plus_plus, seeding_rows
from bayesmix.infer.tempering import HamiltonianMoves
from bayesmix.infer.variational import _start
from bayesmix.infer.variational_checks import check_program
from bayesmix.infer.variational_result import _draws
from bayesmix.program.arguments import Arguments, split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.oracles.families import Family
from tests.oracles.samplers import (
    EXACT,
    LADDERS,
    PARTICLES,
    SAMPLERS,
    Sampler,
    Values,
    particles,
    running,
)
from tests.oracles.sbc import p_values
from tests.oracles.simulate import invariants, simulate, with_data


class Runs(NamedTuple):
    """How many data sets; the length of a warm-up; draws that the truth is compared with, and how many
    times the sampler's own number of steps is between them; how many particles."""

    datasets: int
    warmup: int
    states: int
    patience: int
    particles: int


SMALL, FULL = Runs(300, 80, 19, 1, 100), Runs(1000, 200, 19, 2, 400)
CASES = SAMPLERS | LADDERS


class Simulated(NamedTuple):
    """True parameters, other draws from the prior, and the arguments' arrays; all lead with data
    sets."""

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
    evaluation, blocks = plan.evaluate(call, values), Problem(plan, call).with_rows().blocks
    return {
        "log likelihood": Problem(plan, call, blocks).log_likelihood(values),
        "log prior": evaluation.log_prior,
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
        call = made.call.with_arrays(told.arrays)

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
    moves: HamiltonianMoves, family: Family, size: Runs, key: Any
) -> dict[str, np.ndarray]:
    """As :func:`ranks`, among particles of tempered SMC taken at random."""
    plan, call = bayesmix.plan(family.program, *family.arguments), split(family.arguments, {})
    data_key, run_key, choice_key = random.split(key, 3)
    told = simulated(plan, call, size.datasets, data_key)
    keys = random.split(run_key, size.datasets)
    drawn = particles(plan, call, moves, keys, told.arrays, size.particles)
    chosen = random.choice(choice_key, size.particles, (size.states,), replace=False)
    return _among(plan, call, told, {name: value[:, chosen] for name, value in drawn.items()})


def ranks_of_approximations(family: Family, size: Runs, key: Any) -> dict[str, np.ndarray]:
    """As :func:`ranks`, among draws from the densities of variational Bayes."""
    plan, call = bayesmix.plan(family.program, *family.arguments), split(family.arguments, {})
    data_key, start_key, draw_key = random.split(key, 3)
    told = simulated(plan, call, size.datasets, data_key)
    problem = Problem(plan, call)
    check_program(problem)
    scopes, observed = find_scopes(problem), problem.observe(fitting=True)
    rows = seeding_rows(problem.at(plan.arrange(observed)), observed)
    static = (scopes, kmeans_plus_plus, size.warmup)
    started = problem.run(_start, rows, random.split(start_key, size.datasets), static=static)
    settings = Settings(jnp.asarray(1e-8), jnp.asarray(size.warmup))
    kernel = Kernel(Averaged(scopes), Spread(scopes))

    def one(told: Simulated, started: Any, key: Any) -> Values:
        here = Problem(plan, call.with_arrays(told.arrays)).with_rows()
        state, partitioned = jax.tree.map(lambda x: x[None], started)
        given = jax.tree.map(lambda x: x[None], told.others)
        ended = advance(here, kernel, 1, state, Fixed(partitioned, given), settings)
        q, statistics = jax.tree.map(lambda x: x[0], (ended.belief, ended.statistics))
        return _draws(here, scopes, q, statistics, random.split(key, size.states))

    drawn = compile_lightly(jax.vmap(one))(told, started, random.split(draw_key, size.datasets))
    return _among(plan, call, told, drawn)


def _among(plan: Plan, call: Arguments, told: Simulated, drawn: Values) -> dict[str, np.ndarray]:
    """Ranks of the truth among draws (data sets, states, ...)."""

    def one(told: Simulated, drawn: Values) -> tuple[Any, Any]:
        here = call.with_arrays(told.arrays)
        return looked_at(plan, here, told.truth), jax.vmap(lambda v: looked_at(plan, here, v))(
            drawn
        )

    return _compare(*compile_lightly(jax.vmap(one))(told, drawn))


def _compare(truth: Values, drawn: Values) -> dict[str, np.ndarray]:
    found = {}
    for name, value in drawn.items():
        value, own = np.asarray(value), np.asarray(truth[name])
        assert np.isfinite(value).all() and np.isfinite(own).all(), name
        found[name] = (value < own[:, None]).sum(axis=1)
    return found


def all_ranks(size: Runs) -> dict[str, Callable[[Any], dict[str, np.ndarray]]]:
    """Ranks by sampler, as functions of a key."""
    found = {name: partial(ranks, *case, size) for name, case in CASES.items()}
    found |= {name: partial(ranks_of_particles, *case, size) for name, case in PARTICLES.items()}
    return found | {
        name: partial(ranks_of_approximations, family, size) for name, family in EXACT.items()
    }


def main() -> None:
    cases = {
        n: case for n, case in all_ranks(FULL).items() if n in sys.argv[1:] or not sys.argv[1:]
    }
    print(f"{len(cases)} samplers, {FULL}; p values of uniform ranks", flush=True)
    worst, number = 1.0, 0
    for name, case in cases.items():
        started = time.perf_counter()
        found = p_values(case(random.key(0)), FULL)
        least = min(found, key=lambda each: found[each])
        worst, number = min(worst, found[least]), number + len(found)
        took = time.perf_counter() - started
        print(f"{name:34} {len(found):2}  {found[least]:.4f} {least:22} {took:5.1f} s", flush=True)
    verdict = "uniform" if worst > 0.01 / number else "NOT UNIFORM"
    print(f"smallest of {number}: {worst:.2g}; 1% level {0.01 / number:.2g}: {verdict}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
