"""Simulation-based calibration of the sweep: are draws from the posterior of the program given?

Parameters are drawn from the prior, data from the program, and a chain is run from the parameters, which
are one draw from their own posterior: their rank among the states of the chain, by any function of
them, is uniform. Chains run forwards and backwards in time, and the truth is put at a random place among
their states: then ranks are exactly uniform however slowly a chain mixes, which costs power only. A
sweep backwards takes the blocks in reverse order, after the hidden values. Sites without a closed form
are moved by NUTS, as in MixedGibbs, with a step size that stays; forwards last, backwards first.

`python -m tests.oracles.sbc` runs all families at full size and prints a table.

Sources: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; truth among the states of
a chain: Besag & Clifford (1989), *Biometrika* 76, 633-642; Gandy & Scott (2020), arXiv:2001.06465.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import random
from scipy.stats import chisquare

import bayesmix
from bayesmix.infer import mixed
from bayesmix.infer.gibbs import GIBBS
from bayesmix.program import row_pass
from bayesmix.program.arguments import split
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.observed import Observed
from bayesmix.program.problem import Problem
from tests.oracles.families import Family, all_families
from tests.oracles.simulate import invariants, simulate

BINS = 10
STEP = 0.3  # of NUTS, in unconstrained coordinates


def draw_chains(
    kernel: Any, arguments: tuple[Any, ...], start: Any, warmup: int, count: int
) -> dict[str, Any]:
    """Draws (chains, count, ...) after a warm-up, from start values that lead with chains: what MCMC
    would give, compiled lightly."""
    keys = random.split(random.key(0), jax.tree.leaves(start)[0].shape[0])
    state = kernel.init(keys, warmup, start, arguments, {})

    def step(state: Any, _: None) -> tuple[Any, Any]:
        state = kernel.sample(state, arguments, {})
        return state, state.z

    run = compile_lightly(lambda state: jax.lax.scan(step, state, length=warmup + count)[1])
    return {name: np.swapaxes(np.asarray(v)[warmup:], 0, 1) for name, v in run(state).items()}


class Size(NamedTuple):
    """How many data sets, how many states of a chain the truth is compared with, sweeps between them."""

    datasets: int
    states: int
    thin: int


SMALL, FULL = Size(400, 19, 2), Size(1000, 19, 4)


class Calibration:
    """Ranks for one family; all is compiled once."""

    def __init__(self, family: Family, size: Size) -> None:
        self.size = size
        self.plan = bayesmix.plan(family.program, *family.arguments)
        self.call = split(family.arguments, {})
        self.sites = [site.name for site in self.plan.reading.observed]
        gone = [np.isnan(np.asarray(x, float)) for x in family.arguments[: len(self.sites)]]
        self.present = {n: ~g if g.any() else None for n, g in zip(self.sites, gone)}
        self._draw = compile_lightly(jax.vmap(self._simulate, (None, 0)))
        self._forwards = self._sweeps(self.plan, backwards=False)
        turned = replace(self.plan, blocks=self.plan.blocks[::-1])
        self._backwards = (
            self._forwards if family.independent else self._sweeps(turned, backwards=True)
        )

    def ranks(self, rng_key: Any, truth: tuple[Any, ...] | None = None) -> dict[str, np.ndarray]:
        """Ranks of the truth, 0 to `size.states`, by what is looked at, (datasets,).

        `truth`: arguments that data and parameters come from, if not the family's own.
        """
        size, count = self.size, self.size.datasets
        draw_key, *keys = random.split(rng_key, 3)
        source = self.call if truth is None else split(truth, {})
        parameters, data = self._draw(source.arrays, random.split(draw_key, count))
        data = {name: np.asarray(value) for name, value in data.items()}
        arranged = [
            self.plan.arrange(Observed({n: x[i] for n, x in data.items()}, self.present))
            for i in range(count)
        ]
        blocks = jax.tree.map(lambda *parts: np.stack(parts), *arranged)
        rest = self.call.arrays[len(self.sites) :]
        rest = [np.broadcast_to(array, (count, *array.shape)) for array in rest]
        arrays = (*(data[name] for name in self.sites), *rest)
        after, before = (
            run(arrays, blocks, parameters, random.split(key, count))
            for run, key in zip((self._forwards, self._backwards), keys)
        )
        place = np.random.default_rng(0).integers(size.states + 1, size=(count, 1))
        state = np.arange(size.states)
        found = {}
        for name in after:
            sides = np.stack([side[name] for side in (before, after)])
            assert np.isfinite(sides).all(), name
            if np.ptp(sides) < 1e-9:
                continue  # the weight of the only component
            below = sides[:, :, size.thin :: size.thin] < sides[:, :, :1]
            below = [below[0] & (state < place), below[1] & (state < size.states - place)]
            found[name] = below[0].sum(axis=1) + below[1].sum(axis=1)
        return found

    def _simulate(self, arrays: Any, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return simulate(self.plan.program, self.plan, self.call.with_arrays(arrays), key)

    def _sweeps(self, plan: bayesmix.Plan, backwards: bool) -> Callable[..., dict[str, Any]]:
        """A compiled function of arrays, blocks, parameters and keys, all leading with data sets: what
        is looked at in each state of a chain from the parameters, which are the first."""
        length = self.size.states * self.size.thin + 1

        def run(arrays: Any, blocks: Any, start: Any, key: Any) -> dict[str, Any]:
            arguments = self.call.with_arrays(arrays)

            def sweep(values: Any, key: Any) -> tuple[Any, dict[str, Any]]:
                hidden_key, block_key, open_key = random.split(key, 3)
                evaluation = plan.evaluate(arguments, values)
                drawn = row_pass.drawn_pass(
                    plan.graph, plan.families, evaluation, blocks, hidden_key
                )
                said = {
                    "log likelihood": drawn.log_likelihood,
                    "log prior": evaluation.log_prior,
                    **invariants(plan, values),
                }
                given = (Problem(plan, arguments), drawn.statistics)
                if backwards:
                    values = move_open(*given, values, open_key)
                values = GIBBS.parameters(*given, values, block_key).belief
                if not backwards:
                    values = move_open(*given, values, open_key)
                return values, said

            return jax.lax.scan(sweep, start, random.split(key, length))[1]

        return compile_lightly(jax.vmap(run))


def move_open(problem: Problem, statistics: Any, values: Any, key: Any) -> Any:
    """One NUTS trajectory of the sites without a closed form, from rest as far as adaptation goes."""
    sites = mixed.open_sites(problem.plan)
    if not sites:
        return values
    begin, trajectory = mixed.nuts(0, step_size=STEP, max_tree_depth=4, dense_mass=[])
    state = begin(mixed.unconstrained(sites, values), key)
    log_joint = problem.expected_log_joint(statistics)
    return mixed.move(sites, log_joint, values, state, trajectory)[0]


def p_values(found: dict[str, np.ndarray], size: Size) -> dict[str, float]:
    """Chi-squared tests that ranks are uniform."""
    width = (size.states + 1) // BINS
    counts = {n: np.bincount(rank // width, minlength=BINS) for n, rank in found.items()}
    return {name: float(chisquare(count).pvalue) for name, count in counts.items()}


def main() -> None:
    families = all_families()
    chosen = {name: f for name, f in families.items() if not sys.argv[1:] or name in sys.argv[1:]}
    print(f"{len(chosen)} families, {FULL}; p values of uniform ranks", flush=True)
    worst, number = 1.0, 0
    for i, (name, family) in enumerate(chosen.items()):
        started = time.perf_counter()
        found = p_values(Calibration(family, FULL).ranks(random.key(i)), FULL)
        least = min(found, key=lambda each: found[each])
        worst, number = min(worst, found[least]), number + len(found)
        took = time.perf_counter() - started
        print(f"{name:34} {len(found):2}  {found[least]:.4f} {least:22} {took:5.1f} s", flush=True)
    verdict = "uniform" if worst > 0.01 / number else "NOT UNIFORM"
    print(f"smallest of {number}: {worst:.2g}; 1% level {0.01 / number:.2g}: {verdict}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
