"""Marginal mixtures of a program, opened: a latent for the component, and components by its value.

NumPyro has distributions with the latent summed out: `MixtureSameFamily`, `MixtureGeneral`, and the
zero-inflated ones. Where one is observed in the plate of rows, the same model with its latent spelled
out says more: labels, closed forms, Gibbs. For a site `x` the latent is `x_component`. Where every
column of a row has its own component, columns become sites (`x_0`, `x_1` and so on), each with a latent.

A mixture that is no data, such as the prior of a parameter, stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from ..families.choice import OneOf
from ..families.indexing import NotIndexed, indexed, picked
from .arguments import Arguments
from .errors import MarginalMixture
from .observed import Observed
from .plain import looked_at
from .reading import Look, Program, Reading, read
from .roles import describe
from .sites import Plate

# columns with components of their own become sites up to this many
_MOST_COLUMNS = 64

# not what is derived from them, whose density may be another
_ZERO_INFLATED = (dist.ZeroInflatedProbs, dist.ZeroInflatedPoisson, dist.ZeroInflatedLogits)
_MIXTURES = (dist.MixtureSameFamily, dist.MixtureGeneral, *_ZERO_INFLATED)


class Opened:
    """A program whose observed marginal mixtures are opened; others are as they were.

    `rows` is the plate whose mixtures are opened, once :meth:`choose` has found it; a program that
    `seeks` raises :class:`MarginalMixture` at the first. `sites` says of each opened site its
    distribution and its latents, `closed` of each that stayed closed why.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.seeks = False
        self.rows: str | None = None
        self.sites: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.closed: dict[str, str] = {}
        self.__name__ = getattr(program, "__name__", "a NumPyro program")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Open(self):
            return self.program(*args, **kwargs)

    def choose(self, arguments: Arguments) -> None:
        """Find the plate whose mixtures are to be opened: that of the latents, or else their own."""
        self.seeks = False
        self.rows, self.closed = looked_at(self, arguments, _survey)


def read_opened(program: Program, arguments: Arguments) -> tuple[Reading, Observed, Look]:
    """As :func:`read`, of a program whose marginal mixtures are opened, should it have any."""
    if not isinstance(program, Opened):
        return read(program, arguments)
    program.seeks = True
    try:
        return read(program, arguments)
    except MarginalMixture:
        program.choose(arguments)
        return read(program, arguments)
    finally:
        program.seeks = False


def opened_in(program: Any) -> Opened | None:
    """What a plan's program has opened, through the wrappers around it."""
    while not isinstance(program, Opened):
        if not hasattr(program, "program"):
            return None
        program = program.program
    return program


