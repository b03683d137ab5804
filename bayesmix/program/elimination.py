"""The hidden values of a row and the factors that join them; summing them out in a good order.

A row's log joint is a sum of tables, one for each *clique*: a set of latents on which some factors
depend. Latents are summed out one after another (variable elimination), along a path of opt_einsum's, in
logarithms. Posterior marginals of the cliques are the derivative of the log evidence by their tables;
draws and the most probable explanation walk the same path back. With one latent, or none, all of this is
a log-sum-exp and a softmax.

Sources: Darwiche (2003), *Journal of the ACM* 50, 280-305 (marginals as derivatives); Dechter (1999),
*Artificial Intelligence* 113, 41-85 (elimination for sums, maxima and draws).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import opt_einsum
from jax import Array, random

from .errors import ProgramError

# entries for each row beyond which a table is refused
_LARGEST_TABLE = 1 << 17
_ROWS = -1  # the index of rows in a path
_USUAL_ROWS = 1000  # what a path is made for
_IMPOSSIBLE = -1e10
_FEW_VALUES = 4


class Step(NamedTuple):
    """Add tables up and sum some latents out: `taken` are positions in the pool of tables, largest
    first; `scope` the latents of the sum, ascending; `gone` those of them that end here."""

    taken: tuple[int, ...]
    scope: tuple[int, ...]
    gone: tuple[int, ...]

    @property
    def stays(self) -> tuple[int, ...]:
        """Latents of the sum that go on, ascending."""
        return tuple(i for i in self.scope if i not in self.gone)


class Graph(NamedTuple):
    """Latents of a row in the program's order, and which of them each factor depends on.

    names, sizes: by latent; cliques: distinct sets of latents, ascending; clique_of: the clique of
    each latent's own factor and of each observed site; steps: the order of elimination.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    cliques: tuple[tuple[int, ...], ...]
    clique_of: dict[str, int]
    steps: tuple[Step, ...]

    def size(self, clique: int) -> int:
        """The number of joint values of a clique's latents."""
        return math.prod(self.sizes[i] for i in self.cliques[clique])

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """The number of joint values of each clique's latents."""
        return tuple(map(self.size, range(len(self.cliques))))

    def scope(self, factor: str) -> tuple[int, ...]:
        """The latents on which a factor depends."""
        return self.cliques[self.clique_of[factor]]

    def own(self, latent: str) -> int:
        """The clique of one latent alone."""
        return self.cliques.index((self.names.index(latent),))


def make_graph(sizes: Mapping[str, int], scopes: Mapping[str, tuple[str, ...]]) -> Graph:
    """The graph of latents with these sizes and of factors with these scopes.

    Raises :class:`ProgramError` where a table over too many latents would be needed.
    """
    names = tuple(sizes)
    cliques: list[tuple[int, ...]] = [(i,) for i in range(len(names))] or [()]
    clique_of = {}
    for factor, scope in scopes.items():
        clique = tuple(sorted(names.index(name) for name in scope))
        if clique not in cliques:
            cliques.append(clique)
        clique_of[factor] = cliques.index(clique)
    counts = tuple(sizes.values())
    return Graph(names, counts, tuple(cliques), clique_of, _steps(names, counts, cliques))


def _steps(
    names: tuple[str, ...], sizes: tuple[int, ...], cliques: list[tuple[int, ...]]
) -> tuple[Step, ...]:
    if len(cliques) == 1:
        return (Step((0,), cliques[0], cliques[0]),)
    symbols = {i: opt_einsum.get_symbol(i + 1) for i in range(_ROWS, len(sizes))}
    inputs = ["".join(symbols[i] for i in (*clique, _ROWS)) for clique in cliques]
    shapes = [(*(sizes[i] for i in clique), _USUAL_ROWS) for clique in cliques]
    path, _ = opt_einsum.contract_path(
        ",".join(inputs) + "->" + symbols[_ROWS], *shapes, shapes=True, optimize="auto"
    )
    pool, steps = list(cliques), []
    for positions in path:
        taken = tuple(sorted(positions, reverse=True))
        joined = [pool.pop(position) for position in taken]
        scope = tuple(sorted(set().union(*joined)))
        gone = tuple(i for i in scope if not any(i in other for other in pool))
        entries = math.prod(sizes[i] for i in scope)
        if entries > _LARGEST_TABLE:
            listed = ", ".join(f"'{names[i]}'" for i in scope)
            raise ProgramError(
                f"the latents are joined too densely: summing them out needs a table over {len(scope)} "
                f"of them at once ({listed}), {entries:.3g} numbers for every row; drop some "
                "dependencies, or give these latents fewer values"
            )
        steps.append(Step(taken, scope, gone))
        pool.append(steps[-1].stays)
    return tuple(steps)


