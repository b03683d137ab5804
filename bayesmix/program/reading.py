"""Reading a NumPyro program once: which sites are parameters, which the latent, which observed.

A reading holds structure only (names, shapes, plates), no data, so that one reading serves every call
with arguments of the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform

from ..families.peel import peel
from .arguments import Arguments
from .errors import ProgramError

Program = Callable[..., Any]


class Plate(NamedTuple):
    """A plate's name, its dimension counted from the right (negative), and its size."""

    name: str
    dim: int
    size: int


class Site(NamedTuple):
    """One named site: its value's shape, prior family, support, plates and event dimensions."""

    name: str
    shape: tuple[int, ...]
    family: str
    support: Any
    plates: tuple[Plate, ...]
    event_ndim: int


class Reading(NamedTuple):
    """The structure of a program with one finite latent per row."""

    parameters: tuple[Site, ...]
    latent: Site
    observed: tuple[Site, ...]
    deterministic: tuple[Site, ...]
    rows: Plate
    num_components: int
    plate_depth: int

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameter sites, in the program's order."""
        return tuple(site.name for site in self.parameters)


def read(program: Program, arguments: Arguments) -> tuple[Reading, dict[str, Array]]:
    """Trace the program once and assign a role to every site.

    Returns the reading and the observed values by site. Raises :class:`ProgramError` with the cure
    where the program has no plate of rows, no finite latent, more than one of either, or a local latent
    that is continuous.
    """
    found: list[Reading] = []

    def run(arrays: tuple[Array, ...]) -> dict[str, Array]:
        sites = _plain_trace(program, arguments._replace(arrays=arrays))
        reading = _roles(sites)
        found.append(reading)
        return {site.name: sites[site.name]["value"] for site in reading.observed}

    # under jit nothing is computed but the observed values; a support that depends on computed bounds
    # needs the real thing
    values = jax.jit(run)(arguments.arrays)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(found[-1])):
        values = run(arguments.arrays)
    return found[-1], values


def _roles(sites: dict[str, Any]) -> Reading:
    described = {name: _describe(name, site) for name, site in sites.items()}
    samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
    latent = _find_latent(samples, described)
    rows = _find_rows(latent, sites)
    _check_weights(samples[latent.name], latent.name)
    parameters, observed = [], []
    for name, site in sites.items():
        in_rows = rows.name in {plate.name for plate in described[name].plates}
        if site["type"] == "param":
            parameters.append(described[name])
        elif site["type"] != "sample" or name == latent.name:
            continue
        elif site["is_observed"]:
            _check_observed(site, described[name], in_rows, rows, latent)
            if in_rows:
                observed.append(described[name])
        elif in_rows:
            raise ProgramError(
                f"site '{name}' is a continuous latent of every row, which is not supported yet; "
                f"sum it out of the program by hand, or move it out of plate '{rows.name}'"
            )
        else:
            parameters.append(described[name])
    if not observed:
        raise ProgramError(
            f"nothing is observed in plate '{rows.name}'; give the site of the data `obs=`"
        )
    if not parameters:
        raise ProgramError(
            "the program has no parameter; sample what is to be estimated outside the plate of rows"
        )
    depth = max(-p.dim for s in described.values() for p in s.plates)
    return Reading(
        parameters=tuple(parameters),
        latent=latent,
        observed=tuple(observed),
        deterministic=tuple(d for n, d in described.items() if sites[n]["type"] == "deterministic"),
        rows=rows,
        num_components=_support_size(samples[latent.name]["fn"], latent.name),
        plate_depth=depth,
    )


def _plain_trace(program: Program, arguments: Arguments) -> dict[str, Any]:
    args, kwargs = arguments.call()
    run = trace(substitute(seed(program, random.key(0)), substitute_fn=init_to_uniform))
    try:
        return run.get_trace(*args, **kwargs)
    except AssertionError as error:
        sizes = [shape for shape, _ in arguments.layout.shapes]
        if "plate should be positive" in str(error) or any(0 in shape for shape in sizes):
            raise ProgramError("the data are empty: a plate needs at least one row") from error
        raise


def _describe(name: str, site: dict[str, Any]) -> Site:
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size)
        for frame in site.get("cond_indep_stack", ())
        if frame.dim is not None
    )
    shape = tuple(jnp.shape(site["value"]))
    if site["type"] == "sample":
        fn = site["fn"]
        family = type(peel(fn).base).__name__
        return Site(name, shape, family, fn.support, plates, fn.event_dim)
    if site["type"] == "param":
        support = site["kwargs"].get("constraint", dist.constraints.real)
        return Site(name, shape, "param", support, plates, len(shape))
    return Site(name, shape, site["type"], None, plates, len(shape))


