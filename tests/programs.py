"""Plain NumPyro mixtures that every engine is run on, with what `plan` should find in each.

All of them take `(x, K)`: `x` is (N, 2), or (N,) for the programs in `ONE_COLUMN`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import nn
from numpyro.contrib.funsor import config_enumerate, enum
from numpyro.ops.indexing import Vindex

import bayesmix
from bayesmix import Plan


class Case(NamedTuple):
    """A program; its blocks in order, sites to conditional; exchangeable; sites with label axes."""

    program: Callable[..., Any]
    blocks: dict[tuple[str, ...], str]
    labels: dict[str, int]
    exchangeable: bool = True

    @property
    def closed(self) -> bool:
        """Whether every block has a closed form."""
        return OPEN not in self.blocks.values()


OPEN = "no closed form"
ONE_COLUMN = ("scalar", "laplace", "poisson", "bernoulli", "uniform_latent")


def make_data(name: str, num_rows: int = 60, seed: int = 0) -> np.ndarray:
    """Three groups that overlap a little, for the program called `name`."""
    rng = np.random.default_rng(seed)
    z = rng.choice(3, num_rows, p=[0.5, 0.3, 0.2])
    if name == "poisson":
        return rng.poisson(np.array([2.0, 9.0, 25.0])[z])
    x = np.array([[-2.5, 0.0], [0.5, 2.5], [3.0, -1.5]])[z] + rng.normal(size=(num_rows, 2))
    return x[:, 0] if name in ONE_COLUMN else x


def weights_of(K):
    return numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 1.5)))


def niw(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
        prior = dist.MultivariateNormal(jnp.zeros(2), covariance / 0.1)
        mean = numpyro.sample("mean", prior)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def independent(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance[z]), obs=x)


def nig(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0).expand([2]).to_event(1))
        mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.1)).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])).to_event(1), obs=x)


def tied_niw(x, K):
    weights = weights_of(K)
    covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
    with numpyro.plate("component", K):
        prior = dist.MultivariateNormal(jnp.zeros(2), covariance / 0.1)
        mean = numpyro.sample("mean", prior)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance), obs=x)


def spherical(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        prior = dist.Normal(0.0, jnp.sqrt(variance / 0.1)[..., None])
        mean = numpyro.sample("mean", prior.expand([K, 2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        covariance = variance[z][..., None, None] * jnp.eye(2)
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance), obs=x)


def tied_spherical(x, K):
    weights = weights_of(K)
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K, 2]).to_event(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance)).to_event(1), obs=x)


def scalar(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.1)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def known_covariance(x, K):
    weights = weights_of(K)
    covariance = jnp.array([[1.0, 0.3], [0.3, 2.0]])
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.MultivariateNormal(jnp.ones(2), 25.0 * jnp.eye(2)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], covariance), obs=x)


def normal_wishart(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        precision = numpyro.sample("precision", dist.Wishart(6.0, jnp.eye(2)))
        prior = dist.MultivariateNormal(jnp.zeros(2), precision_matrix=0.1 * precision)
        mean = numpyro.sample("mean", prior)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        fn = dist.MultivariateNormal(mean[z], precision_matrix=precision[z])
        numpyro.sample("x", fn, obs=x)


def gamma_precision(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
        mean = numpyro.sample("mean", dist.Normal(0.0, 1 / jnp.sqrt(0.1 * tau)).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1 / jnp.sqrt(tau[z])).to_event(1), obs=x)


def lkj(x, K):
    weights = weights_of(K)
    centre = numpyro.sample("centre", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    spread = numpyro.sample("spread", dist.InverseGamma(3.0, 20.0))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(centre, jnp.sqrt(spread)).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
        corr = numpyro.sample("corr", dist.LKJCholesky(2, 2.0))
    lower = numpyro.deterministic("lower", scale[..., None] * corr)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], scale_tril=lower[z]), obs=x)


def half_normal(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], scale[z]).to_event(1), obs=x)


def spelled(pick):
    """One model, with four ways to write mean[z]."""

    def program(x, K):
        weights = weights_of(K)
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([K, 2]).to_event(2))
        tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(pick(mean, z), tau**-0.5).to_event(1), obs=x)

    return program


SPELLINGS = {
    "index": lambda mean, z: mean[z],
    "one_hot": lambda mean, z: nn.one_hot(z, mean.shape[0]) @ mean,
    "take": lambda mean, z: jnp.take(mean, z, axis=0),
    "vindex": lambda mean, z: Vindex(mean)[z[..., None], jnp.arange(mean.shape[1])],
}


def bernoulli(x, K=2):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("component", 2):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])), obs=x)


def uniform_latent(x, K):
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.DiscreteUniform(0, K - 1))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance)), obs=x)


def deterministic(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        precision = numpyro.sample("precision", dist.Wishart(6.0, jnp.eye(2)))
        covariance = numpyro.deterministic("covariance", jnp.linalg.inv(precision))
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        centre = numpyro.deterministic("centre", mean[z])
        numpyro.sample("x", dist.MultivariateNormal(centre, covariance[z]), obs=x)


def stick_breaking(x, K):
    sticks = numpyro.sample("sticks", dist.Beta(1.5, 2.0).expand([K - 1]).to_event(1))
    left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - sticks)])
    weights = numpyro.deterministic("weights", left * jnp.append(sticks, 1.0))
    with numpyro.plate("component", K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z])).to_event(1), obs=x)


def laplace(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        location = numpyro.sample("location", dist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Laplace(location[z], scale[z]), obs=x)


def poisson(x, K):
    weights = weights_of(K)
    with numpyro.plate("component", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


W = {("weights",): "Dirichlet"}
MC = {"weights": 0, "mean": 0, "covariance": 0}
MV = {"weights": 0, "mean": 0, "variance": 0}
WM = {"weights": 0, "mean": 0}
NORMAL = {("mean",): "normal"}

CASES: dict[str, Case] = {
    "niw": Case(niw, W | {("mean", "covariance"): "normal-inverse Wishart"}, MC),
    "independent": Case(independent, W | NORMAL | {("covariance",): "inverse Wishart"}, MC),
    "nig": Case(nig, W | {("mean", "variance"): "normal-inverse gamma"}, MV),
    "tied_niw": Case(tied_niw, W | {("mean", "covariance"): "normal-inverse Wishart"}, WM),
    "spherical": Case(spherical, W | {("mean", "variance"): "normal-inverse gamma"}, MV),
    "tied_spherical": Case(tied_spherical, W | {("variance",): "inverse gamma"} | NORMAL, WM),
    "scalar": Case(scalar, W | {("mean", "variance"): "normal-inverse gamma"}, MV),
    "known_covariance": Case(known_covariance, W | NORMAL, WM),
    "normal_wishart": Case(
        normal_wishart,
        W | {("mean", "precision"): "normal-Wishart"},
        {"weights": 0, "mean": 0, "precision": 0},
    ),
    "gamma_precision": Case(
        gamma_precision,
        W | {("mean", "tau"): "normal-gamma"},
        {"weights": 0, "mean": 0, "tau": 0},
    ),
    "lkj": Case(
        lkj,
        W
        | {("centre",): "normal", ("spread",): "inverse gamma"}
        | NORMAL
        | {("scale",): OPEN, ("corr",): OPEN},
        {"weights": 0, "mean": 0, "scale": 0, "corr": 0, "lower": 0},
    ),
    "half_normal": Case(
        half_normal, W | NORMAL | {("scale",): OPEN}, {"weights": 0, "mean": 0, "scale": 0}
    ),
    "bernoulli": Case(
        bernoulli,
        {("share",): "beta", ("variance",): "inverse gamma"} | NORMAL,
        {"mean": 0, "variance": 0},  # share turns into 1 - share
    ),
    "uniform_latent": Case(uniform_latent, {("variance",): "inverse gamma"} | NORMAL, {"mean": 0}),
    "deterministic": Case(
        deterministic,
        W | {("precision",): "Wishart"} | NORMAL,
        {"weights": 0, "mean": 0, "precision": 0, "covariance": 0},
    ),
    "stick_breaking": Case(
        stick_breaking,
        {("sticks",): "beta"} | NORMAL | {("variance",): "inverse gamma"},
        MV,
        exchangeable=False,
    ),
    "laplace": Case(
        laplace,
        W | {("location",): OPEN, ("scale",): "inverse gamma"},
        {"weights": 0, "location": 0, "scale": 0},
    ),
    "poisson": Case(poisson, W | {("rate",): "gamma"}, {"weights": 0, "rate": 0}),
}
# what a user of NumPyro's own enumeration writes above a program
ENUMERATED = {
    name: enum(config_enumerate(case.program), first_available_dim=-2)
    for name, case in CASES.items()
}


def components_of(name: str) -> int:
    """K for the program called `name`."""
    return 2 if name == "bernoulli" else 3


@functools.cache
def plan_of(name: str) -> Plan:
    """The plan of a program on its own data, read once."""
    return bayesmix.plan(CASES[name].program, make_data(name), components_of(name))
