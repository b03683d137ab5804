"""Reading a NumPyro program once: which sites are parameters, which latents, which observed.

A reading holds structure only (names, shapes, plates), no data, so that one reading serves every call
with arguments of the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from .arguments import Arguments
from .compiling import compile_lightly
from .errors import ProgramError
from .held import Held, choices, first_that_runs
from .observed import Observed, Row, outside_where_masked, rows_of, tidy, tidy_traced
from .plain import looked_at, plain_trace
from .roles import Structure, assign_roles, describe
from .sites import Collapse, Latent, Plate, Program, Reading, Site
from .structure import find_structure

__all__ = ["Collapse", "Latent", "Plate", "Program", "Reading", "Site", "look", "observe", "read"]


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
        return assign_roles(plain_trace(program, arguments), structure)
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
    return tidy_traced(reading, rows_of(plain_trace(program, arguments), reading), whole)


def look(program: Program, arguments: Arguments, structure: Structure) -> Look:
    """A compiled function of a call's arrays that gives a reading and the sites of the rows."""
    readings: list[Reading] = []
    # sites whose value is an argument: a compiled function copies it
    passed_on: dict[str, int] = {}
    layout = arguments.layout  # and not the arrays, which would live as long as the function

    def run(arrays: tuple[Array, ...]) -> dict[str, Row]:
        sites = plain_trace(program, Arguments(arrays, layout))
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
    traced = any(isinstance(array, jax.core.Tracer) for array in arguments.arrays)
    if found is None and (traced or not isinstance(failure, jax.errors.JAXTypeError)):
        raise failure  # a fault of the program's own, or of a caller who can hold arguments
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


def _is_traced(reading: Reading) -> bool:
    """Does a support depend on bounds that are computed?"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(reading))
