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
from .observed import RAW, Row, is_label, rows_of, tidy, tidy_traced
from .roles import TOLD, Structure, assign_roles, describe, find_rows
from .sites import Collapse, Latent, Plate, Program, Reading, Site
from .tracing import sites_of, unchecked

__all__ = ["Collapse", "Latent", "Plate", "Program", "Reading", "Site", "look", "observe", "read"]

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
    return reading, tidy(reading, found), looking


def resized(program: Program, reading: Reading, arguments: Arguments) -> Reading:
    """A reading of the same program on other rows; nothing is computed."""
    structure = structure_of(reading)
    found = _looked_at(program, arguments, lambda sites: assign_roles(sites, structure))
    if _is_traced(found):
        return assign_roles(_plain_trace(program, arguments), structure)
    return found


def structure_of(reading: Reading) -> Structure:
    """What a reading says of the latents."""
    graph = reading.graph
    scopes = {
        factor: tuple(graph.names[i] for i in graph.scope(factor)) for factor in graph.clique_of
    }
    return Structure(graph.names, scopes)


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


# --------------------------------------------------------------------------------------- structure
def find_structure(program: Program, arguments: Arguments) -> Structure:
    """Which finite sites of the rows are latents, and which of them each factor depends on.

    Nothing is computed: the program is traced abstractly, and dependencies are followed through its
    operations. An observed site that other sites depend on is a latent with known values.
    """
    found = _looked_at(program, arguments, _survey)
    if not found.several:
        return Structure(found.hidden, {})
    reached = _dependencies(program, arguments, found)
    parents = set().union(*(names - {factor} for factor, names in reached.items()))
    latents = tuple(
        name
        for name, size in found.finite.items()
        if name in found.hidden or (name in parents and size <= _LARGEST_KNOWN)
    )
    scopes = {
        factor: tuple(name for name in latents if name in names)
        for factor, names in reached.items()
    }
    return Structure(latents, scopes)


def plate_of_rows(program: Program, arguments: Arguments) -> str | None:
    """The name of the plate of rows, where there is one; nothing is computed."""
    try:
        return _looked_at(program, arguments, _survey).rows
    except ProgramError:
        return None  # what is wrong will be said when the program is read


class _Survey(NamedTuple):
    """The plate of rows; discrete sites that nobody observes; finite scalar ones of the rows with the
    number of their values, observed or not; continuous latents of the rows; all sites of the rows with
    the shape and type of their values; and whether dependencies need to be looked at."""

    rows: str
    hidden: tuple[str, ...]
    finite: dict[str, float]
    locals: tuple[str, ...]
    values: dict[str, jax.ShapeDtypeStruct]
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
            jnp.shape(site["value"]), int if name in finite else jnp.result_type(site["value"])
        )
        for name, site in inside.items()
    }
    return _Survey(rows.name, hidden, finite, continuous, values, several)


def _num_values(fn: Any) -> float:
    """How many values a finite distribution has; infinity where that depends on the data."""
    try:
        return fn.enumerate_support(expand=False).size
    except (NotImplementedError, jax.errors.ConcretizationTypeError):
        return math.inf


def _dependencies(
    program: Program, arguments: Arguments, found: _Survey
) -> dict[str, frozenset[str]]:
    """For each site of the rows, the sites of the rows whose values its density depends on."""

    def densities(**told: Array) -> dict[str, Array]:
        with unchecked():
            with _Give(told):
                sites = _plain_trace(program, arguments)
            return {name: _log_prob(sites[name]) for name in found.values}

    told = {
        name: jnp.zeros(like.shape, like.dtype)
        for name, like in found.values.items()
        if name in found.finite or name in found.locals
    }
    reached = eval_provenance(densities, **told)
    for local in found.locals:  # what depends on a continuous latent depends on all that it does
        reached = {
            factor: (names | reached[local]) - {local} if local in names else names
            for factor, names in reached.items()
        }
    return reached


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


class _Give(Messenger):
    """Give sites these values, observed or not."""

    def __init__(self, told: dict[str, Array]) -> None:
        self.told = told
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.told:
            msg["value"] = self.told[msg["name"]]


def _feasible(site: dict[str, Any]) -> Any:
    """Some value of a parameter's support: which one does not matter to the structure, and is cheap."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].is_discrete:
        return None
    shape = site["kwargs"].get("sample_shape", ()) + site["fn"].shape()
    return site["fn"].support.feasible_like(jnp.zeros(shape))


def _looked_at(
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
