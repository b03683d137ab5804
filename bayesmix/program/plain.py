"""Plain traces of a program: run once on traced arrays, as NumPyro runs it, to look at its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.distributions import constraints
from numpyro.handlers import seed, substitute
from numpyro.primitives import Messenger

from .arguments import Arguments
from .errors import ProgramError
from .observed import RAW, is_label
from .roles import TOLD
from .sites import Program
from .tracing import sites_of, unchecked

Found = TypeVar("Found")


class _Told(Messenger):
    """Mark sites whose values handlers of the program's own (substitute) have already given, and bring
    given values to what the program can go on with."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["value"] is None:
            return
        if not msg["is_observed"]:
            msg["infer"] = {**msg["infer"], TOLD: True}
        if isinstance(msg["value"], np.ndarray):
            # a latent that is being traced cannot index an array of NumPy's
            msg["value"] = jnp.asarray(msg["value"])
        if is_label(msg["fn"]) and jnp.issubdtype(jnp.result_type(msg["value"]), jnp.floating):
            # labels of which some are NaN cannot index
            msg["infer"] = {**msg["infer"], RAW: msg["value"]}
            msg["value"] = jnp.nan_to_num(msg["value"]).astype(int)


class Give(Messenger):
    """Give sites these values, observed or not; `replaced` are those that the program observes there."""

    def __init__(self, told: dict[str, Array]) -> None:
        self.told = told
        self.replaced: dict[str, Any] = {}
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] in ("sample", "param") and msg["name"] in self.told:
            if msg["value"] is not None:
                self.replaced[msg["name"]] = msg["value"]
            msg["value"] = self.told[msg["name"]]
        elif msg["type"] == "sample" and isinstance(msg["value"], np.ndarray):
            # a label that is given cannot index an array of NumPy's
            msg["value"] = jnp.asarray(msg["value"])


def _feasible(site: dict[str, Any]) -> Any:
    """Some value of a parameter's support: which one does not matter to the structure, and is cheap."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].is_discrete:
        return None
    shape = site["kwargs"].get("sample_shape", ()) + site["fn"].shape()
    if shape[-1:] == (0,) and site["fn"].support is constraints.simplex:
        raise ProgramError(
            f"'{site['name']}' are weights of nothing; ask for at least one component"
        )
    return site["fn"].support.feasible_like(jnp.zeros(shape))


def looked_at(
    program: Program, arguments: Arguments, look_at: Callable[[dict[str, Any]], Found]
) -> Found:
    """`look_at` of the program's sites, with nothing computed."""
    found: list[Found] = []

    def run(arrays: tuple[Array, ...]) -> None:
        found.append(look_at(plain_trace(program, arguments.with_arrays(arrays))))

    jax.eval_shape(run, arguments.arrays)
    return found[-1]


def plain_trace(program: Program, arguments: Arguments) -> dict[str, Any]:
    """The sites of one run of the program, with some value of each parameter's support.

    Raises :class:`ProgramError` where there are no rows, or no components.
    """
    args, kwargs = arguments.on_device().call()
    inner = seed(_Told(program), random.key(0))
    run = substitute(inner, substitute_fn=_feasible)
    try:
        # data may be missing, and an observed label may be unknown: they are looked at afterwards
        with unchecked():
            return sites_of(run, args, kwargs)
    except AssertionError as error:
        sizes = [shape for shape, _ in arguments.layout.shapes]
        if any(0 in shape for shape in sizes):
            raise ProgramError("the data are empty: a plate needs at least one row") from error
        if "plate should be positive" in str(error):
            raise ProgramError("a plate is empty; ask for at least one component") from error
        raise
