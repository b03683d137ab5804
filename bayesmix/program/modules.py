"""Parameters that are pytrees, such as a network's: one array for each leaf, named by its path.

`numpyro.contrib.module` registers a network as one `numpyro.param` site whose value is a pytree. Engines
work on named arrays, so a program with such a site is wrapped: for the site `net$params` there is then a
site `net$params.layers.0.weight` for each of its arrays, and the program is handed the pytree of them.
"""

from __future__ import annotations

from functools import update_wrapper
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.handlers import seed
from numpyro.primitives import Messenger

from .arguments import Arguments
from .errors import ProgramError, PytreeParameter
from .evaluate import Values, enumerated_trace
from .mixtures import read_opened
from .observed import Observed
from .reading import Look, Program, Reading, read
from .tracing import unchecked


class ArrayParameters:
    """A program whose `numpyro.param` sites are arrays: pytrees are taken apart.

    `names` holds, for each site that was taken apart, the same pytree with the name of an array site in
    each array's place. Leaves that are not arrays of floating-point numbers stay what they are, and so
    do those in `idle`: arrays that no density of the program depends on.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: dict[str, Any] = {}
        self.idle: frozenset[str] = frozenset()
        update_wrapper(self, program, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _TakeApart(self.names, self.idle):
            return self.program(*args, **kwargs)


class _TakeApart(Messenger):
    """Send a `numpyro.param` message for each array of a pytree, in place of the pytree's own."""

    def __init__(self, names: dict[str, Any], idle: frozenset[str]) -> None:
        self.names, self.idle = names, idle
        self.sent: str | None = None
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "param":
            return
        if self.sent is not None:
            msg["name"] = self.sent  # handlers inside the program have named the pytree already
            return
        tree = msg["fn"](*msg["args"], **msg["kwargs"]) if msg["value"] is None else msg["value"]
        if jax.tree_util.all_leaves([tree]):
            return
        msg["stop"] = True
        if tree is None:
            return  # a site that is asked for before it is given: handlers have no value for it
        paths, structure = jax.tree_util.tree_flatten_with_path(tree)
        named = [
            f"{msg['name']}.{jax.tree_util.keystr(path, simple=True, separator='.')}"
            for path, _ in paths
        ]
        found = [
            self._send(name, leaf, msg["kwargs"])
            if _is_real(leaf) and name not in self.idle
            else leaf
            for name, (_, leaf) in zip(named, paths, strict=True)
        ]
        self.names[msg["name"]] = jax.tree.unflatten(structure, named)
        msg["value"] = jax.tree.unflatten(structure, found)

    def _send(self, name: str, leaf: Array, kwargs: dict[str, Any]) -> Any:
        self.sent = name
        try:
            return numpyro.param(name, leaf, **kwargs)
        finally:
            self.sent = None


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def read_arrays(program: Program, arguments: Arguments) -> tuple[Program, Reading, Observed, Look]:
    """As :func:`read`, of the program itself, or of one whose pytree parameters are taken apart."""
    try:
        return program, *read_opened(program, arguments)
    except PytreeParameter:
        arrays = ArrayParameters(program)
        reading, observed, looking = read(arrays, arguments)
        # a network with priors still registers the initial weights that its draws replace
        arrays.idle = _idle(arrays, reading, arguments)
        if arrays.idle:
            reading, observed, looking = read(arrays, arguments)
        return arrays, reading, observed, looking


def _idle(program: ArrayParameters, reading: Reading, arguments: Arguments) -> frozenset[str]:
    """Names of arrays that no distribution and no other site of the program is computed from."""
    apart = set(jax.tree.leaves(program.names))
    shapes = {s.name: jnp.zeros(s.shape) for s in reading.parameters if s.name in apart}

    def run(values: Values) -> Any:
        sites = enumerated_trace(program, reading, arguments, values)
        return [
            jax.tree.leaves((site.get("fn"), site["value"]))
            for name, site in sites.items()
            if name not in values and site["type"] in ("sample", "deterministic")
        ]

    with unchecked():
        traced = jax.make_jaxpr(run)(shapes).jaxpr
    used = {id(v) for equation in traced.eqns for v in equation.invars}
    used |= {id(v) for v in traced.outvars}
    # arguments of the traced function are in the order of the names
    return frozenset(
        n for n, v in zip(sorted(shapes), traced.invars, strict=True) if id(v) not in used
    )


def initial_values(
    program: Program, reading: Reading, arguments: Arguments, values: Values, rng_key: Array
) -> Values:
    """The program's own initial value of every `numpyro.param` site, drawn with this key.

    `values` are those of the other sites; the initial values of a network follow from the key, as in
    `numpyro.infer.SVI`. To be called under jit.
    """
    names = [site.name for site in reading.parameters if site.family == "param"]
    if not names:
        return {}
    told = {name: value for name, value in values.items() if name not in names}
    with unchecked():
        sites = enumerated_trace(seed(program, rng_key), reading, arguments, told)
    return {name: jnp.asarray(sites[name]["value"], values[name].dtype) for name in names}


def array_names(program: Program) -> frozenset[str]:
    """Names of the arrays that pytrees of the program were taken apart into."""
    apart = program.names if isinstance(program, ArrayParameters) else {}
    return frozenset(jax.tree.leaves(apart))


def site_values(program: Program, values: Values) -> dict[str, Any]:
    """Values by array as the program's own sites have them: a network's weights as one pytree.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from bayesmix.program.modules import ArrayParameters, site_values
    >>> def program(x):
    ...     line = numpyro.param("line", {"slope": jnp.ones(()), "start": jnp.zeros(())})
    ...     numpyro.sample("y", dist.Normal(line["start"] + line["slope"] * x, 1.0))
    >>> arrays = ArrayParameters(program)
    >>> list(numpyro.handlers.trace(numpyro.handlers.seed(arrays, 0)).get_trace(2.0))
    ['line.slope', 'line.start', 'y']
    >>> site_values(arrays, {"line.slope": 3.0, "line.start": -1.0})
    {'line': {'slope': 3.0, 'start': -1.0}}
    """
    apart = program.names if isinstance(program, ArrayParameters) else {}
    used = array_names(program)
    found: dict[str, Any] = {name: value for name, value in values.items() if name not in used}
    for site, names in apart.items():
        leaves, structure = jax.tree.flatten(names)
        if all(name in values for name in leaves):
            found[site] = jax.tree.unflatten(structure, [values[name] for name in leaves])
    return found


def array_values(program: Program, values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`site_values`: pytrees by array; what is an array already stays as it is.

    Raises :class:`ProgramError` where a pytree is not that of the site.
    """
    apart = program.names if isinstance(program, ArrayParameters) else {}
    found: dict[str, Any] = {}
    for site, value in values.items():
        names, structure = jax.tree.flatten(apart.get(site, site))
        if jax.tree.structure(value) != structure and site in apart:
            raise ProgramError(
                f"the value of site '{site}' is not the pytree that the program has there; give one "
                f"with the arrays {', '.join(names)}"
            )
        leaves = jax.tree.leaves(value) if site in apart else [value]
        found |= dict(zip(names, leaves, strict=True))
    return found
