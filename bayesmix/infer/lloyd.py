"""Lloyd's iterations, compiled whole: rows in blocks, one matrix product for all distances of a block.

A column of a block is a row (x, 1), so that its product with (-c_k, |c_k|^2 / 2) is |x - c_k|^2 / 2
less what all clusters share, and its sums by label are sums and counts. Padding is zero throughout, and
adds to nothing. Where JAX has several devices (`numpyro.set_host_device_count` makes cores such), each
holds a part of the blocks, and only sums are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike

from ..program.blocks import aligned_empty
from ..program.compiling import Compiled
from .starts import Seeding
from .status import Status

# of one block's scores: XLA splits what works on larger tables among threads, which takes longer
_SCORE_BYTES = 1 << 17
_ROW_BYTES = 1 << 18  # of one block's rows: they stay in a core's cache
_LANES, _MULTIPLES = 64, (3, 63)
# fewer rows, and fewer products of a cell and a centroid's, are not worth the exchange of sums
_ROWS_PER_DEVICE, _PRODUCTS_PER_DEVICE = 1 << 14, 700_000
# up to here rows are summed by label fastest as products with vectors, and with matrices (bytes of one
# number for each cluster: those that fit one register); beyond, by adding each to its sum
_FEW_CLUSTERS, _REGISTER_BYTES = 8, 64
_ONE_BY_ONE = 16  # up to here clusters are compared in one pass over a block's scores
_AXIS = "rows"
_BY_BLOCK, _EVERYWHERE = PartitionSpec(_AXIS), PartitionSpec()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Rows (N, D) as blocks (B, D + 1, n) of columns (x, 1), or zeros on padding; spread over `mesh`.

    squares: sum_i |x_i|^2, a scalar.
    """

    blocks: Array
    squares: Array
    num_rows: int = field(metadata={"static": True})
    mesh: Mesh = field(metadata={"static": True})


class LloydState(NamedTuple):
    """Runs in progress, leading with starts: centroids (K, D) after `step` steps, which of them are in
    `use` (K,), the distortion before each step, `trace` (max_steps,), and the status."""

    centroids: Any
    use: Any
    step: Any
    trace: Any
    status: Any