def _survey(sites: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The plate whose mixtures are to be opened, and why some of them cannot be."""
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    plates = {name: describe(name, site).plates for name, site in samples.items()}
    mixtures = [name for name, site in samples.items() if _is_open(site)]
    hidden = [n for n, s in samples.items() if not s["is_observed"] and s["fn"].is_discrete]
    outermost = {plate for name in hidden[:1] or mixtures for plate in plates[name][-1:]}
    if len(outermost) != 1:
        return None, {}
    rows = outermost.pop()
    reasons = {n: _why_closed(samples[n], rows) for n in mixtures if rows in plates[n]}
    return rows.name, {name: reason for name, reason in reasons.items() if reason}


def _why_closed(site: dict[str, Any], rows: Plate) -> str:
    """Why a mixture cannot be opened; empty where it can."""
    try:
        found = _take_apart(site["fn"])
        cells = found.cells(site["cond_indep_stack"], rows.name)
        if np.ndim(site["value"]) != len(found.shape) + found.mixture.event_dim:
            raise NotIndexed("its value has fewer axes than its distribution")
        if cells is not None:
            found = found.at(cells[0])
        if math.prod(found.shape) != rows.size:
            raise NotIndexed("it has axes that are no plate's")
        _try(found.mixture)
    except NotIndexed as why:
        return str(why)
    except Exception as error:  # a distribution of the user's own may hold anything
        return f"its components cannot be told apart ({type(error).__name__}: {error})"
    return ""


def _try(mixture: Any) -> None:
    component = _pieces(mixture).choose(jnp.zeros((), int))
    for part in component.parts if isinstance(component, OneOf) else (component,):
        if type(part) in _MIXTURES:
            _try(part)
    shape = (*component.batch_shape, *component.event_shape)
    component.log_prob(component.support.feasible_like(jnp.zeros(shape)))


def _is_open(site: dict[str, Any]) -> bool:
    """Is a site an observed mixture in a plate?"""
    return bool(
        site["type"] == "sample"
        and site["is_observed"]
        and site["cond_indep_stack"]
        and type(_layers(site["fn"])[-1]) in _MIXTURES
    )


# ----------------------------------------------------------------------------------------- handlers
class _Open(Messenger):
    """Send a latent's message before that of an observed mixture, which becomes its component."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.sent: dict[str, Any] | None = None
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if self.sent is not None and msg["type"] == "sample":
            msg.update(self.sent)  # whatever handlers inside the program have done to it
            return
        if not _is_open(msg):
            return
        if self.opened.seeks:
            raise MarginalMixture(f"site '{msg['name']}' is a marginal mixture")
        in_rows = any(frame.name == self.opened.rows for frame in msg["cond_indep_stack"])
        if in_rows and msg["name"] not in self.opened.closed:
            self._open(msg)

    def _open(self, msg: dict[str, Any]) -> None:
        found, name = _take_apart(msg["fn"]), msg["name"]
        latents: list[str] = []
        cells = found.cells(msg["cond_indep_stack"], self.opened.rows)
        if cells is None:
            component = self._component(found.mixture, found.shape, msg, name, latents)
            msg["fn"] = found.dressed(component)
        else:
            self._columns(msg, found, cells, latents)
        self.opened.sites[name] = type(found.mixture).__name__, tuple(latents)

    def _component(
        self,
        mixture: Any,
        shape: tuple[int, ...],
        msg: dict[str, Any],
        name: str,
        latents: list[str],
    ) -> Any:
        """The component that a new latent chooses; `shape` is the batch of the mixture."""
        own = _pieces(mixture)
        latents.append(f"{name}_component" + (f"_{len(latents) + 1}" if latents else ""))
        depth = max(-frame.dim for frame in msg["cond_indep_stack"])
        plates = shape[len(shape) - depth :]
        label = self._send(msg, name=latents[-1], fn=_expanded(own.weights, plates))
        component = own.choose(label)

        def unfolded(fn: Any) -> Any:
            inner = _take_apart(fn)
            if type(inner.mixture) not in _MIXTURES or inner.reinterpreted or inner.masks:
                return fn
            return self._component(inner.mixture, shape, msg, name, latents)

        if isinstance(component, OneOf):
            parts = tuple(unfolded(part) for part in component.parts)
            chosen, support = component.chosen, component.support
            return OneOf(parts, chosen, support, checked=component.checked)
        return unfolded(component)

    def _columns(
        self,
        msg: dict[str, Any],
        found: _Apart,
        cells: list[dict[int, int]],
        latents: list[str],
    ) -> None:
        """A site for every column, and the site itself put together from their values."""
        name, value = msg["name"], msg["value"]
        whole = jnp.asarray(value)
        scale = _with_axes(msg["scale"], found.reinterpreted)
        stack = [f for f in msg["cond_indep_stack"] if f.name == self.opened.rows]
        for number, cell in enumerate(cells):
            part, place = found.at(cell), found.place(cell, value)
            own: list[str] = []
            shared = {"cond_indep_stack": stack, "scale": found.cut(scale, cell)}
            site = f"{name}_{number}"
            fn = part.dressed(self._component(part.mixture, part.shape, shared, site, own))
            drawn = self._send(shared, name=site, fn=fn, value=value[place], is_observed=True)
            whole = whole.at[place].set(drawn)
            latents += own
        msg["value"], msg["stop"] = whole, True

    def _send(self, msg: dict[str, Any], **told: Any) -> Any:
        """The value of a site that is in the same plates, and of the same weight, as another."""
        stack = list(msg["cond_indep_stack"])
        self.sent = {"cond_indep_stack": stack, "scale": msg["scale"], **told}
        try:
            return numpyro.sample(told["name"], dist.Unit(0.0))
        finally:
            self.sent = None


# --------------------------------------------------------------------------- distributions, taken apart
def _layers(fn: Any) -> list[Any]:
    """A distribution and those below its wrappers, from the outside."""
    layers = [fn]
    wrappers = dist.ExpandedDistribution, dist.MaskedDistribution, dist.Independent
    while isinstance(layers[-1], wrappers):
        layers.append(layers[-1].base_dist)
    return layers


class _Apart(NamedTuple):
    """A mixture below its wrappers: its whole batch, of which the last `reinterpreted` axes belong to
    one event, and masks that can be broadcast to it."""

    mixture: Any
    shape: tuple[int, ...]
    reinterpreted: int
    masks: tuple[Any, ...]

    def cells(self, plates: list[Any], rows: str | None) -> list[dict[int, int]] | None:
        """The places in axes of a row, by axis, counted from the right; None where there are none.

        These are axes of an event and of plates inside a row; those of labels are left of all plates.
        """
        inner = [p.dim - self.reinterpreted for p in plates if p.name != rows and p.size > 1]
        inner = sorted([*inner, *range(-self.reinterpreted, 0)])
        if not inner:
            return None
        if math.prod(self.shape[axis] for axis in inner) > _MOST_COLUMNS:
            raise NotIndexed(
                f"more than {_MOST_COLUMNS} columns of a row have components of their own"
            )
        each = product(*(range(self.shape[axis]) for axis in inner))
        return [dict(zip(inner, places, strict=True)) for places in each]

    def cut(self, array: Any, cell: dict[int, int], own: int = 0) -> Any:
        """An array over the batch, with `own` further axes, at one place of the other axes."""
        for axis, place in cell.items():
            at = np.ndim(array) - own + axis
            if at >= 0 and array.shape[at] > 1:
                array = array[(slice(None),) * at + (slice(place, place + 1),)]
        for _ in range(min(self.reinterpreted, max(0, np.ndim(array) - own))):
            array = array.squeeze(np.ndim(array) - own - 1)
        return array

    def at(self, cell: dict[int, int]) -> _Apart:
        """One column's mixture."""

        def change(own: int, array: Any) -> Any:
            return self.cut(array, cell, own)

        shape = jax.eval_shape(
            lambda x: change(0, x), jax.ShapeDtypeStruct(self.shape, float)
        ).shape
        masks = tuple(self.cut(mask, cell) for mask in self.masks)
        return _Apart(indexed(change, [self.mixture]), shape, 0, masks)

    def place(self, cell: dict[int, int], value: Any) -> tuple[Any, ...]:
        """Where one column is in a value of the site."""
        place: list[Any] = [slice(None)] * (np.ndim(value) - self.mixture.event_dim)
        for axis, at in cell.items():
            place[axis] = at if -axis <= self.reinterpreted else slice(at, at + 1)
        return tuple(place)

    def dressed(self, component: Any) -> Any:
        """A component in the wrappers of a mixture without reinterpreted axes."""
        made = _expanded(component, self.shape)
        for mask in self.masks:
            made = made.mask(mask)
        return made


def _take_apart(fn: Any) -> _Apart:
    layers = _layers(fn)
    count = 0
    masks: list[Any] = []
    for layer in layers:
        if isinstance(layer, dist.Independent):
            count += layer.reinterpreted_batch_ndims
            masks = [_with_axes(mask, layer.reinterpreted_batch_ndims) for mask in masks]
        elif isinstance(layer, dist.MaskedDistribution):
            masks.append(layer._mask)
    shape = (*fn.batch_shape, *fn.event_shape[:count])
    return _Apart(layers[-1], shape, count, tuple(masks))


def _with_axes(array: Any, count: int) -> Any:
    """An array with so many axes of size 1 on its right; a number as it is."""
    return array.reshape((*array.shape, *(1,) * count)) if np.ndim(array) else array


def _expanded(fn: Any, shape: tuple[int, ...]) -> Any:
    return fn.expand(jnp.broadcast_shapes(fn.batch_shape, shape))


# -------------------------------------------------------------------------------------- its components
class _Pieces(NamedTuple):
    """The distribution of the latent, and the distribution of the data by its value."""

    weights: Any
    choose: Callable[[Any], Any]


def _pieces(mixture: Any) -> _Pieces:
    if type(mixture) in _ZERO_INFLATED:
        logits = getattr(mixture, "gate_logits", None)
        gate = (
            dist.Bernoulli(probs=mixture.gate) if logits is None else dist.Bernoulli(logits=logits)
        )
        base = mixture.base_dist
        parts = base, dist.Delta(0.0)
        return _Pieces(gate, lambda label: OneOf(parts, label, base.support))
    weights = mixture.mixing_distribution
    if isinstance(mixture, dist.MixtureSameFamily):
        component = mixture.component_distribution
        return _Pieces(weights, lambda label: indexed(picked(label), [component]))
    return _Pieces(weights, lambda label: _of_families(mixture, label))


def _of_families(mixture: Any, label: Any) -> Any:
    """Components that are alike are one distribution with parameters by label; of several such, the
    label chooses one."""
    components = [_layers(fn)[0] for fn in mixture.component_distributions]
    components = [
        fn.base_dist if isinstance(fn, dist.ExpandedDistribution) else fn for fn in components
    ]
    groups: list[list[int]] = []
    for number, fn in enumerate(components):
        alike = (g for g in groups if _are_alike([*(components[i] for i in g), fn]))
        group = next(alike, None)
        groups.append([number]) if group is None else group.append(number)
    places = np.zeros((2, len(components)), int)
    for which, group in enumerate(groups):
        places[:, group] = np.full(len(group), which), np.arange(len(group))
    which, place = jnp.asarray(places)[:, label]
    parts = [indexed(picked(place), [components[i] for i in group]) for group in groups]
    support = mixture.support
    # NumPyro asks for each component's own support where the mixture's is given
    checked = mixture._support is not None and any(part.support != support for part in parts)
    if len(parts) == 1 and not checked:
        return parts[0]
    # what all have in common comes outside, so that the cells of a vector are cells
    common = min(
        part.reinterpreted_batch_ndims if isinstance(part, dist.Independent) else 0
        for part in parts
    )
    common = min(common, getattr(support, "reinterpreted_batch_ndims", 0))
    if not common:
        return OneOf(tuple(parts), which, support, checked=checked)
    own = support.reinterpreted_batch_ndims - common
    support = (
        dist.constraints.independent(support.base_constraint, own)
        if own
        else support.base_constraint
    )
    bare = [part.base_dist.to_event(part.reinterpreted_batch_ndims - common) for part in parts]
    return OneOf(tuple(bare), _with_axes(which, common), support, checked=checked).to_event(common)


def _are_alike(fns: list[Any]) -> bool:
    """Are they of one family, with parameters that can be stacked?"""
    try:
        jax.eval_shape(lambda: indexed(picked(jnp.zeros((), int)), fns))
    except NotIndexed:
        return False
    return True
