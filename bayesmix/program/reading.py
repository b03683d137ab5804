"""Reading a NumPyro program once: which sites are parameters, which latents, which observed.

A reading holds structure only (names, shapes, plates), no data, so that one reading serves every call
with arguments of the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.handlers import seed, substitute
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from .arguments import Arguments
from .blocks import Observed
from .compiling import compile_lightly
from .errors import ProgramError
from .held import Held, choices, first_that_runs
from .observed import (
    RAW,
    Row,
    is_label,
    mask_layers,
    outside_where_masked,
    rows_of,
    tidy,
    tidy_traced,
)
from .roles import TOLD, Structure, assign_roles, describe, find_rows
from .sites import Collapse, Latent, Plate, Program, Reading, Site
from .tracing import one_at_a_time, sites_of, unchecked

__all__ = [
    "Collapse",
    "Give",
    "Latent",
    "Plate",
    "Program",
    "Reading",
    "Site",
    "look",
    "observe",
    "read",
]

Found = TypeVar("Found")

# an observed site that others depend on is treated as a latent with known values up to this many
_LARGEST_KNOWN = 64


def read(program: Program, arguments: Arguments) -> tuple[Reading, Observed, Look]:
    """Trace the program once and assign a role to every site.

    Returns the reading, what the call says of its rows, and what looks at such calls. Raises
    :class:`ProgramError` with the cure where the program has no plate of rows, a latent that cannot be
    summed out, and where its data cannot be taken.
    """
    structure = find_structure(program, arguments)
    looking = look(program, arguments, structure)
    reading, found = looking(arguments.arrays)
    bounded = structure.bounded | outside_where_masked(reading, found)
    if bounded != structure.bounded:
        structure = structure._replace(bounded=bounded)
        looking = look(program, arguments, structure)
        reading, found = looking(arguments.arrays)
    return reading, tidy(reading, found), looking


def resized(program: Program, reading: Reading, arguments: Arguments) -> Reading:
    """A reading of the same program on other rows; nothing is computed."""
    structure = structure_of(reading)
    found = looked_at(program, arguments, lambda sites: assign_roles(sites, structure))
    if _is_traced(found):
        return assign_roles(_plain_trace(program, arguments), structure)
    return found


def described(program: Program, arguments: Arguments) -> dict[str, Site]:
    """What the sites of a call are; nothing is computed."""

    def look_at(sites: dict[str, Any]) -> dict[str, Site]:
        kept = {n: s for n, s in sites.items() if s["type"] in ("sample", "param")}
        return {name: describe(name, site) for name, site in kept.items()}

    return looked_at(program, arguments, look_at)


def structure_of(reading: Reading) -> Structure:
    """What a reading says of the latents."""
    graph = reading.graph
    scopes = {
        factor: tuple(graph.names[i] for i in graph.scope(factor)) for factor in graph.clique_of
    }
    sites = (*reading.observed, *(latent.site for latent in reading.latents))
    return Structure(
        graph.names,
        scopes,
        {site.name: site.masks for site in sites if any(site.masks)},
        frozenset(site.name for site in sites if site.bounded),
    )


def observe(
    program: Program, reading: Reading, arguments: Arguments, whole: frozenset[str]
) -> Observed:
    """What a call says of its rows, where its arrays are being traced; see :func:`tidy_traced`."""
    return tidy_traced(reading, rows_of(_plain_trace(program, arguments), reading), whole)


def look(program: Program, arguments: Arguments, structure: Structure) -> Look:
    """A compiled function of a call's arrays that gives a reading and the sites of the rows."""
    readings: list[Reading] = []
    # sites whose value is an argument: a compiled function copies it
    passed_on: dict[str, int] = {}
    layout = arguments.layout  # and not the arrays, which would live as long as the function

    def run(arrays: tuple[Array, ...]) -> dict[str, Row]:
        sites = _plain_trace(program, Arguments(arrays, layout))
        readings.append(assign_roles(sites, structure))
        rows = rows_of(sites, readings[-1])
        places = {id(array): i for i, array in enumerate(arrays)}
        passed_on.update({n: places[id(r.value)] for n, r in rows.items() if id(r.value) in places})
        return {n: r._replace(value=None) if n in passed_on else r for n, r in rows.items()}

    compiled = compile_lightly(run)

    def found(arrays: tuple[Array, ...]) -> tuple[Reading, dict[str, Row]]:
        # under jit nothing is computed but the observed values; a support that depends on computed
        # bounds needs the real thing
        rows = compiled(arrays)
        if _is_traced(readings[-1]):
            rows = run(arrays)
        values = {name: arrays[i] for name, i in passed_on.items()}
        return readings[-1], {n: r._replace(value=values.get(n, r.value)) for n, r in rows.items()}

    return found


Look = Callable[[tuple[Array, ...]], tuple[Reading, dict[str, Row]]]


# ------------------------------------------------------------------------------------ Python on data
def to_hold(program: Program, arguments: Arguments, failure: Exception) -> frozenset[int]:
    """Places of the arguments that the program reads in Python, where it failed on traced ones.

    Raises the failure, or :class:`ProgramError`, where the program does not run whatever is held.
    """
    tables = dict(arguments.tables)
    kinds = {
        place: "t" if place in tables else np.dtype(array.dtype).kind
        for place, array in zip(arguments.places, arguments.arrays, strict=True)
    }

    def runs(places: frozenset[int]) -> bool:
        try:
            looked_at(program, arguments.hold(places), len)
        except ON_TRACED:
            return False
        return True

    found = first_that_runs(choices(kinds), runs)
    if found is None and any(isinstance(value, Held) for _, value in arguments.layout.static):
        raise ProgramError(
            f"the program does not run ({type(failure).__name__}: "
            f"{str(failure).strip().splitlines()[0]}) on a table that holds text or mixed objects; pass "
            "numbers (for a table, only its numeric columns), or read columns by name in the program"
        ) from failure
    if found is None and not isinstance(failure, jax.errors.JAXTypeError):
        raise failure  # a fault of the program's own
    if found is None:
        raise ProgramError(
            f"the program does not run ({type(failure).__name__}: "
            f"{str(failure).strip().splitlines()[0]}); Python and NumPy cannot be told the value of "
            "what is sampled or computed: index a NumPy array with a latent as jnp.asarray(table)[z], "
            "branch with jnp.where, and round or count with jax.numpy"
        ) from failure
    return found


