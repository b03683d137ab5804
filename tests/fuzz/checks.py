"""What the engines make of a program that was read, each held against enumeration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from scipy.optimize import minimize

import bayesmix
from bayesmix.infer.gibbs import GIBBS, Labels
from bayesmix.program.arguments import split
from bayesmix.program.conjugacy import sample
from bayesmix.program.problem import Problem
from tests.fixed import at

from .enumeration import Values
from .grammar import Composed
from .judge import AGREED, CRASHED, MISREAD, REFUSED, Point, judge

FAILED = "failed"
FAULTS = (CRASHED, MISREAD, FAILED)

# so many standard errors are a fault: one in 10^8
_FAR = 5.7
_DRAWS = 1000


def outcomes(made: Composed, engines: bool = True) -> dict[str, str]:
    """What becomes of a composed program, check by check: "" where there is nothing to say."""
    verdict = judge(made.program, (), made.arguments, made.exact)
    found = {
        "density": verdict.kind if verdict.kind == AGREED else f"{verdict.kind}: {verdict.text}"
    }
    if verdict.plan is None:
        return found
    checks = {"responsibilities": check_responsibilities}
    if engines:
        checks |= {"many rows": check_many_rows, "em": check_em, "gibbs": check_gibbs}
    for name, check in checks.items():
        try:
            found[name] = check(made, verdict.plan, verdict.points[0]) or AGREED
        except bayesmix.ProgramError as error:
            found[name] = f"{REFUSED}: {error}"
        except Exception as error:  # what must not happen is what is looked for
            found[name] = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:600]}"
    return found


def check_responsibilities(made: Composed, plan: bayesmix.Plan, point: Point) -> None:
    """Posterior probabilities of every label of every row."""
    found = at(plan, point.values, **made.arguments).responsibilities()
    if not isinstance(found, dict):
        found = {plan.graph.names[0]: found}
    data = {site.name for site in plan.reading.data}
    for name, shares in made.exact.posterior(point.look).items():
        if name in data:  # nothing depends on it: its gaps are missing cells, not labels
            continue
        here = shares.reshape(-1, shares.shape[-1])
        np.testing.assert_allclose(found[name], here, atol=1e-8, err_msg=f"of {name}")


def check_many_rows(made: Composed, plan: bayesmix.Plan, point: Point) -> None:
    """Twice the rows say twice as much, and so many that they take several blocks as often."""
    heights = {1: point.look.height}
    for times in (2, 400):
        program, arguments = made.tiled(times)
        marginal = bayesmix.marginalize(program)
        heights[times] = float(log_density(marginal, (), arguments, point.values)[0])
    one = heights[2] - heights[1]
    np.testing.assert_allclose(heights[400], heights[1] + 399 * one, rtol=1e-8)


def check_em(made: Composed, plan: bayesmix.Plan, point: Point) -> str:
    """Where EM has converged nothing is to be gained nearby, and its objective is the density."""
    exact = made.exact
    fit = bayesmix.EM(plan, progress_bar=False).run(jax.random.key(0), **made.arguments)
    if fit.status in (bayesmix.Status.OBJECTIVE_FELL, bayesmix.Status.NOT_FINITE):
        raise AssertionError(f"{fit.status.name}, {fit.objective[-3:]}")
    if not fit.status:
        return fit.status.name
    start = exact.unconstrained({n: fit.parameters[n] for n in exact.supports})
    free, back = ravel_pytree(start)
    if not np.isfinite(free).all():
        raise AssertionError(f"CONVERGED at a bound: {fit.parameters}")

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        look = exact.look(exact.constrained(back(flat)))
        return -look.height, -ravel_pytree(look.slopes)[0]

    height = -cost(np.asarray(free))[0]
    np.testing.assert_allclose(fit.objective[-1], height, rtol=1e-8, err_msg="objective")
    best = minimize(cost, np.asarray(free), jac=True, method="BFGS", options={"maxiter": 50})
    gain, reached = -best.fun - height, exact.constrained(back(best.x))
    if gain > 1e-5 * (1 + abs(height)):
        raise AssertionError(
            f"CONVERGED {gain:.3g} nats too low; from {fit.parameters} to {reached}"
        )
    return fit.status.name


def check_gibbs(made: Composed, plan: bayesmix.Plan, point: Point) -> None:
    """Labels given parameters, and each closed block given labels, by what must hold for draws.

    Of draws u with density p, in unconstrained coordinates, the mean of the gradient g of log p is 0,
    and that of u g is -1 (Stein's identity).
    """
    values = {name: jnp.asarray(value) for name, value in point.values.items()}
    problem = Problem(plan, split((), made.arguments)).with_rows()
    keys = jax.random.split(jax.random.key(0), _DRAWS)

    @jax.jit
    def labels_of(keys: Any) -> Any:
        return jax.vmap(lambda key: GIBBS.latents(problem, values, Labels(key)))(keys)

    drawn = labels_of(keys)
    exact = made.exact.posterior(point.look)
    for i, name in enumerate(plan.graph.names):
        if name not in exact:
            continue
        shares = exact[name].reshape(-1, exact[name].shape[-1])
        hits = np.asarray(drawn.memory.values)[:, i, :, None] == np.arange(shares.shape[1])
        error = np.sqrt(shares * (1 - shares) / _DRAWS) + 1e-3
        far = np.abs(hits.mean(0) - shares) / error
        assert far.max() < _FAR, f"labels of {name} are {far.max():.1f} standard errors off"
    statistics = jax.tree.map(lambda x: x[0], drawn.statistics)
    opened = any(name.endswith("_component") for name in plan.graph.names)
    augmented = statistics.hidden or {"StudentT", "Cauchy"} & {*made.words}
    if opened or augmented or made.exact.weight is not None:
        return  # a row that counts twice has two labels, and these have hidden values of other kinds
    counted = [float(jnp.sum(count)) for count in statistics.counts.values()]
    if any(abs(count - drawn.memory.values.shape[-1]) > 1e-6 for count in counted):
        return  # a row without any value has no label in the sweep
    log_joint = problem.expected_log_joint(statistics)
    labels = {
        name: jnp.asarray(made.exact.latents[name].support)[
            np.asarray(drawn.memory.values)[0, i]
        ].reshape(made.exact.latents[name].shape)
        for i, name in enumerate(plan.graph.names)
        if name in exact
    }
    if len(labels) < len(made.exact.latents):
        return  # a latent that nothing depends on is data with missing cells, which are summed out
    for block in plan.blocks:
        if block.form is not None:
            draws = jax.jit(jax.vmap(lambda key: sample(block, log_joint, values, key)))(keys)  # noqa: B023
            _check_block(made, block.sites, draws, values, labels)


def _check_block(
    made: Composed, names: tuple[str, ...], draws: Values, values: Values, labels: Values
) -> None:
    maps = {n: biject_to(made.exact.supports[n]) for n in names}

    def height(free: Values) -> Any:
        told = made.exact.constrained(free)
        volume = sum(jnp.sum(maps[n].log_abs_det_jacobian(v, told[n])) for n, v in free.items())
        return made.exact.log_joint({**values, **told}, labels) + volume

    free = jax.vmap(made.exact.unconstrained)({n: draws[n] for n in names})
    slopes = jax.jit(jax.vmap(jax.grad(height)))(free)
    for name in names:
        u, g = (np.asarray(x[name]).reshape(_DRAWS, -1) for x in (free, slopes))
        for what, sample_of in (("g", g), ("u g", (u - u.mean(0)) * g + 1)):
            error = sample_of.std(0) / np.sqrt(_DRAWS) + 1e-9
            far = np.max(np.abs(sample_of.mean(0)) / error)
            assert far < _FAR + 1, (
                f"draws of {name}: the mean of {what} is {far:.1f} standard errors off"
            )
