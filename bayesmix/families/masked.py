"""A family whose rows count under some components only: those under which a mask of labels lets them.

Two families are mixed by writing each as a site of its own, under `handlers.mask(mask=z == 1)` and
`handlers.mask(mask=z == 0)`. Where the mask says no, the log density is 0 and nothing is accumulated.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from .likelihoods import Family, Lead, Origin
from .peel import Peeled


class Masked(NamedTuple):
    """What belongs to the family itself, and where rows count (K,)."""

    inner: Any
    mask: Array


def masked(family: Family) -> Family:
    """The family with a mask over components, which the peeled distribution holds."""
    return family._replace(
        parameters=partial(_parameters, family),
        prepare=partial(_prepare, family),
        log_prob=partial(_log_prob, family),
        accumulate=partial(_accumulate, family),
        finish=partial(_finish, family),
        expected_log_prob=partial(_expected_log_prob, family),
        moments=partial(_moments, family),
        score=family.score and partial(_score, family),
        complete=family.complete and partial(_complete, family),
        origin=Origin(masked, family),
    )


def _parameters(family: Family, peeled: Peeled, lead: Lead) -> Masked:
    return Masked(family.parameters(peeled, lead), peeled.mask)


def _prepare(family: Family, parameters: Masked, pattern: Any) -> Masked:
    return Masked(family.prepare(parameters.inner, pattern), parameters.mask)


def _log_prob(family: Family, prepared: Masked, rows: Any) -> Array:
    return jnp.where(prepared.mask[:, None], family.log_prob(prepared.inner, rows), 0.0)


def _accumulate(
    family: Family, prepared: Masked, rows: Any, weights: Array, rng_key: Array | None
) -> Any:
    return family.accumulate(prepared.inner, rows, weights * prepared.mask[:, None], rng_key)


def _finish(family: Family, prepared: Masked, sums: Any) -> Any:
    return family.finish(prepared.inner, sums)


def _complete(family: Family, prepared: Masked, sums: Any) -> Any:
    assert family.complete is not None
    return family.complete(prepared.inner, sums)


def _score(family: Family, prepared: Masked, sums: Any) -> Masked:
    assert family.score is not None
    return Masked(family.score(prepared.inner, sums), jnp.zeros(prepared.mask.shape))


def _expected_log_prob(family: Family, parameters: Masked, statistics: Any) -> Array:
    return jnp.where(parameters.mask, family.expected_log_prob(parameters.inner, statistics), 0.0)


def _moments(family: Family, parameters: Masked) -> tuple[Array, Array]:
    return family.moments(parameters.inner)
