"""What follows from a fit, held against brute force: ratios of densities, integrals, simulation."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, multivariate_t, norm

import bayesmix
from bayesmix import ProgramError
from bayesmix.program.arguments import split
from bayesmix.program.problem import Problem
from tests import fixed
from tests.fixed import BERNOULLI, NORMAL, NORMAL_ROWS, STUDENT, STUDENT_ROWS, at, fit_of, nan
from tests.programs import make_data, plan_of


def log_normal(rows, columns, values=NORMAL):
    """log p(z = k, x_columns), (N, K), by scipy, over the named columns that are there."""
    table = np.empty((len(rows), len(values["weights"])))
    for i, row in enumerate(rows):
        c = [column for column in columns if not np.isnan(row[column])]
        for k, (m, S) in enumerate(zip(values["mean"], values["covariance"])):
            density = multivariate_normal(m[c], S[np.ix_(c, c)]).logpdf(row[c]) if c else 0.0
            table[i, k] = np.log(values["weights"][k]) + density
    return table


def softmax(table):
    return np.exp(table - logsumexp(table, axis=1, keepdims=True))


# ----------------------------------------------------------------------------------------- new rows
@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("method", ["labels", "log_density", "sample"])
def test_rows_with_other_columns_are_refused(method, columns):
    """One column would be broadcast to all, others end in an error of JAX."""
    fit = fit_of(fixed.normal)
    key = (jax.random.key(0),) if method == "sample" else ()
    with pytest.raises(ProgramError, match=rf"has shape \({columns},\) in each row .* had \(3,\)"):
        getattr(fit, method)(*key, np.zeros((4, columns)))


def test_arguments_that_the_program_does_not_take_are_refused():
    with pytest.raises(ProgramError, match="the program cannot be run with these arguments"):
        fit_of(fixed.normal).labels(NORMAL_ROWS.tolist())


# ---------------------------------------------------------------------------------------- densities
def test_densities_integrate_missing_cells_out():
    fit = fit_of(fixed.normal)
    expected = log_normal(NORMAL_ROWS, range(3))
    np.testing.assert_allclose(fit.log_joint_table(), expected, atol=1e-12)
    np.testing.assert_allclose(fit.log_density(), logsumexp(expected, axis=1), atol=1e-12)
    new = NORMAL_ROWS[[5, 3, 1]]
    np.testing.assert_allclose(fit.log_density(new), logsumexp(expected[[5, 3, 1]], 1), atol=1e-12)


@pytest.mark.parametrize("a", [[0], [0, 2], [2, 1], [0, 1, 2], []])
def test_a_conditional_density_is_a_ratio_of_marginals(a):
    b = [column for column in range(3) if column not in a]
    expected = logsumexp(log_normal(NORMAL_ROWS, range(3)), axis=1)
    expected -= logsumexp(log_normal(NORMAL_ROWS, b), axis=1)
    found = fit_of(fixed.normal).conditional_log_density(of={"x": a})
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_conditional_density_is_a_mixture_of_conditionals():
    a, b = [0, 2], [1]
    rows = NORMAL_ROWS[[0, 3, 7]]
    r = softmax(log_normal(rows, b))
    density = np.zeros(len(rows))
    for i, x in enumerate(rows):
        for k, (m, S) in enumerate(zip(NORMAL["mean"], NORMAL["covariance"])):
            gain = S[np.ix_(a, b)] @ np.linalg.inv(S[np.ix_(b, b)])
            centre, spread = m[a] + gain @ (x[b] - m[b]), S[np.ix_(a, a)] - gain @ S[np.ix_(b, a)]
            density[i] += r[i, k] * multivariate_normal(centre, spread).pdf(x[a])
    found = fit_of(fixed.normal).conditional_log_density(rows, of={"x": a})
    np.testing.assert_allclose(found, np.log(density), atol=1e-12)


def experts_by_hand():
    """log p(z), log p(w | z) and log p(y | z) by row, each (N, 2), missing cells left out."""
    (u, w, y), v = fixed.EXPERTS_ROWS, fixed.EXPERTS
    p = expit(v["gate"] * u)
    latent = np.log(np.stack([1 - p, p], axis=1))
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    w_given = log_normal(
        w, range(2), {"weights": np.ones(2), "mean": v["mean"], "covariance": [covariance] * 2}
    )
    y_given = norm(v["slope"] * u[:, None], 0.5).logpdf(y[:, None])
    return latent, w_given, np.nan_to_num(y_given)


def test_whole_sites_that_differ_by_row_can_be_conditioned():
    fit, (latent, w, y) = fit_of(fixed.experts), experts_by_hand()
    everything = logsumexp(latent + w + y, axis=1)
    np.testing.assert_allclose(fit.log_density(), everything, atol=1e-12)
    for of, rest in [
        ({"y": [0]}, latent + w),
        ({"w": slice(None)}, latent + y),
        ({"w": [0, 1], "y": slice(None)}, latent),
    ]:
        found = fit.conditional_log_density(of=of)
        np.testing.assert_allclose(found, everything - logsumexp(rest, axis=1), atol=1e-12)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"z": [0]}, ["'z'", "'x'"]),
        ({"x": [3]}, ["[3]", "0 to 2"]),
        ({"x": ["a"]}, ["'x'"]),
    ],
)
def test_columns_that_are_not_there_are_named(of, words):
    with pytest.raises(ProgramError) as caught:
        fit_of(fixed.normal).conditional_log_density(of=of)
    for word in words:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------------------- labels
def test_labels_uncertainty_and_known_labels():
    fit = fit_of(fixed.known)
    x, _ = fixed.KNOWN_ROWS
    terms = np.nan_to_num(norm(fixed.KNOWN["mean"][:, None, None], 1.0).logpdf(x)).sum(axis=1).T
    terms[3, 0] = terms[4, 1] = -np.inf
    r = softmax(terms)
    np.testing.assert_allclose(fit.responsibilities(), r, atol=1e-12)
    assert fit.labels().tolist() == [5, 6, 5, 6, 5]
    np.testing.assert_allclose(fit.uncertainty(), 1 - r.max(axis=1), atol=1e-12)
    nobody = np.full(5, -1)
    assert fit.labels(x, nobody).tolist() == [5, 6, 5, 6, 6]
    far = fit.uncertainty(np.full((2, 1), 20.0), np.array([-1]))
    np.testing.assert_allclose(far, [np.exp(-2 * (20**2 - 17**2) / 2)], rtol=1e-9)


def test_outliers_are_judged_by_the_cells_they_have():
    fit = fit_of(fixed.normal)
    new = np.array([[9.0, 9.0, 9.0], [nan, 0.5, 0.7], [nan, 9.0, nan]])
    found = fit.outlier_scores(new)
    np.testing.assert_allclose(found.score, -fit.log_density(new))
    for i, columns in [(0, [0, 1, 2]), (1, [1, 2]), (2, [1])]:
        rows = NORMAL_ROWS[~np.isnan(NORMAL_ROWS[:, columns]).any(axis=1)]
        reference = -logsumexp(log_normal(rows, columns), axis=1)
        # row 1 is a row of the fit, and counts itself
        assert found.share[i] == pytest.approx(np.mean(reference >= found.score[i] - 1e-9))
    assert found.share[0] == found.share[2] == 0
    own = fit.outlier_scores()
    assert own.share[[0, 3, 7]].tolist() == pytest.approx(
        (np.argsort(np.argsort(fit.log_density()[[0, 3, 7]])) + 1) / 3
    )
    assert own.share[4] == 1  # a row that says nothing is like all others


# ------------------------------------------------------------------------------------------ moments
def test_moments_of_a_bernoulli_mixture():
    fit = fit_of(fixed.bernoulli)
    weights, share = BERNOULLI["weights"], BERNOULLI["share"]
    mean = weights @ share
    second = sum(w * (np.diag(m * (1 - m)) + np.outer(m, m)) for w, m in zip(weights, share))
    found = fit.moments()["x"]
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.covariance, second - np.outer(mean, mean), atol=1e-12)
    np.testing.assert_allclose(fit.prototypes()["x"], share, atol=1e-12)


@pytest.mark.parametrize("program", [fixed.bernoulli, fixed.normal])
def test_samples_have_the_moments(program):
    fit, size = fit_of(program), 40_000
    moments = fit.moments()["x"]
    drawn = fit.sample(jax.random.key(3), np.zeros((size, len(moments.mean))))
    x = drawn["x"]
    assert x.shape == (size, len(moments.mean))
    error = np.sqrt(np.diag(moments.covariance) / size)
    assert (np.abs(x.mean(axis=0) - moments.mean) < 5 * error).all()
    away = (x - moments.mean)[:, :, None] * (x - moments.mean)[:, None, :]
    error = away.std(axis=0) / np.sqrt(size)
    assert (np.abs(away.mean(axis=0) - moments.covariance) < 5 * error + 1e-12).all()
    shares = np.bincount(drawn["z"]) / size
    np.testing.assert_allclose(shares, fit.parameters["weights"], atol=5 * 0.5 / np.sqrt(size))


def test_moments_by_row():
    fit, (u, _, _) = fit_of(fixed.experts), fixed.EXPERTS_ROWS
    slope, centres = fixed.EXPERTS["slope"], fixed.EXPERTS["mean"]
    p = expit(fixed.EXPERTS["gate"] * u)
    weights = np.stack([1 - p, p], axis=1)
    moments = fit.moments()
    means = slope * u[:, None]
    mean = (weights * means).sum(axis=1)
    variance = 0.25 + (weights * means**2).sum(axis=1) - mean**2
    np.testing.assert_allclose(moments["y"].mean[:, 0], mean, atol=1e-12)
    np.testing.assert_allclose(moments["y"].covariance[:, 0, 0], variance, atol=1e-12)
    np.testing.assert_allclose(moments["w"].mean, weights @ centres, atol=1e-12)
    assert moments["w"].covariance.shape == (4, 2, 2)
    prototypes = fit.prototypes()
    np.testing.assert_allclose(prototypes["y"][:, :, 0], means.T, atol=1e-12)
    np.testing.assert_allclose(prototypes["w"], centres, atol=1e-12)


def test_one_new_row_is_still_a_row():
    fit = fit_of(fixed.experts)
    new = (np.array([0.5]), np.array([[0.0, 0.0]]), np.array([0.0]))
    moments, own = fit.moments(*new), fit.moments()
    assert moments["y"].mean.shape == (1, 1)
    assert moments["w"].covariance.shape == (1, 2, 2)
    assert fit.prototypes(*new)["y"].shape == (2, 1, 1)
    np.testing.assert_allclose(moments["y"].mean[0], own["y"].mean[1])


def test_moments_of_distributions_without_a_family():
    fit = at(plan_of("laplace"), LAPLACE, make_data("laplace"), 3)
    found = fit.moments()["x"]
    mean = LAPLACE["weights"] @ LAPLACE["location"]
    second = LAPLACE["weights"] @ (2 * LAPLACE["scale"] ** 2 + LAPLACE["location"] ** 2)
    np.testing.assert_allclose(found.mean, [mean])
    np.testing.assert_allclose(found.covariance, [[second - mean**2]])


LAPLACE = {
    "weights": np.array([0.2, 0.3, 0.5]),
    "location": np.array([-2.0, 0.0, 3.0]),
    "scale": np.array([1.0, 0.5, 2.0]),
}


# ------------------------------------------------------------------------------------ missing cells
def test_imputed_cells_of_normals_are_conditional_means():
    fit = fit_of(fixed.normal)
    r = softmax(log_normal(NORMAL_ROWS, range(3)))
    moments = fit.conditional_moments()["x"]
    for i, row in enumerate(NORMAL_ROWS):
        a, b = np.flatnonzero(np.isnan(row)), np.flatnonzero(~np.isnan(row))
        centres, spreads = [], []
        for m, S in zip(NORMAL["mean"], NORMAL["covariance"]):
            gain = S[np.ix_(a, b)] @ np.linalg.inv(S[np.ix_(b, b)])
            centres.append(m[a] + gain @ (row[b] - m[b]))
            spreads.append(S[np.ix_(a, a)] - gain @ S[np.ix_(b, a)])
        mean = r[i] @ centres
        second = sum(w * (S + np.outer(m, m)) for w, m, S in zip(r[i], centres, spreads))
        filled, covariance = row.copy(), np.zeros((3, 3))
        filled[a], covariance[np.ix_(a, a)] = mean, second - np.outer(mean, mean)
        np.testing.assert_allclose(moments.mean[i], filled, atol=1e-12)
        np.testing.assert_allclose(moments.covariance[i], covariance, atol=1e-12)
    np.testing.assert_array_equal(fit.impute()["x"], moments.mean)
    there = ~np.isnan(NORMAL_ROWS)
    np.testing.assert_array_equal(moments.mean[there], NORMAL_ROWS[there])
    np.testing.assert_allclose(fit.impute(NORMAL_ROWS[[6, 0]])["x"], moments.mean[[6, 0]])


def test_imputed_cells_of_student_t_are_conditional_means():
    fit = fit_of(fixed.student)
    moments = fit.conditional_moments()["x"]
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 20_001)[1:-1])
    step = (1 + grid**2) * (np.pi / 20_000)
    for i, row in enumerate(STUDENT_ROWS):
        (missing,) = np.flatnonzero(np.isnan(row)) if np.isnan(row).any() else (None,)
        if missing is None:
            continue
        points = np.repeat(row[None], len(grid), axis=0)
        points[:, missing] = grid
        density = step * sum(
            w * multivariate_t(m, L @ L.T, 5.0).pdf(points)
            for w, m, L in zip(STUDENT["weights"], STUDENT["mean"], STUDENT["lower"])
        )
        mean = density @ grid / density.sum()
        variance = density @ (grid - mean) ** 2 / density.sum()
        np.testing.assert_allclose(moments.mean[i, missing], mean, rtol=1e-6)
        np.testing.assert_allclose(moments.covariance[i, missing, missing], variance, rtol=1e-3)


def test_imputed_cells_of_independent_columns_and_of_regressions():
    bernoulli = fit_of(fixed.bernoulli)
    imputed = bernoulli.impute()["x"]
    r = bernoulli.responsibilities()
    np.testing.assert_allclose(imputed[0], [1, 0, 1, r[0] @ BERNOULLI["share"][:, 3]])
    np.testing.assert_allclose(imputed[1], [0, r[1] @ BERNOULLI["share"][:, 1], 1, 1])
    experts, (u, w, y) = fit_of(fixed.experts), fixed.EXPERTS_ROWS
    r = softmax(sum(experts_by_hand()))
    expected = np.where(np.isnan(y), (r * fixed.EXPERTS["slope"] * u[:, None]).sum(axis=1), y)
    imputed = experts.impute()
    np.testing.assert_allclose(imputed["y"], expected, atol=1e-12)
    m = fixed.EXPERTS["mean"]
    np.testing.assert_allclose(imputed["w"][1, 1], r[1] @ (m[:, 1] + 0.6 * (w[1, 0] - m[:, 0])))


def test_imputed_data_have_the_shape_of_the_data():
    fit, (x, _) = fit_of(fixed.known), fixed.KNOWN_ROWS
    imputed = fit.impute()["x"]
    expected = np.where(np.isnan(x), fit.responsibilities() @ fixed.KNOWN["mean"], x)
    np.testing.assert_allclose(imputed, expected)
    assert fit.sample(0)["x"].shape == x.shape


def cauchy(x):
    place = numpyro.sample("place", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Cauchy(place[z], 1.0), obs=x)


def counts(x):
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Multinomial(10, share[z]), obs=x)


def regressions(u, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(u)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        fn = dist.MultivariateStudentT(4.0, (slope[z] * u)[..., None] * jnp.ones(2), jnp.eye(2))
        numpyro.sample("y", fn, obs=y)


def test_what_cannot_be_conditioned_is_refused():
    x = np.array([0.0, np.nan, 5.0])
    fit = at(bayesmix.plan(cauchy, x), {"place": np.array([0.0, 5.0])}, x)
    with pytest.raises(ProgramError, match="'x' have no mean"):
        fit.impute()
    u, y = np.array([1.0, 2.0, 3.0]), np.array([[1.0, 1.2], [-2.0, -1.0], [3.0, 2.5]])
    fit = at(bayesmix.plan(regressions, u, y), {"slope": np.array([1.0, -1.0])}, u, y)
    with pytest.raises(ProgramError, match="single columns of site 'y'"):
        fit.conditional_log_density(of={"y": [0]})
    with pytest.raises(ProgramError, match="row 2, counted from 0"):
        fit.impute(u, np.where(y == 2.5, nan, y))
    np.testing.assert_allclose(fit.moments()["y"].mean, np.zeros((3, 2)), atol=1e-12)
    between = u[:, None, None] ** 2 * np.ones((2, 2))
    np.testing.assert_allclose(fit.moments()["y"].covariance, 2 * np.eye(2) + between)
    hidden = fit.impute(u, np.where([[False], [True], [False]], nan, y))["y"]
    np.testing.assert_allclose(hidden[1], [0.0, 0.0], atol=1e-12)
    x = np.array([[2.0, 3, 5], [4, 4, 2], [1, 1, 8]])
    fit = at(bayesmix.plan(counts, x), {"share": np.full((2, 3), 1 / 3)}, x)
    for ask in (
        lambda: fit.conditional_log_density(of={"x": [0]}),
        lambda: fit.impute(np.where(x == 5, np.nan, x)),
    ):
        with pytest.raises(ProgramError, match="Multinomial"):
            ask()
    np.testing.assert_allclose(
        fit.conditional_log_density(of={"x": slice(None)}), fit.log_density()
    )


def alone(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(x)):
        there = jnp.array([True, False, True])
        with numpyro.handlers.mask(mask=there):
            numpyro.sample("x", dist.Normal(mean, 2.0), obs=x)


def test_programs_without_a_latent_and_masked_cells():
    x = np.array([1.0, 7.0, np.nan])
    fit = at(bayesmix.plan(alone, x), {"mean": np.array(3.0)}, x)
    assert fit.impute()["x"].tolist() == [1.0, 3.0, 3.0]
    assert fit.labels().tolist() == [0, 0, 0]
    assert fit.uncertainty().tolist() == [0.0, 0.0, 0.0]
    assert set(fit.sample(0)) == {"x"}
    np.testing.assert_allclose(fit.log_density(), [norm(3.0, 2.0).logpdf(1.0), 0.0, 0.0])


# ----------------------------------------------------------------------------------------- machinery
def test_nothing_is_compiled_twice():
    fit = fit_of(fixed.normal)
    runs = []

    def counted(problem, values):
        runs.append(1)
        return problem.evaluate(values).latent

    for rows in (NORMAL_ROWS, NORMAL_ROWS + 1, NORMAL_ROWS[:4]):
        fit._mean(counted, Problem(fit.plan, split((rows,), {})))
    assert len(runs) == 2


def test_results_pickle():
    fit = at(plan_of("laplace"), LAPLACE, make_data("laplace"), 3)
    density = fit.log_density()
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(again.log_density(), density)