# what comes of Python or NumPy on a traced array
ON_TRACED = (TypeError, AttributeError, KeyError, IndexError, ValueError)


# --------------------------------------------------------------------------------------- structure
def find_structure(program: Program, arguments: Arguments) -> Structure:
    """Which finite sites of the rows are latents, and which of them each factor depends on.

    Nothing is computed: the program is traced abstractly, and dependencies are followed through its
    operations. An observed site that other sites depend on is a latent with known values.
    """
    found = looked_at(program, arguments, _survey)
    reached = _dependencies(program, arguments, found)
    inside = {name: reached.density[name] for name in found.values}
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
    hidden = {*latents, *found.parameters, *found.locals}
    return Structure(
        latents,
        scopes,
        {name: layers for name, layers in masks.items() if any(layers)},
        frozenset(name for name, names in reached.support.items() if names & hidden),
    )


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


def plate_of_rows(program: Program, arguments: Arguments) -> str | None:
    """The name of the plate of rows, where there is one; nothing is computed."""
    try:
        return looked_at(program, arguments, _survey).rows
    except ProgramError:
        return None  # what is wrong will be said when the program is read


class _Survey(NamedTuple):
    """The plate of rows; discrete sites that nobody observes; finite scalar ones of the rows with the
    number of their values, observed or not; continuous latents of the rows; all sites of the rows, and
    all parameters, with the shape and type of their values; and whether there may be several latents."""

    rows: str
    hidden: tuple[str, ...]
    finite: dict[str, float]
    locals: tuple[str, ...]
    values: dict[str, jax.ShapeDtypeStruct]
    parameters: dict[str, jax.ShapeDtypeStruct]
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
    return _Survey(rows.name, hidden, finite, continuous, values, parameters, several)


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
    first; its scale; and the bounds of its support, together with its value where it is observed."""

    density: dict[str, Any]
    masks: dict[str, Any]
    scale: dict[str, Any]
    support: dict[str, Any]


def _dependencies(program: Program, arguments: Arguments, found: _Survey) -> _Reached:
    """What densities depend on: of sites of the rows, and of others that follow from them.

    Densities of the rows are looked at where there may be several latents.
    """

    def followed(given: dict[str, Array], arrays: tuple[Array, ...]) -> _Reached:
        with one_at_a_time, Give(given):
            sites = _plain_trace(program, arguments._replace(arrays=arrays))
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
                {
                    name: (jax.tree.leaves(site["fn"].support), _given_value(name, site, given))
                    for name, site in rows.items()
                },
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


def _given_value(name: str, site: dict[str, Any], given: dict[str, Array]) -> list[Any]:
    """An observed value, unless it is looked at as a label that may be unknown."""
    return [site["value"]] if site["is_observed"] and name not in given else []


def _union(found: Any) -> frozenset[str]:
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    return frozenset().union(*leaves)


def _log_prob(site: dict[str, Any]) -> Array:
    fn, value = site["fn"], site["value"]
    # categories with missing cells come as floating-point numbers, which cannot index
    return fn.log_prob(value.astype(int) if fn.is_discrete else value)


# ------------------------------------------------------------------------------------- plain traces
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
    """Give sites these values, observed or not."""

    def __init__(self, told: dict[str, Array]) -> None:
        self.told = told
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] in ("sample", "param") and msg["name"] in self.told:
            msg["value"] = self.told[msg["name"]]


def _feasible(site: dict[str, Any]) -> Any:
    """Some value of a parameter's support: which one does not matter to the structure, and is cheap."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].is_discrete:
        return None
    shape = site["kwargs"].get("sample_shape", ()) + site["fn"].shape()
    return site["fn"].support.feasible_like(jnp.zeros(shape))


def looked_at(
    program: Program, arguments: Arguments, look_at: Callable[[dict[str, Any]], Found]
) -> Found:
    """`look_at` of the program's sites, with nothing computed."""
    found: list[Found] = []

    def run(arrays: tuple[Array, ...]) -> None:
        found.append(look_at(_plain_trace(program, arguments._replace(arrays=arrays))))

    jax.eval_shape(run, arguments.arrays)
    return found[-1]


def _is_traced(reading: Reading) -> bool:
    """Does a support depend on bounds that are computed?"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(reading))


def _plain_trace(program: Program, arguments: Arguments) -> dict[str, Any]:
    args, kwargs = arguments.on_device().call()
    inner = seed(_Told(program), random.key(0))
    run = substitute(inner, substitute_fn=_feasible)
    try:
        # data may be missing, and an observed label may be unknown: they are looked at afterwards
        with unchecked():
            return sites_of(run, args, kwargs)
    except AssertionError as error:
        sizes = [shape for shape, _ in arguments.layout.shapes]
        if "plate should be positive" in str(error) or any(0 in shape for shape in sizes):
            raise ProgramError("the data are empty: a plate needs at least one row") from error
        raise
