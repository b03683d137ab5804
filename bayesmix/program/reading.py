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
from numpyro.distributions.distribution import validation_enabled
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ..families.collapse import Rule
from ..families.peel import peel
from .arguments import Arguments, compile_lightly
from .blocks import Observed
from .errors import ProgramError, PytreeParameter
from .observed import RAW, Row, is_label, rows_of, tidy, unknown

Program = Callable[..., Any]


class Plate(NamedTuple):
    """A plate's name, its dimension counted from the right (negative), and its size."""

    name: str
    dim: int
    size: int


class Site(NamedTuple):
    """One named site: its value's shape, prior family, support, plates, event dimensions, whether it is
    a scalar with finitely many values, and whether its entries are dependent (a vector's, say)."""

    name: str
    shape: tuple[int, ...]
    family: str
    support: Any
    plates: tuple[Plate, ...]
    event_ndim: int
    finite: bool = False
    joint: bool = False


class Collapse(NamedTuple):
    """A continuous latent of a row that is integrated out of one observed site, by a rule; `shape` is
    the shape of the value at which the program is looked at."""

    local: str
    observed: str
    rule: Rule
    shape: tuple[int, ...]


class Reading(NamedTuple):
    """The structure of a program with one finite latent per row, or none (then there is one component).

    `fixed` names sites outside the rows whose values the program is told (by `handlers.condition`,
    `handlers.substitute` or `obs=`): they are factors of the log joint, not parameters. `lowest` is the
    first value of the latent's support. `locals` are continuous latents of a row, and `collapsed` says
    how each is integrated out.
    """

    parameters: tuple[Site, ...]
    latent: Site | None
    observed: tuple[Site, ...]
    deterministic: tuple[Site, ...]
    rows: Plate
    num_components: int
    plate_depth: int
    fixed: tuple[str, ...] = ()
    lowest: int = 0
    locals: tuple[Site, ...] = ()
    collapsed: tuple[Collapse, ...] = ()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameter sites, in the program's order."""
        return tuple(site.name for site in self.parameters)


def read(
    program: Program, arguments: Arguments, like: Reading | None = None
) -> tuple[Reading, Observed]:
    """Trace the program once and assign a role to every site.

    Returns the reading and what the call says of its rows; `like` is a reading of the same program with
    other rows. Raises :class:`ProgramError` with the cure
    where the program has no plate of rows, more than one finite latent, or a local latent that is
    continuous, and where its data cannot be taken.
    """
    known = (like.latent.name,) if like and like.latent else ()
    reading, found = look(program, arguments, known)(arguments.arrays)
    partly = _partly_known(reading, found)
    if reading.latent is None and partly is not None:
        reading, found = look(program, arguments, (partly,))(arguments.arrays)
    return reading, tidy(reading, found)


def observe(program: Program, reading: Reading, arguments: Arguments) -> Observed:
    """What a call says of its rows, where its arrays are being traced: nothing is looked at."""
    sites = _plain_trace(program, arguments)
    latent = reading.latent.name if reading.latent else None
    found = rows_of(sites, reading, latent)
    return Observed(
        values={name: row.value for name, row in found.items() if name != latent},
        present=dict.fromkeys(name for name in found if name != latent),
        weight=next(iter(found.values())).scale,
    )


def look(program: Program, arguments: Arguments, known: tuple[str, ...] = ()) -> Look:
    """A compiled function of a call's arrays that gives a reading and the sites of the rows."""
    readings: list[Reading] = []

    def run(arrays: tuple[Array, ...]) -> dict[str, Row]:
        sites = _plain_trace(program, arguments._replace(arrays=arrays))
        readings.append(_roles(sites, known))
        latent = readings[-1].latent
        return rows_of(sites, readings[-1], latent.name if latent else None)

    compiled = compile_lightly(run)

    def found(arrays: tuple[Array, ...]) -> tuple[Reading, dict[str, Row]]:
        # under jit nothing is computed but the observed values; a support that depends on computed
        # bounds needs the real thing
        rows = compiled(arrays)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(readings[-1])):
            rows = run(arrays)
        return readings[-1], rows

    return found


Look = Callable[[tuple[Array, ...]], tuple[Reading, dict[str, Row]]]


def _partly_known(reading: Reading, rows: dict[str, Row]) -> str | None:
    """An observed label of which some values are missing (NaN or negative): a latent after all."""
    if len(reading.observed) < 2:
        return None
    for site in reading.observed:
        if site.finite and np.any(unknown(np.asarray(rows[site.name].value))):
            return site.name
    return None


def _roles(sites: dict[str, Any], known: tuple[str, ...]) -> Reading:
    described = {name: _describe(name, site) for name, site in sites.items()}
    samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
    latent = _find_latent(samples, described, known)
    rows = _find_rows(latent, samples, described, sites)
    parameters, observed, fixed, hidden = [], [], [], []
    for name, site in sites.items():
        in_rows = rows.name in {plate.name for plate in described[name].plates}
        if latent and name == latent.name:
            continue
        if site["type"] == "param":
            parameters.append(described[name])
        elif site["type"] != "sample":
            continue
        elif site["is_observed"] and in_rows:
            observed.append(described[name])
        elif site["is_observed"] or site["infer"].get(_TOLD):
            fixed.append(name)
        elif in_rows:
            hidden.append(described[name])
        else:
            parameters.append(described[name])
    _check_roles(samples, described, rows, latent, observed, parameters)
    depth = max(-p.dim for s in described.values() for p in s.plates)
    support = _support_of(samples[latent.name]["fn"], latent.name) if latent else np.zeros(1)
    return Reading(
        parameters=tuple(parameters),
        latent=latent,
        observed=tuple(observed),
        deterministic=tuple(d for n, d in described.items() if sites[n]["type"] == "deterministic"),
        rows=rows,
        num_components=len(support),
        plate_depth=depth,
        fixed=tuple(fixed),
        lowest=int(support[0]),
        locals=tuple(hidden),
    )


