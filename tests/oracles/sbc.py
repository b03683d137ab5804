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
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.handlers import seed, trace
from numpyro.primitives import Messenger
from scipy.stats import chisquare

import bayesmix
from bayesmix.infer import mixed
from bayesmix.infer.gibbs import draw_blocks
from bayesmix.program import rows as row_pass
from bayesmix.program.arguments import compile_lightly, split
from bayesmix.program.blocks import Observed

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


class Family(NamedTuple):
    """A program and its arguments: first what it observes, in the order of its sites, as templates of
    the data's shape, NaN where cells are missing in all data sets; then everything else.

    independent: given the completed data its blocks are independent, so that their order is no matter
    (False where NUTS moves some).
    """

    program: Callable[..., Any]
    arguments: tuple[Any, ...]
    independent: bool = True


class Size(NamedTuple):
    """How many data sets, how many states of a chain the truth is compared with, sweeps between them."""

    datasets: int
    states: int
    thin: int


SMALL, FULL = Size(400, 19, 2), Size(1000, 19, 4)


class _Anew(Messenger):
    """Draw named sites that the program observes."""

    def __init__(self, fn: Any, names: set[str]) -> None:
        self.names = names
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            msg["value"], msg["is_observed"] = None, False


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
        """Parameters from the prior and data from the program, both by site."""
        args, kwargs = self.call.call(arrays)
        sites = trace(seed(_Anew(self.plan.program, set(self.sites)), key)).get_trace(
            *args, **kwargs
        )
        names = (self.plan.reading.parameter_names, self.sites)
        parameters, data = ({name: sites[name]["value"] for name in each} for each in names)
        return parameters, data

    def _sweeps(self, plan: bayesmix.Plan, backwards: bool) -> Callable[..., dict[str, Any]]:
        """A compiled function of arrays, blocks, parameters and keys, all leading with data sets: what
        is looked at in each state of a chain from the parameters, which are the first."""
        length = self.size.states * self.size.thin + 1

        def run(arrays: Any, blocks: Any, start: Any, key: Any) -> dict[str, Any]:
            arguments = self.call._replace(arrays=arrays)

            def sweep(values: Any, key: Any) -> tuple[Any, dict[str, Any]]:
                hidden_key, block_key, open_key = random.split(key, 3)
                evaluation = plan.evaluate(arguments, values)
                drawn = row_pass.drawn_pass(
                    plan.graph, plan.families, evaluation, blocks, hidden_key
                )
                said = {
                    "log likelihood": drawn.log_likelihood,
                    "log prior": plan.log_prior(evaluation),
                    **invariants(plan, values),
                }
                given = (plan, arguments, drawn.statistics)
                if backwards:
                    values = move_open(*given, values, open_key)
                values = draw_blocks(*given, values, block_key)
                if not backwards:
                    values = move_open(*given, values, open_key)
                return values, said

            return jax.lax.scan(sweep, start, random.split(key, length))[1]

        return compile_lightly(jax.vmap(run))


def move_open(plan: Any, arguments: Any, statistics: Any, values: Any, key: Any) -> Any:
    """One NUTS trajectory of the sites without a closed form, from rest as far as adaptation goes."""
    sites = mixed.open_sites(plan)
    if not sites:
        return values
    begin, trajectory = mixed.nuts(0, step_size=STEP, max_tree_depth=4, dense_mass=[])
    state = begin(mixed.unconstrained(sites, values), key)
    log_joint = plan.expected_log_joint(arguments, statistics)
    return mixed.move(sites, log_joint, values, state, trajectory)[0]


def invariants(plan: bayesmix.Plan, values: dict[str, Any]) -> dict[str, Any]:
    """Functions of the parameters that do not change when components are relabelled."""
    found = {}
    for name, value in values.items():
        axis = plan.labels.axes.get(name)
        value = value[None] if axis is None else jnp.moveaxis(value, axis, 0)
        flat = value.reshape(value.shape[0], -1)
        found[f"largest {name}"] = jnp.max(flat[:, 0])
        if flat.size > 1:
            found[f"smallest {name}"] = jnp.min(flat[:, -1])
    return found


