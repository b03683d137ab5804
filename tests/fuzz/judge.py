"""What becomes of a program: read and held against enumeration, refused, or neither."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.infer.util import log_density

import bayesmix

from .enumeration import Enumeration, Look, Values

AGREED, REFUSED, MISREAD, CRASHED = "agreed", "refused", "misread", "crashed"
# 0 x infinity for NumPyro too, wherever it is looked at: nothing to agree with
UNDEFINED = "undefined"
_TOLERANCE = 1e-8


class Point(NamedTuple):
    """Values of the parameters, and what enumeration says there."""

    values: Values
    look: Look


class Verdict(NamedTuple):
    """What became of a program, and what there is to say about it; where it was read, the plan, and the
    points where it was looked at."""

    kind: str
    text: str
    plan: bayesmix.Plan | None = None
    points: tuple[Point, ...] = ()


def points(exact: Enumeration, count: int = 3, most: int = 30) -> tuple[Point, ...]:
    """Draws of the priors where the density is finite; none where it is nowhere."""
    drawn = (exact.draw(seed) for seed in range(most))
    looked = (Point(values, exact.look(values)) for values in drawn)
    return tuple(
        point for point, _ in zip((p for p in looked if np.isfinite(p.look.height)), range(count))
    )


def _by_name(values: Values, names: Sequence[str]) -> Values:
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
    return told


def _counts_labels(off: list[float]) -> bool:
    """Are densities too low by the log of one whole number, wherever they are looked at? A masked latent
    has every value once for NumPyro, and says nothing for a plan."""
    count = np.exp(-off[0])
    return bool(np.ptp(off) < _TOLERANCE and abs(count - round(count)) < 1e-6 * count)


def judge(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    exact: Enumeration | None = None,
) -> Verdict:
    """Plan a program and hold the density of its marginal program, and the gradient that NUTS climbs,
    against enumeration at a few points.

    `exact` enumerates the same model where the program itself has gaps (NaN, known labels).
    """
    kwargs = kwargs or {}
    exact = exact or Enumeration(program, args, kwargs)
    seen = points(exact)
    if not seen:
        return Verdict(UNDEFINED, "no draw of the priors has a finite density")
    doing = "plan"
    try:
        plan = bayesmix.plan(program, *args, **kwargs)
        doing, marginal = "marginalize", bayesmix.marginalize(plan)
        names = plan.reading.parameter_names

        @jax.jit
        @jax.value_and_grad
        def ours(free: Values) -> Any:
            told = _by_name(exact.constrained(free), names)
            return log_density(marginal, args, kwargs, told)[0]

        found = [ours(exact.unconstrained(values)) for values, _ in seen]
    except bayesmix.ProgramError as error:
        return Verdict(REFUSED, str(error) if doing == "plan" else f"{doing}: {error}")
    except Exception as error:  # what must not happen is what is looked for
        text = " ".join(str(error).split())[:300]
        return Verdict(CRASHED, f"{doing}: {type(error).__name__}: {text}")
    off = [(float(value) - p.look.height) for (value, _), p in zip(found, seen, strict=True)]
    if exact.masked and _counts_labels(off):
        off = [0.0] * len(off)
    text = "; ".join(f"{d:.3g} of {p.look.height:.4g}" for d, p in zip(off, seen, strict=True))
    far = [abs(d) / (1 + abs(p.look.height)) for d, p in zip(off, seen, strict=True)]
    if not max(far) < _TOLERANCE:
        return Verdict(MISREAD, text)
    for (_, slopes), point in zip(found, seen, strict=True):
        for name, slope in point.look.slopes.items():
            gap = np.max(np.abs(np.asarray(slopes[name]) - slope), initial=0.0)
            if not gap < 10 * _TOLERANCE * (1 + np.max(np.abs(slope), initial=0.0)):
                return Verdict(MISREAD, f"the gradient along {name} is {gap:.3g} off")
    return Verdict(AGREED, text, plan, seen)
