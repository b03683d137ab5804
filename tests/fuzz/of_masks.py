"""Programs with masks, weights and factors, of series and of several latents, as people write them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from .of_forums import COUNTS, TABLE, X, Y, means


def mask_by_label(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    w = numpyro.sample("w", dist.Beta(1.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        with handlers.mask(mask=z == 1):
            numpyro.sample("bump", dist.Normal(mu, 0.5), obs=x)
        with handlers.mask(mask=z == 0):
            numpyro.sample("clutter", dist.Cauchy(0.0, 5.0), obs=x)


def scale_by_label(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with handlers.scale(scale=jnp.where(z == 1, 0.3, 1.2)):
            numpyro.sample("x", dist.Normal(mu, 0.5), obs=x)


def factor_likelihood(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("x", -0.5 * (x - mu[z]) ** 2)


def factor_prior(x):
    mu = means()
    numpyro.factor("repel", jnp.log1p((mu[0] - mu[1]) ** 2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def factor_of_the_label(x):
    mu = means()
    pull = numpyro.sample("pull", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("prefer", pull * (2.0 * z - 1.0))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def factor_of_data_outside(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        log_prob = dist.Normal(mu[z], 1.0).log_prob(x)
    numpyro.factor("x", jnp.sum(log_prob))


def weights_of_the_data_alone(x, n):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with handlers.scale(scale=n):
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def obs_mask(x, there):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x, obs_mask=there)


def data_that_depend_on_the_label(x, y):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=jnp.where(z == 1, x, y))


def shifted_data(x):
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x - shift)


def ragged_sequences(table, lengths):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = means()
    with numpyro.plate("people", len(table)):
        z = 0
        for t in range(table.shape[1]):
            with handlers.mask(mask=t < lengths):
                z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
                numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=table[:, t])


def reparameterised(x):
    top = numpyro.sample("top", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("K", 2), handlers.reparam(config={"mu": LocScaleReparam(0)}):
        mu = numpyro.sample("mu", dist.Normal(top, spread))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def transformed(x):
    base = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.transforms.OrderedTransform()
    )
    with handlers.reparam(config={"mu": TransformReparam()}):
        mu = numpyro.sample("mu", base)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def stick_breaking(x, K=3):
    sticks = numpyro.sample("sticks", dist.Beta(1.0, 2.0).expand([K - 1]).to_event(1))
    left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - sticks)])
    weights = numpyro.deterministic("weights", jnp.append(sticks, 1.0) * left)
    mu = means(K)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def one_series(x):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = means()
    with numpyro.plate("series", 1):
        z = 0
        for t in range(len(x)):
            z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=x[t])


def one_series_without_a_plate(x):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = means()
    z = 0
    for t in range(len(x)):
        z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
        numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=x[t])


def change_point(counts):
    early = numpyro.sample("early", dist.Exponential(1.0))
    late = numpyro.sample("late", dist.Exponential(1.0))
    tau = numpyro.sample("tau", dist.DiscreteUniform(0, len(counts) - 1))
    rate = jnp.where(jnp.arange(len(counts)) < tau, early, late)
    with numpyro.plate("years", len(counts)):
        numpyro.sample("y", dist.Poisson(rate), obs=counts)


def change_point_as_a_row(counts):
    early = numpyro.sample("early", dist.Exponential(1.0))
    late = numpyro.sample("late", dist.Exponential(1.0))
    with numpyro.plate("series", 1):
        tau = numpyro.sample("tau", dist.DiscreteUniform(0, len(counts) - 1))
        before = jnp.arange(len(counts)) < tau[..., None]
        rate = jnp.where(before, early, late)
        numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=counts[None])


def autoregression(x):
    """A hidden regime of every step, and the value before as data."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("steps", len(x) - 1):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(slope[z] * x[:-1], 1.0), obs=x[1:])


def global_and_local(x):
    """One latent for all rows, and one for each."""
    mu = means()
    kind = numpyro.sample("kind", dist.Bernoulli(0.5))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z] + kind, 1.0), obs=x)


def topics(words):
    """Words of documents, each with a topic of its own."""
    theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    beta = numpyro.sample("beta", dist.Dirichlet(jnp.ones(3)).expand([2]).to_event(1))
    with numpyro.plate("documents", 2, dim=-1), numpyro.plate("words", 2, dim=-2):
        z = numpyro.sample("z", dist.Categorical(theta))
        numpyro.sample("w", dist.Categorical(beta[z]), obs=words)