def p_values(found: dict[str, np.ndarray], size: Size) -> dict[str, float]:
    """Chi-squared tests that ranks are uniform."""
    width = (size.states + 1) // BINS
    counts = {n: np.bincount(rank // width, minlength=BINS) for n, rank in found.items()}
    return {name: float(chisquare(count).pvalue) for name, count in counts.items()}


# -------------------------------------------------------------------------------------------- families
def weights_of(K: int) -> Any:
    return numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))


def several(n, y, c, t, rate):
    """Four sites in a row: a count, two answers, a category, a number with outliers."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Gamma(3.0, rate))
        share = numpyro.sample("share", dist.Beta(2.0, 1.5).expand([2]).to_event(1))
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.array([1.0, 2.0, 1.5])))
        centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", n.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("n", dist.Poisson(mean[z]), obs=n)
        numpyro.sample("y", dist.Bernoulli(share[z]).to_event(1), obs=y)
        numpyro.sample("c", dist.Categorical(probs[z]), obs=c)
        numpyro.sample("t", dist.StudentT(4.0, centre[z], 1.0), obs=t)


def normal_inverse_wishart(likelihood, K):
    """Two columns; `likelihood` makes a distribution from mean and covariance."""

    def program(x):
        weights = weights_of(K)
        with numpyro.plate("component", K):
            covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
            centre = dist.MultivariateNormal(jnp.zeros(2), covariance / 0.2)
            mean = numpyro.sample("mean", centre)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", likelihood(mean[z], covariance[z]), obs=x)

    return program


def student(mean, covariance):
    # NumPyro 0.22 draws one scale for all rows where the degrees of freedom are a single number
    freedom = jnp.full(mean.shape[:-1], 4.0)
    return dist.MultivariateStudentT(freedom, mean, jnp.linalg.cholesky(covariance))


def columns_of(prior, likelihood, width=2):
    """`width` independent cells a row, each with an unknown value of each component."""

    def program(x):
        weights = weights_of(2)
        with numpyro.plate("component", 2):
            value = numpyro.sample("value", prior.expand([width]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", likelihood(value[z]).to_event(1), obs=x)

    return program


def student_regression(y, u):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.StudentT(4.0, u @ slope, 1.0), obs=y)


def probit(y, u):
    """By the normals behind the answers: probabilities would round to 1 in some of the chains."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        t = numpyro.sample("t", dist.Normal(u @ slope, 1.0))
        numpyro.sample("y", dist.Bernoulli(probs=(t > 0).astype(float)), obs=y)


def regressions(y, u):
    """A mixture of two."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        mean = jnp.sum(slope[z] * u, axis=-1)
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[z])), obs=y)


def hidden_scales(x):
    """Student-t by a gamma latent of every row."""
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.2)))
    with numpyro.plate("rows", x.shape[0]):
        u = numpyro.sample("u", dist.Gamma(2.0, 2.0))
        numpyro.sample("x", dist.Normal(mean, jnp.sqrt(variance / u)), obs=x)


def heavy_experts(x, u):
    """A gate and degrees of freedom, which have no closed form."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    df = numpyro.sample("df", dist.LogNormal(1.5, 0.5))
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("x", dist.StudentT(df, centre[z], 1.0), obs=x)


def poisson_regressions(y, u):
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 0.7).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Poisson(jnp.exp(jnp.sum(slope[z] * u, axis=-1))), obs=y)


