"""Probing a program at random points: families, closed forms, label axes, links.

Structure does not depend on the data: a few rows, random well-scaled parameter values and random
statistics show it, and everything found is certified where it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from ..families.augmented import RowFamily, Statistic
from ..families.forms import base_support
from ..families.likelihoods import Family
from . import elimination, row_pass
from .arguments import Arguments, take_rows
from .blocks import arrange
from .certificate import IMPOSSIBLE, Certificate, Read, certify
from .compiling import compile_lightly
from .conjugacy import Conditional, Recognition, random_noise, random_points, recognise
from .errors import ProgramError
from .evaluate import Evaluation, Values, enumerated_trace, evaluate, family_of, row_family_of
from .labels import Labels, Tested, find_labels
from .links import describe_links
from .observed import Observed
from .ordinary import NO_UNITS, Units, find_units, in_units
from .reading import Program, Reading, resized
from .specialise import Specialised, specialise
from .statistics import expected_factors

# rows that are looked at, unless there are so few that all may be: then a fit needs no other look
_PROBE_ROWS, _ALL_ROWS = 32, 512
_FARTHEST = 1e6
_STEPS = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)


class Found(NamedTuple):
    """What probing shows; see the attributes of a plan. `parts` is the program at the rows that were
    probed, taken apart."""

    certificate: Certificate
    families: dict[str, Statistic]
    blocks: tuple[Conditional, ...]
    certificates: dict[str, tuple[float, str]]
    labels: Labels
    links: dict[str, tuple[str, str]]
    by_row: bool
    points: dict[str, np.ndarray]
    parts: Specialised


class _Look(NamedTuple):
    """A program at the rows that are probed, with a choice of families, and its factors as a function
    of parameter values."""

    reading: Reading
    families: dict[str, Statistic]
    parts: Specialised
    evaluate: Callable[[Values], Evaluation]

    def factors(self, values: Values, statistics: row_pass.Statistics) -> dict[str, Array]:
        """Every factor of the expected log joint, by a name for the reader of the plan."""
        evaluation = self.evaluate(values)
        found = {f"the prior of {name}": value for name, value in evaluation.prior.items()}
        expected = expected_factors(self.families, evaluation, statistics)
        for name, value in expected.items():
            found[f"the likelihood of {name}"] = value
        return found


def _look(
    program: Program, reading: Reading, arguments: Arguments, families: dict[str, Statistic]
) -> _Look:
    def factors(arrays: tuple[Array, ...], values: Values) -> Evaluation:
        return evaluate(program, reading, families, arguments.with_arrays(arrays), values)

    shapes = {s.name: jax.ShapeDtypeStruct(s.shape, float) for s in reading.parameters}
    parts = specialise(factors, arguments.arrays, shapes)
    parts = parts._replace(known=compile_lightly(parts.known))
    known, told = parts.known(arguments.arrays), jax.jit(factors)

    def at(values: Values) -> Evaluation:
        if values.keys() == shapes.keys():
            return parts.rest(arguments.arrays, known, values)
        return told(arguments.arrays, values)  # deterministic sites are told values too

    return _Look(reading, families, parts, at)


def few_rows(
    program: Program, arguments: Arguments, reading: Reading, observed: Observed
) -> tuple[Arguments, Reading, Observed]:
    """The call on some of the rows, spread over all, and in double precision: structure does not depend
    on how many there are."""
    arguments = arguments.with_arrays(tuple(map(np.asarray, arguments.arrays)))
    size = observed.num_rows  # a reading may be that of a call with other rows
    keep = max(_PROBE_ROWS, 4 * max((s.shape[-1] for s in reading.observed if s.shape), default=1))
    if size > max(2 * keep, _ALL_ROWS):
        some = np.random.default_rng(0).permutation(size)[:keep]
        # every column needs a row where it is not missing
        firsts = [np.argmax(p, axis=0).ravel() for p in observed.present.values() if p is not None]
        chosen = np.unique(np.concatenate([some, *firsts]))
        taken = _in_double(take_rows(arguments, size, chosen))
        fewer = _with_rows(program, reading, taken, len(chosen))
        if fewer is not None:
            return taken, fewer, jax.tree.map(_wide, observed.take(chosen))
    # only now: twice as wide, all rows would take twice their memory
    arguments = _in_double(arguments)
    if size != reading.rows.size:
        told = resized(program, reading, arguments)
        reading = told._replace(collapsed=reading.collapsed)
    wide = jax.tree.map(_wide, observed._replace(mesh=None))
    return arguments, reading, wide._replace(mesh=observed.mesh)


def _in_double(arguments: Arguments) -> Arguments:
    return arguments.with_arrays(tuple(map(_wide, arguments.arrays)))


def _with_rows(
    program: Program, reading: Reading, arguments: Arguments, size: int
) -> Reading | None:
    """The reading of a call that was cut to so many rows; None where rows are not the leading axis of
    all arrays that have them, so that the cut ones do not fit each other."""
    try:
        told = resized(program, reading, arguments)
    except (TypeError, ValueError, IndexError):
        return None
    same = [s[:2] for s in told.parameters] == [s[:2] for s in reading.parameters]
    return told._replace(collapsed=reading.collapsed) if told.rows.size == size and same else None


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def probe(
    program: Program, arguments: Arguments, reading: Reading, observed: Observed
) -> Found | None:
    """Look at a program at these rows; None where its log joint is not finite at any random point."""
    rng = np.random.default_rng(2)
    noise = random_noise(reading.parameters, rng)
    random_rows = _random_rows(reading, observed, rng, len(next(iter(noise.values()))))
    plain, by_rows = _families(program, reading, arguments)
    look = _look(program, reading, arguments, plain)
    reach = _reach(observed)
    found = _recognise(look, noise, random_rows, reach)
    if found is None:
        units = find_units(reading.parameters, noise, arguments, _log_joint(look, observed))
        found = _recognise(look, noise, random_rows, reach, units) if units else None
    if found is None:
        return None
    if by_rows and any(block.form is None for block in found[0].blocks):
        # hidden values of the rows may give a closed form to sites that have none
        other = _look(program, reading, arguments, {**plain, **by_rows})
        augmented = _recognise(other, noise, random_rows, reach)
        if augmented is not None and _num_closed(augmented[0]) > _num_closed(found[0]):
            look, found = other, augmented
    recognition, points = found
    point = {name: value[0] for name, value in points.items()}
    statistics = any(not isinstance(family, Family) for family in look.families.values())
    latent = jax.eval_shape(look.evaluate, point).latent
    tables = _tables(look, observed)
    read = Read(program, reading, look.families, arguments, observed)
    return Found(
        certificate=certify(read, tables, points),
        families=look.families,
        blocks=recognition.blocks,
        certificates=recognition.certificates,
        labels=_labels(look, tables, point),
        links=_links(look, tables, point),
        by_row=statistics or any(table.ndim > 1 for table in latent.values()),
        points=points,
        parts=look.parts,
    )


def _reach(observed: Observed) -> float:
    """How far the data are from zero, within reason: closed forms have to hold as far as that."""
    sizes = [np.abs(np.asarray(value)).max(initial=1.0) for value in observed.values.values()]
    return float(min(max(sizes), _FARTHEST))


def _num_closed(recognition: Recognition) -> int:
    return sum(len(block.sites) for block in recognition.blocks if block.form is not None)


def _families(
    program: Program, reading: Reading, arguments: Arguments
) -> tuple[dict[str, Statistic], dict[str, Statistic]]:
    """Each observed site's family or None; and the row families that could stand for the latter."""
    plain: dict[str, Statistic] = {}
    by_rows: dict[str, Statistic] = {}

    def look(arrays: tuple[Array, ...], values: Values) -> None:
        sites = enumerated_trace(program, reading, arguments.with_arrays(arrays), values)
        for site in reading.observed:
            plain[site.name] = family_of(sites[site.name], reading)
            if plain[site.name] is None and (family := row_family_of(sites[site.name], reading)):
                by_rows[site.name] = family

    shapes = {s.name: jax.ShapeDtypeStruct(s.shape, float) for s in reading.parameters}
    try:
        jax.eval_shape(look, arguments.arrays, shapes)
    except ProgramError:
        raise
    except Exception as error:
        names = ", ".join(f"'{latent.name}'" for latent in reading.latents)
        where = f"with latent {names} enumerated" if names else "on its own"
        raise ProgramError(
            f"the program does not run {where} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); index tables with the latent "
            "along a leading axis (mean[z]), or with Vindex when there is more than one index; rows "
            "that use each other's labels (z[neighbour]) cannot be summed out one by one"
        ) from error
    return plain, by_rows