def _check_roles(
    samples: dict[str, Any],
    described: dict[str, Site],
    rows: Plate,
    latent: Site | None,
    observed: list[Site],
    parameters: list[Site],
) -> None:
    if not observed:
        elsewhere = [
            (name, described[name].plates[0].name)
            for name, site in samples.items()
            if site["is_observed"]
            and described[name].plates
            and not isinstance(site["fn"], dist.Unit)
        ]
        if elsewhere and latent:
            name, plate = elsewhere[0]
            raise ProgramError(
                f"observed site '{name}' is in plate '{plate}', but the latent '{latent.name}' is in "
                f"plate '{rows.name}'; put both in one plate of rows"
            )
        raise ProgramError(
            f"nothing is observed in plate '{rows.name}'; give the site of the data `obs=`"
        )
    if not parameters:
        raise ProgramError(
            "the program has no parameter; sample what is to be estimated outside the plate of rows"
        )


_TOLD = "bayesmix_told"


class _Told(Messenger):
    """Mark sites whose values handlers of the program's own (substitute) have already given, and bring
    given values to what the program can go on with."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["value"] is None:
            return
        if not msg["is_observed"]:
            msg["infer"] = {**msg["infer"], _TOLD: True}
        if isinstance(msg["value"], np.ndarray):
            # a latent that is being traced cannot index an array of NumPy's
            msg["value"] = jnp.asarray(msg["value"])
        if is_label(msg["fn"]) and jnp.issubdtype(jnp.result_type(msg["value"]), jnp.floating):
            # labels of which some are NaN cannot index
            msg["infer"] = {**msg["infer"], RAW: msg["value"]}
            msg["value"] = jnp.nan_to_num(msg["value"]).astype(int)


def _feasible(site: dict[str, Any]) -> Any:
    """Some value of a parameter's support: which one does not matter to the structure, and is cheap."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].is_discrete:
        return None
    shape = site["kwargs"].get("sample_shape", ()) + site["fn"].shape()
    return site["fn"].support.feasible_like(jnp.zeros(shape))


def _plain_trace(program: Program, arguments: Arguments) -> dict[str, Any]:
    args, kwargs = arguments.call()
    inner = seed(_Told(program), random.key(0))
    run = trace(substitute(inner, substitute_fn=_feasible))
    try:
        # data may be missing, and an observed label may be unknown: they are looked at afterwards
        with validation_enabled(False):
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
    if site["type"] == "param" and not jax.tree_util.all_leaves([site["value"]]):
        raise PytreeParameter(f"numpyro.param site '{name}' is a pytree; give it an array")
    shape = tuple(jnp.shape(site["value"]))
    if site["type"] == "sample":
        fn = site["fn"]
        base = peel(fn).base
        finite = is_label(fn)
        return Site(
            name,
            shape,
            type(base).__name__,
            fn.support,
            plates,
            fn.event_dim,
            finite,
            base.event_dim > 0,
        )
    if site["type"] == "param":
        support = site["kwargs"].get("constraint", dist.constraints.real)
        return Site(name, shape, "param", support, plates, len(shape))
    return Site(name, shape, site["type"], None, plates, len(shape))


def _find_latent(
    samples: dict[str, Any], described: dict[str, Site], known: tuple[str, ...]
) -> Site | None:
    hidden = [
        name
        for name, site in samples.items()
        if name in known or (not site["is_observed"] and site["fn"].is_discrete)
    ]
    for name in hidden:
        if not samples[name]["fn"].has_enumerate_support:
            raise ProgramError(
                f"site '{name}' is a discrete latent with infinitely many values; "
                "use one with finite support (Categorical, Bernoulli, DiscreteUniform)"
            )
    if not hidden:
        return None
    if len(hidden) > 1:
        names = ", ".join(f"'{name}'" for name in hidden)
        raise ProgramError(
            f"the program has several discrete latents ({names}); only one per row is supported yet: "
            "join them into one whose values are their combinations"
        )
    return described[hidden[0]]


def _find_rows(
    latent: Site | None,
    samples: dict[str, Any],
    described: dict[str, Site],
    sites: dict[str, Any],
) -> Plate:
    if latent is None:
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
    elif not latent.plates:
        raise ProgramError(
            f"latent '{latent.name}' is not in a plate; "
            "put it, and the site of the data, inside `with numpyro.plate('rows', N):`"
        )
    elif len(latent.plates) > 1:
        names = " and ".join(f"'{plate.name}'" for plate in latent.plates)
        raise ProgramError(
            f"latent '{latent.name}' is in two plates of rows ({names}); "
            "flatten them into one plate with a row for every combination"
        )
    else:
        rows = latent.plates[0]
    size = sites[rows.name]["args"][0] if rows.name in sites else rows.size
    if size != rows.size:
        raise ProgramError(
            f"plate '{rows.name}' is subsampled ({rows.size} of {size} rows); remove subsample_size"
        )
    return rows


def _support_of(fn: Any, name: str) -> np.ndarray:
    """The latent's values, in order."""
    try:
        with jax.core.eval_context():
            return np.asarray(fn.enumerate_support(expand=False)).reshape(-1)
    except NotImplementedError as error:
        raise ProgramError(
            f"the values of latent '{name}' cannot be enumerated ({error}); "
            "use a distribution with one finite support for all rows"
        ) from error
