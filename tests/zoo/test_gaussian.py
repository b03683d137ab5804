"""The Gaussian programs: priors by hand, conditionals as found, and modes as mclust's."""

import ast
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import condition
from numpyro.infer.util import log_density
from scipy.special import gammaln
from scipy.stats import dirichlet, invgamma, invwishart, multivariate_normal, norm

import bayesmix
from bayesmix import datasets, zoo
from bayesmix.program.plan import Plan
from tests.references import reference

MCLUST = {
    "full": "VVV",
    "tied": "EEE",
    "diagonal": "VVI",
    "diagonal-tied": "EEI",
    "spherical": "VII",
    "spherical-tied": "EII",
}
KEY = jax.random.key(0)


def at_reference(name: str, stored: dict) -> dict[str, np.ndarray]:
    """The parameters of a stored fit, in the shapes of the program `name`."""
    tight = stored["tight"]
    spread, mean = np.array(tight["sigma"]), np.array(tight["mean"])
    values = {"weights": np.array(tight["pro"]), "mean": mean}
    if name.endswith("tied"):
        spread = spread[0]
    if name in ("full", "tied"):
        return {**values, "covariance": spread}
    spread = np.diagonal(spread, axis1=-2, axis2=-1)
    return {**values, "variance": spread if name.startswith("diagonal") else spread[..., 0]}


@functools.cache
def fit_from_reference(name: str) -> tuple[dict, dict[str, np.ndarray], bayesmix.EMResult]:
    """EM on the geyser data from mclust's mode under the same prior."""
    stored = reference("mclust_faithful")["prior_fits"][f"{MCLUST[name]}_2"]
    start = at_reference(name, stored)
    em = bayesmix.EM(zoo.PROGRAMS[name], progress_bar=False)
    return stored, start, em.run(KEY, datasets.load("faithful").values, K=2, init=start)


# mclust 6.0.0's M steps for EEI and EII belong to no normal-inverse-gamma prior: its EEI means are
# not shrunk, and both divide by another count than the joint mode does. These two are held by hand.
@pytest.mark.parametrize("name", ["full", "tied", "diagonal", "spherical"])
def test_the_mode_of_mclust_does_not_move(name):
    stored, start, fit = fit_from_reference(name)
    assert fit.status
    for site, value in start.items():
        np.testing.assert_allclose(fit.parameters[site], value, rtol=2e-6, err_msg=site)
    log_likelihood = fit.log_density().sum()
    assert log_likelihood == pytest.approx(stored["tight"]["loglik"], abs=1e-5)


@pytest.mark.parametrize("name", zoo.PROGRAMS)
def test_the_mode_is_a_fixed_point_of_the_formulas(name, faithful):
    fit = fit_from_reference(name)[2]
    assert fit.status
    x, r = faithful.values, fit.responsibilities()
    count, centre, kappa, nu = r.sum(0), x.mean(0), 0.01, 4
    rows, columns, size = (*x.shape, 2)
    means = (r.T @ x + kappa * centre) / (count + kappa)[:, None]
    np.testing.assert_allclose(fit.parameters["weights"], count / rows, rtol=1e-5)
    np.testing.assert_allclose(fit.parameters["mean"], means, rtol=1e-5)
    apart = x[:, None] - means
    shift = means - centre
    scatter = np.einsum("nk,nki,nkj->kij", r, apart, apart)
    scatter += kappa * np.einsum("ki,kj->kij", shift, shift)
    if name.endswith("tied"):
        scatter, count = scatter.sum(0), count.sum() + size - 1
    count = np.asarray(count)[..., None]
    shrunk = np.cov(x.T) / size ** (2 / columns)
    if name in ("full", "tied"):
        found = (shrunk + scatter) / (nu + count[..., None] + columns + 2)
        np.testing.assert_allclose(fit.parameters["covariance"], found, rtol=1e-4)
        return
    squares = np.diagonal(scatter, axis1=-2, axis2=-1)
    scale = np.trace(shrunk) / columns
    if name.startswith("spherical"):
        total, count = squares.sum(-1), count[..., 0]
        found = (scale + total) / (nu + 2 + (count + 1) * columns)
    else:
        found = (scale + squares) / (nu + 2 + count + 1)
    np.testing.assert_allclose(fit.parameters["variance"], found, rtol=1e-4)


