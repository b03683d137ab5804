"""Summing several latents out of a row: against enumeration of all their joint values."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy.special import logsumexp

import bayesmix
from bayesmix import ProgramError
from bayesmix.program import elimination
from bayesmix.program.arguments import split
from bayesmix.program.blocks import arrange
from bayesmix.program.compiling import compile_lightly
from bayesmix.program.elimination import Graph, make_graph
from bayesmix.program.evaluate import evaluate, family_of
from bayesmix.program.problem import Problem
from bayesmix.program.reading import read
from bayesmix.program.row_pass import expect, passes

ROWS = 5


def random_graph(rng: np.random.Generator) -> Graph:
    """Up to six latents of two or three values, and factors over up to three of them."""
    names = [f"z{i}" for i in range(rng.integers(2, 7))]
    scopes = {}
    for i, name in enumerate(names):
        parents = rng.permutation(i)[: rng.integers(0, 3)]
        scopes[name] = (*(names[j] for j in sorted(parents)), name)
        if rng.random() < 0.6:
            seen = sorted(rng.permutation(len(names))[: rng.integers(0, 3)])
            scopes[f"x{i}"] = tuple(names[j] for j in seen)
    return make_graph({name: int(rng.integers(2, 4)) for name in names}, scopes)


def random_tables(graph: Graph, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Log factors, some the same for all rows, some impossible."""
    tables = []
    for clique in range(len(graph.cliques)):
        rows = ROWS if clique == 0 or rng.random() < 0.6 else 1
        table = 3 * rng.normal(size=(graph.size(clique), rows))
        if len(graph.cliques[clique]) > 1:
            table[rng.random(table.shape) < 0.1] = -np.inf
        tables.append(table)
    return tuple(tables)


def enumerate_all(graph: Graph, tables: tuple[np.ndarray, ...]) -> np.ndarray:
    """The log joint of every joint value, (*sizes, rows)."""
    joint = np.zeros((*graph.sizes, ROWS))
    for clique, table in zip(graph.cliques, tables, strict=True):
        shape = [size if i in clique else 1 for i, size in enumerate(graph.sizes)]
        joint = joint + table.reshape(*shape, table.shape[1])
    return joint


@pytest.mark.parametrize("seed", range(10))
def test_evidence_marginals_and_explanations_are_those_of_enumeration(seed):
    """On 20 random graphs: 200 in all."""
    rng = np.random.default_rng(seed)
    cases: list[tuple[Graph, tuple[np.ndarray, ...]]] = []
    while len(cases) < 20:
        graph = random_graph(rng)
        tables = random_tables(graph, rng)
        if np.isfinite(logsumexp(enumerate_all(graph, tables).reshape(-1, ROWS), axis=0)).all():
            cases.append((graph, tables))

    @compile_lightly
    def run(every: Any) -> Any:
        return [
            (*elimination.marginals(graph, tables), *elimination.explain(graph, tables))
            for (graph, _), tables in zip(cases, every, strict=True)
        ]

    for (graph, tables), found in zip(cases, run([t for _, t in cases]), strict=True):
        _assert_same(graph, enumerate_all(graph, tables), *map(_host, found))


def _host(value: Any) -> Any:
    return jax.tree.map(np.asarray, value)


def _assert_same(
    graph: Graph, joint: np.ndarray, evidence: Any, marginals: Any, values: Any, height: Any
) -> None:
    flat = joint.reshape(-1, ROWS)
    expected = logsumexp(flat, axis=0)
    np.testing.assert_allclose(evidence, expected, rtol=1e-12)
    posterior = np.exp(joint - expected)
    for clique, found in zip(graph.cliques, marginals, strict=True):
        others = tuple(i for i in range(len(graph.sizes)) if i not in clique)
        np.testing.assert_allclose(
            found, posterior.sum(axis=others).reshape(found.shape), atol=1e-10
        )
    best = np.stack(np.unravel_index(np.argmax(flat, axis=0), graph.sizes))
    np.testing.assert_array_equal(values, best)
    np.testing.assert_allclose(height, flat.max(axis=0), rtol=1e-12)