Tables = tuple[Array, ...]


def sum_out(graph: Graph, tables: Tables) -> Array:
    """log p(x_i), (n,), from one table of log factors for each clique, (joint values, n or 1)."""
    return _eliminate(graph, tables, _log_sum)[0]


def _eliminate(
    graph: Graph, tables: Tables, reduce: Callable[[Array], Array]
) -> tuple[Array, list[Array]]:
    """The result of all steps, and each step's sum (values of what ends, values of what stays, n)."""
    pool = list(zip(tables, graph.cliques, strict=True))
    sums = []
    for step in graph.steps:
        total: Array | float = 0.0
        for position in step.taken:
            table, scope = pool.pop(position)
            shape = [graph.sizes[i] if i in scope else 1 for i in step.scope]
            total = total + jnp.reshape(table, (*shape, table.shape[-1]))
        assert isinstance(total, jax.Array)
        places = [step.scope.index(i) for i in step.gone]
        total = jnp.moveaxis(total, places, range(len(places)))
        rows = total.shape[-1]
        total = total.reshape(
            math.prod(graph.sizes[i] for i in step.gone),
            math.prod(graph.sizes[i] for i in step.stays),
            rows,
        )
        sums.append(total)
        pool.append((reduce(total), step.stays))
    ((last, _),) = pool
    return last[0], sums


def _log_sum(table: Array) -> Array:
    """log-sum-exp over the first axis, with derivative 0 where nothing is possible."""
    if table.shape[0] == 1:
        return table[0]
    top = jax.lax.stop_gradient(jnp.max(table, axis=0))
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    total = jnp.sum(jnp.exp(table - top), axis=0)
    possible = total > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, total, 1.0)) + top, -jnp.inf)


def _largest(table: Array) -> Array:
    return jnp.max(table, axis=0)


def marginals(graph: Graph, tables: Tables) -> tuple[Array, Tables]:
    """log p(x_i), (n,), and p(joint values of a clique | x_i), (joint values, n), for each clique."""
    if len(graph.cliques) == 1:
        return _softmax(*tables)
    rows = max(table.shape[-1] for table in tables)
    wide = tuple(jnp.broadcast_to(table, (table.shape[0], rows)) for table in tables)
    evidence, pull = jax.vjp(lambda given: sum_out(graph, given), wide)
    return evidence, pull(jnp.ones_like(evidence))[0]


def _softmax(table: Array) -> tuple[Array, Tables]:
    """log-sum-exp over the first axis, and the shares in the sum; each exponential is taken once."""
    top = jax.lax.stop_gradient(jnp.max(table, axis=0))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    terms = jnp.exp(table - top)
    total = jnp.sum(terms, axis=0)
    # the table is read once more at the end: XLA would write the terms in its place otherwise, by a loop
    # that takes one number at a time
    evidence = jnp.where(total == 0, table[0], jnp.log(total) + top)
    return evidence, (terms * (1 / total),)


def product_form(
    graph: Graph, tables: Tables, factors: Tables, sweeps: int
) -> tuple[Array, Tables]:
    """Coordinate ascent on E_q[log p(x, z)] + H(q) over q(z) = prod_j q_j(z_j), from given factors.

    log q_j(z_j) = sum_c E_{q, all but j}[table_c] + constant, over the cliques c that hold j. Returns
    the bound (n,) and the factors, (values, n) each. Impossible joint values count as e^-1e10.
    Source: Jordan, Ghahramani, Jaakkola & Saul (1999), *Machine Learning* 37, 183-233, section 6.
    """
    rows = max(table.shape[-1] for table in (*tables, *factors))
    # zero times minus infinity is not a number
    kept = [jnp.maximum(table, _IMPOSSIBLE) for table in tables]
    now = [jnp.broadcast_to(each, (each.shape[0], rows)) for each in factors]

    def expected(clique: int, free: int | None) -> Array:
        """A clique's table with all latents but one averaged out, (values, n); with all, (1, n)."""
        members = graph.cliques[clique]
        table = kept[clique].reshape(*(graph.sizes[i] for i in members), -1)
        for place in reversed(range(len(members))):
            if members[place] != free:
                share = now[members[place]]
                wide = (1,) * place + (share.shape[0],) + (1,) * (table.ndim - place - 2) + (rows,)
                table = jnp.sum(table * share.reshape(wide), axis=place)
        return table.reshape(-1, table.shape[-1])

    for _ in range(sweeps):
        for j in range(len(graph.names)):
            held = [c for c, members in enumerate(graph.cliques) if j in members]
            field = sum(expected(c, j) for c in held)
            now[j] = jax.nn.softmax(jnp.broadcast_to(field, (graph.sizes[j], rows)), axis=0)
    energy = sum(expected(c, None)[0] for c in range(len(graph.cliques)))
    entropy = sum(-jnp.sum(jax.scipy.special.xlogy(q, q), axis=0) for q in now)
    return jnp.broadcast_to(energy + entropy, (rows,)), tuple(now)


