"""Which complete conditionals are closed form, found by evaluating the program and certified as found.

For each parameter site and each form that its support allows, every factor of the expected log joint
must be linear in the form's sufficient statistics at random parameter values under random statistics.
The test is the certificate: *log joint minus claimed log conditional is constant*.

Two sites are joined into one block where the first is normal given the second and integrating it out
leaves the second in its own form (normal-inverse-Wishart, normal-inverse-gamma, normal-Wishart, with
any link and any tying). No such pair is listed by name: the test is that the normal's mode does not
move with the other site, and that its log determinant is a power of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.distributions import biject_to

from ..families.forms import (
    Design,
    Form,
    JointForm,
    LogDensity,
    NormalForm,
    ScaleForm,
    SiteForm,
    candidates,
)
from .compiling import compile_lightly
from .reading import Site
from .slices import along

Values = dict[str, Array]
Factors = Callable[[Values, Any], dict[str, Array]]

# a factor may depart from linear by this much of its own variation, and this much of its size
_RELATIVE, _ROUNDING = 1e-7, 1e-10
_NUM_PROBES = 3
_BATCH = 32


class Conditional(NamedTuple):
    """How the engines treat one block of sites: by its closed form, or None where there is none (EM then
    climbs). Two sites are one block where the form is a joint one."""

    sites: tuple[str, ...]
    form: Form | None

    @property
    def site(self) -> str:
        """The site, or the last of them."""
        return self.sites[-1]

    @property
    def name(self) -> str:
        """The conditional's name, such as 'normal-inverse Wishart'."""
        return self.form.name if self.form else "no closed form"

    def of(self, values: Mapping[str, Any]) -> Any:
        """What the form has of things by site: one, or a tuple in the order of the sites."""
        found = tuple(values[name] for name in self.sites)
        return found if len(found) > 1 else found[0]

    def named(self, found: Any) -> dict[str, Any]:
        """What the form has, by site; the inverse of :meth:`of`."""
        return dict(zip(self.sites, found if len(self.sites) > 1 else (found,), strict=True))

    def keys(self, rng_key: Array) -> Any:
        """Keys of a draw, one for each site, as the form takes them."""
        return self.of(dict(zip(self.sites[::-1], random.split(rng_key), strict=False)))

    def density(self, along: Callable[[Values, str], LogDensity], values: Values) -> Any:
        """What the form reads: `along(values, name)`, a log density along one site, where it has one
        site; of two, a function of both values and a place that gives the density along that one."""
        if len(self.sites) == 1:
            return along(values, self.site)
        return lambda pair, place: along({**values, **self.named(pair)}, self.sites[place])


class Recognition(NamedTuple):
    """Blocks in the order of the program, and each site's certificate: its largest departure from a
    closed form over all factors (relative; below 1 passes), with the factor that departs most."""

    blocks: tuple[Conditional, ...]
    certificates: dict[str, tuple[float, str]]


def recognise(
    sites: tuple[Site, ...],
    factors: Factors,
    points: Values,
    statistics: Any,
    step: float = 1.0,
    reach: float = 1.0,
) -> Recognition | None:
    """Find every block, from two or more random parameter values and statistics.

    `factors(values, statistics)` gives each factor of the expected log joint. `points` and `statistics`
    lead with an axis of probes. The program is compiled once, for a batch of points. None where no
    probe is finite. `step` is how far real values are moved, `reach` how far the data are from zero.
    """
    names = list(jax.eval_shape(factors, *_probe(0, points, statistics)))
    heights = _batched(factors, names, statistics)
    # a support may have corners that a probe falls into, but not all of them
    seen = [
        heights({n: v[[probe]] for n, v in points.items()}, probe) for probe in range(_NUM_PROBES)
    ]
    if not any(np.isfinite(found).all() for found in seen):
        return None
    rng = np.random.default_rng(0)
    chosen: dict[str, SiteForm] = {}
    certificates: dict[str, tuple[float, str]] = {}
    for site in sites:
        certificates[site.name] = (np.inf, "its support has no conjugate form")
        for form in candidates(site.support, len(site.shape)):
            worst = max(
                _departure(site.name, design, probe, points, heights, names)
                for probe in range(_NUM_PROBES)
                for design in form.designs(points[site.name][probe], rng, step, reach)
            )
            certificates[site.name] = min(certificates[site.name], worst)
            if worst[0] < 1:
                chosen[site.name] = form
                break
    return Recognition(_blocks(sites, chosen, factors, points, statistics), certificates)


def _probe(probe: int, points: Values, statistics: Any) -> tuple[Values, Any]:
    return jax.tree.map(lambda x: x[probe], (points, statistics))


def _batched(
    factors: Factors, names: list[str], statistics: Any
) -> Callable[[Values, int], np.ndarray]:
    """Every factor at many points (M, ...) under one probe's statistics: (M, factors)."""

    def one(values: Values, stats: Any) -> Array:
        found = factors(values, stats)
        return jnp.stack([found[name] for name in names])

    many = compile_lightly(jax.vmap(one, in_axes=(0, None)))

    def heights(values: Values, probe: int) -> np.ndarray:
        count = len(next(iter(values.values())))
        stats = jax.tree.map(lambda x: x[probe], statistics)
        found = []
        for start in range(0, count, _BATCH):
            rows = np.minimum(np.arange(start, start + _BATCH), count - 1)
            found.append(np.asarray(many({n: v[rows] for n, v in values.items()}, stats)))
        return np.concatenate(found)[:count]

    return heights