def test_draws_have_the_joint_distribution():
    rng = np.random.default_rng(3)
    scopes = {"a": ("a",), "b": ("a", "b"), "c": ("a", "b", "c"), "d": ("c", "d"), "x": ("b", "d")}
    graph = make_graph({"a": 2, "b": 3, "c": 2, "d": 2}, scopes)
    tables = tuple(rng.normal(size=(graph.size(i), 1)) for i in range(len(graph.cliques)))
    count = 40_000
    wide = tuple(np.broadcast_to(table, (table.shape[0], count)) for table in tables)
    uniform = elimination.uniforms(graph, jax.random.key(0), count)
    evidence, values = jax.jit(lambda *told: elimination.draw(graph, *told))(wide, uniform)
    joint = sum(
        table.reshape([s if i in c else 1 for i, s in enumerate(graph.sizes)])
        for c, table in zip(graph.cliques, tables, strict=True)
    )
    np.testing.assert_allclose(evidence, logsumexp(joint), rtol=1e-12)
    expected = np.exp(joint - logsumexp(joint)).ravel()
    found = np.bincount(np.ravel_multi_index(np.asarray(values), graph.sizes), minlength=24)
    chi_square = np.sum((found - count * expected) ** 2 / (count * expected))
    assert chi_square < 23 + 4 * math.sqrt(2 * 23)


def test_a_message_that_is_impossible_has_no_gradient():
    # a state that cannot be left, and a start that is known: nothing but zeros reaches the other
    graph = make_graph({"a": 2, "b": 2}, {"a": ("a",), "b": ("a", "b")})
    stays = np.where(np.eye(2, dtype=bool), 0.0, -np.inf)
    tables = (np.array([[0.0], [-np.inf]]), np.zeros((2, 1)), stays.reshape(4, 1))
    evidence, shares = elimination.marginals(graph, tuple(map(jnp.asarray, tables)))
    assert float(evidence[0]) == 0.0
    np.testing.assert_array_equal(shares[1][:, 0], [1.0, 0.0])


def test_latents_that_are_joined_too_densely_are_refused_by_name():
    sizes = {f"z{i}": 2 for i in range(24)}
    scopes = {f"x{i}{j}": (f"z{i}", f"z{j}") for i in range(24) for j in range(i)}
    with pytest.raises(ProgramError, match=r"joined too densely.*'z.*numbers for every row"):
        make_graph(sizes, scopes)


def test_a_long_chain_needs_small_tables():
    sizes = {f"z{i}": 3 for i in range(60)}
    scopes = {f"z{i}": (f"z{i - 1}", f"z{i}") if i else ("z0",) for i in range(60)}
    steps = make_graph(sizes, scopes).steps
    assert max(math.prod(3 for _ in step.scope) for step in steps) <= 9


# ------------------------------------------------------------------------------------- as programs
def network(data, *, parents, sizes):
    """A Bayes net of categorical nodes; data by node, NaN where missing, absent where hidden."""
    tables = [
        numpyro.sample(
            f"table{i}",
            dist.Dirichlet(jnp.ones(size))
            .expand([sizes[j] for j in parents[i]])
            .to_event(len(parents[i])),
        )
        for i, size in enumerate(sizes)
    ]
    rows = next(iter(data.values())).shape[0]
    values = []
    with numpyro.plate("rows", rows):
        for i, table in enumerate(tables):
            probabilities = table[tuple(values[j] for j in parents[i])] if parents[i] else table
            values.append(
                numpyro.sample(f"x{i}", dist.Categorical(probabilities), obs=data.get(f"x{i}"))
            )


