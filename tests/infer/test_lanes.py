"""Many fits in few lanes end where each ends alone, after about as many steps as they make together."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bayesmix import EM, accelerators, e_steps
from bayesmix.infer import ascent
from bayesmix.infer.lanes import run_in_lanes

X = np.random.default_rng(0).normal(size=60) + np.repeat([0.0, 1.0, 4.0], 20)


def countdown(starting, running, lanes):
    """Fits of so many steps in the first phase and in the second; what each saw, and all steps."""

    def step(fits, record, place):
        early, left = fits
        now = (jnp.maximum(early - 1, 0), jnp.where(early > 0, left, jnp.maximum(left - 1, 0)))
        seen, steps = record
        changed = jnp.where((early > 0) | (left > 0), 1, 0)
        return now, (seen.at[place].add(changed, mode="drop"), steps + 1)

    def phase(fits):
        return jnp.where(fits[0] > 0, 2, jnp.sign(fits[1]))

    fits = (jnp.asarray(starting), jnp.asarray(running))
    record = (jnp.zeros(len(running), int), 0)
    left, (seen, steps) = jax.jit(lambda: run_in_lanes(step, phase, fits, record, lanes))()
    assert not np.any(left)
    return np.asarray(seen), int(steps)


@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 20])
def test_every_fit_makes_its_own_steps_and_lanes_are_kept_busy(lanes):
    running = np.array([3, 0, 50, 1, 7, 7, 2, 30, 4])
    starting = np.full(9, 4)
    seen, steps = countdown(starting, running, lanes)
    np.testing.assert_array_equal(seen, starting + running)
    assert countdown(0 * starting, running, lanes)[1] == steps - 4 * -(-9 // lanes)
    # jobs on so many machines: Graham's bound (1969, *SIAM J. Applied Mathematics* 17, 416-429)
    longest = running.max()
    assert steps - 4 * -(-9 // lanes) <= running.sum() / lanes + longest
    if lanes == 1:
        assert steps == seen.sum()


def mixture(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


VARIANTS = {
    "accelerated": {"accelerator": accelerators.Squarem()},
    "annealed": {"e_step": e_steps.Tempered(e_steps.Geometric(0.3))},
    "drawn": {"e_step": e_steps.MonteCarlo(2), "max_steps": 25},
    "a step at a time": {"report_every": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_starts_of_em_end_as_they_do_side_by_side(monkeypatch, name):
    fits = []
    for lanes in (5, 2):
        monkeypatch.setattr(ascent, "_ENTRIES_AT_A_TIME", lanes * 2 * X.size)
        fitter = EM(mixture, keep_path=True, progress_bar=False, **VARIANTS[name])
        fits.append(fitter.run(jax.random.key(3), X, restarts=5))
    beside, few = fits
    assert few.restart_statuses == beside.restart_statuses
    assert len(set(few.restart_steps)) > 1 or name in ("annealed", "drawn")
    np.testing.assert_array_equal(few.restart_steps, beside.restart_steps)
    np.testing.assert_allclose(few.restart_objectives, beside.restart_objectives, rtol=1e-12)
    np.testing.assert_allclose(few.objective, beside.objective, rtol=1e-12)
    np.testing.assert_allclose(few.path["mean"], beside.path["mean"], rtol=1e-9)