def _find_latent(samples: dict[str, Any], described: dict[str, Site]) -> Site:
    hidden = [
        name for name, site in samples.items() if not site["is_observed"] and site["fn"].is_discrete
    ]
    for name in hidden:
        if not samples[name]["fn"].has_enumerate_support:
            raise ProgramError(
                f"site '{name}' is a discrete latent with infinitely many values; "
                "use one with finite support (Categorical, Bernoulli, DiscreteUniform)"
            )
    if not hidden:
        raise ProgramError(
            "the program has no discrete latent; sample one per row "
            "(z = numpyro.sample('z', dist.Categorical(weights)) inside the plate of rows) "
            "instead of a ready mixture distribution"
        )
    if len(hidden) > 1:
        names = ", ".join(f"'{name}'" for name in hidden)
        raise ProgramError(
            f"the program has several discrete latents ({names}); only one per row is supported yet: "
            "join them into one whose values are their combinations"
        )
    return described[hidden[0]]


def _find_rows(latent: Site, sites: dict[str, Any]) -> Plate:
    if not latent.plates:
        raise ProgramError(
            f"latent '{latent.name}' is not in a plate; "
            "put it, and the site of the data, inside `with numpyro.plate('rows', N):`"
        )
    if len(latent.plates) > 1:
        names = " and ".join(f"'{plate.name}'" for plate in latent.plates)
        raise ProgramError(
            f"latent '{latent.name}' is in two plates of rows ({names}); "
            "flatten them into one plate with a row for every combination"
        )
    rows = latent.plates[0]
    size = sites[rows.name]["args"][0] if rows.name in sites else rows.size
    if size != rows.size:
        raise ProgramError(
            f"plate '{rows.name}' is subsampled ({rows.size} of {size} rows); remove subsample_size"
        )
    return rows


def _check_observed(
    site: dict[str, Any], described: Site, in_rows: bool, rows: Plate, latent: Site
) -> None:
    name = described.name
    if not in_rows:
        if isinstance(site["fn"], dist.Unit):
            return
        where = f"plate '{described.plates[0].name}'" if described.plates else "no plate"
        raise ProgramError(
            f"observed site '{name}' is in {where}, but the latent '{latent.name}' is in plate "
            f"'{rows.name}'; put both in one plate of rows"
        )
    _check_weights(site, name)


def _check_weights(site: dict[str, Any], name: str) -> None:
    """Refuse scaled and masked sites, which would be misread."""
    scale = site.get("scale")
    if scale is not None and (isinstance(scale, jax.core.Tracer) or np.any(np.asarray(scale) != 1)):
        raise ProgramError(
            f"site '{name}' is scaled (handlers.scale), which is not supported yet; remove the scale"
        )
    if isinstance(peel(site["fn"]).base, dist.MaskedDistribution):
        raise ProgramError(
            f"site '{name}' is masked (handlers.mask or obs_mask), which is not supported yet; "
            "drop the masked rows"
        )


def _support_size(fn: Any, name: str) -> int:
    try:
        return int(np.shape(fn.enumerate_support(expand=False))[0])
    except NotImplementedError as error:
        raise ProgramError(
            f"the values of latent '{name}' cannot be enumerated ({error}); "
            "use a distribution with one finite support for all rows"
        ) from error


def check_data(reading: Reading, values: dict[str, Array]) -> None:
    """Look at the observed values: NaN and infinities, and more components than rows.

    Raises :class:`ProgramError` naming the rows and columns.
    """
    for name, value in values.items():
        bad = ~np.isfinite(np.asarray(value, dtype=float))
        if not bad.any():
            continue
        rows = np.unique(np.nonzero(bad)[0])
        shown = ", ".join(str(row) for row in rows[:5]) + (", ..." if rows.size > 5 else "")
        where = f"row{'s' if rows.size > 1 else ''} {shown}"
        if bad.ndim > 1:
            columns = np.unique(np.nonzero(bad)[1])
            where += f", column{'s' if columns.size > 1 else ''} " + ", ".join(map(str, columns))
        raise ProgramError(
            f"observed site '{name}' holds NaN or infinite values ({where}, counted from 0); "
            "missing data are not supported yet: drop or fill these rows"
        )
    if reading.num_components > reading.rows.size:
        raise ProgramError(
            f"{reading.num_components} components need at least as many rows, and there are "
            f"{reading.rows.size}; lower K"
        )


def observed_values(
    program: Program, arguments: Arguments, names: tuple[str, ...]
) -> dict[str, Array]:
    """Values of observed sites, from the program itself."""
    sites = _plain_trace(program, arguments)
    return {name: sites[name]["value"] for name in names}