def _log_joint(look: _Look, observed: Observed) -> Callable[[Values], float]:
    """The log joint of the rows and the parameters, the latents summed out."""
    tables = _tables(look, observed)

    def height(values: Values) -> float:
        found = tables(values)
        return float(found.density.sum() + found.log_prior)

    return height


def _recognise(
    look: _Look, noise: Values, rows: _Noise, reach: float, units: Units = NO_UNITS
) -> tuple[Recognition, dict[str, np.ndarray]] | None:
    """Closed forms under this choice of families, and the random points at which they were found."""

    @compile_lightly
    def prepare(step: Array, noise: Values, rows: _Noise) -> tuple[Values, Any, Array, Array]:
        points = random_points(look.reading.parameters, jax.tree.map(lambda x: step * x, noise))
        points = in_units(points, units)

        def statistics(point: Values, rows: _Noise) -> tuple[row_pass.Statistics, Array, Array]:
            evaluation = look.evaluate(point)
            made, possible = _random_statistics(look, evaluation, rows)
            return made, row_pass.clear(look.families, evaluation), possible

        made, clear, possible = jax.vmap(statistics)(points, rows)
        return points, made, jnp.all(clear), jnp.all(possible)

    # with columns of large numbers ordinary coefficients saturate a link
    for step in _STEPS:
        made = prepare(step, noise, rows)
        points, statistics, clear, possible = jax.tree.map(np.asarray, made)
        if clear and possible:
            break
    if not possible:
        return None  # what has no weight would pass for a closed form
    reach = reach if step == 1 else step  # farther away a link is saturated
    found = recognise(look.reading.parameters, look.factors, points, statistics, step, reach)
    return None if found is None else (found, points)


