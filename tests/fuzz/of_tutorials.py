"""Programs of the structure of NumPyro's tutorials with hidden discrete causes, on small data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PARALLEL = {"enumerate": "parallel"}
HERE = np.array([1, 0, -1, 1, -1])
OTHER = np.array([0, 1, 1, 0, 0])
OUTCOME = np.array([0.3, 0.1, 0.6, 0.4, -0.2])
POINTS = np.array([0.0, 1.0, 10.0, 11.0, 12.0])
PLANE = np.array([[0.1, -0.4], [2.0, 1.5], [1.7, 2.1], [-0.3, 0.2]])
COUNTS = np.array([0, 0, 3, 1, 0])
GRADES = np.array([0, 2, 1, 2, 0])


def gaussian_mixture(data, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(0.5 * jnp.ones(K)))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with numpyro.plate("components", K):
        locs = numpyro.sample("locs", dist.Normal(0.0, 10.0))
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("assignment", dist.Categorical(weights), infer=PARALLEL)
        numpyro.sample("obs", dist.Normal(locs[z], scale), obs=data)


def gaussian_mixture_in_a_plane(data, K=2):
    d = data.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        locs = numpyro.sample("locs", dist.MultivariateNormal(jnp.zeros(d), 10 * jnp.eye(d)))
        corr = numpyro.sample("corr", dist.LKJCholesky(d, concentration=1.0))
        with numpyro.plate("dim", d, dim=-2):
            scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    lower = jnp.swapaxes(scale, -1, -2)[..., None] * corr
    with numpyro.plate("data", len(data)):
        z = numpyro.sample("assignment", dist.Categorical(weights), infer=PARALLEL)
        numpyro.sample("obs", dist.MultivariateNormal(locs[z], scale_tril=lower[z]), obs=data)


def toy_enumeration(a, c):
    """Seen, hidden, seen: a -> b -> c."""
    p_a = numpyro.sample("p_a", dist.Beta(1.0, 1.0))
    with numpyro.plate("two", 2):
        p_b = numpyro.sample("p_b", dist.Beta(1.0, 1.0))
        p_c = numpyro.sample("p_c", dist.Beta(1.0, 1.0))
    with numpyro.plate("obs", len(a)):
        a = numpyro.sample("a", dist.Bernoulli(p_a), obs=a)
        b = numpyro.sample("b", dist.Bernoulli(p_b[a]), infer=PARALLEL)
        numpyro.sample("c", dist.Bernoulli(p_c[b]), obs=c)


def imputed_covariate(here, other, y):
    """A masked latent fills in what is missing, and the filled-in column is observed."""
    at = numpyro.sample("at", dist.Normal(0.0, 2.5))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.5))
    effects = numpyro.sample("effects", dist.Normal(0.0, 2.5).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfCauchy(2.5))
    with numpyro.plate("obs", len(y)):
        eta = at + slope * other
        filled = numpyro.sample("filled", dist.Bernoulli(logits=eta).mask(False), infer=PARALLEL)
        a = jnp.where(here >= 0, here, filled)
        numpyro.sample("a", dist.Bernoulli(logits=eta), obs=a)
        numpyro.sample("y", dist.Normal(effects[0] * a + effects[1] * other, scale), obs=y)


def imputed_with_a_cause_of_gaps(here, other, y):
    """The same, where being missing depends on what is missing."""
    at = numpyro.sample("at", dist.Normal(0.0, 2.5))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.5))
    gap = numpyro.sample("gap", dist.Normal(0.0, 2.5).expand([2]).to_event(1))
    effects = numpyro.sample("effects", dist.Normal(0.0, 2.5).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfCauchy(2.5))
    there = here >= 0
    with numpyro.plate("obs", len(y)):
        eta = at + slope * other
        filled = numpyro.sample("filled", dist.Bernoulli(logits=eta).mask(False), infer=PARALLEL)
        a = jnp.where(there, here, filled)
        numpyro.sample("a", dist.Bernoulli(logits=eta), obs=a)
        seen = dist.Bernoulli(logits=gap[0] + gap[1] * a)
        numpyro.sample("there", seen, obs=there.astype(int))
        numpyro.sample("y", dist.Normal(effects[0] * a + effects[1] * other, scale), obs=y)


def zero_inflated(counts):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(counts)):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=counts)


def zero_inflated_spelled_out(counts):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(counts)):
        z = numpyro.sample("z", dist.Bernoulli(gate), infer=PARALLEL)
        numpyro.sample("y", dist.Poisson(jnp.where(z == 1, 0.0, rate)), obs=counts)


def ordinal(x, grades):
    """An ordered outcome whose slope depends on a hidden class."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    anchor = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.transforms.OrderedTransform()
    )
    cuts = numpyro.sample("cuts", anchor)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5), infer=PARALLEL)
        numpyro.sample("y", dist.OrderedLogistic(slope[z] * x, cuts), obs=grades)


def mixture_same_family(data, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    locs = numpyro.sample("locs", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, scale))
    with numpyro.plate("rows", len(data)):
        numpyro.sample("obs", mixture, obs=data)


def mixture_general(data):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    parts = [dist.Normal(loc, scale), dist.StudentT(3.0, loc, 5 * scale)]
    with numpyro.plate("rows", len(data)):
        numpyro.sample("obs", dist.MixtureGeneral(dist.Categorical(weights), parts), obs=data)


PROGRAMS = {
    gaussian_mixture: (POINTS,),
    gaussian_mixture_in_a_plane: (PLANE,),
    toy_enumeration: (OTHER, COUNTS.clip(0, 1)),
    imputed_covariate: (HERE, OTHER, OUTCOME),
    imputed_with_a_cause_of_gaps: (HERE, OTHER, OUTCOME),
    zero_inflated: (COUNTS,),
    zero_inflated_spelled_out: (COUNTS,),
    ordinal: (OUTCOME, GRADES),
    mixture_same_family: (POINTS,),
    mixture_general: (POINTS,),
}
