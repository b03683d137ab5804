"""Programs as people write them: classes, dictionaries, Python on data, idioms of indexing, masks."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import one_hot

X = np.array([-1.2, 0.4, 2.1, 3.3])
Y = np.array([0.3, -0.7, 1.5, 2.2])
COUNTS = np.array([0, 3, 1, 5])
GROUP = np.array([0, 2, 1, 2])
TABLE = np.array([[0.1, 1.0, -0.3], [2.0, 1.4, 0.9], [-0.5, 0.3, 2.2]])


def means(K=2, scale=3.0):
    with numpyro.plate("K", K):
        return numpyro.sample("mu", dist.Normal(0.0, scale))


# --------------------------------------------------------------------------------- ways of writing
class Mixture:
    """A program that is a method."""

    def __init__(self, K, scale):
        self.K, self.scale = K, scale

    def __call__(self, x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(self.K)))
        mu = means(self.K)
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(w))
            numpyro.sample("x", dist.Normal(mu[z], self.scale), obs=x)

    def model(self, x=None):
        self(x)


def with_width(width, x, K):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = means(K)
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
    mu = means()
    with numpyro.plate("groups", int(group.max()) + 1):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu[z] + u[group], 0.5), obs=y)


def groups_unique(y, group):
    kinds, place = np.unique(group, return_inverse=True)
    mu = means()
    with numpyro.plate("groups", len(kinds)):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(mu[z] + u[place], 0.5), obs=y)


def branches_on_data(x, y=None):
    mu = means()
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    shift = slope if x.mean() > 0 else -slope
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z] + shift, 0.5), obs=x)
        if y is not None:
            numpyro.sample("y", dist.Normal(mu[1 - z], 1.0), obs=y)


def loop_over_rows(x):
    mu = means()
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
    mu = means()
    with numpyro.plate("rows", len(x)) as i:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z] + w[i], 1.0), obs=x[i])


def two_plates_of_rows(x, y):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    with numpyro.plate("again", len(x)):
        numpyro.sample("y", dist.Normal(mu[z], 2.0), obs=y)


def same_plate_twice(x, y):
    mu = means()
    rows = numpyro.plate("rows", len(x))
    with rows:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with rows:
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        numpyro.sample("y", dist.Normal(mu[z], 2.0), obs=y)


def no_plate(x):
    mu = means()
    z = numpyro.sample("z", dist.Bernoulli(0.4).expand([len(x)]).to_event(1))
    numpyro.sample("x", dist.Normal(mu[z], 1.0).to_event(1), obs=x)


def no_plate_batch(x):
    mu = means()
    z = numpyro.sample("z", dist.Bernoulli(jnp.full(len(x), 0.4)))
    numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def data_outside_the_plate(x):
    mu = means()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


# ------------------------------------------------------------------------------- indexing and links
def by_one_hot(x):
    mu = means(3)
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
    mu = means(3)
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
    mu = means(3)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("x", dist.Normal(mu[z] - mu[(z + 1) % 3], 1.0), obs=x)


def vmapped_density(x):
    mu = means(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        loc = jax.vmap(lambda k: mu[k])(jnp.ravel(z)).reshape(jnp.shape(z))
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)


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
}
