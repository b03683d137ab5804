"""Programs of the structure of NumPyro's own models of recapture and of hidden Markov chains.

Structure: Kery & Schaub (2011), *Bayesian population analysis using WinBUGS*, chapter 7, and the
polyphonic music of NumPyro's examples; written anew on small made data.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit, logit
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions.util import clamp_probs
from numpyro.infer.reparam import LocScaleReparam
from numpyro.ops.indexing import Vindex

PARALLEL = {"enumerate": "parallel"}
CAPTURED = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]])
MALE = np.array([0.0, 1.0, 1.0])
TONES = np.array([[[1, 0], [0, 0], [1, 1]], [[0, 1], [1, 0], [0, 0]], [[1, 1], [0, 0], [0, 0]]])
LENGTHS = np.array([3, 2, 1])


def _recaptures(captured, survival, seen, outside=None):
    """Alive or not after each occasion, from the first capture on."""

    def step(carry, y):
        first, z = carry
        phi = survival(outside() if outside else None)
        with numpyro.plate("animals", captured.shape[0], dim=-1):
            with handlers.mask(mask=first):
                alive = first * phi * z + (1 - first)
                z = numpyro.sample("z", dist.Bernoulli(clamp_probs(alive)), infer=PARALLEL)
                numpyro.sample("y", dist.Bernoulli(clamp_probs(seen * z)), obs=y)
        return (first | y.astype(bool), z), None

    start = captured[:, 0].astype(bool), jnp.ones(captured.shape[0], dtype=int)
    scan(step, start, jnp.swapaxes(captured[:, 1:], 0, 1))


def capture_constant(captured, male):
    phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    _recaptures(captured, lambda _: phi, rho)


def capture_by_time(captured, male):
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

    def outside():
        return numpyro.sample("phi", dist.Uniform(0.0, 1.0))

    _recaptures(captured, lambda phi: phi, rho, outside)


def capture_random_effect(captured, male):
    mean = numpyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
    sigma = numpyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

    def outside():
        with handlers.reparam(config={"phi_logit": LocScaleReparam(0)}):
            return numpyro.sample("phi_logit", dist.Normal(logit(mean), sigma))

    _recaptures(captured, expit, rho, outside)


def capture_by_sex(captured, male):
    phi_male = numpyro.sample("phi_male", dist.Uniform(0.0, 1.0))
    phi_female = numpyro.sample("phi_female", dist.Uniform(0.0, 1.0))
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
    _recaptures(captured, lambda _: male * phi_male + (1.0 - male) * phi_female, rho)


def capture_by_sex_and_time(captured, male):
    beta = numpyro.sample("phi_beta", dist.Normal(0.0, 10.0))
    rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

    def outside():
        return numpyro.sample("phi_gamma", dist.Normal(0.0, 10.0))

    _recaptures(captured, lambda gamma: expit(male * beta + gamma), rho, outside)


def _tables(states, shape, include_prior=True):
    with handlers.mask(mask=include_prior):
        rows = dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).to_event(1)
        table = numpyro.sample("table", rows)
        tones = dist.Beta(0.5, 0.9).expand(shape).to_event(len(shape))
        return table, numpyro.sample("tones", tones)


def chain(sequences, lengths, states=2):
    """A hidden chain, tones independent given its state; sequences of several lengths."""
    count, _, tones = sequences.shape
    table, play = _tables(states, [states, tones])

    def step(carry, y):
        x, t = carry
        with numpyro.plate("sequences", count, dim=-2):
            with handlers.mask(mask=(t < lengths)[..., None]):
                x = numpyro.sample("x", dist.Categorical(table[x]), infer=PARALLEL)
                with numpyro.plate("tones", tones, dim=-1):
                    numpyro.sample("y", dist.Bernoulli(play[x.squeeze(-1)]), obs=y)
        return (x, t + 1), None

    scan(step, (jnp.zeros((count, 1), dtype=int), 0), jnp.swapaxes(sequences, 0, 1))


def chain_of_tones(sequences, lengths, states=2):
    """A tone also depends on itself one step before."""
    count, _, tones = sequences.shape
    table, play = _tables(states, [states, 2, tones])

    def step(carry, y):
        x, before, t = carry
        with numpyro.plate("sequences", count, dim=-2):
            with handlers.mask(mask=(t < lengths)[..., None]):
                x = numpyro.sample("x", dist.Categorical(table[x]), infer=PARALLEL)
                with numpyro.plate("tones", tones, dim=-1) as tone:
                    on = Vindex(play)[x, before, tone]
                    y = numpyro.sample("y", dist.Bernoulli(on), obs=y)
        return (x, y, t + 1), None

    start = jnp.zeros((count, 1), dtype=int), jnp.zeros((count, tones), dtype=int), 0
    scan(step, start, jnp.swapaxes(sequences, 0, 1))


def two_chains(sequences, lengths, states=2):
    """Two chains, each by itself, heard together."""
    count, _, tones = sequences.shape
    rows = dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).to_event(1)
    other = numpyro.sample("other", rows)
    table, play = _tables(states, [states, states, tones])

    def step(carry, y):
        w, x, t = carry
        with numpyro.plate("sequences", count, dim=-2):
            with handlers.mask(mask=(t < lengths)[..., None]):
                w = numpyro.sample("w", dist.Categorical(other[w]), infer=PARALLEL)
                x = numpyro.sample("x", dist.Categorical(table[x]), infer=PARALLEL)
                with numpyro.plate("tones", tones, dim=-1) as tone:
                    numpyro.sample("y", dist.Bernoulli(Vindex(play)[w, x, tone]), obs=y)
        return (w, x, t + 1), None

    start = jnp.zeros((count, 1), dtype=int)
    scan(step, (start, start, 0), jnp.swapaxes(sequences, 0, 1))


def one_chain_drives_another(sequences, lengths, states=2):
    """The second chain depends on the first."""
    count, _, tones = sequences.shape
    other = numpyro.sample("other", dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).to_event(1))
    rows = dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).expand([states, states]).to_event(2)
    table = numpyro.sample("table", rows)
    play = numpyro.sample("play", dist.Beta(0.5, 0.9).expand([states, states, tones]).to_event(3))

    def step(carry, y):
        w, x, t = carry
        with numpyro.plate("sequences", count, dim=-2):
            with handlers.mask(mask=(t < lengths)[..., None]):
                w = numpyro.sample("w", dist.Categorical(other[w]), infer=PARALLEL)
                x = numpyro.sample("x", dist.Categorical(Vindex(table)[w, x]), infer=PARALLEL)
                with numpyro.plate("tones", tones, dim=-1) as tone:
                    numpyro.sample("y", dist.Bernoulli(Vindex(play)[w, x, tone]), obs=y)
        return (w, x, t + 1), None

    start = jnp.zeros((count, 1), dtype=int)
    scan(step, (start, start, 0), jnp.swapaxes(sequences, 0, 1))


def chain_of_second_order(sequences, lengths, states=2):
    """A state depends on the two before it."""
    count, _, tones = sequences.shape
    rows = dist.Dirichlet(0.9 * jnp.eye(states) + 0.1).expand([states, states]).to_event(2)
    table = numpyro.sample("table", rows)
    play = numpyro.sample("play", dist.Beta(0.5, 0.9).expand([states, tones]).to_event(2))

    def step(carry, y):
        first, second, t = carry
        with numpyro.plate("sequences", count, dim=-2):
            with handlers.mask(mask=(t < lengths)[..., None]):
                third = Vindex(table)[first, second]
                x = numpyro.sample("x", dist.Categorical(third), infer=PARALLEL)
                with numpyro.plate("tones", tones, dim=-1) as tone:
                    numpyro.sample("y", dist.Bernoulli(Vindex(play)[x, tone]), obs=y)
        return (second, x, t + 1), None

    start = jnp.zeros((count, 1), dtype=int)
    scan(step, (start, start, 0), jnp.swapaxes(sequences, 0, 1))


PROGRAMS = {
    capture_constant: (CAPTURED, MALE),
    capture_by_time: (CAPTURED, MALE),
    capture_random_effect: (CAPTURED, MALE),
    capture_by_sex: (CAPTURED, MALE),
    capture_by_sex_and_time: (CAPTURED, MALE),
    chain: (TONES, LENGTHS),
    chain_of_tones: (TONES, LENGTHS),
    two_chains: (TONES[:2], LENGTHS[:2]),
    one_chain_drives_another: (TONES[:2], LENGTHS[:2]),
    chain_of_second_order: (TONES, LENGTHS),
}
