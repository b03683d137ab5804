"""Programs with small data, which samplers are calibrated on: one for each family of distributions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


class Family(NamedTuple):
    """A program and its arguments: first what it observes, in the order of its sites, as templates of
    the data's shape, NaN where cells are missing in all data sets; then everything else.

    independent: given the completed data its blocks are independent, so that their order is no matter
    (False where NUTS moves some).
    """

    program: Callable[..., Any]
    arguments: tuple[Any, ...]
    independent: bool = True


def weights_of(K: int) -> Any:
    return numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))


def several(n, y, c, t, rate):
    """Four sites in a row: a count, two answers, a category, a number with outliers."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        mean = numpyro.sample("mean", dist.Gamma(3.0, rate))
        share = numpyro.sample("share", dist.Beta(2.0, 1.5).expand([2]).to_event(1))
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.array([1.0, 2.0, 1.5])))
        centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", n.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("n", dist.Poisson(mean[z]), obs=n)
        numpyro.sample("y", dist.Bernoulli(share[z]).to_event(1), obs=y)
        numpyro.sample("c", dist.Categorical(probs[z]), obs=c)
        numpyro.sample("t", dist.StudentT(4.0, centre[z], 1.0), obs=t)


def normal_inverse_wishart(likelihood, K):
    """Two columns; `likelihood` makes a distribution from mean and covariance."""

    def program(x):
        weights = weights_of(K)
        with numpyro.plate("component", K):
            covariance = numpyro.sample("covariance", dist.InverseWishart(6.0, jnp.eye(2)))
            centre = dist.MultivariateNormal(jnp.zeros(2), covariance / 0.2)
            mean = numpyro.sample("mean", centre)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", likelihood(mean[z], covariance[z]), obs=x)

    return program


def student(mean, covariance):
    # NumPyro 0.22 draws one scale for all rows where the degrees of freedom are a single number
    freedom = jnp.full(mean.shape[:-1], 4.0)
    return dist.MultivariateStudentT(freedom, mean, jnp.linalg.cholesky(covariance))


def columns_of(prior, likelihood, width=2):
    """`width` independent cells a row, each with an unknown value of each component."""

    def program(x):
        weights = weights_of(2)
        with numpyro.plate("component", 2):
            value = numpyro.sample("value", prior.expand([width]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", likelihood(value[z]).to_event(1), obs=x)

    return program


def student_regression(y, u):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.StudentT(4.0, u @ slope, 1.0), obs=y)


def probit(y, u):
    """By the normals behind the answers: probabilities would round to 1 in some of the chains."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        t = numpyro.sample("t", dist.Normal(u @ slope, 1.0))
        numpyro.sample("y", dist.Bernoulli(probs=(t > 0).astype(float)), obs=y)


def regressions(y, u):
    """A mixture of two."""
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        mean = jnp.sum(slope[z] * u, axis=-1)
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[z])), obs=y)


def hidden_scales(x):
    """Student-t by a gamma latent of every row."""
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, jnp.sqrt(variance / 0.2)))
    with numpyro.plate("rows", x.shape[0]):
        u = numpyro.sample("u", dist.Gamma(2.0, 2.0))
        numpyro.sample("x", dist.Normal(mean, jnp.sqrt(variance / u)), obs=x)


def heavy_experts(x, u):
    """A gate and degrees of freedom, which have no closed form."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    df = numpyro.sample("df", dist.LogNormal(1.5, 0.5))
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(logits=gate[0] + gate[1] * u))
        numpyro.sample("x", dist.StudentT(df, centre[z], 1.0), obs=x)


def poisson_regressions(y, u):
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 0.7).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Poisson(jnp.exp(jnp.sum(slope[z] * u, axis=-1))), obs=y)