def vector_of_causes(x):
    pi = numpyro.sample("pi", dist.Beta(1.0, 3.0).expand([2]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(pi).to_event(1))
        numpyro.sample("x", dist.Normal((z * effect).sum(-1), 1.0), obs=x)


def causes_in_a_plate(x):
    pi = numpyro.sample("pi", dist.Beta(1.0, 3.0).expand([2]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x), dim=-2):
        with numpyro.plate("causes", 2, dim=-1):
            z = numpyro.sample("z", dist.Bernoulli(pi))
        loc = (z * effect).sum(-1, keepdims=True)
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, None])


def hidden_in_a_loop_of_plates(table):
    mu = means()
    with numpyro.plate("rows", len(table), dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with numpyro.plate("columns", 3, dim=-1):
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=table)


def missing_parent(a, y):
    """An observed parent of which -1 is a value like any other."""
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("rows", len(y)):
        level = numpyro.sample("a", dist.Categorical(w), obs=a + 1)
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(b[level] * z, 1.0), obs=y)


def parent_from_minus_one(a, y):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        level = numpyro.sample("a", dist.DiscreteUniform(-1, 1), obs=a)
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(b * level * (1 + z), 1.0), obs=y)


def two_sites_of_one_name(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        u = numpyro.deterministic("u", mu[z])
        numpyro.sample("x", dist.Normal(u, 1.0), obs=x)


def latent_in_the_weights(x, y):
    mu = means()
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(logits=gate[0] * y))
        b = numpyro.sample("b", dist.Bernoulli(logits=gate[1] * (2.0 * a - 1)))
        numpyro.sample("x", dist.Normal(mu[a] + 2 * mu[b], 1.0), obs=x)


def xor(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        b = numpyro.sample("b", dist.Bernoulli(0.6))
        numpyro.sample("x", dist.Normal(mu[a ^ b], 1.0), obs=x)


def half_supervised(x, labels, known):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("label", jnp.where(known & (z != labels), -jnp.inf, 0.0))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def noisy_labels(x, labels):
    mu = means()
    right = numpyro.sample("right", dist.Beta(5.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        told = jnp.where(z == 1, right, 1 - right)
        numpyro.sample("label", dist.Bernoulli(told), obs=labels)
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def duplicated_plate_sizes(table):
    """As many columns as rows, and a parameter for each row."""
    u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2, 3]).to_event(2))
    with numpyro.plate("rows", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z] + u, 1.0).to_event(1), obs=table)


TWO_LABELS = np.array([1, 0, 0, 1])

PROGRAMS = {
    mask_by_label: (X,),
    scale_by_label: (X,),
    factor_likelihood: (X,),
    factor_prior: (X,),
    factor_of_the_label: (X,),
    factor_of_data_outside: (X,),
    weights_of_the_data_alone: (X, np.array([1.0, 2.0, 0.3, 0.5])),
    obs_mask: (X, np.array([True, False, True, True])),
    data_that_depend_on_the_label: (X, Y),
    shifted_data: (X,),
    ragged_sequences: (TABLE, np.array([3, 1, 2])),
    reparameterised: (X,),
    transformed: (X,),
    stick_breaking: (X,),
    one_series: (X,),
    one_series_without_a_plate: (X,),
    change_point: (COUNTS,),
    change_point_as_a_row: (COUNTS,),
    autoregression: (X,),
    global_and_local: (X,),
    topics: (np.array([[0, 2], [1, 2]]),),
    vector_of_causes: (X[:3],),
    causes_in_a_plate: (X[:3],),
    hidden_in_a_loop_of_plates: (TABLE,),
    missing_parent: (np.array([-1, 0, 1, -1]), X),
    parent_from_minus_one: (np.array([-1, 0, 1, -1]), X),
    two_sites_of_one_name: (X,),
    latent_in_the_weights: (X, Y),
    xor: (X,),
    half_supervised: (X, TWO_LABELS, np.array([True, False, True, False])),
    noisy_labels: (X, TWO_LABELS),
    duplicated_plate_sizes: (TABLE,),
}
