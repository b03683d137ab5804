"""The certificate of the reading: a plan's own densities against NumPyro's, by an independent road.

A plan's tables say what each factor of the log joint is at every value of the latents. Here the program
is traced plainly, as NumPyro would, with random parameters and random labels put in, and each site's log
density is compared row by row: impossible labels have to be impossible in both. What is observed is
compared too: the tables with the latents summed out, against the sum over all labels of a row, where
these are few. A program that is misread does not pass, whatever the reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from numpyro.handlers import seed, substitute
from scipy.special import logsumexp

from ..families.augmented import Statistic
from ..families.choice import OneOf
from ..families.likelihoods import Family
from ..families.peel import peel
from .arguments import Arguments
from .compiling import compile_lightly
from .errors import ProgramError
from .evaluate import Values, log_prob_present
from .observed import Observed, mask_layers
from .plain import Give
from .reading import Program, Reading, Site
from .tracing import sites_of, unchecked

# log densities below this stand for minus infinity
IMPOSSIBLE = -1e29
# a Bernoulli's probabilities are kept away from 0 and 1 by NumPyro, by the rounding of double precision
_CLAMPED = math.log(np.finfo(float).eps)
_RELATIVE = 1e-9
# JAX's logarithm of the beta function has seven digits; components of several families may have it
_OF_BETALN = (dist.GammaPoisson, dist.Beta, dist.BetaBinomial, OneOf)
_RELATIVE_OF_BETALN = 1e-5
_RANDOM_DRAWS = 6
_MOST_JOINT_VALUES = 32


class Read(NamedTuple):
    """What is to be certified: a program as it was read, and the call that it was read on."""

    program: Program
    reading: Reading
    families: dict[str, Statistic]
    arguments: Arguments
    observed: Observed


class Certificate(NamedTuple):
    """The largest departure of a log density from NumPyro's, relative to the site's largest, and at how
    many draws of parameters and labels it was looked for."""

    departure: float
    draws: int


def certify(
    read: Read, tables: Callable[[Values], Any], points: dict[str, np.ndarray]
) -> Certificate:
    """Compare `tables` with the program at random labels and at parameter values (probes, ...).

    Raises :class:`ProgramError` naming the site that differs, by how much, and why if that can be told.
    """
    reading, graph = read.reading, read.reading.graph
    draws = _draws(read, points)
    seen = [tables({name: value[i] for name, value in points.items()}) for i in range(draws.probes)]
    theirs = _densities(read)(
        read.arguments.arrays,
        {name: value[draws.probe] for name, value in points.items()},
        draws.labels,
    )
    theirs = jax.tree.map(np.asarray, theirs)
    precision = {name: _precision(reading, name) for name in theirs}
    collapsed = {c.observed for c in reading.collapsed} | {c.local for c in reading.collapsed}
    worst = 0.0
    for name, height in theirs.items():
        if name in collapsed:
            continue
        places = [draws.indices[graph.names[i]] for i in graph.scope(name)]
        own = np.stack(
            [
                _at_labels(seen[probe].factors[name], [place[draw] for place in places])
                for draw, probe in enumerate(draws.probe)
            ]
        )
        departure = _departure(own, height, precision[name])
        worst = max(worst, float(np.max(departure)) * precision[name])
        if np.max(departure) > 1:
            raise ProgramError(_what_differs(read, name, own, height, departure, draws))
    if draws.joint and not collapsed:
        whole = sum(theirs.values(), np.zeros(()))[: draws.joint]
        coarsest = max(precision.values())
        departure = _departure(seen[0].density[None], logsumexp(whole, axis=0)[None], coarsest)
        worst = max(worst, float(np.max(departure)) * coarsest)
        if np.max(departure) > 1:
            raise ProgramError(
                "the latents were summed out wrongly: the log density of a row differs from the sum "
                "over all of its labels; please report this program"
            )
    return Certificate(worst, len(draws.probe))


def _precision(reading: Reading, name: str) -> float:
    """How far the log density of a site may be off by rounding, relative to its largest."""
    families = {site.name: site.family for site in reading.observed}
    coarse = any(
        families.get(name) in {each.__name__ for each in (base, *base.__subclasses__())}
        for base in _OF_BETALN
    )
    return _RELATIVE_OF_BETALN if coarse else _RELATIVE


class _Draws(NamedTuple):
    """Labels at which densities are compared: for each draw the probe whose parameters it goes with, and
    each latent's value (draws, *its shape) and the place of that value (draws, rows). The first `joint`
    draws are all joint values, the same for every row; 0 where these are too many."""

    probes: int
    probe: np.ndarray
    labels: dict[str, np.ndarray]
    indices: dict[str, np.ndarray]
    joint: int


def _draws(read: Read, points: dict[str, np.ndarray]) -> _Draws:
    reading, size = read.reading, read.observed.num_rows
    rng = np.random.default_rng(3)
    sizes = [latent.size for latent in reading.latents]
    joint = math.prod(sizes)
    every = joint if joint <= _MOST_JOINT_VALUES else 0
    probes = len(next(iter(points.values())))
    probe = np.concatenate([np.zeros(every, int), np.arange(_RANDOM_DRAWS) % probes])
    # every value of every latent occurs, if rows and draws are enough for that
    places = [(np.arange(_RANDOM_DRAWS * size) + rng.integers(each)) % each for each in sizes]
    mixed = [rng.permutation(place).reshape(_RANDOM_DRAWS, size) for place in places]
    listed = np.array(list(itertools.product(*map(range, sizes))), int) if every else None
    indices, labels = {}, {}
    for i, latent in enumerate(reading.latents):
        place = mixed[i]
        if listed is not None:
            same = np.broadcast_to(listed[:, i, None], (every, size))
            place = np.concatenate([same, place])
        indices[latent.name] = place
        axis = len(latent.site.shape) + reading.rows.dim
        shape = [1] * len(latent.site.shape)
        shape[axis] = size
        labels[latent.name] = (place + latent.lowest).reshape(len(place), *shape)
    return _Draws(probes, probe, labels, indices, every)


def _at_labels(table: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """Entries of a table (values of each latent..., N or 1) at each row's own values, (N,)."""
    rows = max([table.shape[-1], *(len(place) for place in places)])
    wide = np.broadcast_to(table, (*table.shape[:-1], rows))
    return wide[(*places, np.arange(rows))]