def arrange(x: np.ndarray, origin: np.ndarray, num_clusters: int) -> Rows:
    """Rows (N, D) relative to `origin` (D,) in blocks, over as many devices as are worth it."""
    num_rows, columns = x.shape
    products = num_rows * num_clusters * (columns + 1)
    worth = max(1, num_rows // _ROWS_PER_DEVICE, products // _PRODUCTS_PER_DEVICE)
    devices = jax.local_devices()[:worth]
    size = min(_block_size(num_clusters, columns, x.itemsize), -(-num_rows // len(devices)))
    count = len(devices) * -(-num_rows // (len(devices) * size))
    blocks = aligned_empty((count, columns + 1, size), x.dtype)
    whole, rest = divmod(num_rows, size)
    turned, centre = x[: whole * size].reshape(whole, size, columns).swapaxes(1, 2), origin[:, None]
    np.subtract(turned, centre, out=blocks[:whole, :-1])
    blocks[:whole, -1] = 1.0
    blocks[whole:] = 0.0
    if rest:
        blocks[whole, :-1, :rest] = x[whole * size :].T - centre
        blocks[whole, -1, :rest] = 1.0
    cells = blocks[:, :-1]
    squares = np.einsum("bdn,bdn->b", cells, cells).sum(dtype=float).astype(x.dtype)
    mesh = jax.make_mesh((len(devices),), (_AXIS,), (AxisType.Auto,), devices=devices)
    by_block, everywhere = (NamedSharding(mesh, spec) for spec in (_BY_BLOCK, _EVERYWHERE))
    placed = jax.device_put(blocks, by_block), jax.device_put(squares, everywhere)
    return Rows(*placed, num_rows, mesh)


def _block_size(num_clusters: int, columns: int, itemsize: int) -> int:
    """How many rows a block has: an odd multiple of the lanes, since columns of which each begins a
    power of two after the last compete for the same few lines of a cache."""
    size = min(_SCORE_BYTES // num_clusters, _ROW_BYTES // (columns + 1)) // itemsize
    multiple = int(np.clip(size // _LANES, *_MULTIPLES))
    return (multiple - 1 + multiple % 2) * _LANES


def new_state(rows: Rows, centroids: ArrayLike, use: np.ndarray, max_steps: int) -> LloydState:
    """Runs before their first step, from centroids (R, K, D), on all devices; `use` is (R, K)."""
    restarts = use.shape[0]
    state = LloydState(
        centroids,
        use,
        step=np.zeros(restarts, np.int32),
        trace=np.full((restarts, max_steps), np.nan, rows.blocks.dtype),
        status=np.full(restarts, Status.RUNNING, np.int32),
    )
    # where `advance` leaves its results, so that it is compiled once
    return jax.device_put(state, NamedSharding(rows.mesh, PartitionSpec()))


@partial(Compiled, static_argnames=("seeding", "num_clusters"))
def seeded(seeding: Seeding, rng_keys: Array, points: Array, num_clusters: int) -> Array:
    """Centroids (R, K, D) at seeds among the points (N, D), one set for each key."""
    return jax.lax.map(lambda key: points[seeding(key, points, num_clusters)], rng_keys)


@Compiled
def advance(rows: Rows, states: LloydState, until: Array, tolerance: Array) -> LloydState:
    """Steps of every start, until it has settled or made `until` steps."""

    def local(blocks: Array, states: LloydState) -> LloydState:
        def running(state: LloydState) -> Array:
            return (state.status == Status.RUNNING) & (state.step < until)

        def step(state: LloydState) -> LloydState:
            sums, scores = _sums(blocks, state.centroids, state.use)
            counts = sums[:, -1]
            empty = state.use & (counts == 0)
            means = sums[:, :-1] / jnp.maximum(counts, 1)[:, None]
            moved = jnp.where((counts > 0)[:, None], means, state.centroids)
            # what the move gains, without the cancellation that the distortion itself suffers
            gain = jnp.sum(counts * jnp.sum((moved - state.centroids) ** 2, axis=1))
            distortion = jnp.maximum(rows.squares + 2 * scores, 0.0)
            settled = (gain <= tolerance * distortion) & ~jnp.any(empty)
            fill = partial(_fill_empty, blocks)
            moved = jax.lax.cond(jnp.any(empty), fill, _as_it_is, moved, state.use, empty)
            return state._replace(
                centroids=moved,
                step=state.step + 1,
                trace=state.trace.at[state.step].set(distortion / rows.num_rows),
                status=jnp.where(settled, Status.CONVERGED, Status.RUNNING).astype(jnp.int32),
            )

        return jax.lax.map(lambda state: jax.lax.while_loop(running, step, state), states)

    return _over_devices(rows, local, PartitionSpec())(rows.blocks, states)


@Compiled
def measure(rows: Rows, centroids: Array, use: Array) -> tuple[Array, Array]:
    """Mean squared distance of the rows from the nearest of each start's centroids, (R,), and the labels
    (N,) of the start where it is least, the lowest of several."""

    def local(blocks: Array, centroids: Array, use: Array) -> tuple[Array, Array]:
        def add(best: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[Any, Array]:
            labels, squares = _encode(blocks, *given)
            mean = jax.lax.psum(jnp.sum(squares), _AXIS) / rows.num_rows
            better = mean < best[0]
            return jax.tree.map(partial(jnp.where, better), (mean, labels), best), mean

        nothing = jnp.zeros((blocks.shape[0], blocks.shape[2]), jnp.int32)
        worst = jnp.asarray(jnp.inf, blocks.dtype)
        (_, labels), means = jax.lax.scan(add, (worst, nothing), (centroids, use))
        return means, labels

    out = (PartitionSpec(), PartitionSpec(_AXIS))
    means, labels = _over_devices(rows, local, out)(rows.blocks, centroids, use)
    return means, labels.reshape(-1)[: rows.num_rows]


@Compiled
def encode(rows: Rows, centroids: Array) -> tuple[Array, Array]:
    """Nearest centroid of each row, the lowest of several, and the squared distance from it; (N,)."""
    use = jnp.ones(centroids.shape[0], bool)
    found = _over_devices(rows, _encode, PartitionSpec(_AXIS))(rows.blocks, centroids, use)
    labels, squares = (each.reshape(-1)[: rows.num_rows] for each in found)
    return labels, squares


def _over_devices(rows: Rows, local: Callable[..., Any], out: Any) -> Callable[..., Any]:
    """`local(blocks, *others)` on every device, with its own blocks and the same others."""

    def run(blocks: Array, *others: Any) -> Any:
        specs = (PartitionSpec(_AXIS), *(PartitionSpec() for _ in others))
        mapped = jax.shard_map(
            local, mesh=rows.mesh, in_specs=specs, out_specs=out, check_vma=False
        )
        return mapped(blocks, *others)

    return run


def _as_it_is(centroids: Array, use: Array, empty: Array) -> Array:
    return centroids


def _plane(centroids: Array, use: Array) -> Array:
    """(-c_k, |c_k|^2 / 2), (K, D + 1); nothing is near a centroid that is not in use."""
    far = jnp.finfo(centroids.dtype).max / 4
    height = jnp.where(use, jnp.sum(centroids**2, axis=1) / 2, far)
    return jnp.concatenate([-centroids, height[:, None]], axis=1)


def _nearest(plane: Array, block: Array) -> tuple[Array, Array]:
    """Labels and scores (n,) of a block; by comparisons, since XLA takes those for many rows at a time,
    an argmin for one."""
    scores = _product(plane, block)
    if plane.shape[0] <= _ONE_BY_ONE:
        best, labels = scores[0], jnp.zeros(scores.shape[1], jnp.int32)
        for number in range(1, plane.shape[0]):
            closer = scores[number] < best
            best = jnp.where(closer, scores[number], best)
            labels = jnp.where(closer, number, labels)
        return labels, best
    best = jnp.min(scores, axis=0)
    numbers = jnp.arange(plane.shape[0], dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(scores == best, numbers, plane.shape[0]), axis=0), best


# on a GPU single precision is rounded further unless told otherwise
_product = partial(jnp.matmul, precision="highest")


def _fits_register(centroids: Array) -> bool:
    return centroids.shape[0] * centroids.dtype.itemsize <= _REGISTER_BYTES


def _indicators(labels: Array, like: Array) -> Array:
    """Ones (K, n) where a row has the label, else zeros; K is that of `like`, (K, ...)."""
    return jax.nn.one_hot(labels, like.shape[0], dtype=like.dtype, axis=0)


def _sums_by_label(labels: Array, block: Array, like: Array) -> Array:
    """Sums of a block's columns (D + 1, n) that have the same label, (K, D + 1), as `like`."""
    if like.shape[0] <= _FEW_CLUSTERS:
        return jnp.stack([_product(block, there) for there in _indicators(labels, like)])
    if _fits_register(like):
        return _product(_indicators(labels, like), block.T)
    return jnp.zeros_like(like).at[labels].add(block.T)


def _sums(blocks: Array, centroids: Array, use: Array) -> tuple[Array, Array]:
    """Sums and counts by nearest centroid (K, D + 1), and the sum of scores, over all devices."""
    plane = _plane(centroids, use)

    def add(total: tuple[Array, Array], block: Array) -> tuple[tuple[Array, Array], None]:
        labels, best = _nearest(plane, block)
        return (total[0] + _sums_by_label(labels, block, plane), total[1] + jnp.sum(best)), None

    nothing = (jnp.zeros_like(plane), jnp.zeros((), plane.dtype))
    sums, best = jax.lax.scan(add, nothing, blocks)[0]
    both = jax.lax.psum(jnp.append(sums.ravel(), best), _AXIS)
    return both[:-1].reshape(sums.shape), both[-1]


def _encode(blocks: Array, centroids: Array, use: Array) -> tuple[Array, Array]:
    """Labels and squared distances (B, n); these by differences, and 0 on padding."""
    plane = _plane(centroids, use)
    places = jnp.concatenate([centroids, jnp.ones_like(plane[:, -1:])], axis=1)

    def one(block: Array) -> tuple[Array, Array]:
        labels, _ = _nearest(plane, block)
        if _fits_register(places):
            nearest = _product(places.T, _indicators(labels, places))
        else:
            nearest = places[labels].T
        # as a product, twice as fast as a sum over the columns
        return labels, block[-1] * _product(jnp.ones_like(block[:, 0]), (block - nearest) ** 2)

    return jax.lax.map(one, blocks)


def _fill_empty(blocks: Array, centroids: Array, use: Array, empty: Array) -> Array:
    """Put each empty cluster in turn on the row that is farthest from all centroids, which cannot raise
    the distortion: every row keeps the centroid it had, and one gets its own."""

    def closer(distance: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
        centre, there = given
        squares = jnp.sum((blocks[:, :-1] - centre[:, None]) ** 2, axis=1)
        return jnp.where(there, jnp.minimum(distance, blocks[:, -1] * squares), distance), None

    def place(distance: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        centre, alone = given
        block, row = jnp.unravel_index(jnp.argmax(distance), distance.shape)
        farthest = distance[block, row], blocks[block, :-1, row]
        distances, candidates = jax.lax.all_gather(farthest, _AXIS)  # one from each device
        centre = jnp.where(alone, candidates[jnp.argmax(distances)], centre)
        return closer(distance, (centre, alone))[0], centre

    nothing = jnp.where(blocks[:, -1] > 0, jnp.inf, 0.0).astype(blocks.dtype)
    distance, _ = jax.lax.scan(closer, nothing, (centroids, use & ~empty))
    return jax.lax.scan(place, distance, (centroids, empty))[1]