@pytest.mark.parametrize("name", zoo.PROGRAMS)
def test_the_plan_finds_joint_conjugate_blocks(name):
    plan: Plan = fit_from_reference(name)[2].plan
    pair = "normal-inverse Wishart" if name in ("full", "tied") else "normal-inverse gamma"
    spread = "covariance" if name in ("full", "tied") else "variance"
    found = {block.sites: block.name for block in plan.blocks}
    assert found == {("weights",): "Dirichlet", ("mean", spread): pair}
    assert max(departure for departure, _ in plan.certificates.values()) < 1
    assert plan.labels.exchangeable
    assert plan.label_dim("z") == "component"
    tied = name.endswith("tied")
    assert set(plan.labels.axes) == {"weights", "mean"} | (set() if tied else {spread})
    assert not plan.by_row


def test_map_of_the_geyser_is_the_best_of_a_hundred_starts_of_mclust(faithful):
    stored = reference("multistart_map_gmm")["results"]["faithful_FR_K2"]
    fit = bayesmix.EM(zoo.gaussian_mixture).run(KEY, faithful.values, K=2, restarts=5)
    assert fit.status
    # Dirichlet(1), which mclust leaves out, adds log Gamma(K)
    objective = fit.objective[-1] - gammaln(2)
    assert objective == pytest.approx(stored["best_logpost_incl_normalised_NIW"], abs=1e-5)
    order = np.argsort(fit.parameters["mean"][:, 0])
    for site, key in {"weights": "pro", "mean": "mean", "covariance": "sigma"}.items():
        np.testing.assert_allclose(fit.parameters[site][order], stored[key], rtol=1e-4)


# ------------------------------------------------------------------------------ priors, by hand
N, D, K = 30, 3, 2


def rows(num_columns: int = D) -> np.ndarray:
    return np.random.default_rng(3).normal(2.0, [3.0, 0.5, 1.0][:num_columns], (N, num_columns))


def some_values(name: str, num_columns: int = D) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    lead = () if name.endswith("tied") else (K,)
    values = {"weights": np.array([0.3, 0.7]), "mean": rng.normal(size=(K, num_columns))}
    if name in ("full", "tied"):
        root = rng.normal(size=(*lead, num_columns, num_columns)) + 2 * np.eye(num_columns)
        return {**values, "covariance": root @ np.swapaxes(root, -1, -2)}
    shape = (*lead, num_columns) if name.startswith("diagonal") else lead
    return {**values, "variance": rng.uniform(0.5, 2.0, shape)}


def log_joint(name: str, values: dict, x: np.ndarray, **keywords) -> float:
    """log p(theta, z, x) of a program at parameters and labels."""
    labels = jnp.arange(len(x)) % len(values["weights"])
    program = condition(zoo.PROGRAMS[name], {"z": labels})
    size = len(values["weights"])
    return float(log_density(program, (x, size), keywords, values)[0])


def log_likelihood(values: dict, covariances: list[np.ndarray], x: np.ndarray) -> float:
    total = 0.0
    for i, row in enumerate(x):
        k = i % K
        total += np.log(values["weights"][k])
        total += multivariate_normal(values["mean"][k], covariances[k]).logpdf(row)
    return total


KEYWORDS = {
    "default": {},
    "given": {
        "concentration": 1.5,
        "shrinkage": 0.2,
        "location": np.array([1.0, 0.0, -1.0]),
        "degrees_of_freedom": 7.0,
    },
}


