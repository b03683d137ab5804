"""Rows spread over devices: each holds some of the blocks, and only sums are exchanged.

Everything that a pass over the rows adds up (log likelihood, statistics) is added on each device by
itself and then across devices; parameters and statistics are the same on all of them. What the pass
keeps of each row stays where the row is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .errors import ProgramError

_AXIS = "rows"
_BY_BLOCK, _EVERYWHERE = PartitionSpec(_AXIS), PartitionSpec()
_CHOSEN: ContextVar[Mesh | None] = ContextVar("devices of the rows", default=None)


@contextmanager
def rows_on(devices: Sequence[jax.Device] | None = None) -> Iterator[None]:
    """Spread the rows of every fit and sampler that is run inside over these devices.

    The program stays as it is, and the answer is the same up to rounding: sum_i f(x_i) is added up on
    each device over its own rows, then over devices. There may be any number of rows. Data that are
    spread by rows themselves (`jax.device_put` with a `NamedSharding`) need no `rows_on`: their devices
    are taken.

    Args:
        devices: JAX devices, each at most once; all of them (of all processes) unless given.

    Raises:
        ProgramError: where there is no device, or one of them is given twice.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, jax.numpy as jnp
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> x = jnp.array([-0.2, 0.1, 0.3, 9.8, 10.1])
        >>> with bayesmix.rows_on(jax.devices()):
        ...     fit = bayesmix.EM(program).run(jax.random.key(0), x)
        >>> sorted(fit.parameters["mean"].round(2).tolist())
        [0.07, 9.9]
    """
    token = _CHOSEN.set(_mesh_over(jax.devices() if devices is None else devices))
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def _mesh_over(devices: Sequence[jax.Device]) -> Mesh:
    if not 0 < len(devices) == len(set(devices)):
        raise ProgramError(
            f"rows cannot be spread over the devices {list(devices)}; give at least one, each once"
        )
    # automatic axes: programs are written for whole arrays, and need not say where each piece is
    return jax.make_mesh((len(devices),), (_AXIS,), (AxisType.Auto,), devices=devices)


def mesh_of(arrays: Sequence[Any]) -> Mesh | None:
    """The devices of the rows, as a mesh with one axis: those that an array's leading axis is spread
    over, else those of :func:`rows_on`; None where there are neither."""
    for array in arrays:
        tracing = isinstance(array, jax.core.Tracer)
        sharding = None if tracing else getattr(array, "sharding", None)
        if isinstance(sharding, NamedSharding) and any(sharding.spec[:1]):
            return _mesh_over(list(sharding.mesh.devices.flat))
    return _CHOSEN.get()


def whole(array: jax.Array) -> jax.Array:
    """The same array, where it is, for programs that do not say where each piece is.

    Axes of a mesh that are explicit (those of `jax.make_mesh`) ask that of a program; they become
    automatic.

    Raises :class:`ProgramError` where other processes have pieces that this one cannot see.
    """
    if isinstance(array, jax.core.Tracer):
        return array
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise ProgramError(
            "an argument is spread over several processes, and each arranges all rows; give every "
            "process the whole of it "
            "(jax.experimental.multihost_utils.process_allgather(x, tiled=True)) "
            "and run inside bayesmix.rows_on()"
        )
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return array
    mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names)
    return jax.device_put(array, NamedSharding(mesh, sharding.spec))


def place(by_block: Any, everywhere: Any, mesh: Mesh | None) -> Any:
    """Arrays that lead with blocks, in parts on their devices; others whole, on all of them."""
    if mesh is None:
        return jax.device_put((by_block, everywhere))
    parts = (NamedSharding(mesh, spec) for spec in (_BY_BLOCK, _EVERYWHERE))
    return tuple(map(jax.device_put, (by_block, everywhere), parts))


def over_blocks(
    visit: Callable[..., tuple[Any, Any]],
    nothing: Callable[[], Any],
    every: Any,
    mesh: Mesh | None,
) -> tuple[Any, Any]:
    """`visit(sums, *block)`, for each block of `every`, whose arrays lead with blocks, adds to the sums
    and gives what is to be kept of the block; returns sums over all blocks, from `nothing()` on, and
    what was kept, leading with blocks."""
    if mesh is None:
        return _one_by_one(visit, nothing, every)

    def local(every: Any) -> tuple[Any, Any]:
        sums, kept = _one_by_one(visit, nothing, every)
        return jax.lax.psum(sums, _AXIS), kept

    # unchecked: loops inside `visit` need not say of their first values that they differ by device
    spread = jax.shard_map(
        local, mesh=mesh, in_specs=_BY_BLOCK, out_specs=(_EVERYWHERE, _BY_BLOCK), check_vma=False
    )
    return spread(every)


def _one_by_one(
    visit: Callable[..., tuple[Any, Any]], nothing: Callable[[], Any], every: Any
) -> tuple[Any, Any]:
    if jax.tree.leaves(every)[0].shape[0] == 1:
        sums, kept = visit(nothing(), *jax.tree.map(lambda x: x[0], every))
        return sums, jax.tree.map(lambda x: x[None], kept)
    return jax.lax.scan(lambda sums, block: visit(sums, *block), nothing(), every)