@pytest.mark.parametrize("seed", range(8))
def test_expected_counts_of_a_network_are_those_of_enumeration(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 6))
    sizes = tuple(int(size) for size in rng.integers(2, 4, size=count))
    parents = tuple(
        tuple(sorted(int(j) for j in rng.permutation(i)[: rng.integers(0, 3)]))
        for i in range(count)
    )
    hidden = {0} if seed % 2 else {1}
    data = {
        f"x{i}": np.where(
            (rng.random(ROWS) < 0.3) & (i < count - 1), np.nan, rng.integers(0, sizes[i], ROWS)
        )
        for i in range(count)
        if i not in hidden
    }
    program = functools.partial(network, parents=parents, sizes=sizes)
    arguments = split((data,), {})
    tables = {
        f"table{i}": rng.dirichlet(np.ones(size), size=tuple(sizes[j] for j in parents[i]))
        for i, size in enumerate(sizes)
    }
    counts, log_likelihood = _expected_counts(program, arguments, tables)
    expected, height = _enumerated_counts(tables, parents, sizes, data)
    np.testing.assert_allclose(log_likelihood, height, rtol=1e-12)
    for name, own in expected.items():
        if name in counts:
            np.testing.assert_allclose(counts[name], own, atol=1e-10)
    assert set(counts) >= {f"x{i}" for i in hidden}


def _expected_counts(program: Any, arguments: Any, tables: Any) -> tuple[dict[str, Any], float]:
    """Counts (*parents, values) of each node: of latents directly, of others through their family."""
    reading, observed, _ = read(program, arguments)
    found: dict[str, Any] = {}

    def families(arrays: Any, values: Any) -> None:
        from bayesmix.program.evaluate import enumerated_trace

        sites = enumerated_trace(program, reading, arguments.with_arrays(arrays), values)
        found.update({s.name: family_of(sites[s.name], reading) for s in reading.observed})

    jax.eval_shape(families, arguments.arrays, tables)
    assert None not in found.values()
    blocks = arrange(found, observed, reading.graph)

    @compile_lightly
    def run(values: Any) -> Any:
        def gathered(values: Any) -> Any:
            evaluation = evaluate(program, reading, found, arguments, values)
            return passes(reading.graph, found, evaluation, blocks, expect)

        result = gathered(values)

        def expected(values: Any) -> Any:
            from bayesmix.program.statistics import expected_factors

            evaluation = evaluate(program, reading, found, arguments, values)
            factors = expected_factors(found, evaluation, result.statistics)
            return sum(factors.values())

        # Q is linear in the log tables, and its slopes are the counts
        slopes = jax.grad(lambda logs: expected(jax.tree.map(jnp.exp, logs)))(
            jax.tree.map(jnp.log, values)
        )
        return slopes, result.log_likelihood

    slopes, height = run(jax.tree.map(jnp.asarray, tables))
    return {f"x{name.removeprefix('table')}": np.asarray(v) for name, v in slopes.items()}, height


def _enumerated_counts(tables: Any, parents: Any, sizes: Any, data: Any) -> tuple[Any, float]:
    counts = {f"x{i}": np.zeros_like(tables[f"table{i}"]) for i in range(len(sizes))}
    height = 0.0
    left_out = {
        i for i in range(len(sizes)) if f"x{i}" in data and not any(i in p for p in parents)
    }
    for row in range(ROWS):
        weights = {}
        for values in itertools.product(*map(range, sizes)):
            if any(not np.isnan(v[row]) and v[row] != values[int(n[1:])] for n, v in data.items()):
                continue
            factors = (
                tables[f"table{i}"][(*(values[j] for j in parents[i]), values[i])]
                for i in range(len(sizes))
            )
            weights[values] = math.prod(factors)
        total = sum(weights.values())
        height += math.log(total)
        for values, weight in weights.items():
            for i in range(len(sizes)):
                if i in left_out and np.isnan(data[f"x{i}"][row]):
                    continue  # nothing follows from it: its own factor is integrated out
                counts[f"x{i}"][(*(values[j] for j in parents[i]), values[i])] += weight / total
    return counts, height


