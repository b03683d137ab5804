"""Programs and data that cannot be read: one sentence, naming the site and the cure."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayesmix
from bayesmix import EM, ProgramError
from tests.programs import CASES, make_data

X = np.array([0.1, -0.3, 4.0, 5.1, 4.4, 0.2])


def refused(program, *args, **kwargs) -> str:
    with pytest.raises(ProgramError) as caught:
        bayesmix.plan(program, *args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def parameters(K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    return weights, mean


def no_plate(x):
    weights, mean = parameters()
    z = numpyro.sample("cause", dist.Categorical(weights).expand([len(x)]))
    numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def two_plates_of_data(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mean, 1.0), obs=x)
    with numpyro.plate("others", 2):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=x[:2])


def no_plate_and_no_latent(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    numpyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)


def two_plates(x):
    weights, mean = parameters()
    with numpyro.plate("columns", 2, dim=-2), numpyro.plate("rows", len(x), dim=-1):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=jnp.stack([x, x]))


def local_latent(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        u = numpyro.sample("precision", dist.LogNormal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(mean[z], u**-0.5), obs=x)


def latents_in_two_plates(x):
    weights, mean = parameters()
    with numpyro.plate("groups", 3):
        numpyro.sample("other", dist.Bernoulli(0.5))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def too_dense(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        causes = [numpyro.sample(f"cause{i}", dist.Bernoulli(weights[0])) for i in range(20)]
        numpyro.sample("x", dist.Normal(mean[0] + sum(causes), 1.0), obs=x)


def other_plate(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
    with numpyro.plate("others", len(x)):
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def subsampled(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x), subsample_size=3):
        batch = numpyro.subsample(x, event_dim=0)
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=batch)


def infinite(x):
    _, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Poisson(1.0))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def masked_by_obs_mask(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x, obs_mask=x > 0)


def scaled(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        with numpyro.handlers.scale(scale=3.0):
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def scaled_latent(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        with numpyro.handlers.scale(scale=3.0):
            z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def negative_weights(x):
    weights, mean = parameters()
    with (
        numpyro.handlers.scale(scale=jnp.array([1.0, 2.0, -1.0, 0.0, 1.0, 1.0])),
        numpyro.plate("rows", len(x)),
    ):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def no_weights(x):
    weights, mean = parameters()
    with numpyro.handlers.scale(scale=0.0 * x**2), numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def nothing_observed(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.deterministic("x", mean[z])


def no_parameter(x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(jnp.array([0.0, 4.0])[z], 1.0), obs=x)


def discrete_parameter(x):
    weights, mean = parameters()
    shift = numpyro.sample("shift", dist.Bernoulli(0.5))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z] + shift, 1.0), obs=x)


def python_branch(x):
    weights, mean = parameters()
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        table = jnp.stack([mean[0] * jnp.ones(len(x)), mean[1] * jnp.ones(len(x))], axis=1)
        numpyro.sample("x", dist.Normal(table[jnp.arange(len(x)), z].reshape(len(x)), 1.0), obs=x)


def row_table(x):
    """A table of rows by components, picked the NumPy way: right when z is one draw per row."""
    weights, mean = parameters()
    table = jnp.tile(mean, (len(x), 1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        picked = jnp.take_along_axis(table, z[:, None], axis=1)[:, 0]
        numpyro.sample("x", dist.Normal(picked, 1.0), obs=x)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (no_plate, ["'cause'", "numpyro.plate"]),
        (two_plates_of_data, ["'rows'", "'others'", "latent"]),
        (no_plate_and_no_latent, ["no plate", "numpyro.plate"]),
        (two_plates, ["'cause'", "'columns'", "'rows'"]),
        (local_latent, ["'precision'", "MonteCarloEM"]),
        (latents_in_two_plates, ["'cause'", "'other'", "'rows'", "'groups'", "let a row hold"]),
        (too_dense, ["too densely", "20 of them", "'cause19'", "fewer values"]),
        (other_plate, ["'x'", "outside", "'cause'", "'rows'"]),
        (no_weights, ["every row has weight 0"]),
        (subsampled, ["'rows'", "subsample"]),
        (infinite, ["'cause'", "infinitely many", "cut it off"]),
        (masked_by_obs_mask, ["'x_unobserved'", "obs_mask", "NaN"]),
        (scaled, ["'x'", "'cause'", "scale"]),
        (scaled_latent, ["'x'", "'cause'", "scale"]),
        (negative_weights, ["row weights", "row 2", "at least 0"]),
        (nothing_observed, ["'rows'", "obs="]),
        (no_parameter, ["no parameter"]),
        (discrete_parameter, ["'shift'"]),
        (python_branch, ["'cause'", "Vindex"]),
        (row_table, ["'cause'", "Vindex"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_program_that_cannot_be_read_is_told_why(program, words):
    text = refused(program, X)
    for word in words:
        assert word in text, text


def fitted(x, K=2):
    weights, mean = parameters(K)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_rows_are_named(bad):
    x = X.copy()
    x[[1, 4]] = bad
    text = refused(fitted, x)
    assert "'x'" in text
    assert "rows 1, 4" in text
    wide = make_data("niw")
    wide[7, 1] = bad
    text = refused(CASES["niw"].program, wide, 3)
    assert "row 7, column 1" in text


def test_columns_that_are_never_observed_are_named():
    wide = make_data("niw")
    wide[:, 1] = np.nan
    text = refused(CASES["niw"].program, wide, 3)
    assert "'x'" in text and "column 1" in text
    assert "nothing but missing values" in refused(fitted, np.full(6, np.nan))


def waiting_times(x, K=2):
    with numpyro.plate("component", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.DiscreteUniform(0, K - 1))
        numpyro.sample("x", dist.Exponential(rate[z]), obs=x)


def test_values_outside_the_support_are_named():
    text = refused(waiting_times, X)
    assert "'x'" in text and "Exponential" in text and "row 1" in text
    counts = make_data("poisson").astype(float)
    counts[[2, 5]] = 1.5, np.nan
    text = refused(CASES["poisson"].program, counts, 3)
    assert "row 2," in text and "Poisson" in text


def labelled(x, labels, K=2):
    weights, mean = parameters(K)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("cause", dist.Categorical(weights), obs=labels)
        numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_labels_outside_the_values_of_the_latent_are_named():
    text = refused(labelled, X, np.array([0, 1, 2, -1, -1, 5]))
    assert "'cause'" in text and "2 values" in text and "rows 2, 5" in text


def test_more_components_than_rows():
    assert "7 components" in refused(fitted, X, K=7)


@pytest.mark.parametrize("empty", [np.zeros(0), jnp.zeros(0)])
def test_empty_data(empty):
    assert "empty" in refused(fitted, empty)


def test_empty_table():
    assert "empty" in refused(CASES["niw"].program, np.zeros((0, 2)), 3)


@pytest.mark.parametrize(
    "x",
    [np.array(["a", "b", "c"]), np.array([0.1, "a", None], dtype=object)],
    ids=["text", "object"],
)
def test_text_is_refused(x):
    assert "numbers" in refused(fitted, x)


@pytest.fixture(scope="module")
def em() -> EM:
    return EM(bayesmix.plan(fitted, X), max_steps=3, progress_bar=False)


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({"means": np.zeros(2)}, ["'means'", "weights, mean"]),
        ({"mean": np.zeros(3)}, ["'mean'", "(3,)", "(2,)"]),
        ({"weights": np.array([0.5, 0.6])}, ["'weights'", "support"]),
        ({"mean": np.array([np.nan, 0.0])}, ["'mean'"]),
    ],
    ids=["name", "shape", "support", "nan"],
)
def test_wrong_initial_values(em, init, words):
    with pytest.raises(ProgramError) as caught:
        em.run(0, X, init=init)
    for word in words:
        assert word in str(caught.value)


def test_new_rows_are_looked_at_by_em_too(em):
    x = X.copy()
    x[3] = np.inf
    with pytest.raises(ProgramError, match="row 3"):
        em.run(0, x)
    em.run(0, X)
    with pytest.raises(ProgramError, match="row 3"):  # the same shapes, already compiled
        em.run(0, x)
    with pytest.raises(ProgramError, match="nothing but missing"):
        em.run(0, np.full(6, np.nan))


def test_no_restarts_at_all(em):
    with pytest.raises(ProgramError, match="at least one"):
        em.run(0, X, restarts=0)


def test_marginalize_names_the_cause_too():
    with pytest.raises(ProgramError, match="'cause'"):
        numpyro.handlers.seed(bayesmix.marginalize(no_plate), jax.random.key(0))(X)


def with_exposure(visits, cost, exposure):
    weights, mean = parameters()
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("patients", len(visits)):
        z = numpyro.sample("cause", dist.Categorical(weights))
        numpyro.sample("visits", dist.Poisson(exposure * rate[z]), obs=visits)
        numpyro.sample("cost", dist.Normal(mean[z], 1.0), obs=cost)


VISITS, EXPOSURE = np.array([0, 1, 5, 6, 4, 0]), np.array([1.0, 2.0, 1.0, 1.0, 0.5, 1.0])


def test_columns_of_different_lengths_are_named():
    text = refused(with_exposure, VISITS, X[:5], EXPOSURE)
    assert "'cost' has 5 rows, and its plate 'patients' 6" in text


@pytest.mark.parametrize("by_name", [False, True])
def test_a_covariate_that_is_missing_is_named_by_argument_and_row(by_name):
    missing = np.where(np.arange(6) == 3, np.nan, EXPOSURE)
    cost = np.where(np.arange(6) == 1, np.nan, X)  # may be missing: it is observed
    if by_name:
        text = refused(with_exposure, VISITS, cost=cost, exposure=missing)
        assert "argument exposure of the program holds NaN (row 3, counted from 0)" in text
    else:
        text = refused(with_exposure, VISITS, cost, missing)
        assert "argument 2 of the program holds NaN (row 3, counted from 0)" in text


def test_what_is_not_finite_is_not_blamed_on_labels_that_are_not_known():
    def by_a_constant(x, labels):
        weights, mean = parameters()
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("cause", dist.Categorical(weights), obs=labels)
            numpyro.sample("x", dist.Normal(mean[z], scale * jnp.std(x - x)), obs=x)

    text = refused(by_a_constant, X, np.array([np.nan, 0.0, 1.0, np.nan, 1.0, 0.0]))
    assert "log joint of the program is not finite" in text
