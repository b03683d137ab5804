"""What becomes of a program: read and held against enumeration, refused, or neither."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import log_density

import bayesmix

from .enumeration import Enumeration, Values

AGREED, REFUSED, MISREAD, CRASHED = "agreed", "refused", "misread", "crashed"


class Verdict(NamedTuple):
    """What became of a program, and what there is to say about it.

    `plan` is there where the program was read.
    """

    kind: str
    text: str
    plan: bayesmix.Plan | None = None


def points(exact: Enumeration, count: int = 3, most: int = 30) -> list[tuple[Values, float]]:
    """Values of the parameters drawn from their priors, with the density by enumeration; only those
    where it is finite."""
    found: list[tuple[Values, float]] = []
    for seed in range(most):
        values = exact.draw(seed)
        height = float(exact.log_marginal(values))
        if np.isfinite(height):
            found.append((values, height))
        if len(found) == count:
            return found
    if not found:
        raise ValueError("no draw of the priors has a finite density: the program tells nothing")
    return found


def as_told(values: Values, names: Sequence[str]) -> Values:
    """The values by the names that a plan has: those of a scan are a site for each step."""
    told = {}
    for name in names:
        step = re.fullmatch(r"(.*)_(\d+)", name)
        if name in values:
            told[name] = values[name]
        elif step and step[1] in values:
            told[name] = values[step[1]][int(step[2])]
        else:
            raise KeyError(f"the plan has a parameter '{name}' that the program has not")
    return {name: jnp.asarray(value) for name, value in told.items()}


def judge(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    exact: Enumeration | None = None,
    tolerance: float = 1e-8,
) -> Verdict:
    """Plan a program and hold its marginal density against enumeration at a few points.

    `exact` enumerates the same model where the program itself has gaps (NaN, known labels).
    """
    kwargs = kwargs or {}
    exact = exact or Enumeration(program, args, kwargs)
    seen = points(exact)
    doing = "plan"
    try:
        plan = bayesmix.plan(program, *args, **kwargs)
        doing, marginal = "marginalize", bayesmix.marginalize(plan)
        names = plan.reading.parameter_names
        off = [
            float(log_density(marginal, args, kwargs, as_told(values, names))[0]) - height
            for values, height in seen
        ]
    except bayesmix.ProgramError as error:
        return Verdict(REFUSED, str(error) if doing == "plan" else f"{doing}: {error}")
    except Exception as error:  # what must not happen is what is looked for
        return Verdict(CRASHED, f"{doing}: {type(error).__name__}: {str(error)[:300]}")
    text = "; ".join(f"{d:.3g} of {h:.4g}" for d, (_, h) in zip(off, seen, strict=True))
    right = all(abs(d) < tolerance * (1 + abs(h)) for d, (_, h) in zip(off, seen, strict=True))
    return Verdict(AGREED if right else MISREAD, text, plan)