def uniforms(graph: Graph, rng_key: Array, rows: int, dtype: Any = float) -> Array:
    """The random numbers in [0, 1) that :func:`draw` needs, (steps, rows)."""
    return random.uniform(rng_key, (len(graph.steps), rows), dtype)


def draw(graph: Graph, tables: Tables, uniform: Array) -> tuple[Array, Array]:
    """log p(x_i), (n,), and one joint draw of all latents of each row, (latents, n), from 0, by
    :func:`uniforms`."""
    if len(graph.cliques) == 1:
        (table,) = tables
        evidence, (shares,) = _softmax(table)
        found = _draw_one(shares, uniform[0])[None]
        return evidence, found[: len(graph.names)]
    evidence, sums = _eliminate(graph, tables, _log_sum)

    def choose(i: int, table: Array) -> Array:
        return _draw_one(_softmax(table)[1][0], uniform[i])

    return evidence, _walk_back(graph, sums, choose)


def explain(graph: Graph, tables: Tables) -> tuple[Array, Array]:
    """The most probable joint values of all latents of each row, (latents, n), from 0, and their
    log p(x_i, z_i), (n,)."""
    height, sums = _eliminate(graph, tables, _largest)
    return _walk_back(graph, sums, lambda i, table: jnp.argmax(table, axis=0)), height


def _draw_one(shares: Array, uniform: Array) -> Array:
    """One index per row, in proportion to `shares` (values, n): how many of their sums from the first
    on are at most the uniform number (n,) times the last of them."""

    def add(total: Array, share: Array) -> tuple[Array, Array]:
        return total + share, total + share

    # `jnp.cumsum` takes up to four times as long over the leading axis
    few = len(shares) <= _FEW_VALUES
    total, sums = jax.lax.scan(add, jnp.zeros_like(uniform), shares, unroll=few)
    return jnp.sum(sums[:-1] <= uniform * total, axis=0, dtype=jnp.int32)


def _walk_back(graph: Graph, sums: list[Array], choose: Callable[[int, Array], Array]) -> Array:
    """Values of all latents, (latents, n): those that ended last are chosen first."""
    rows = max(table.shape[-1] for table in sums)
    values: dict[int, Array] = {}
    for i, (step, table) in reversed(list(enumerate(zip(graph.steps, sums, strict=True)))):
        if not step.gone:
            continue
        sizes = [graph.sizes[j] for j in step.stays]
        place = joint_index([values[j] for j in step.stays], sizes, rows)
        table = jnp.broadcast_to(table, (*table.shape[:2], rows))
        chosen = choose(i, jnp.take_along_axis(table, place[None, None], axis=1)[:, 0])
        for j in reversed(step.gone):
            values[j] = chosen % graph.sizes[j]
            chosen = chosen // graph.sizes[j]
    found = [values[j] for j in range(len(graph.names))]
    return jnp.stack(found).astype(jnp.int32) if found else jnp.zeros((0, rows), jnp.int32)


def joint_index(values: list[Array], sizes: list[int], rows: int) -> Array:
    """The position of joint values in a table of all of them, (n,)."""
    place = jnp.zeros(rows, jnp.int32)
    for value, size in zip(values, sizes, strict=True):
        place = place * size + value
    return place


def indicators(graph: Graph, values: Array, dtype: np.dtype) -> Tables:
    """Weights of zeros and ones for each clique, (joint values, n), from latents' values."""
    found = []
    for i, clique in enumerate(graph.cliques):
        sizes = [graph.sizes[j] for j in clique]
        place = joint_index([values[j] for j in clique], sizes, values.shape[-1])
        found.append((jnp.arange(graph.size(i))[:, None] == place).astype(dtype))
    return tuple(found)


def independent(graph: Graph, shares: list[Array], rows: int) -> Tables:
    """Weights for each clique, (joint values, n), from shares (values, n) of each latent by itself."""
    found = []
    for clique in graph.cliques:
        joint = jnp.ones((1, rows))
        for j in clique:
            joint = (joint[:, None] * shares[j][None]).reshape(-1, rows)
        found.append(joint)
    return tuple(found)