def _departure(ours: np.ndarray, theirs: np.ndarray, relative: float) -> np.ndarray:
    """How far log densities (draws, N) differ, over what rounding allows; infinite where one says
    impossible and the other does not. Where the program itself gives no number nothing can be said."""
    ours, theirs = np.broadcast_arrays(ours, theirs)
    possible = (ours > IMPOSSIBLE) & (theirs > IMPOSSIBLE)
    finite = np.abs(theirs[possible & np.isfinite(theirs)])
    allowed = relative * (1 + finite.max(initial=0.0))
    with np.errstate(invalid="ignore"):
        found = np.where(possible, np.abs(ours - theirs) / allowed, 0.0)
    one_sided = (ours > IMPOSSIBLE) != (theirs > IMPOSSIBLE)
    one_sided &= ~((ours <= IMPOSSIBLE) & (theirs <= _CLAMPED))
    found = np.where(one_sided | np.isnan(ours), np.inf, found)
    return np.where(np.isnan(theirs), 0.0, found)


# --------------------------------------------------------------------------------- the program's own
def _densities(read: Read) -> Callable[[tuple[Any, ...], Values, Values], Values]:
    """Log densities of each site of the rows as the program has them (draws, N), masks left out that say
    what is missing: a compiled function of arrays, parameters (draws, ...) and labels (draws, ...).

    Sites outside the rows do not depend on labels, and are traced with parameters put in as it is.
    """

    def one(arrays: tuple[Array, ...], parameters: Values, labels: Values) -> Values:
        reading = read.reading
        args, kwargs = read.arguments.with_arrays(arrays).on_device().call()
        filled = _filled(read)
        inner = substitute(read.program, data=parameters)
        with unchecked(), Give({**filled, **labels}):
            sites = sites_of(seed(inner, random.key(0)), args, kwargs)
            rows = {site.name: _of_rows(sites, site, read) for site in reading.observed}
            for latent in reading.latents:
                rows[latent.name] = _of_label(sites[latent.name], latent, reading)
        return rows

    return compile_lightly(jax.vmap(one, in_axes=(None, 0, 0)))


def _filled(read: Read) -> Values:
    """Observed values with gaps filled, of the sites whose statistics take them so."""
    reading, found = read.reading, {}
    for site in reading.observed:
        value, there = read.observed.values[site.name], read.observed.present[site.name]
        if there is not None and isinstance(read.families[site.name], Family):
            axis = len(site.shape) - site.event_ndim + reading.rows.dim
            found[site.name] = jnp.moveaxis(jnp.asarray(value), 0, axis)
    return found


