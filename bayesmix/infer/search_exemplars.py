"""The convex exemplar mixture as a starter: weights alone, over many components centred at data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from scipy.special import softmax

from ..program.compiling import Compiled
from ..program.errors import ProgramError
from ..program.settings import check_fields
from .search_problem import Climbs, Landscape, Solutions
from .starts import SOFTENING, rough_values

_WEIGHT_STEPS = 500


@dataclass(frozen=True)
class ConvexExemplar:
    """EM from the heaviest of many components that are centred at data points.

    An exemplar is a component that the program's M step fits to a row and its nearest neighbours. With
    the exemplars fixed, the log likelihood

        sum_i log sum_j q_j p(x_i | exemplar j)

    is concave in the weights q, and EM on q alone reaches its maximum from uniform weights, whatever the
    data: no seed decides. K exemplars share the rows between them, each the heaviest on the rows that
    those before it leave unexplained, and EM goes on from the M step's answer. One start for each entry
    of `widths`, which says how many neighbours an exemplar is fitted to, as a share of N / K.
    `exemplars` rows are drawn at random where there are more.

    Needs one latent, and an observed site that is no regression (else rows that are close need not
    belong together). Fitting E exemplars and taking their densities costs 2 E / K passes a width.

    Source: Lashkari & Golland (2007), *Advances in Neural Information Processing Systems* 20 (there with
    a fixed divergence, and an exemplar for each row; how K are chosen of them is ours).
    """

    widths: tuple[float, ...] = (0.25, 0.5, 1.0)
    exemplars: int = 200

    def __post_init__(self) -> None:
        check_fields(self)

    def step(
        self, landscape: Landscape, rng_key: Array, earlier: Sequence[Climbs]
    ) -> Climbs | None:
        if earlier:
            return None
        from scipy.spatial.distance import cdist

        name, points, size = _one_latent(landscape)
        rng = np.random.default_rng(np.asarray(random.key_data(rng_key)).tolist())
        chosen = rng.permutation(len(points))[: max(self.exemplars, size)]
        # a multiple of K of them, the last ones twice
        chosen = np.append(chosen, chosen[-1:].repeat(-len(chosen) % size))
        squares = cdist(points[chosen], points, "sqeuclidean")
        starts, leaving = [], []
        for width in self.widths:
            share = _neighbours(squares, max(2, round(width * len(points) / size)))
            solutions, tables = _exemplars(landscape, name, share.reshape(-1, size, len(points)))
            log_weight = np.asarray(_convex_weights(tables))
            heaviest = _heaviest(log_weight, tables, size)
            starts.append(_softened(log_weight[heaviest, None] + tables[heaviest]))
            leaving.append({site: value[0] for site, value in solutions.items()})
        stacked = jax.tree.map(lambda *each: np.stack(each), *leaving)
        solutions = landscape.refit(stacked, {name: np.stack(starts)})
        return landscape.climb(solutions, spent=2 * len(chosen) / size)


def _one_latent(landscape: Landscape) -> tuple[str, np.ndarray, int]:
    """The latent, what is seen of its rows, and the number of its values."""
    graph = landscape.plan.graph
    if len(graph.names) != 1:
        raise ProgramError(
            f"ConvexExemplar weighs components of one latent, and the program has {len(graph.names)} "
            f"in a row ({', '.join(graph.names)}); use Restarts, Genetic or an annealing strategy"
        )
    ((points,),) = landscape.points.values()
    if points.shape[1] == 0:
        raise ProgramError(
            "ConvexExemplar fits a component to a row and the rows nearest to it, and every observed "
            "site of the program is a regression, where rows that are close need not belong together; "
            "use Restarts, Genetic or an annealing strategy"
        )
    return graph.names[0], points, graph.sizes[0]


def _neighbours(squares: np.ndarray, count: int) -> np.ndarray:
    """(exemplars, rows): 1 for the rows that are nearest to each."""
    nearest = np.argpartition(squares, min(count, squares.shape[1]) - 1, axis=1)[:, :count]
    share = np.zeros(squares.shape)
    np.put_along_axis(share, nearest, 1.0, axis=1)
    return share


def _exemplars(landscape: Landscape, name: str, share: np.ndarray) -> tuple[Solutions, np.ndarray]:
    """K exemplars at a time as components of one solution; and log p(x_i | exemplar), (E, rows)."""
    rough = rough_values(landscape.plan)
    leaving = {n: np.repeat(np.asarray(v)[None], len(share), axis=0) for n, v in rough.items()}
    even = np.full(share.shape, 1 / share.shape[1])
    alike = landscape.refit(leaving, {name: even})  # finds place and scale
    solutions = landscape.refit(landscape.refit(alike, {name: even}), {name: share})
    tables = landscape.component_tables(solutions)
    return solutions, tables.reshape(-1, tables.shape[-1])


@Compiled
def _convex_weights(tables: Array) -> Array:
    """log q that maximises sum_i log sum_j q_j exp(tables_ji), (E,), by EM from uniform weights."""
    count, rows = tables.shape

    def step(_: Array, log_weight: Array) -> Array:
        joint = log_weight[:, None] + tables
        log_share = joint - jax.nn.logsumexp(joint, axis=0)
        return jax.nn.logsumexp(log_share, axis=1) - jnp.log(rows)

    return jax.lax.fori_loop(0, _WEIGHT_STEPS, step, jnp.full(count, -jnp.log(count)))


def _heaviest(log_weight: np.ndarray, tables: np.ndarray, size: int) -> list[int]:
    """K exemplars, (K,): each the heaviest on the rows that those before it leave unexplained.

    An exemplar leaves 1 - p(x_i | exemplar) / max_j p(x_i | j) of a row; a second one at the same place
    has nothing left.
    """
    share = softmax(log_weight[:, None] + tables, axis=0)
    explained = np.exp(tables - tables.max(axis=0))
    left = np.ones(tables.shape[1])
    found: list[int] = []
    for _ in range(size):
        weight = share @ left
        weight[found] = -1.0
        found.append(int(np.argmax(weight)))
        left = np.minimum(left, 1 - explained[found[-1]])
    return found


def _softened(tables: np.ndarray) -> np.ndarray:
    share = softmax(tables, axis=0)
    return (1 - SOFTENING) * share + SOFTENING / len(share)