def _departure(
    name: str,
    design: Design,
    probe: int,
    points: Values,
    heights: Callable[[Values, int], np.ndarray],
    names: list[str],
) -> tuple[float, str]:
    """The largest departure from the form over factors, over what is allowed, and that factor."""
    count = len(design.points)
    values = {
        other: np.repeat(np.asarray(value[probe])[None], count, axis=0)
        for other, value in points.items()
    }
    found = heights({**values, name: design.points}, probe)
    # densities may overflow; a departure that is no number is as large as any
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.ptp(found, axis=0)
        size = np.max(np.abs(found), axis=0)
        left = np.max(np.abs(design.combinations @ found), axis=0)
        ratio = left / (_RELATIVE * spread + _ROUNDING * size + 1e-300)
    ratio = np.nan_to_num(ratio, nan=np.inf)
    return max(zip(ratio.tolist(), names, strict=True))


def _blocks(
    sites: tuple[Site, ...],
    chosen: dict[str, SiteForm],
    factors: Factors,
    points: Values,
    statistics: Any,
) -> tuple[Conditional, ...]:
    joined: dict[str, Conditional] = {}
    taken: set[str] = set()
    for normal, inner in chosen.items():
        if not isinstance(inner, NormalForm):
            continue
        for scale, form in chosen.items():
            if not isinstance(form, ScaleForm) or scale in taken:
                continue
            power = _pair(normal, inner, scale, form, factors, points, statistics)
            if power is not None:
                joined[scale] = Conditional((normal, scale), JointForm(inner, form, power))
                taken |= {normal, scale}
                break
    blocks = []
    for site in sites:
        if site.name in joined:
            blocks.append(joined[site.name])
        elif site.name not in taken:
            blocks.append(Conditional((site.name,), chosen.get(site.name)))
    return tuple(blocks)


def _pair(
    normal: str,
    inner: NormalForm,
    scale: str,
    form: ScaleForm,
    factors: Factors,
    points: Values,
    statistics: Any,
) -> float | None:
    """The power p with |precision of the normal|^(-1/2) = |scale|^p, where the two may be one block."""

    def look(start: Values, stats: Any, value: Array) -> tuple[Array, Array, Array]:
        def total(values: Values) -> Array:
            return sum(factors(values, stats).values(), jnp.zeros(()))

        found = inner.read(along(total, {**start, scale: value}, normal), start[normal])
        mode, _ = inner.mode(found, start[normal])
        return mode, inner.half_log_precision(found), form.log_size(value)

    told = [np.asarray(points[scale][i]) for i in range(_NUM_PROBES)]
    told.append(2.0 * told[0])
    looked = compile_lightly(jax.vmap(jax.vmap(look, (None, None, 0)), (0, 0, None)))(
        jax.tree.map(lambda x: x[:2], points),
        jax.tree.map(lambda x: x[:2], statistics),
        np.stack(told),
    )
    modes, left, (sizes, _) = (np.asarray(x) for x in looked)
    moves = np.max(np.abs(modes - modes[:, :1])) / (1 + np.max(np.abs(modes)))
    power = float((left[0, -1] - left[0, 0]) / (sizes[-1] - sizes[0]))
    rest = left - power * sizes
    departure = np.max(np.abs(rest - rest[:, :1])) / (1 + np.max(np.abs(left)))
    power = round(power, 9)  # 0: the normal does not depend on the other, and they are no pair
    return power if power and max(moves, departure) < 1e-7 else None


# ------------------------------------------------------------------------- using a block's conditional
LogJoint = Callable[[Values], Array]


def maximise(block: Conditional, log_joint: LogJoint, values: Values) -> tuple[Values, Array]:
    """The block's mode given all else, in closed form; False where the block has no proper mode."""
    form, value = block.form, block.of(values)
    assert form is not None
    mode, proper = form.mode(
        form.read(block.density(partial(along, log_joint), values), value), value
    )
    return {**values, **block.named(mode)}, proper


def sample(block: Conditional, log_joint: LogJoint, values: Values, rng_key: Array) -> Values:
    """A draw of the block given all else."""
    form = block.form
    assert form is not None
    coefficients = form.read(block.density(partial(along, log_joint), values), block.of(values))
    return {**values, **block.named(form.sample(block.keys(rng_key), coefficients))}


def random_noise(sites: tuple[Site, ...], rng: np.random.Generator) -> Values:
    """Normal noise for :func:`random_points`, leading with an axis of probes.

    The entries of a matrix are as much smaller as it is larger: the condition of a random triangular
    factor grows exponentially with its size otherwise (Viswanath & Trefethen 1998).
    """

    def spread(site: Site) -> float:
        return 0.7 if site.event_ndim < 2 else 0.7 * min(1.0, (2 / site.shape[-1]) ** 0.5)

    return {s.name: spread(s) * rng.normal(size=(_NUM_PROBES, *s.free_shape)) for s in sites}


def random_points(sites: tuple[Site, ...], noise: Values) -> Values:
    """Well-scaled random values of every site: noise through the bijection of the site's support."""
    return {site.name: jax.vmap(biject_to(site.support))(noise[site.name]) for site in sites}
