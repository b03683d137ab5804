"""What the engines make of a program that was read, each held against enumeration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from scipy.optimize import minimize

import bayesmix
from bayesmix.infer.gibbs import _draw_labels
from bayesmix.program.arguments import split
from bayesmix.program.conjugacy import sample
from tests.fixed import at

from .enumeration import Values
from .grammar import Composed

# so many standard errors are a fault: one in 10^8
_FAR = 5.7
_DRAWS = 1000


def check_responsibilities(made: Composed, plan: bayesmix.Plan, values: Values) -> None:
    """Posterior probabilities of every label of every row."""
    exact = made.exact.posterior(values)
    found = at(plan, values, **made.arguments).responsibilities()
    if not isinstance(found, dict):
        found = {plan.graph.names[0]: found}
    for name, shares in exact.items():
        here = shares.reshape(-1, shares.shape[-1])
        np.testing.assert_allclose(found[name], here, atol=1e-8, err_msg=f"of {name}")


def check_gradient(made: Composed, plan: bayesmix.Plan, values: Values) -> None:
    """The gradient that NUTS climbs, in unconstrained coordinates."""
    maps = {n: biject_to(s) for n, s in made.exact.supports.items()}
    marginal = bayesmix.marginalize(plan)
    free = {n: maps[n].inv(jnp.asarray(v)) for n, v in values.items()}

    def ours(free: Values) -> Any:
        told = {n: maps[n](v) for n, v in free.items()}
        return log_density(marginal, (), made.arguments, told)[0]

    def exact(free: Values) -> Any:
        return made.exact.log_marginal({n: maps[n](v) for n, v in free.items()})

    mine, right = (jax.jit(jax.grad(function))(free) for function in (ours, exact))
    for name, slope in right.items():
        scale = 1e-7 * (1 + float(np.max(np.abs(slope))))
        np.testing.assert_allclose(mine[name], slope, atol=scale, err_msg=f"of {name}")


def check_em(made: Composed, plan: bayesmix.Plan, seed: int = 0) -> str:
    """Where EM has converged nothing is to be gained nearby, and its objective is the density."""
    fit = bayesmix.EM(plan, progress_bar=False).run(jax.random.key(seed), **made.arguments)
    if not fit.status:
        return fit.status.name
    maps = {n: biject_to(s) for n, s in made.exact.supports.items()}
    values = {n: jnp.asarray(fit.parameters[n]) for n in maps}
    height = float(made.exact.log_marginal(values))
    np.testing.assert_allclose(fit.objective[-1], height, rtol=1e-8, err_msg="objective")
    free, back = jax.flatten_util.ravel_pytree({n: maps[n].inv(v) for n, v in values.items()})
    assert np.isfinite(free).all(), f"{fit.status.name} at a bound: {fit.parameters}"

    @jax.jit
    @jax.value_and_grad
    def cost(flat: Any) -> Any:
        return -made.exact.log_marginal({n: maps[n](v) for n, v in back(flat).items()})

    found = minimize(cost, np.asarray(free), jac=True, method="BFGS", options={"maxiter": 60})
    gain = height + found.fun
    moved = {n: np.asarray(maps[n](v)) for n, v in back(found.x).items()}
    assert -gain < 1e-4 * (1 + abs(height)), (
        f"CONVERGED {-gain:.3g} nats below a point that a few steps reach; from {fit.parameters} to {moved}"
    )
    return fit.status.name


def check_gibbs(made: Composed, plan: bayesmix.Plan, values: Values, seed: int = 0) -> None:
    """Labels given parameters, and each closed block given labels, by what must hold for draws.

    Of draws u with density p, in unconstrained coordinates, the mean of the gradient g of log p is 0, and
    that of u g is -1 (Stein's identity).
    """
    arguments = split((), made.arguments)
    blocks = plan.blocks_of_rows(arguments)
    keys = jax.random.split(jax.random.key(seed), _DRAWS)

    @jax.jit
    def labels_of(keys: Any) -> Any:
        return jax.vmap(lambda key: _draw_labels(plan, arguments, blocks, values, key))(keys)

    drawn = labels_of(keys)
    exact = made.exact.posterior(values)
    for i, name in enumerate(plan.graph.names):
        if name not in exact:
            continue
        shares = exact[name].reshape(-1, exact[name].shape[-1])
        hits = np.asarray(drawn.rows)[:, i, :, None] == np.arange(shares.shape[1])
        error = np.sqrt(shares * (1 - shares) / _DRAWS) + 1e-3
        far = np.abs(hits.mean(0) - shares) / error
        assert far.max() < _FAR, f"labels of {name} are {far.max():.1f} standard errors off"
    if made.exact.weight is not None:
        return  # a row that counts twice has two labels
    statistics = jax.tree.map(lambda x: x[0], drawn.statistics)
    log_joint = plan.expected_log_joint(arguments, statistics)
    labels = {
        name: jnp.asarray(made.exact.latents[name].support)[np.asarray(drawn.rows)[0, i]].reshape(
            made.exact.latents[name].shape
        )
        for i, name in enumerate(plan.graph.names)
        if name in exact
    }
    for block in plan.blocks:
        if block.form is not None:
            draws = jax.jit(jax.vmap(lambda key: sample(block, log_joint, values, key)))(keys)  # noqa: B023
            _check_block(made, block.sites, draws, values, labels)


def _check_block(
    made: Composed, names: tuple[str, ...], draws: Values, values: Values, labels: Values
) -> None:
    maps = {n: biject_to(made.exact.supports[n]) for n in names}

    def height(free: Values) -> Any:
        told = {n: maps[n](v) for n, v in free.items()}
        volume = sum(jnp.sum(maps[n].log_abs_det_jacobian(v, told[n])) for n, v in free.items())
        return made.exact.log_joint({**values, **told}, labels) + volume

    free = {n: jax.vmap(maps[n].inv)(draws[n]) for n in names}
    slopes = jax.jit(jax.vmap(jax.grad(height)))(free)
    for name in names:
        u, g = (np.asarray(x[name]).reshape(_DRAWS, -1) for x in (free, slopes))
        for what, sample_of in (("g", g), ("u g", (u - u.mean(0)) * g + 1)):
            error = sample_of.std(0) / np.sqrt(_DRAWS) + 1e-9
            far = np.max(np.abs(sample_of.mean(0)) / error)
            assert far < _FAR + 1, (
                f"draws of {name}: the mean of {what} is {far:.1f} standard errors off"
            )
