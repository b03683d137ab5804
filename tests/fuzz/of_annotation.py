"""Programs of the structure of NumPyro's own models of annotation, on small made data.

Items have hidden classes, and annotators say what they take them for. Structure: Paun et al. (2018),
*TACL* 6, 571-585; written anew.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from numpyro.ops.indexing import Vindex

ANNOTATORS = np.array([0, 0, 1, 2])
ANSWERS = np.array([[0, 0, 1, 0], [1, 2, 1, 1], [2, 2, 2, 0], [0, 1, 0, 0]])
TWO_ANSWERS = np.array([[0, 0, 1], [1, 1, 0]])
TWO_ANNOTATORS = np.array([0, 1, 1])


def multinomial(answers):
    classes = int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("class", classes):
        says = numpyro.sample("says", dist.Dirichlet(jnp.ones(classes)))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(classes)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        with numpyro.plate("position", positions):
            numpyro.sample("y", dist.Categorical(says[c]), obs=answers)


def dawid_skene(annotators, answers):
    people, classes = int(np.max(annotators)) + 1, int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("annotator", people, dim=-2):
        with numpyro.plate("class", classes):
            says = numpyro.sample("says", dist.Dirichlet(jnp.ones(classes)))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(classes)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        with numpyro.plate("position", positions):
            told = Vindex(says)[annotators, c, :]
            numpyro.sample("y", dist.Categorical(told), obs=answers)


def mace(annotators, answers):
    people, classes = int(np.max(annotators)) + 1, int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("annotator", people):
        habit = numpyro.sample("habit", dist.Dirichlet(jnp.full(classes, 10.0)))
        honest = numpyro.sample("honest", dist.Beta(0.5, 0.5))
    with numpyro.plate("item", items, dim=-2):
        even = dist.Categorical(logits=jnp.zeros(classes))
        c = numpyro.sample("c", even, infer={"enumerate": "parallel"})
        with numpyro.plate("position", positions):
            spam = dist.Bernoulli(1 - honest[annotators])
            s = numpyro.sample("s", spam, infer={"enumerate": "parallel"})
            told = jax.nn.one_hot(c, classes)
            probs = jnp.where(s[..., None] == 0, told, habit[annotators])
            numpyro.sample("y", dist.Categorical(probs), obs=answers)


def _pad(logits):
    return jnp.pad(logits, [(0, 0)] * (jnp.ndim(logits) - 1) + [(0, 1)])


def hierarchical_dawid_skene(annotators, answers):
    people, classes = int(np.max(annotators)) + 1, int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("class", classes):
        centre = numpyro.sample("centre", dist.Normal(0, 1).expand([classes - 1]).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(1).expand([classes - 1]).to_event(1))
    with numpyro.plate("annotator", people, dim=-2):
        with numpyro.plate("class", classes):
            with handlers.reparam(config={"says": LocScaleReparam(0)}):
                says = numpyro.sample("says", dist.Normal(centre, spread).to_event(1))
            says = _pad(says)
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(classes)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        with numpyro.plate("position", positions):
            logits = Vindex(says)[annotators, c, :]
            numpyro.sample("y", dist.Categorical(logits=logits), obs=answers)


def item_difficulty(answers):
    classes = int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("class", classes):
        centre = numpyro.sample("centre", dist.Normal(0, 1).expand([classes - 1]).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(1).expand([classes - 1]).to_event(1))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(classes)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        with handlers.reparam(config={"theta": LocScaleReparam(0)}):
            theta = numpyro.sample("theta", dist.Normal(centre[c], spread[c]).to_event(1))
            theta = _pad(theta)
        with numpyro.plate("position", positions):
            numpyro.sample("y", dist.Categorical(logits=theta), obs=answers)


def logistic_random_effects(annotators, answers):
    people, classes = int(np.max(annotators)) + 1, int(np.max(answers)) + 1
    items, positions = answers.shape
    with numpyro.plate("class", classes):
        centre = numpyro.sample("centre", dist.Normal(0, 1).expand([classes - 1]).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(1).expand([classes - 1]).to_event(1))
        among = numpyro.sample("among", dist.HalfNormal(1).expand([classes - 1]).to_event(1))
    with numpyro.plate("annotator", people, dim=-2):
        with numpyro.plate("class", classes):
            with handlers.reparam(config={"says": LocScaleReparam(0)}):
                says = numpyro.sample("says", dist.Normal(centre, spread).to_event(1))
                says = _pad(says)
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(classes)))
    with numpyro.plate("item", items, dim=-2):
        c = numpyro.sample("c", dist.Categorical(share), infer={"enumerate": "parallel"})
        with handlers.reparam(config={"theta": LocScaleReparam(0)}):
            theta = numpyro.sample("theta", dist.Normal(0, among[c]).to_event(1))
            theta = _pad(theta)
        with numpyro.plate("position", positions):
            logits = Vindex(says)[annotators, c, :] - theta
            numpyro.sample("y", dist.Categorical(logits=logits), obs=answers)


PROGRAMS = {
    multinomial: (ANSWERS,),
    dawid_skene: (ANNOTATORS, ANSWERS),
    mace: (TWO_ANNOTATORS, TWO_ANSWERS),
    hierarchical_dawid_skene: (ANNOTATORS, ANSWERS),
    item_difficulty: (ANSWERS,),
    logistic_random_effects: (ANNOTATORS, ANSWERS),
}
