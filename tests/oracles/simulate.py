"""Parameters from the prior and data from the program, in NumPyro alone; and functions to look at."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

import bayesmix
from bayesmix.program.arguments import Arguments


class _Anew(Messenger):
    """Draw named sites that the program observes."""

    def __init__(self, fn: Any, names: set[str]) -> None:
        self.names = names
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            msg["value"], msg["is_observed"] = None, False


def simulate(
    program: Callable[..., Any],
    plan: bayesmix.Plan,
    call: Arguments,
    key: Any,
    given: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters (those of `given`, or from the prior) and data given them, both by site."""
    args, kwargs = call.call()
    observed = [site.name for site in plan.reading.observed]
    drawn = seed(_Anew(substitute(program, data=given or {}), set(observed)), key)
    sites = trace(drawn).get_trace(*args, **kwargs)
    parameters, data = (
        {name: sites[name]["value"] for name in names}
        for names in (plan.reading.parameter_names, observed)
    )
    return parameters, data


def with_data(plan: bayesmix.Plan, call: Arguments, data: dict[str, Any]) -> Arguments:
    """The same call on other data; observed arguments come first, in the order of their sites."""
    names = [site.name for site in plan.reading.observed]
    new = tuple(
        jnp.asarray(data[name], old.dtype) for name, old in zip(names, call.arrays, strict=False)
    )
    return call.with_arrays((*new, *call.arrays[len(names) :]))


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
