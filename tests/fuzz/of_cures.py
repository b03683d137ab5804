"""What a refusal's sentence leads to: the same model as a refused program's, as it can be read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

from . import of_annotation, of_masks, of_traps
from .of_forums import (
    GROUP,
    X,
    Y,
    data_outside_the_plate,
    means,
    no_plate_batch,
    same_plate_twice,
    two_plates_of_rows,
)


def rows_in_a_plate(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def causes_in_a_loop(x):
    pi = numpyro.sample("pi", dist.Beta(1.0, 3.0).expand([2]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = [numpyro.sample(f"z_{i}", dist.Bernoulli(pi[i])) for i in range(2)]
        numpyro.sample("x", dist.Normal(z[0] * effect[0] + z[1] * effect[1], 1.0), obs=x)


def causes_stacked(x):
    """As the sentence has it: a site for each, stacked."""
    pi = numpyro.sample("pi", dist.Beta(1.0, 3.0).expand([2]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z_0 = numpyro.sample("z_0", dist.Bernoulli(pi[0]))
        z_1 = numpyro.sample("z_1", dist.Bernoulli(pi[1]))
        z = jnp.stack(jnp.broadcast_arrays(z_0, z_1), axis=-1)
        numpyro.sample("x", dist.Normal((z * effect).sum(-1), 1.0), obs=x)


def mace_in_a_loop(annotators, answers):
    people, classes = int(np.max(annotators)) + 1, int(np.max(answers)) + 1
    with numpyro.plate("annotator", people):
        habit = numpyro.sample("habit", dist.Dirichlet(jnp.full(classes, 10.0)))
        honest = numpyro.sample("honest", dist.Beta(0.5, 0.5))
    with numpyro.plate("item", len(answers)):
        c = numpyro.sample("c", dist.Categorical(logits=jnp.zeros(classes)))
        for i, who in enumerate(annotators):
            s = numpyro.sample(f"s_{i}", dist.Bernoulli(1 - honest[who]))
            probs = jnp.where(s[..., None] == 0, jax.nn.one_hot(c, classes), habit[who])
            numpyro.sample(f"y_{i}", dist.Categorical(probs), obs=answers[:, i])


def topics_by_place(words):
    theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    beta = numpyro.sample("beta", dist.Dirichlet(jnp.ones(3)).expand([2]).to_event(1))
    with numpyro.plate("documents", 2):
        for i in range(2):
            z = numpyro.sample(f"z_{i}", dist.Categorical(theta))
            numpyro.sample(f"w_{i}", dist.Categorical(beta[z]), obs=words[i])


def groups_padded(score, school):
    mu = means()
    most = np.bincount(school).max()
    table, there = np.zeros((3, most)), np.zeros((3, most), bool)
    for s in range(3):
        mine = score[school == s]
        table[s, : len(mine)], there[s, : len(mine)] = mine, True
    with numpyro.plate("schools", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        pupils = dist.Normal(mu[z][..., None] * jnp.ones(most), 1.0)
        numpyro.sample("score", pupils.mask(there).to_event(1), obs=table)


def groups_by_place(score, school):
    """A site for each place in a group."""
    mu = means()
    with numpyro.plate("schools", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        for i in range(2):
            there = np.array([(school == s).sum() > i for s in range(3)])
            mine = np.array(
                [score[school == s][i] if (school == s).sum() > i else 0 for s in range(3)]
            )
            with handlers.mask(mask=there):
                numpyro.sample(f"score_{i}", dist.Normal(mu[z], 1.0), obs=mine)


def pairs_as_rows(x, pairs):
    mu = means()
    with numpyro.plate("pairs", len(pairs)):
        a = numpyro.sample("a", dist.Bernoulli(0.4))
        b = numpyro.sample("b", dist.Bernoulli(0.4))
        numpyro.sample("x_a", dist.Normal(mu[a], 1.0), obs=x[pairs[:, 0]])
        numpyro.sample("x_b", dist.Normal(mu[b], 1.0), obs=x[pairs[:, 1]])
        numpyro.factor("link", jnp.where(a == b, 0.0, -2.0))


def _series(x):
    return [numpyro.sample(f"z_{i}", dist.Bernoulli(0.4)) for i in range(len(x))]


def ring_as_a_row(x):
    mu = means()
    with numpyro.plate("series", 1):
        z = _series(x)
        for i in range(len(x)):
            loc = mu[z[i]] + 0.5 * mu[z[i - 1]]
            numpyro.sample(f"x_{i}", dist.Normal(loc, 1.0), obs=x[i : i + 1])


def total_in_a_row(x):
    mu = means()
    with numpyro.plate("all", 1):
        z = _series(x)
        for i in range(len(x)):
            numpyro.sample(f"x_{i}", dist.Normal(mu[z[i]], 1.0), obs=x[i : i + 1])
        numpyro.factor("balance", -0.7 * (sum(z) - 2) ** 2)


def scale_as_a_factor(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        weight = jnp.where(z == 1, 0.3, 1.2)
        numpyro.factor("x", weight * dist.Normal(mu, 0.5).log_prob(x))


def weights_as_a_factor(x, n):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("x", n * dist.Normal(mu[z], 1.0).log_prob(x))


def blocks_in_a_row(edges):
    rates = numpyro.sample("rates", dist.Beta(1.0, 1.0).expand([2, 2]).to_event(2))
    with numpyro.plate("all", 1):
        z = _series(edges)
        for i, row in enumerate(edges):
            for j, edge in enumerate(row):
                rate = rates[z[i], z[j]]
                numpyro.sample(f"edge_{i}_{j}", dist.Bernoulli(rate), obs=np.array([edge]))


def kind_in_a_row(x):
    mu = means()
    with numpyro.plate("all", 1):
        kind = numpyro.sample("kind", dist.Bernoulli(0.5))
        for i in range(len(x)):
            z = numpyro.sample(f"z_{i}", dist.Bernoulli(0.3))
            numpyro.sample(f"x_{i}", dist.Normal(mu[z] + kind, 1.0), obs=x[i : i + 1])


def mask_of_a_parameter(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with handlers.mask(mask=x > mu[0]):
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def mask_of_a_parameter_as_a_factor(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("x", jnp.where(x > mu[0], dist.Normal(mu[z], 1.0).log_prob(x), 0.0))


# refused, the same model as the sentence has it, and the arguments of both
CURES = [
    (no_plate_batch, rows_in_a_plate, (X,)),
    (data_outside_the_plate, rows_in_a_plate, (X,)),
    (two_plates_of_rows, same_plate_twice, (X, Y)),
    (of_masks.vector_of_causes, causes_in_a_loop, (X[:3],)),
    (of_masks.vector_of_causes, causes_stacked, (X[:3],)),
    (of_masks.causes_in_a_plate, causes_stacked, (X[:3],)),
    (
        of_annotation.mace,
        mace_in_a_loop,
        (of_annotation.TWO_ANNOTATORS, of_annotation.TWO_ANSWERS),
    ),
    (of_masks.topics, topics_by_place, (np.array([[0, 2], [1, 2]]),)),
    (of_traps.ragged_groups, groups_padded, (Y, GROUP)),
    (of_traps.ragged_groups, groups_by_place, (Y, GROUP)),
    (of_traps.must_link, pairs_as_rows, (X, of_traps.PAIRS)),
    (of_traps.roll, ring_as_a_row, (X,)),
    (of_traps.count_of_labels, total_in_a_row, (X,)),
    (of_masks.scale_by_label, scale_as_a_factor, (X,)),
    (of_masks.weights_of_the_data_alone, weights_as_a_factor, (X, np.array([1.0, 2.0, 0.3, 0.5]))),
    (of_traps.block_model, blocks_in_a_row, (of_traps.EDGES,)),
    (of_masks.global_and_local, kind_in_a_row, (X,)),
    (of_masks.change_point, of_masks.change_point_as_a_row, (of_masks.COUNTS,)),
    (mask_of_a_parameter, mask_of_a_parameter_as_a_factor, (X,)),
]