def _of_rows(sites: dict[str, Any], site: Site, read: Read) -> Array:
    """One observed site's log density by row."""
    traced = sites[site.name]
    fn, value = traced["fn"], traced["value"]
    if isinstance(read.families[site.name], Family):
        finite = fn.is_discrete and peel(fn).base.has_enumerate_support
        value = value.astype(int) if finite else value  # categories with gaps come as other numbers
        log_prob = _without_masks(fn, site.masks).log_prob(value)
    else:
        log_prob = log_prob_present(fn, value, site.bounded)
    return _by_row(log_prob, read.reading)


def _of_label(traced: dict[str, Any], latent: Any, reading: Reading) -> Array:
    """One latent's log probability by row; where it is masked it says nothing."""
    log_prob = peel(traced["fn"]).base.log_prob(traced["value"])
    for layer in mask_layers(traced["fn"]):
        log_prob = jnp.where(layer._mask, log_prob, -math.log(latent.size))
    return _by_row(log_prob, reading)


def _without_masks(fn: Any, hidden: tuple[bool, ...]) -> Any:
    """The distribution with no masks but those that labels decide."""
    if isinstance(fn, dist.MaskedDistribution):
        inner = _without_masks(fn.base_dist, hidden[1:])
        return inner.mask(fn._mask) if hidden[:1] == (True,) else inner
    if isinstance(fn, dist.Independent):
        inner = _without_masks(fn.base_dist, hidden)
        return inner.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return _without_masks(fn.base_dist, hidden).expand(fn.batch_shape)
    return fn


def _by_row(log_prob: Array, reading: Reading) -> Array:
    """Log densities of a batch (plates...) summed over all plates but the rows, (N,)."""
    missing = -reading.rows.dim - jnp.ndim(log_prob)
    log_prob = jnp.reshape(log_prob, (1,) * max(missing, 0) + jnp.shape(log_prob))
    axis = log_prob.ndim + reading.rows.dim
    found = jnp.sum(log_prob, axis=tuple(i for i in range(log_prob.ndim) if i != axis))
    return jnp.broadcast_to(found, (reading.rows.size,))


# ------------------------------------------------------------------------------- where they disagree
def _what_differs(
    read: Read,
    name: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    departure: np.ndarray,
    draws: _Draws,
) -> str:
    """One sentence on a site that was misread, with the cure."""
    reading, rows = read.reading, read.reading.rows.name
    draw, row = np.unravel_index(np.argmax(departure), departure.shape)
    if _reaches_other_rows(name, theirs, draws):
        return (
            f"site '{name}' is not independent from row to row: its density in a row changes with the "
            f"label of another row of plate '{rows}', so that labels cannot be summed out row by row; "
            "write a sequence as one row, whose steps are a loop or numpyro.contrib.control_flow.scan; "
            "for other neighbours use a sampler of labels, such as numpyro's DiscreteHMCGibbs"
        )
    values = ", ".join(
        f"{latent.name}={draws.indices[latent.name][draw, row] + latent.lowest}"
        for latent in reading.latents
    )
    ours, theirs = np.broadcast_arrays(ours, theirs)
    return (
        f"site '{name}' cannot be read: in row {row}{' at ' + values if values else ''} it would have "
        f"log density {ours[draw, row]:.9g}, and the program says {theirs[draw, row]:.9g}; it depends "
        "on the latents in a way that is not supported: index tables with latents along leading axes "
        "(mean[z]) or with Vindex, and do not reshape, sort or sum what depends on them over rows"
    )


def _reaches_other_rows(name: str, theirs: np.ndarray, draws: _Draws) -> bool:
    """Does a row's density differ between two draws that agree on all of its labels and parameters?"""
    labels = np.stack([*draws.indices.values()], axis=-1) if draws.indices else None
    if labels is None:
        return False
    scale = 1e-6 * (1 + np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
    for one, other in itertools.combinations(range(len(draws.probe)), 2):
        if draws.probe[one] == draws.probe[other]:
            same = (labels[one] == labels[other]).all(axis=-1)
            with np.errstate(invalid="ignore"):
                if (np.abs(theirs[one] - theirs[other])[same] > scale).any():
                    return True
    return False
