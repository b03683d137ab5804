"""Programs as people write them: classes, dictionaries, Python on data, idioms of indexing, masks."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import one_hot
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

X = np.array([-1.2, 0.4, 2.1, 3.3])
Y = np.array([0.3, -0.7, 1.5, 2.2])
COUNTS = np.array([0, 3, 1, 5])
GROUP = np.array([0, 2, 1, 2])
TABLE = np.array([[0.1, 1.0, -0.3], [2.0, 1.4, 0.9], [-0.5, 0.3, 2.2]])
BINARY = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]])


def _means(K=2, scale=3.0):
    with numpyro.plate("K", K):
        return numpyro.sample("mu", dist.Normal(0.0, scale))


# --------------------------------------------------------------------------------- ways of writing
class Mixture:
    """A program that is a method."""

    def __init__(self, K, scale):
        self.K, self.scale = K, scale

    def __call__(self, x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(self.K)))
        mu = _means(self.K)
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], self.scale), obs=x)

    def model(self, x=None):
        self(x)


def with_width(width, x, K):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = _means(K)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(mu[z], width), obs=x)


partly = partial(with_width, 0.7, K=3)
partly.__name__ = "partly"


def dictionary(data):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", data["x"].shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(b[z] * data["x"], 1.0), obs=data["y"])


def named(*, x, y, sd=1.0):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(b[z] * x, sd), obs=y)


def groups_counted(y, group):
    mu = _means()
    with numpyro.plate("groups", int(group.max()) + 1):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu[z] + u[group], 0.5), obs=y)


def groups_unique(y, group):
    kinds, place = np.unique(group, return_inverse=True)
    mu = _means()
    with numpyro.plate("groups", len(kinds)):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu[z] + u[place], 0.5), obs=y)


def branches_on_data(x, y=None):
    mu = _means()
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    shift = slope if x.mean() > 0 else -slope
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z] + shift, 0.5), obs=x)
        if y is not None:
            numpyro.sample("y", dist.Normal(mu[1 - z], 1.0), obs=y)


def loop_over_rows(x):
    mu = _means()
    for i in range(len(x)):
        z = numpyro.sample(f"z{i}", dist.Bernoulli(0.4))
        numpyro.sample(f"x{i}", dist.Normal(mu[z], 1.0), obs=x[i])


def loop_over_columns(table):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2, 3]).to_event(2))
    with numpyro.plate("rows", len(table)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        for d in range(table.shape[1]):
            numpyro.sample(f"x{d}", dist.Normal(mu[z, d], 1.0), obs=table[:, d])


def plate_with_indices(x, w):
    mu = _means()
    with numpyro.plate("rows", len(x)) as i:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z] + w[i], 1.0), obs=x[i])


def two_plates_of_rows(x, y):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    with numpyro.plate("again", len(x)):
        numpyro.sample("y", dist.Normal(mu[z], 2.0), obs=y)


def same_plate_twice(x, y):
    mu = _means()
    rows = numpyro.plate("rows", len(x))
    with rows:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with rows:
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        numpyro.sample("y", dist.Normal(mu[z], 2.0), obs=y)


def no_plate(x):
    mu = _means()
    z = numpyro.sample("z", dist.Bernoulli(0.4).expand([len(x)]).to_event(1))
    numpyro.sample("x", dist.Normal(mu[z], 1.0).to_event(1), obs=x)


def no_plate_batch(x):
    mu = _means()
    z = numpyro.sample("z", dist.Bernoulli(jnp.full(len(x), 0.4)))
    numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def data_outside_the_plate(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


# ------------------------------------------------------------------------------- indexing and links
def by_one_hot(x):
    mu = _means(3)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(one_hot(z, 3) @ mu, 1.0), obs=x)


def by_arithmetic(x):
    low = numpyro.sample("low", dist.Normal(0.0, 2.0))
    gap = numpyro.sample("gap", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.DiscreteUniform(1, 3))
        numpyro.sample("x", dist.Normal(low + gap * (z - 1), 0.5 * z), obs=x)


def by_select(x):
    mu = _means(3)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        loc = jnp.select([z == 0, z == 1], [mu[0], mu[1]], mu[2])
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def by_switch_of_known_table(x):
    known = np.array([0.5, 1.0, 2.0])
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(mu, known[z]), obs=x)


def known_table_as_argument(x, known):
    width = numpyro.sample("width", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(known[z], width), obs=x)


def powers_of_the_label(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.DiscreteUniform(0, 4))
        numpyro.sample("x", dist.Poisson(rate * 2.0**z), obs=x)


def neighbours_of_the_label(x):
    mu = _means(3)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(mu[z] - mu[(z + 1) % 3], 1.0), obs=x)


def vmapped_density(x):
    mu = _means(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        loc = jax.vmap(lambda k: mu[k])(jnp.ravel(z)).reshape(jnp.shape(z))
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)


# -------------------------------------------------------------------------- rows that are not apart
def roll(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        before = jnp.roll(z, 1)
        numpyro.sample("x", dist.Normal(mu[z] + 0.5 * mu[before], 1.0), obs=x)


def all_but_the_last(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("steps", len(x) - 1):
        numpyro.sample("d", dist.Normal(mu[z[1:]] - mu[z[:-1]], 1.0), obs=x[1:] - x[:-1])


def cumulative(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[0] + mu[1] * jnp.cumsum(z, -1), 1.0), obs=x)


def count_of_labels(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    numpyro.factor("balance", -0.7 * (jnp.sum(z) - 2) ** 2)


def observed_total(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    numpyro.sample("total", dist.Poisson(0.5 + jnp.sum(z)), obs=jnp.array(2))


def must_link(x, pairs):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    with numpyro.plate("pairs", len(pairs)):
        numpyro.factor("link", jnp.where(z[pairs[:, 0]] == z[pairs[:, 1]], 0.0, -2.0))


def potts_inside_the_plate(x, neighbour):
    mu = _means()
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
    mu = _means()
    with numpyro.plate("schools", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("pupils", len(score)):
        numpyro.sample("score", dist.Normal(mu[z[school]], 1.0), obs=score)


def softmax_of_labels(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        share = jax.nn.softmax(1.0 * z)
        numpyro.sample("x", dist.Normal(mu[z], 0.5 + share), obs=x)


def centred_by_the_mean(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        loc = mu[z]
        numpyro.sample("x", dist.Normal(loc - loc.mean(-1, keepdims=True), 1.0), obs=x)


def sorted_labels(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[jnp.sort(z)], 1.0), obs=x)


def chinese_restaurant(x):
    mu = _means()
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
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.TruncatedNormal(mu[z], 1.0, low=-2.0), obs=x)


def truncated_where(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        low = jnp.where(z == 1, -2.0, 0.0)
        numpyro.sample("x", dist.TruncatedNormal(mu[z], 1.0, low=low), obs=x)


def interval_likelihood(lower, upper):
    mu = _means()
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
    mu = _means(3)
    move = jnp.array([[1 - a[0], a[0], 0.0], [0.0, 1 - a[1], a[1]], [0.0, 0.0, 1.0]])
    with numpyro.plate("people", len(table)):
        z = 0
        for t in range(table.shape[1]):
            z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=table[:, t])


# ------------------------------------------------------------------------------- masks and factors
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
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("x", -0.5 * (x - mu[z]) ** 2)


def factor_prior(x):
    mu = _means()
    numpyro.factor("repel", jnp.log1p((mu[0] - mu[1]) ** 2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def factor_of_the_label(x):
    mu = _means()
    pull = numpyro.sample("pull", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("prefer", pull * (2.0 * z - 1.0))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def factor_of_data_outside(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        log_prob = dist.Normal(mu[z], 1.0).log_prob(x)
    numpyro.factor("x", jnp.sum(log_prob))


def weights_by_row(x, n):
    mu = _means()
    with numpyro.plate("rows", len(x)), handlers.scale(scale=n):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def weights_of_the_data_alone(x, n):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        with handlers.scale(scale=n):
            numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def obs_mask(x, there):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x, obs_mask=there)


def data_that_depend_on_the_label(x, y):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=jnp.where(z == 1, x, y))


def shifted_data(x):
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x - shift)


def ragged_sequences(table, lengths):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = _means()
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
    mu = _means(K)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def one_series(x):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = _means()
    with numpyro.plate("series", 1):
        z = 0
        for t in range(len(x)):
            z = numpyro.sample(f"z{t}", dist.Categorical(move[z]))
            numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=x[t])


def one_series_without_a_plate(x):
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = _means()
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
    mu = _means()
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
    mu = _means()
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
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        u = numpyro.deterministic("u", mu[z])
        numpyro.sample("x", dist.Normal(u, 1.0), obs=x)


def latent_in_the_weights(x, y):
    mu = _means()
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(logits=gate[0] * y))
        b = numpyro.sample("b", dist.Bernoulli(logits=gate[1] * (2.0 * a - 1)))
        numpyro.sample("x", dist.Normal(mu[a] + 2 * mu[b], 1.0), obs=x)


def xor(x):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        b = numpyro.sample("b", dist.Bernoulli(0.6))
        numpyro.sample("x", dist.Normal(mu[a ^ b], 1.0), obs=x)


def half_supervised(x, labels, known):
    mu = _means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.factor("label", jnp.where(known & (z != labels), -jnp.inf, 0.0))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def noisy_labels(x, labels):
    mu = _means()
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


PAIRS = np.array([[0, 1], [2, 3]])
EDGES = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0]])
TWO_LABELS = np.array([1, 0, 0, 1])
_mixture = Mixture(2, 0.8)

PROGRAMS = {
    _mixture: (X,),
    _mixture.model: (X,),
    partly: (X,),
    dictionary: ({"x": X, "y": Y},),
    named: ((), {"x": X, "y": Y}),
    groups_counted: (X, GROUP),
    groups_unique: (X, GROUP),
    branches_on_data: (X, Y),
    loop_over_rows: (X,),
    loop_over_columns: (TABLE,),
    plate_with_indices: (X, Y),
    two_plates_of_rows: (X, Y),
    same_plate_twice: (X, Y),
    no_plate: (X,),
    no_plate_batch: (X,),
    data_outside_the_plate: (X,),
    by_one_hot: (X,),
    by_arithmetic: (X,),
    by_select: (X,),
    by_switch_of_known_table: (X,),
    known_table_as_argument: (X, np.array([-1.0, 0.5, 2.0])),
    powers_of_the_label: (COUNTS,),
    neighbours_of_the_label: (X,),
    vmapped_density: (X,),
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
    mask_by_label: (X,),
    scale_by_label: (X,),
    factor_likelihood: (X,),
    factor_prior: (X,),
    factor_of_the_label: (X,),
    factor_of_data_outside: (X,),
    weights_by_row: (X, np.array([1.0, 2.0, 0.0, 0.5])),
    weights_of_the_data_alone: (X, np.array([1.0, 2.0, 0.0, 0.5])),
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
