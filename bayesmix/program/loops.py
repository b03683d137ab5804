"""Loops of a program, `numpyro.contrib.control_flow.scan`, run one step after another.

A latent inside a scan is one site with an axis of time, and depends on itself. Unrolled, every step has
sites of its own (`z` becomes `z_0`, `z_1` and so on), and a chain is a graph like any other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.contrib.control_flow.scan import PytreeTrace
from numpyro.primitives import Messenger

from .weights import weights_may_be_zero


class Unrolled:
    """A program whose scans are loops over their steps; others are as they were."""

    def __init__(self, program: Any) -> None:
        self.program: Any = program.program if isinstance(program, Unrolled) else program
        self.__name__ = getattr(self.program, "__name__", "a NumPyro program")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with weights_may_be_zero(), _Unroll():
            return self.program(*args, **kwargs)


class _Unroll(Messenger):
    """Run the body of a scan once for each step, its sites numbered by step."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "control_flow" or len(msg["args"]) != 5:
            return
        body, carry, given, length, reverse = msg["args"]
        if length is None:
            length = jnp.shape(jax.tree.leaves(given)[0])[0]
        steps = range(length)
        results = []
        for step in reversed(steps) if reverse else steps:
            with _Numbered(step):
                carry, result = body(carry, jax.tree.map(lambda x, i=step: x[i], given))
            results.append(result)
        if reverse:
            results.reverse()
        stacked = jax.tree.map(lambda *each: jnp.stack(jnp.broadcast_arrays(*each)), *results)
        wrapped = length, msg["kwargs"].get("rng_key"), carry
        msg["value"] = wrapped, (PytreeTrace({}), stacked)
        msg["stop"] = True


class _Numbered(Messenger):
    """Give the sites of one step names of their own."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] in ("sample", "deterministic", "param"):
            msg["name"] = f"{msg['name']}_{self.step}"
