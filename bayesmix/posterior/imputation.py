"""Multiple imputations: missing cells drawn from their posterior, one completed data set a draw.

Given a draw of the parameters, each row's label is drawn given the cells that are there, and its missing
cells given label and cells: what Gibbs with missing data does, for draws from any engine. Normal and
Student-t components draw from their conditional; elsewhere the cells of a row are independent given the
label, and are taken from data drawn anew from the program.

Source: Rubin (1987), *Multiple Imputation for Nonresponse in Surveys*, Wiley; Little & Rubin (2002),
*Statistical Analysis with Missing Data*, Wiley, section 10.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ..infer import predict
from ..infer.moments import Completion, over_patterns
from ..program import parts
from ..program.errors import ProgramError
from ..program.evaluate import Evaluation, Values
from ..program.plan import Plan
from ..program.problem import Problem
from ..program.settings import key_of
from .draws import over_draws


def multiple_imputations(
    plan: Plan, draws: Mapping[str, Any], num: int, rng_key: Array, *args: Any, **kwargs: Any
) -> dict[str, np.ndarray]:
    """Completed data sets, one for each of `num` draws of the parameters spread over all of them.

    For draw s, z_i ~ p(z_i | x_i,obs, theta_s) and x_i,mis ~ p(x_i,mis | x_i,obs, z_i, theta_s). Their
    spread over draws is what missing cells add to the uncertainty of whatever is computed from each
    completed data set (Rubin's rules).

    Args:
        plan: what :func:`bayesmix.plan` returns.
        draws: parameter site to draws (S, ...): `mcmc.get_samples()` of Gibbs or NUTS, or the
            parameters of a fit with an axis added (then num is 1).
        num: number of data sets, at most S.
        rng_key: a JAX random key (or an integer seed).
        *args, **kwargs: the program's arguments: the rows that were fitted, or others.

    Returns:
        For each observed site with missing cells (NaN, or masked) an array (num, ...), each entry of
        the shape of the data, with the cells that are there unchanged.

    Raises:
        ProgramError: where draws are fewer than `num` or lack a parameter, or where a distribution
            cannot be conditioned on part of its cells.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> from bayesmix.posterior.imputation import multiple_imputations
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = np.array([0.1, 9.9, np.nan, 10.2])
        >>> draws = {"mean": np.array([[0.0, 10.0], [0.2, 9.8], [-0.1, 10.1]])}
        >>> plan = bayesmix.plan(program, x)
        >>> imputed = multiple_imputations(plan, draws, 3, jax.random.key(0), x)["x"]
        >>> imputed.shape, imputed[:, 1].tolist()
        ((3, 4), [9.9, 9.9, 9.9])

    Source: Rubin (1987), *Multiple Imputation for Nonresponse in Surveys*, Wiley.
    """
    lacking = [name for name in plan.reading.parameter_names if name not in draws]
    if lacking:
        raise ProgramError(
            f"the draws lack {', '.join(lacking)}; give every parameter of the program, as in "
            "mcmc.get_samples()"
        )
    values = {name: np.asarray(draws[name]) for name in plan.reading.parameter_names}
    count = len(next(iter(values.values())))
    if not 1 <= num <= count:
        raise ProgramError(
            f"{num} imputations were asked of {count} draws; ask for at least one and at most {count}"
        )
    chosen = np.linspace(0, count - 1, num).round().astype(int)
    few = {name: value[chosen] for name, value in values.items()}
    return impute_draws(Problem(plan, plan.call(args, kwargs)), few, key_of(rng_key))


def impute_draws(problem: Problem, draws: Values, rng_key: Array) -> dict[str, np.ndarray]:
    """As :func:`multiple_imputations`, one data set for every draw; {} where nothing is missing."""
    plan = problem.plan
    first = {name: value[0] for name, value in draws.items()}
    observed = problem.observe()
    names = predict.check_missing(problem, first, observed)
    if not names:
        return {}
    count = len(next(iter(draws.values())))

    rows = predict.arrange(plan, observed)
    keys = random.split(rng_key, count)
    found = over_draws(_draw_cells, problem, (draws, keys), rows, static=(names,))
    imputed = {}
    for site in plan.reading.observed:
        if site.name in found:
            value, there = observed.values[site.name], observed.present[site.name]
            drawn = found[site.name].reshape(count, *np.shape(value))
            filled = np.where(there, value, drawn)
            imputed[site.name] = np.stack(
                [predict.as_program(site, plan.reading, each) for each in filled]
            )
    return imputed


def _draw_cells(
    problem: Problem,
    names: tuple[str, ...],
    drawn_parameters: tuple[Values, Array],
    rows: predict.Rows,
) -> Values:
    """Cells of the named sites drawn given what is there and one draw of the parameters, (N, ...)."""
    plan = problem.plan
    values, rng_key = drawn_parameters
    label_key, cell_key, program_key = random.split(rng_key, 3)
    evaluation = problem.evaluate(values)
    tables = predict.log_factors(problem, values, rows)
    lots = parts.lots(plan.graph, label_key, rows.blocks.num_rows)
    _, weights, labels, _ = parts.draw(plan.graph, tables, lots)
    drawn = {}
    for i, name in enumerate(names):
        if name in rows.blocks.patterns:
            key = random.fold_in(cell_key, i)
            own = weights[plan.graph.clique_of[name]]
            drawn[name] = _draw_conditional(plan, evaluation, name, rows, own, key)
    others = [site for site in plan.reading.observed if site.name in set(names) - set(drawn)]
    if others:
        anew = predict.draw_rows(problem, values, program_key, labels)
        for site in others:
            drawn[site.name] = predict.rows_first(site, plan.reading, anew[site.name])
    return drawn


def _draw_conditional(
    plan: Plan,
    evaluation: Evaluation,
    name: str,
    rows: predict.Rows,
    weights: Array,
    rng_key: Array,
) -> Array:
    """Rows of one site (N, D) from their conditionals; `weights` (K, N) are 1 at each row's label."""
    blocks = rows.blocks

    def one(found: Completion, given: Any) -> Array:
        weights, key = given
        noise_key, scale_key = random.split(key)
        noise = random.normal(noise_key, found.mean.shape[1:], found.mean.dtype)
        if found.scale is not None:
            shape, rate = (jnp.sum(weights * part, axis=0) for part in found.scale)
            noise = noise * jnp.sqrt(rate / random.gamma(scale_key, shape))
        cells = found.mean + found.root @ noise
        return jnp.einsum("kn,kdn->dn", weights, cells)

    keys = random.split(rng_key, blocks.weight.shape[0])
    given = (blocks.distribute(weights), keys)
    return over_patterns(plan, evaluation, name, blocks, one, given).T