class _Noise(NamedTuple):
    """Random responsibilities (K, N) by clique, and random rows by observed site, after probes."""

    weights: tuple[np.ndarray, ...]
    values: dict[str, np.ndarray]


def _random_rows(
    reading: Reading, observed: Observed, rng: np.random.Generator, probes: int
) -> _Noise:
    """Random weights over random rows: real ones at unit scale, others as observed."""
    graph = reading.graph
    weights = tuple(
        rng.uniform(0.05, 1.0, (probes, graph.size(clique), reading.rows.size))
        for clique in range(len(graph.cliques))
    )
    values = {}
    for site in reading.observed:
        value = np.asarray(observed.values[site.name])
        shape = (probes, *value.shape)
        real = base_support(site.support)
        if real == dist.constraints.real or real == dist.constraints.real_vector:
            values[site.name] = rng.normal(size=shape)
        else:
            values[site.name] = np.broadcast_to(value, shape)
    return _Noise(weights, values)


def _random_statistics(
    look: _Look, evaluation: Evaluation, noise: _Noise
) -> tuple[row_pass.Statistics, Array]:
    """Statistics of random weights, and whether every row has labels that are possible."""
    moments, families, graph = {}, look.families, look.reading.graph
    arranged = {
        name: (
            family.prepare(evaluation.components[name], None),
            family.arrange(noise.values[name], None),
        )
        for name, family in families.items()
        if isinstance(family, Family)
    }
    shares = _possible(look, evaluation, noise.weights, arranged)

    def weights(name: str) -> Array:
        return shares[graph.clique_of[name]]

    for name, family in families.items():
        if isinstance(family, Family):
            prepared, rows = arranged[name]
            sums = family.accumulate(prepared, rows, weights(name), None)
            moments[name] = family.finish(prepared, sums)
    hidden = row_pass.hidden_values(families, evaluation, None)
    latent = evaluation.latent
    by_row = [name for name, family in families.items() if not isinstance(family, Family)]
    made = row_pass.Statistics(
        {name: jnp.sum(weights(name), axis=1) for name in latent if latent[name].ndim == 1},
        moments,
        {name: weights(name) for name in [*by_row, *(n for n in latent if latent[n].ndim > 1)]},
        hidden,
    )
    possible = [jnp.all(jnp.any(share > 0, axis=0)) for share in shares]
    return made, jnp.all(jnp.stack(possible))


