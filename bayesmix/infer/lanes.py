"""Many fits in few lanes: one that has stopped makes room for the next, inside one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

Fits = TypeVar("Fits")
Record = TypeVar("Record")


def run_in_lanes(
    step: Callable[[Fits, Record, Array], tuple[Fits, Record]],
    phase: Callable[[Fits], Array],
    fits: Fits,
    record: Record,
    lanes: int,
) -> tuple[Fits, Record]:
    """Step fits until all have stopped, so many at a time.

    What is computed is about the steps that all fits make together, and not their number times the
    steps of the slowest. Fits in lanes have the same phase, the highest there is; where one leaves it,
    lanes are filled anew.

    Args:
        step: of fits in lanes, the record, and the places of these fits among all, (lanes,), which is
            the number of fits for a lane that only repeats another; returns both after one step.
        phase: of fits, (R,) or (lanes,): 0 where a fit has stopped, and higher for what comes first.
        fits: arrays that lead with fits.
        record: anything that all fits write to, carried along as it is.
        lanes: how many fits are stepped at a time; one that is alone comes without an axis of lanes,
            and its place without one, since there is less to compile then.

    Example:
        >>> import jax.numpy as jnp
        >>> from bayesmix.infer.lanes import run_in_lanes
        >>> def step(left, steps, place):
        ...     return jnp.maximum(left - 1, 0), steps + 1
        >>> left, steps = run_in_lanes(step, jnp.sign, jnp.array([1, 9, 2, 5]), 0, lanes=2)
        >>> left.tolist(), int(steps)
        ([0, 0, 0, 0], 9)
    """
    count = jax.tree.leaves(fits)[0].shape[0]

    def together(fits: Fits, record: Record, place: Any) -> tuple[Fits, Record]:
        return jax.lax.while_loop(
            lambda carry: jnp.any(phase(carry[0]) > 0),
            lambda carry: step(carry[0], carry[1], place),
            (fits, record),
        )

    if count == 1:
        alone, record = together(jax.tree.map(lambda x: jnp.squeeze(x, 0), fits), record, 0)
        return jax.tree.map(lambda x: x[None], alone), record
    if lanes >= count:
        return together(fits, record, jnp.arange(count))

    def fill(carry: tuple[Fits, Record]) -> tuple[Fits, Record]:
        fits, record = carry
        phases = phase(fits)
        highest = jnp.max(phases)
        (place,) = jnp.nonzero(phases == highest, size=lanes, fill_value=count)
        taken = jnp.where(place < count, place, place[0])
        if lanes == 1:
            place, taken = place[0], taken[0]
        some, record = jax.lax.while_loop(
            lambda carry: jnp.all(phase(carry[0]) == highest),
            lambda carry: step(carry[0], carry[1], place),
            (jax.tree.map(lambda x: x[taken], fits), record),
        )
        return jax.tree.map(lambda x, y: x.at[place].set(y, mode="drop"), fits, some), record

    return jax.lax.while_loop(lambda carry: jnp.any(phase(carry[0]) > 0), fill, (fits, record))
