"""Has a rising objective settled, or fallen? Shared by every loop that raises one."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .status import Status


class Judgement(NamedTuple):
    """What a step did to the objective: its gain; the rounding of a sum over the rows; the gain below
    which a step is not worth taking; whether the gain still to come is below that; whether the objective
    is finite; whether it fell by more than rounding, and by more than columns that are nearly collinear
    explain."""

    gain: Array
    noise: Array
    target: Array
    settled: Array
    finite: Array
    fell: Array
    fell_far: Array

    @property
    def good(self) -> Array:
        """Whether the step is to be taken."""
        return self.finite & ~self.fell

    def status(self, settled: Array, last: Array) -> Array:
        """The status that follows, for a fit that is at its last step or not."""
        return jnp.select(
            [~self.finite, self.fell_far, self.fell, settled, last],
            [
                Status.NOT_FINITE,
                Status.OBJECTIVE_FELL,
                Status.ROUNDING,
                Status.CONVERGED,
                Status.OUT_OF_STEPS,
            ],
            Status.RUNNING,
        )


def judge(
    objective: Array,
    before: Array,
    gain_before: Array,
    tolerance: Array | float,
    rows: int,
    comparable: Array | bool = True,
) -> Judgement:
    """Judge a step from the objective after and before it, and the gain of the step before.

    Gains shrink geometrically, so that gain * ratio / (1 - ratio) is still to come, with the ratio of
    the last two gains (Aitken). Settled: that, and the gain, are below `tolerance` (1 + |objective|), or
    the gain is below rounding. Where the objective does not measure what it did before, it neither falls
    nor settles.

    Source: Boehning et al. (1994), *Annals of the Institute of Statistical Mathematics* 46, 373-388.
    """
    precision = jnp.finfo(objective.dtype).eps
    gain = objective - before
    noise = 64 * precision * (jnp.abs(objective) + rows)
    target = jnp.maximum(tolerance * (1 + jnp.abs(objective)), noise)
    ratio = jnp.clip(gain / gain_before, 0.0, 1.0)
    to_come = jnp.where(ratio < 1, gain * ratio / (1 - ratio), jnp.inf)
    settled = (gain <= target) & ((to_come <= target) | (gain <= noise))
    loss = jnp.maximum(noise, jnp.sqrt(precision) * (jnp.abs(objective) + rows))
    comparable = jnp.asarray(comparable)
    return Judgement(
        gain=jnp.where(comparable, gain, jnp.inf),
        noise=noise,
        target=target,
        settled=settled & comparable,
        finite=jnp.isfinite(objective),
        fell=(gain < -noise) & comparable,
        fell_far=(gain < -loss) & comparable,
    )