NUM_ROWS = 20
_rng = np.random.default_rng(0)
NUMBERS = _rng.normal(size=(NUM_ROWS, 2))
HOLES = np.where(_rng.uniform(size=NUMBERS.shape) < 0.3, np.nan, NUMBERS)
POSITIVE, WHOLE = np.exp(NUMBERS), _rng.integers(2, size=NUMBERS.shape)
TRIALS = _rng.multinomial(6, np.full(3, 1 / 3), size=NUM_ROWS)
SEVERAL = (WHOLE[:, 0], WHOLE, WHOLE[:, 1], NUMBERS[:, 0])
gaussian = dist.MultivariateNormal
shape, chance = dist.Gamma(3.0, 2.0), dist.Beta(3.0, 2.0)
spread, place = dist.InverseGamma(3.0, 2.0), dist.Normal(0.0, 2.0)

FEW: dict[str, Family] = {
    "Poisson, Bernoulli, categorical, t": Family(several, (*SEVERAL, np.asarray(0.5))),
    "Gaussian, missing cells": Family(normal_inverse_wishart(gaussian, 2), (HOLES,)),
    "gate and Student-t, by NUTS": Family(heavy_experts, (NUMBERS[:, 0], NUMBERS[:, 1]), False),
}
COLUMNS = {
    "binomial": (chance, lambda v: dist.Binomial(7, v), WHOLE),
    "geometric": (chance, dist.GeometricProbs, WHOLE),
    "negative binomial": (chance, lambda v: dist.NegativeBinomialProbs(5.0, v), WHOLE),
    "exponential": (shape, dist.Exponential, POSITIVE),
    "gamma, rate": (shape, lambda v: dist.Gamma(2.5, v), POSITIVE),
    "inverse gamma, rate": (shape, lambda v: dist.InverseGamma(2.5, v), POSITIVE),
    "half normal": (spread, lambda v: dist.HalfNormal(jnp.sqrt(v)), POSITIVE),
    "log normal": (place, lambda v: dist.LogNormal(v, 0.7), POSITIVE),
    "normal, precision": (shape, lambda v: dist.Normal(1.0, v**-0.5), NUMBERS),
    "normal, missing cells": (place, lambda v: dist.Normal(v, 1.0), HOLES),
    "Laplace, without a family": (spread, lambda v: dist.Laplace(0.0, v), NUMBERS),
    "Student-t columns": (place, lambda v: dist.StudentT(4.0, v, 1.0), NUMBERS),
    "Student-t columns, scale": (spread, lambda v: dist.StudentT(4.0, 0.0, v**0.5), NUMBERS),
    "Cauchy columns, missing cells": (place, lambda v: dist.Cauchy(v, 1.0), HOLES),
}


def all_families() -> dict[str, Family]:
    """The few, more likelihoods, and every program of the battery."""
    from tests.programs import CASES, components_of, make_data

    found = {
        **FEW,
        "Gaussian, one component": Family(normal_inverse_wishart(gaussian, 1), (HOLES,)),
        "Student-t": Family(normal_inverse_wishart(student, 2), (NUMBERS,)),
        "Student-t, missing cells": Family(normal_inverse_wishart(student, 2), (HOLES,)),
        "Student-t by hidden scales": Family(hidden_scales, (NUMBERS[:, 0],)),
        "multinomial": Family(multinomials, (TRIALS,)),
        "probit regression": Family(probit, (WHOLE[:, 0], NUMBERS)),
        "Student-t regression": Family(student_regression, (NUMBERS[:, 0], NUMBERS)),
        "mixture of regressions": Family(regressions, (NUMBERS[:, 0], NUMBERS), False),
        "Poisson regressions, by NUTS": Family(poisson_regressions, (WHOLE[:, 0], NUMBERS), False),
    }
    for name, (prior, likelihood, template) in COLUMNS.items():
        found[name] = Family(columns_of(prior, likelihood), (template,))
    for name, case in CASES.items():
        arguments = (make_data(name, NUM_ROWS), components_of(name))
        found[f"battery: {name}"] = Family(case.program, arguments, False)
    return found


def multinomials(x):
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        value = numpyro.sample("value", dist.Dirichlet(jnp.array([1.0, 2.0, 1.5])))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Multinomial(6, value[z]), obs=x)


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
