"""Joint-distribution tests: does a step of a sampler leave the program's joint density as it is?

Parameters and data are drawn from the program (marginal-conditional simulation). Then a sampler's step
at these data and new data at its parameters take turns (successive-conditional simulation). If the step
leaves the posterior as it is, every state of every chain has the same joint distribution. Chains are
independent of each other, so that the standard error of a difference needs no autocorrelations. What is
looked at are first and second moments of all parameters in unconstrained coordinates, of the first
data, and the log likelihood.

`python -m tests.oracles.geweke` does so for every sampler and prints a table.

Source: Geweke (2004), *Journal of the American Statistical Association* 99, 799-804.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.flatten_util import ravel_pytree
from scipy.stats import norm

from bayesmix.infer.coordinates import unconstrained
from bayesmix.program.arguments import Arguments
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.problem import Problem
from tests.oracles.families import Family
from tests.oracles.samplers import MOVES, SAMPLERS, TWO_RUNGS, Running, Sampler, Values, running
from tests.oracles.simulate import simulate, with_data


class Size(NamedTuple):
    """How many chains, and how many steps of each."""

    chains: int
    steps: int


SMALL, FULL = Size(600, 15), Size(4000, 30)
CASES = SAMPLERS | TWO_RUNGS | MOVES


def p_values(
    sampler: Sampler, family: Family, size: Size, source: Callable[..., Any] | None = None
) -> dict[str, float]:
    """Of no difference between both simulations, by what is looked at.

    `source`: the program that parameters and data come from, if not the sampler's own.
    """
    made = running(sampler, family)
    program = family.program if source is None else source
    keys = random.split(random.key(0), size.chains)
    starts, data = compile_lightly(
        jax.vmap(lambda key: simulate(program, made.plan, made.call, key))
    )(keys)
    states = made.begin(random.key(1), 0, starts)

    def chain(start: Values, data: Values, state: Any, key: Any) -> tuple[Any, Any]:
        call = with_data(made.plan, made.call, data)
        told = moments(made, start, call)

        def step(carry: Any, key: Any) -> tuple[Any, Any]:
            state, arrays = carry
            call = made.call.with_arrays(arrays)
            state = made.step(made.put(state, made.read(state), call), call)
            values = made.read(state)
            _, data = simulate(program, made.plan, call, key, values)
            call = with_data(made.plan, call, data)
            return (state, call.arrays), moments(made, values, call)

        first = made.put(state, start, call)
        return told, jax.lax.scan(step, (first, call.arrays), random.split(key, size.steps))[1]

    run = compile_lightly(jax.vmap(chain))
    told, found = run(starts, data, states, random.split(random.key(2), size.chains))
    moved = np.diff(np.asarray(found["parameters"]), axis=1) != 0
    assert moved.mean((0, 1)).min() > 0.5, "what stays where it is leaves everything as it is"
    return {name: _p_value(np.asarray(told[name]), np.asarray(found[name])) for name in told}


def moments(made: Running, values: Values, call: Arguments) -> dict[str, Any]:
    """Functions of parameters and data, each a vector."""
    free, _ = ravel_pytree(unconstrained(made.plan.reading.parameters, values))
    low, high = np.tril_indices(free.size)
    blocks = Problem(made.plan, call).with_rows().blocks
    data = jnp.ravel(call.arrays[0])[:1].astype(float)
    return {
        "parameters": free,
        "products of parameters": free[low] * free[high],
        "data": jnp.concatenate([data, data**2, data * free[0]]),
        "log likelihood": Problem(made.plan, call, blocks).log_likelihood(values)[None],
    }


def _p_value(told: np.ndarray, found: np.ndarray) -> float:
    """Of the largest of several z scores, by Bonferroni's bound: `told` (chains, moments) against the
    mean over the steps of `found` (chains, steps, moments), in pairs."""
    assert np.isfinite(told).all() and np.isfinite(found).all()
    apart = found.mean(axis=1) - told
    spread = apart.std(axis=0, ddof=1)
    moves = spread > 1e-9 * np.abs(told).max()  # the weight of the only component does not
    score = apart.mean(axis=0)[moves] / (spread[moves] / np.sqrt(len(told)))
    return float(min(1.0, 2 * norm.sf(np.abs(score).max()) * score.size)) if score.size else 1.0


def main() -> None:
    chosen = {name: s for name, s in CASES.items() if not sys.argv[1:] or name in sys.argv[1:]}
    print(f"{len(chosen)} samplers, {FULL}; p values of equal moments", flush=True)
    worst, number = 1.0, 0
    for name, (sampler, family) in chosen.items():
        started = time.perf_counter()
        found = p_values(sampler, family, FULL)
        worst, number = min(worst, *found.values()), number + len(found)
        shown = ", ".join(f"{each} {p:.3f}" for each, p in found.items())
        print(f"{name:32} {shown}  {time.perf_counter() - started:.0f} s", flush=True)
    verdict = "the same" if worst > 0.01 / number else "NOT THE SAME"
    print(f"smallest of {number}: {worst:.2g}; 1% level {0.01 / number:.2g}: {verdict}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