def test_labels_of_a_chain_are_one_group_and_those_of_a_known_node_have_a_meaning():
    def chain(x):
        first = numpyro.sample("first", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("state", 2):
            next_state = numpyro.sample("next", dist.Dirichlet(jnp.ones(2)))
            share = numpyro.sample("share", dist.Beta(1.0, 1.0))
        with numpyro.plate("rows", x.shape[0]):
            z = None
            for t in range(3):
                z = numpyro.sample(f"z{t}", dist.Categorical(first if z is None else next_state[z]))
                numpyro.sample(f"x{t}", dist.Bernoulli(share[z]), obs=x[:, t])

    x = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(float)
    (group,) = bayesmix.plan(chain, x).labels.groups
    assert group.latents == ("z0", "z1", "z2") and group.exchangeable
    assert group.axes == {"first": (0,), "next": (0, 1), "share": (0,)}


def by_scan(x):
    first = numpyro.sample("first", dist.Dirichlet(jnp.ones(2)))
    following = numpyro.sample("next", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))

    def step(carry, seen):
        z, t = carry
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.where(t == 0, first, following[z])))
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=seen)
        return (z, t + 1), 2.0 * seen

    start = (jnp.zeros(x.shape[0], int), 0)
    _, doubled = scan(step, start, x.T)
    assert doubled.shape == x.T.shape


def test_a_scan_is_read_as_a_loop():
    x = np.random.default_rng(1).normal(size=(30, 4)) + 2.0 * (np.arange(30) % 2)[:, None]
    plan = bayesmix.plan(by_scan, x)
    assert plan.graph.names == ("z_0", "z_1", "z_2", "z_3")
    assert {block.site: block.name for block in plan.blocks} == {
        "first": "Dirichlet",
        "next": "Dirichlet",
        "mean": "normal",
    }
    values = {
        "first": np.array([0.3, 0.7]),
        "next": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "mean": np.array([-0.5, 1.5]),
    }
    alpha = np.log(values["first"]) - 0.5 * (x[:, :1] - values["mean"]) ** 2
    for t in range(1, 4):
        alpha = logsumexp(alpha[:, :, None] + np.log(values["next"]), axis=1)
        alpha = alpha - 0.5 * (x[:, t : t + 1] - values["mean"]) ** 2
    expected = logsumexp(alpha, axis=1).sum() - 0.5 * x.size * np.log(2 * np.pi)
    arguments = split((x,), {})
    found = Problem(plan, arguments, Problem(plan, arguments).with_rows().blocks).log_likelihood(
        values
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)
    # the marginal program has the same density, and samplers see parameters alone
    density, sites = log_density(bayesmix.marginalize(plan), (x,), {}, values)
    prior = plan.evaluate(arguments, values).log_prior
    assert float(density) == pytest.approx(expected + float(prior), rel=1e-12)
    assert {n for n, s in sites.items() if s["type"] == "sample"} == {*values, "x_0+x_1+x_2+x_3"}


def test_a_latent_may_reach_a_site_through_others_alone():
    """A sum of two hidden numbers, told by a deterministic step: the scope is both of them."""

    def program(x):
        share = numpyro.sample("share", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            one = numpyro.sample("one", dist.Bernoulli(share[0]))
            other = numpyro.sample("other", dist.Bernoulli(share[1]))
            total = numpyro.deterministic("total", one + 2.0 * other)
            numpyro.sample("x", dist.Normal(total, 0.5), obs=x)

    x = np.array([0.1, 0.9, 2.2, 2.9, 3.1, 1.0])
    plan = bayesmix.plan(program, x)
    assert plan.graph.scope("x") == (0, 1)
    arguments = split((x,), {})
    share = np.array([0.3, 0.6])
    weights = np.array([[0.7 * 0.4, 0.7 * 0.6], [0.3 * 0.4, 0.3 * 0.6]])
    means = np.array([[0.0, 2.0], [1.0, 3.0]])
    terms = np.log(weights)[..., None] - 0.5 * ((x - means[..., None]) / 0.5) ** 2
    expected = logsumexp(terms.reshape(4, -1), axis=0).sum() - 6 * np.log(0.5 * np.sqrt(2 * np.pi))
    found = Problem(plan, arguments, Problem(plan, arguments).with_rows().blocks).log_likelihood(
        {"share": share}
    )
    assert float(found) == pytest.approx(expected, rel=1e-12)
