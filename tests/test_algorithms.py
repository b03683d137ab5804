"""The table of algorithms in docs/design.md is what the engines say they are made of."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import e_steps, m_steps, orders
from bayesmix.infer.kernel import Kernel
from bayesmix.program.arguments import split
from bayesmix.program.problem import Plans

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"
X = np.concatenate([np.linspace(-4.0, -2.0, 6), np.linspace(2.0, 5.0, 6)])


def program(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance)), obs=x)


def heavy(x):
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)))
        numpyro.sample("x", dist.StudentT(df, mean[z], 1.0), obs=x)


def em(of=program, **parts):
    return bayesmix.EM(of, progress_bar=False, **parts), of


def sampler(engine, of=program):
    return engine(of), of


ENGINES = {
    "EM (MLE, MAP)": em(),
    "hard EM, k-means": em(e_step=e_steps.Hard()),
    "annealed EM": em(e_step=e_steps.Tempered()),
    "variational EM": em(e_step=e_steps.MeanField()),
    "Monte Carlo, stochastic EM": em(e_step=e_steps.MonteCarlo()),
    "ascent-based Monte Carlo EM": em(e_step=e_steps.AscentMonteCarlo()),
    "generalised EM": em(heavy),
    "ECME": em(heavy, m_step=m_steps.ClimbObjective("df")),
    "accelerated EM": em(accelerator=bayesmix.accelerators.Squarem()),
    "incremental EM": (bayesmix.OnlineEM(program, order=orders.Incremental(2)), program),
    "stepwise EM": (bayesmix.OnlineEM(program, order=orders.Stepwise(4)), program),
    "variational Bayes": (bayesmix.VariationalBayes(program), program),
    "Gibbs": sampler(bayesmix.ConjugateGibbs),
    "collapsed Gibbs": sampler(bayesmix.CollapsedGibbs),
    "Gibbs with a NUTS part": sampler(bayesmix.MixedGibbs, heavy),
}


def kernel_of(engine, of) -> Kernel:
    problem = Plans(of).of(split((X,), {})).with_rows()
    if isinstance(engine, bayesmix.MixedGibbs):  # what NUTS needs is made when chains begin
        import jax

        engine.init(jax.random.key(0), 10, None, (X,), {})
    return engine.kernel(problem)


def line(name: str, kernel: Kernel) -> str:
    """One line of the table."""
    rows = "all" if kernel.rows is None else kernel.rows.verb
    then = "" if kernel.accelerator is None else ", then extrapolated"
    return f"| {name} | {kernel.latents.verb} | {kernel.parameters.verb}{then} | {rows} |"


@pytest.mark.parametrize("name", ENGINES)
def test_the_table_of_algorithms_is_what_engines_are_made_of(name):
    assert line(name, kernel_of(*ENGINES[name])) in DESIGN.read_text().splitlines()


if __name__ == "__main__":
    for name, engine in ENGINES.items():
        print(line(name, kernel_of(*engine)))