@pytest.mark.parametrize("keywords", KEYWORDS.values(), ids=KEYWORDS)
@pytest.mark.parametrize("name", zoo.PROGRAMS)
def test_the_log_density_is_that_of_the_formulas(name, keywords):
    x, values = rows(), some_values(name)
    if keywords:
        scale = np.array(2.0) if name.startswith("spherical") else np.array([0.5, 1.0, 2.0])
        keywords = {**keywords, "scale": np.diag(scale) if name in ("full", "tied") else scale}
    nu, kappa = keywords.get("degrees_of_freedom", D + 2), keywords.get("shrinkage", 0.01)
    centre = keywords.get("location", x.mean(0))
    shrunk = np.cov(x.T) / K ** (2 / D)
    tied = name.endswith("tied")
    total = dirichlet(np.full(K, keywords.get("concentration", 1.0))).logpdf(values["weights"])
    if name in ("full", "tied"):
        prior = invwishart(nu, keywords.get("scale", shrunk))
        spreads = [values["covariance"]] if tied else list(values["covariance"])
        total += sum(prior.logpdf(spread) for spread in spreads)
        covariances = spreads * (K if tied else 1)
        for k in range(K):
            total += multivariate_normal(centre, covariances[k] / kappa).logpdf(values["mean"][k])
    else:
        scale = keywords.get("scale", np.trace(shrunk) / D)
        total += invgamma(nu / 2, scale=scale / 2).logpdf(values["variance"]).sum()
        lead = values["variance"] if not tied else np.stack([values["variance"]] * K)
        columns = np.broadcast_to(lead if lead.ndim == 2 else lead[:, None], (K, D))
        total += norm(centre, np.sqrt(columns / kappa)).logpdf(values["mean"]).sum()
        covariances = [np.diag(column) for column in columns]
    total += log_likelihood(values, covariances, x)
    assert log_joint(name, values, x, **keywords) == pytest.approx(total, rel=1e-10)


def test_structures_agree_where_they_cannot_differ():
    x, values = rows(1), some_values("spherical", 1)
    expected = log_joint("spherical", values, x)
    wide = {**values, "variance": values["variance"][:, None]}
    assert log_joint("diagonal", wide, x) == pytest.approx(expected, rel=1e-12)
    matrix = {"weights": values["weights"], "mean": values["mean"]}
    matrix["covariance"] = values["variance"][:, None, None]
    assert log_joint("full", matrix, x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["full", "diagonal", "spherical"])
def test_one_component_is_tied_to_itself(name):
    first = {site: value[:1] for site, value in some_values(name).items()}
    first["weights"] = np.ones(1)
    spread = "covariance" if name == "full" else "variance"
    tied = {**first, spread: first[spread][0]}
    other = "tied" if name == "full" else f"{name}-tied"
    expected = log_joint(name, first, rows())
    assert log_joint(other, tied, rows()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", zoo.PROGRAMS)
def test_a_vector_is_refused_with_the_cure(name):
    with pytest.raises(ValueError, match=r"one column as x\[:, None\]"):
        bayesmix.plan(zoo.PROGRAMS[name], rows()[:, 0], K=2)


def test_whole_numbers_are_taken_as_numbers():
    x = np.arange(12).reshape(6, 2) ** 2
    expected = log_joint("full", some_values("full", 2), x.astype(float))
    assert log_joint("full", some_values("full", 2), x) == expected


def test_the_programs_have_no_privileges():
    for path in Path(zoo.__file__).parent.glob("[a-z]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                if getattr(node, "level", 0) == 1:
                    continue  # the zoo's own priors, which are held to the same
                named = node.names if isinstance(node, ast.Import) else [node]
                for one in named:
                    top = (one.name if isinstance(one, ast.alias) else one.module).split(".")[0]
                    own = (
                        top in {"equinox", "jax", "numpy", "numpyro"}
                        or top in sys.stdlib_module_names
                    )
                    assert own, path.name
