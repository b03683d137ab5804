"""Assigning roles to the sites of a plain trace: parameters, latents, data, and what is only told."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ..families.peel import peel
from .elimination import Graph, make_graph
from .errors import ProgramError, PytreeParameter
from .observed import is_label
from .sites import Latent, Plate, Reading, Site

TOLD = "bayesmix_told"  # marks sites whose values handlers of the program's own have given


class Structure(NamedTuple):
    """The finite latents of a row by name, observed ones too, and the latents that each factor of a row
    depends on (by its site: a latent's own factor depends on itself and its parents); `masks` and
    `bounded` of the sites of the rows that have such (see :class:`Site`)."""

    latents: tuple[str, ...]
    scopes: dict[str, tuple[str, ...]]
    masks: dict[str, tuple[bool, ...]] = {}  # noqa: RUF012, never changed
    bounded: frozenset[str] = frozenset()


def assign_roles(sites: dict[str, Any], structure: Structure) -> Reading:
    """The reading of a plain trace.

    Raises :class:`ProgramError` with the cure where a site can have no role.
    """
    described = {
        name: describe(name, site)._replace(
            masks=structure.masks.get(name, ()), bounded=name in structure.bounded
        )
        for name, site in sites.items()
    }
    samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
    hidden = _find_latents(samples, described, structure.latents)
    rows = find_rows(hidden, samples, described, sites)
    parameters, observed, fixed, others = [], [], [], []
    for name, site in sites.items():
        in_rows = rows.name in {plate.name for plate in described[name].plates}
        if name in structure.latents:
            continue
        if site["type"] == "param":
            parameters.append(described[name])
        elif site["type"] != "sample":
            continue
        elif site["is_observed"] and in_rows:
            observed.append(described[name])
        elif site["is_observed"] or site["infer"].get(TOLD):
            fixed.append(name)
        elif in_rows:
            others.append(described[name])
        else:
            parameters.append(described[name])
    _check_roles(samples, described, rows, hidden, observed, parameters)
    depth = max(-p.dim for s in described.values() for p in s.plates)
    supports = {site.name: _support_of(samples[site.name]["fn"], site.name) for site in hidden}
    scopes = _all_scopes(hidden, observed, structure)
    graph = make_graph({name: len(support) for name, support in supports.items()}, scopes)
    dims = _dimensions(graph, depth)
    return Reading(
        parameters=tuple(parameters),
        latents=tuple(
            Latent(
                site,
                len(supports[site.name]),
                int(supports[site.name][0]),
                dims[i],
                bool(samples[site.name]["is_observed"]),
            )
            for i, site in enumerate(hidden)
        ),
        graph=graph,
        observed=tuple(observed),
        deterministic=tuple(d for n, d in described.items() if sites[n]["type"] == "deterministic"),
        rows=rows,
        plate_depth=depth,
        fixed=tuple(fixed),
        locals=tuple(others),
    )


def _all_scopes(
    latents: list[Site], observed: list[Site], structure: Structure
) -> dict[str, tuple[str, ...]]:
    """With one latent, or none, every factor has the same scope."""
    names = tuple(site.name for site in latents)
    factors = (*names, *(site.name for site in observed))
    if len(names) <= 1:
        return dict.fromkeys(factors, names)
    return {factor: structure.scopes[factor] for factor in factors}


def _dimensions(graph: Graph, depth: int) -> list[int]:
    """A dimension for each latent, left of the plates; those that meet in a factor differ."""
    colours: list[int] = []
    for i in range(len(graph.names)):
        met = {colours[j] for clique in graph.cliques if i in clique for j in clique if j < i}
        colours.append(next(colour for colour in range(len(met) + 1) if colour not in met))
    return [-depth - 1 - colour for colour in colours]


def _check_roles(
    samples: dict[str, Any],
    described: dict[str, Site],
    rows: Plate,
    latents: list[Site],
    observed: list[Site],
    parameters: list[Site],
) -> None:
    if not observed and not any(samples[site.name]["is_observed"] for site in latents):
        elsewhere = [
            (name, described[name].plates[0].name)
            for name, site in samples.items()
            if site["is_observed"]
            and described[name].plates
            and not isinstance(site["fn"], dist.Unit)
        ]
        if elsewhere and latents:
            name, plate = elsewhere[0]
            raise ProgramError(
                f"observed site '{name}' is in plate '{plate}', but the latent '{latents[0].name}' "
                f"is in plate '{rows.name}'; put both in one plate of rows, each of which holds all "
                "data that depend on one value of the latent (padded, and masked where there are none)"
            )
        raise ProgramError(
            f"nothing is observed in plate '{rows.name}'; give the site of the data `obs=`"
        )
    if not parameters:
        raise ProgramError(
            "the program has no parameter; sample what is to be estimated outside the plate of rows"
        )


def describe(name: str, site: dict[str, Any]) -> Site:
    """What a traced site is."""
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size)
        for frame in site.get("cond_indep_stack", ())
        if frame.dim is not None
    )
    if site["type"] == "param" and not jax.tree_util.all_leaves([site["value"]]):
        raise PytreeParameter(f"numpyro.param site '{name}' is a pytree; give it an array")
    shape = tuple(jnp.shape(site["value"]))
    if site["type"] == "sample":
        fn = site["fn"]
        base = peel(fn).base
        return Site(
            name,
            shape,
            type(base).__name__,
            fn.support,
            plates,
            fn.event_dim,
            is_label(fn),
            base.event_dim > 0,
        )
    if site["type"] == "param":
        support = site["kwargs"].get("constraint", dist.constraints.real)
        return Site(name, shape, "param", support, plates, len(shape))
    return Site(name, shape, site["type"], None, plates, len(shape))


def _find_latents(
    samples: dict[str, Any], described: dict[str, Site], known: tuple[str, ...]
) -> list[Site]:
    found = []
    for name, site in samples.items():
        if name not in known and (site["is_observed"] or not site["fn"].is_discrete):
            continue
        if site["fn"].event_shape:
            raise ProgramError(
                f"latent '{name}' is a vector (event shape {tuple(site['fn'].event_shape)}) of finite "
                "values; sample a site for each of its entries, in a loop (z_0, z_1, ...), and stack "
                "them: jnp.stack(jnp.broadcast_arrays(z_0, z_1), axis=-1)"
            )
        if not site["fn"].has_enumerate_support:
            raise ProgramError(
                f"site '{name}' is a discrete latent with infinitely many values; "
                "cut it off where it is next to impossible, say at M: "
                "Categorical(logits=distribution.log_prob(jnp.arange(M)))"
            )
        found.append(described[name])
    return found


def find_rows(
    latents: list[Site],
    samples: dict[str, Any],
    described: dict[str, Site],
    sites: dict[str, Any],
) -> Plate:
    """The plate of rows: that of the latents, or else that of the data."""
    if not latents:
        plates = {
            plate
            for name, site in samples.items()
            for plate in described[name].plates[-1:]  # the outermost
            if site["is_observed"] and not isinstance(site["fn"], dist.Unit)
        }
        if not plates:
            raise ProgramError(
                "the program has no plate of rows; put the site of the data, and a latent if there is "
                "one, inside `with numpyro.plate('rows', N):`"
            )
        if len(plates) > 1:
            names = " and ".join(sorted(f"'{plate.name}'" for plate in plates))
            raise ProgramError(
                f"data are observed in several plates ({names}) and no latent says which holds the "
                "rows; put them in one plate of rows"
            )
        rows = plates.pop()
    else:
        rows = _plate_of(latents[0])
        for other in latents[1:]:
            if _plate_of(other) != rows:
                raise ProgramError(
                    f"latents '{latents[0].name}' and '{other.name}' are in different plates "
                    f"('{rows.name}' and '{_plate_of(other).name}'); let a row hold all that depends "
                    "on one value of the outer of them, with a site for each of the inner ones"
                )
    size = sites[rows.name]["args"][0] if rows.name in sites else rows.size
    if size != rows.size:
        raise ProgramError(
            f"plate '{rows.name}' is subsampled ({rows.size} of {size} rows); remove subsample_size"
        )
    return rows


def _plate_of(latent: Site) -> Plate:
    if not latent.plates:
        raise ProgramError(
            f"latent '{latent.name}' is not in a plate; if every row of the data has one, put it, and "
            "the site of the data, inside `with numpyro.plate('rows', N):`; if all data share one value "
            "(a change point, say), they are a single row: put both inside "
            "`with numpyro.plate('series', 1):`, the data as x[None] with .to_event(1)"
        )
    if len(latent.plates) > 1:
        names = " and ".join(f"'{plate.name}'" for plate in latent.plates)
        raise ProgramError(
            f"latent '{latent.name}' is in two plates ({names}); sample a site for each of its places "
            "in a row instead, in a loop (z_0, z_1, ...); where all places are independent given the "
            "parameters alone, they are rows of one longer plate"
        )
    return latent.plates[0]


def _support_of(fn: Any, name: str) -> np.ndarray:
    """The latent's values, in order."""
    try:
        with jax.core.eval_context():
            values = jax.jit(lambda: fn.enumerate_support(expand=False))()
    except NotImplementedError as error:
        raise ProgramError(
            f"the values of latent '{name}' cannot be enumerated ({error}); "
            "use a distribution with one finite support for all rows"
        ) from error
    if not values.size:
        raise ProgramError(f"latent '{name}' has no value; ask for at least one component")
    return np.asarray(values).reshape(-1)
