"""Programs whose rows depend on each other, and such with impossible values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from .of_forums import COUNTS, GROUP, TABLE, X, Y, means


# -------------------------------------------------------------------------- rows that are not apart
def roll(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        before = jnp.roll(z, 1)
        numpyro.sample("x", dist.Normal(mu[z] + 0.5 * mu[before], 1.0), obs=x)


def all_but_the_last(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("steps", len(x) - 1):
        numpyro.sample("d", dist.Normal(mu[z[1:]] - mu[z[:-1]], 1.0), obs=x[1:] - x[:-1])


def cumulative(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[0] + mu[1] * jnp.cumsum(z, -1), 1.0), obs=x)


def count_of_labels(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    numpyro.factor("balance", -0.7 * (jnp.sum(z) - 2) ** 2)


def observed_total(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    numpyro.sample("total", dist.Poisson(0.5 + jnp.sum(z)), obs=jnp.array(2))


def must_link(x, pairs):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    with numpyro.plate("pairs", len(pairs)):
        numpyro.factor("link", jnp.where(z[pairs[:, 0]] == z[pairs[:, 1]], 0.0, -2.0))


def potts_inside_the_plate(x, neighbour):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.factor("potts", 0.8 * (z == z[neighbour]))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def block_model(edges):
    rates = numpyro.sample("rates", dist.Beta(1.0, 1.0).expand([2, 2]).to_event(2))
    n = len(edges)
    with numpyro.plate("nodes", n):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("edges", dist.Bernoulli(rates[z[:, None], z[None]]).to_event(2), obs=edges)


def block_model_in_plates(edges):
    rates = numpyro.sample("rates", dist.Beta(1.0, 1.0).expand([2, 2]).to_event(2))
    n = len(edges)
    with numpyro.plate("nodes", n):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("from", n, dim=-2), numpyro.plate("to", n, dim=-1):
        numpyro.sample("edges", dist.Bernoulli(rates[z[:, None], z[None]]), obs=edges)


def prior_of_labels(x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    mu = numpyro.sample("mu", dist.Normal(jnp.mean(z), 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def pupils(funding, score, school):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("schools", len(funding)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("funding", dist.Normal(1.0 * z, 0.8), obs=funding)
    with numpyro.plate("pupils", len(score)):
        numpyro.sample("score", dist.Normal(mu[z[school]], 1.0), obs=score)


def ragged_groups(score, school):
    mu = means()
    with numpyro.plate("schools", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("pupils", len(score)):
        numpyro.sample("score", dist.Normal(mu[z[school]], 1.0), obs=score)


def softmax_of_labels(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        share = jax.nn.softmax(1.0 * z)
        numpyro.sample("x", dist.Normal(mu[z], 0.5 + share), obs=x)


def centred_by_the_mean(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        loc = mu[z]
        numpyro.sample("x", dist.Normal(loc - loc.mean(-1, keepdims=True), 1.0), obs=x)


def sorted_labels(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[jnp.sort(z)], 1.0), obs=x)


def chinese_restaurant(x):
    mu = means()
    z = 0
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        share = jnp.where(z.mean() > 0.5, 0.8, 0.2)
        y = numpyro.sample("y", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(mu[y], 1.0), obs=x)


# ------------------------------------------------------------------------------ supports and zeros
def uniforms(x):
    high = numpyro.sample("high", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Uniform(0.0, high[z]), obs=x)


def pareto(x):
    least = numpyro.sample("least", dist.Uniform(0.0, 1.0))
    alpha = numpyro.sample("alpha", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Pareto(least, alpha[z]), obs=x)


def latent_abundance(counts):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    seen = numpyro.sample("seen", dist.Beta(2.0, 2.0))
    with numpyro.plate("sites", len(counts)):
        abundance = jnp.arange(7)
        log_rate = abundance * jnp.log(rate) - jax.scipy.special.gammaln(abundance + 1.0)
        n = numpyro.sample("n", dist.Categorical(logits=log_rate))
        numpyro.sample("y", dist.Binomial(n, seen), obs=counts)


def latent_abundance_by_visits(counts):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    seen = numpyro.sample("seen", dist.Beta(2.0, 2.0))
    with numpyro.plate("sites", len(counts)):
        n = numpyro.sample("n", dist.Binomial(6, share))
        with numpyro.plate("visits", counts.shape[1], dim=-2):
            numpyro.sample("y", dist.Binomial(n, seen), obs=counts.T)


def truncated(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.TruncatedNormal(mu[z], 1.0, low=-2.0), obs=x)


def truncated_where(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        low = jnp.where(z == 1, -2.0, 0.0)
        numpyro.sample("x", dist.TruncatedNormal(mu[z], 1.0, low=low), obs=x)


def interval_likelihood(lower, upper):
    mu = means()
    width = numpyro.sample("width", dist.HalfNormal(3.0))
    with numpyro.plate("rows", len(lower)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        normal = dist.Normal(mu[z], width)
        numpyro.factor("between", jnp.log(normal.cdf(upper) - normal.cdf(lower)))


def occupancy(seen):
    psi = numpyro.sample("psi", dist.Beta(1.0, 1.0))
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("sites", len(seen)):
        z = numpyro.sample("z", dist.Bernoulli(psi))
        numpyro.sample("y", dist.Bernoulli(z[..., None] * p * jnp.ones(3)).to_event(1), obs=seen)


def point_mass(x):
    share = numpyro.sample("share", dist.Beta(1.0, 1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.factor(
            "x",
            jnp.where(z == 0, jnp.where(x == 0, 0.0, -jnp.inf), dist.Normal(mu, 1.0).log_prob(x)),
        )


def left_to_right(table):
    a = numpyro.sample("a", dist.Beta(1.0, 1.0).expand([2]).to_event(1))
    mu = means(3)
    move = jnp.array([[1 - a[0], a[0], 0.0], [0.0, 1 - a[1], a[1]], [0.0, 0.0, 1.0]])
    with numpyro.plate("people", len(table)):
        z = 0
        for t in range(table.shape[1]):
            z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=table[:, t])


BINARY = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
PAIRS = np.array([[0, 1], [2, 3]])
EDGES = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0]])

PROGRAMS = {
    roll: (X,),
    all_but_the_last: (X,),
    cumulative: (X,),
    count_of_labels: (X,),
    observed_total: (X,),
    must_link: (X, PAIRS),
    potts_inside_the_plate: (X, np.array([1, 2, 3, 0])),
    block_model: (EDGES,),
    block_model_in_plates: (EDGES,),
    prior_of_labels: (X,),
    pupils: (X[:3], Y, GROUP),
    ragged_groups: (Y, GROUP),
    softmax_of_labels: (X,),
    centred_by_the_mean: (X,),
    sorted_labels: (X,),
    chinese_restaurant: (X,),
    uniforms: (np.abs(X),),
    pareto: (np.abs(X) + 1.0,),
    latent_abundance: (COUNTS[:3],),
    latent_abundance_by_visits: (np.array([[1, 2], [4, 4]]),),
    truncated: (X,),
    truncated_where: (np.abs(X),),
    interval_likelihood: (X, X + 1.0),
    occupancy: (BINARY * np.array([[1], [0], [1]]),),
    point_mass: (np.array([0.0, 1.2, 0.0, -0.4]),),
    left_to_right: (TABLE[:2],),
}
