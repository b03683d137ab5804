"""The structure of a program: which sites are latents, and what depends on which of them.

Nothing is computed: the program is traced abstractly, and dependencies are followed through its
operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.ops.provenance import eval_provenance

from ..families.peel import peel
from .arguments import Arguments
from .errors import ProgramError
from .observed import mask_layers
from .plain import Give, looked_at, plain_trace
from .roles import TOLD, Structure, describe, find_rows
from .sites import Program
from .tracing import one_at_a_time, unchecked

Found = TypeVar("Found")

# an observed site that others depend on is treated as a latent with known values up to this many
_LARGEST_KNOWN = 64


def find_structure(program: Program, arguments: Arguments) -> Structure:
    """Which finite sites of the rows are latents, and which of them each factor depends on.

    Nothing is computed: the program is traced abstractly, and dependencies are followed through its
    operations. An observed site that other sites depend on is a latent with known values.
    """
    found = looked_at(program, arguments, _survey)
    reached = _dependencies(program, arguments, found)
    computed = {name for name, names in reached.value.items() if names & _hidden(found)}
    if computed & found.finite.keys():
        # what is computed from hidden values is no label that may be known: those are followed instead
        finite = {name: size for name, size in found.finite.items() if name not in computed}
        found = found._replace(finite=finite)
        reached = _dependencies(program, arguments, found)
    # a latent that is uniform does not depend on its value, and still has one
    inside = {
        name: reached.density[name] | ({name} if name in found.finite else frozenset())
        for name in found.values
    }
    latents = found.hidden
    scopes = {}
    if found.several:
        parents = set().union(*(names - {factor} for factor, names in inside.items()))
        latents = tuple(
            name
            for name, size in found.finite.items()
            if name in found.hidden or (name in parents and size <= _LARGEST_KNOWN)
        )
        scopes = {
            factor: tuple(name for name in latents if name in names)
            for factor, names in inside.items()
        }
    _check_rows(reached, found, frozenset(latents))
    masks = {
        name: tuple(bool(names & set(latents)) for names in layers)
        for name, layers in reached.masks.items()
    }
    hidden = _hidden(found) | set(latents)
    return Structure(
        latents,
        scopes,
        {name: layers for name, layers in masks.items() if any(layers)},
        frozenset(
            name
            for name, names in reached.support.items()
            if (names | reached.value.get(name, frozenset())) & hidden
        ),
    )


def _hidden(found: _Survey) -> set[str]:
    """Sites whose values are not told."""
    return {*found.hidden, *found.locals, *found.parameters}


def _check_rows(reached: _Reached, found: _Survey, latents: frozenset[str]) -> None:
    """Is all that depends on a latent in its row, and is what says which cells count known?

    Raises :class:`ProgramError` naming the sites.
    """

    def named(names: frozenset[str]) -> str:
        return " and ".join(f"'{name}'" for name in sorted(names))

    for site, names in reached.density.items():
        if site not in found.values and names & latents:
            raise ProgramError(
                f"site '{site}' is outside the plate of rows '{found.rows}' and depends on the latent "
                f"{named(names & latents)} of the rows; labels are summed out row by row, so that rows "
                "must be independent given the parameters: move the site into the plate if it is about "
                "one row, make a row of all members of a group (padded, and masked where there are "
                "none), write a sequence as one row whose steps are a loop or a scan; labels that are "
                "joined in other ways need a sampler of labels, such as numpyro's DiscreteHMCGibbs"
            )
    for site, layers in reached.masks.items():
        for names in layers:
            if names & found.parameters.keys():
                raise ProgramError(
                    f"the mask of site '{site}' depends on the parameter "
                    f"{named(names & found.parameters.keys())}; write its density as "
                    f"numpyro.factor('{site}', jnp.where(mask, log_density, 0.0))"
                )
            if site in latents and names & latents:
                raise ProgramError(
                    f"latent '{site}' is masked where {named(names & latents)} says so, and would count "
                    "once for each of its values there; sample it in every row, and mask what is "
                    "observed of it instead"
                )
    for site, names in reached.scale.items():
        if names & (latents | found.parameters.keys()):
            raise ProgramError(
                f"handlers.scale gives site '{site}' a weight that depends on "
                f"{named(names & (latents | found.parameters.keys()))}; write the weighted density as "
                f"numpyro.factor('{site}', weight * log_density)"
            )


class Outside(NamedTuple):
    """The name of the plate of rows, and the factors outside it that no data enter: priors."""

    rows: str | None
    priors: frozenset[str]


def outside_rows(program: Program, arguments: Arguments) -> Outside:
    """What is outside the rows, as far as priors are concerned; nothing is computed."""
    try:
        found = looked_at(program, arguments, _survey)
    except ProgramError:
        return Outside(None, frozenset())  # what is wrong will be said when the program is read
    reached = _dependencies(program, arguments, found).density if found.factors else {}
    priors = (name for name in found.factors if reached[name] <= found.parameters.keys())
    return Outside(found.rows, frozenset(priors))


class _Survey(NamedTuple):
    """The plate of rows; discrete sites that nobody observes; finite scalar ones of the rows with the
    number of their values, observed or not; continuous latents of the rows; all sites of the rows, and
    all parameters, with the shape and type of their values; factors outside the rows; and whether there
    may be several latents."""

    rows: str
    hidden: tuple[str, ...]
    finite: dict[str, float]
    locals: tuple[str, ...]
    values: dict[str, jax.ShapeDtypeStruct]
    parameters: dict[str, jax.ShapeDtypeStruct]
    factors: tuple[str, ...]
    several: bool


def _survey(sites: dict[str, Any]) -> _Survey:
    samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
    described = {name: describe(name, site) for name, site in sites.items()}
    hidden = tuple(n for n, s in samples.items() if not s["is_observed"] and s["fn"].is_discrete)
    rows = find_rows([described[name] for name in hidden], samples, described, sites)
    inside = {n: s for n, s in samples.items() if rows in described[n].plates}
    finite = {
        name: _num_values(site["fn"])
        for name, site in inside.items()
        if described[name].finite and described[name].plates == (rows,)
    }
    continuous = tuple(
        n for n, s in inside.items() if not s["is_observed"] and not s["fn"].is_discrete
    )
    observed = any(inside[name]["is_observed"] for name in finite)
    several = len(inside) > 1 and (len(hidden) > 1 or observed)
    values = {
        name: jax.ShapeDtypeStruct(
            jnp.shape(site["value"]),
            jnp.result_type(int if name in finite else site["value"]),
        )
        for name, site in inside.items()
    }
    parameters = {
        name: jax.ShapeDtypeStruct(jnp.shape(site["value"]), jnp.result_type(site["value"]))
        for name, site in sites.items()
        if site["type"] == "param"
        or (name in samples and name not in inside and not _is_given(site))
    }
    factors = tuple(
        n
        for n, s in samples.items()
        if n not in inside and isinstance(peel(s["fn"]).base, dist.Unit)
    )
    return _Survey(rows.name, hidden, finite, continuous, values, parameters, factors, several)


def _is_given(site: dict[str, Any]) -> bool:
    return site["is_observed"] or bool(site["infer"].get(TOLD))


def _num_values(fn: Any) -> float:
    """How many values a finite distribution has; infinity where that depends on the data."""
    try:
        return fn.enumerate_support(expand=False).size
    except (NotImplementedError, jax.errors.ConcretizationTypeError):
        return math.inf


class _Reached(NamedTuple):
    """The sites whose values things depend on: each site's density; each layer of its masks, outermost
    first; its scale; the bounds of its support; and its value where it is observed."""

    density: dict[str, Any]
    masks: dict[str, Any]
    scale: dict[str, Any]
    support: dict[str, Any]
    value: dict[str, Any]


def _dependencies(program: Program, arguments: Arguments, found: _Survey) -> _Reached:
    """What densities depend on: of sites of the rows, and of others that follow from them.

    Densities of the rows are looked at where there may be several latents.
    """

    def followed(given: dict[str, Array], arrays: tuple[Array, ...]) -> _Reached:
        give = Give(given)
        with one_at_a_time, give:
            sites = plain_trace(program, arguments.with_arrays(arrays))
        samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
        rows = {name: samples[name] for name in found.values}
        layers = {
            name: tuple(jnp.asarray(layer._mask) for layer in mask_layers(site["fn"]))
            for name, site in rows.items()
        }
        with unchecked():
            density = {
                name: _log_prob(site)
                if name in rows
                else jax.tree.leaves((site["fn"], site["value"]))
                for name, site in samples.items()
                if found.several or name not in rows
            }
            return _Reached(
                density,
                {name: masks for name, masks in layers.items() if masks},
                {n: jnp.asarray(s["scale"]) for n, s in rows.items() if s["scale"] is not None},
                {name: tuple(jax.tree.leaves(site["fn"].support)) for name, site in rows.items()},
                {n: give.replaced.get(n, s["value"]) for n, s in rows.items() if s["is_observed"]},
            )

    given = {
        name: jnp.zeros(like.shape, like.dtype)
        for name, like in {**found.values, **found.parameters}.items()
        if name in found.finite or name in found.locals or name in found.parameters
    }
    # arrays are traced too: a program may look at real ones in Python
    reached = _provenance(followed, given, arguments.arrays)
    density = {name: _union(names) for name, names in reached.density.items()}
    for local in found.locals if found.several else ():
        # what depends on a continuous latent depends on all that it does
        density = {
            factor: (names | density[local]) - {local} if local in names else names
            for factor, names in density.items()
        }
    support = {name: _union(bounds) for name, bounds in reached.support.items()}
    nothing: frozenset[str] = frozenset()
    every = {name: density.get(name, nothing) for name in (*found.values, *density)}
    return reached._replace(density=every, support=support)


def _provenance(
    function: Callable[[dict[str, Array], tuple[Array, ...]], Found],
    given: dict[str, Array],
    arrays: tuple[Array, ...],
) -> Found:
    """`function(given, arrays)` with the names of those given that each result depends on."""

    def named(_arrays: tuple[Array, ...], **given: Array) -> Found:
        return function(given, _arrays)

    return eval_provenance(named, _arrays=arrays, **given)


def _union(found: Any) -> frozenset[str]:
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    return frozenset().union(*leaves)


def _log_prob(site: dict[str, Any]) -> Array:
    fn, value = site["fn"], site["value"]
    # categories with missing cells come as floating-point numbers, which cannot index
    return fn.log_prob(value.astype(int) if fn.is_discrete else value)