def _possible(
    look: _Look, evaluation: Evaluation, weights: tuple[np.ndarray, ...], arranged: dict[str, Any]
) -> list[Array]:
    """Random weights, zero where labels are impossible: nothing is ever seen there."""
    families, graph = look.families, look.reading.graph
    found = [jnp.asarray(each) for each in weights]
    tables = dict(evaluation.latent)
    for site in look.reading.observed:
        name, family, parameters = site.name, families[site.name], evaluation.components[site.name]
        if family is None:
            tables[name] = parameters
        elif isinstance(family, RowFamily):
            tables[name] = parameters.log_prob
        elif site.support.is_discrete:
            tables[name] = family.log_prob(*arranged[name])
    for name, table in tables.items():
        found[graph.clique_of[name]] *= jnp.reshape(table, (table.shape[0], -1)) > IMPOSSIBLE
    return found


class _Tables(NamedTuple):
    """What the reading, labels and links are judged by, at parameter values: every factor's log density,
    (values of each latent that it depends on..., rows); that of the rows (rows,) and of the
    parameters; the deterministic sites; and for families the mean and covariance of
    each component."""

    factors: Values
    density: Array
    log_prior: Array
    deterministic: Values
    moments: dict[str, tuple[Array, Array]]


def _tables(look: _Look, observed: Observed) -> Callable[[Values], _Tables]:
    """The tables at parameter values, on the host; compiled once for labels and links."""
    families, graph = look.families, look.reading.graph
    # labels are a matter of the program: cells that happen to be missing do not come into it
    complete = Observed(
        observed.values, dict.fromkeys(observed.values), None, _no_labels(observed.labels)
    )
    blocks = arrange(families, complete, graph, whole=True)

    @compile_lightly
    def tables(values: Values) -> _Tables:
        evaluation = look.evaluate(values)
        joint = row_pass.log_factors(graph, families, evaluation, blocks)
        every = row_pass.each_factor(families, evaluation, blocks)
        return _Tables(
            factors={
                name: jnp.reshape(value, (*(graph.sizes[i] for i in graph.scope(name)), -1))
                for name, value in every.items()
            },
            density=elimination.sum_out(graph, joint),
            log_prior=sum(evaluation.prior.values(), jnp.zeros(())),
            deterministic=evaluation.deterministic,
            moments={
                name: family.moments(evaluation.components[name])
                for name, family in families.items()
                if isinstance(family, Family)
            },
        )

    return lambda values: jax.tree.map(np.asarray, tables(values))


def _no_labels(labels: dict[str, Any] | None) -> dict[str, Any] | None:
    return labels and {name: np.full_like(value, -1) for name, value in labels.items()}


def _labels(look: _Look, tables: Callable[[Values], _Tables], point: Values) -> Labels:
    reading, graph = look.reading, look.reading.graph
    unit = dist.constraints.unit_interval
    shares = tuple(s.name for s in reading.parameters if base_support(s.support) == unit)
    tested = Tested(
        sizes=dict(zip(graph.names, graph.sizes, strict=True)),
        scopes={name: tuple(graph.names[i] for i in graph.scope(name)) for name in graph.clique_of},
        factors=lambda v: tables(v).factors,
        density=lambda v: tables(v).density,
        log_prior=lambda v: tables(v).log_prior,
        derive=lambda v: tables(v).deterministic,
        known=frozenset(latent.name for latent in reading.latents if latent.observed),
    )
    return find_labels(tested, point, shares)


def _links(
    look: _Look, tables: Callable[[Values], _Tables], point: Values
) -> dict[str, tuple[str, str]]:
    graph = look.reading.graph

    def moments(name: str, values: Values) -> tuple[Array, Array]:
        return tables(values).moments[name]

    def label(name: str) -> str:
        return ", ".join(graph.names[i] for i in graph.scope(name))

    return {
        name: describe_links(partial(moments, name), point, label(name))
        for name, family in look.families.items()
        if isinstance(family, Family)
    }