NUM_ROWS = 20
_rng = np.random.default_rng(0)
NUMBERS = _rng.normal(size=(NUM_ROWS, 2))
HOLES = np.where(_rng.uniform(size=NUMBERS.shape) < 0.3, np.nan, NUMBERS)
POSITIVE, WHOLE = np.exp(NUMBERS), _rng.integers(2, size=NUMBERS.shape)
TRIALS = _rng.multinomial(6, np.full(3, 1 / 3), size=NUM_ROWS)
SEVERAL = (WHOLE[:, 0], WHOLE, WHOLE[:, 1], NUMBERS[:, 0])
gaussian = dist.MultivariateNormal
shape, chance = dist.Gamma(3.0, 2.0), dist.Beta(3.0, 2.0)
spread, place = dist.InverseGamma(3.0, 2.0), dist.Normal(0.0, 2.0)

FEW: dict[str, Family] = {
    "Poisson, Bernoulli, categorical, t": Family(several, (*SEVERAL, np.asarray(0.5))),
    "Gaussian, missing cells": Family(normal_inverse_wishart(gaussian, 2), (HOLES,)),
    "gate and Student-t, by NUTS": Family(heavy_experts, (NUMBERS[:, 0], NUMBERS[:, 1]), False),
}
COLUMNS = {
    "binomial": (chance, lambda v: dist.Binomial(7, v), WHOLE),
    "geometric": (chance, dist.GeometricProbs, WHOLE),
    "negative binomial": (chance, lambda v: dist.NegativeBinomialProbs(5.0, v), WHOLE),
    "exponential": (shape, dist.Exponential, POSITIVE),
    "gamma, rate": (shape, lambda v: dist.Gamma(2.5, v), POSITIVE),
    "inverse gamma, rate": (shape, lambda v: dist.InverseGamma(2.5, v), POSITIVE),
    "half normal": (spread, lambda v: dist.HalfNormal(jnp.sqrt(v)), POSITIVE),
    "log normal": (place, lambda v: dist.LogNormal(v, 0.7), POSITIVE),
    "normal, precision": (shape, lambda v: dist.Normal(1.0, v**-0.5), NUMBERS),
    "normal, missing cells": (place, lambda v: dist.Normal(v, 1.0), HOLES),
    "Laplace, without a family": (spread, lambda v: dist.Laplace(0.0, v), NUMBERS),
    "Student-t columns": (place, lambda v: dist.StudentT(4.0, v, 1.0), NUMBERS),
    "Student-t columns, scale": (spread, lambda v: dist.StudentT(4.0, 0.0, v**0.5), NUMBERS),
    "Cauchy columns, missing cells": (place, lambda v: dist.Cauchy(v, 1.0), HOLES),
}


def all_families() -> dict[str, Family]:
    """The few, more likelihoods, and every program of the battery."""
    from tests.programs import CASES, components_of, make_data

    found = {
        **FEW,
        "Gaussian, one component": Family(normal_inverse_wishart(gaussian, 1), (HOLES,)),
        "Student-t": Family(normal_inverse_wishart(student, 2), (NUMBERS,)),
        "Student-t, missing cells": Family(normal_inverse_wishart(student, 2), (HOLES,)),
        "Student-t by hidden scales": Family(hidden_scales, (NUMBERS[:, 0],)),
        "multinomial": Family(multinomials, (TRIALS,)),
        "probit regression": Family(probit, (WHOLE[:, 0], NUMBERS)),
        "Student-t regression": Family(student_regression, (NUMBERS[:, 0], NUMBERS)),
        "mixture of regressions": Family(regressions, (NUMBERS[:, 0], NUMBERS), False),
        "Poisson regressions, by NUTS": Family(poisson_regressions, (WHOLE[:, 0], NUMBERS), False),
    }
    for name, (prior, likelihood, template) in COLUMNS.items():
        found[name] = Family(columns_of(prior, likelihood), (template,))
    for name, case in CASES.items():
        arguments = (make_data(name, NUM_ROWS), components_of(name))
        found[f"battery: {name}"] = Family(case.program, arguments, False)
    return found


def multinomials(x):
    weights = weights_of(2)
    with numpyro.plate("component", 2):
        value = numpyro.sample("value", dist.Dirichlet(jnp.array([1.0, 2.0, 1.5])))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Multinomial(6, value[z]), obs=x)
