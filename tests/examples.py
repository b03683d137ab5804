"""A small made-up comparison, for tests of pictures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from bayesmix.comparison import calibration
from bayesmix.comparison.mode_weights import relative_weights
from bayesmix.comparison.records import Agreement
from bayesmix.posterior import arviz_compat

Array = np.ndarray
ENGINES = ("MLE-EM", "MAP-EM", "Gibbs", "NUTS")


def example_comparison(
    *,
    rows: int = 120,
    columns: int = 2,
    components: int = 2,
    engines: Sequence[str] = ENGINES,
    seed: int = 0,
) -> Any:
    """Return an invented Gaussian-mixture comparison, drawn in a moment and fitted by nobody.

    It carries every field that `bayesmix.plots` and `bayesmix.report` read, with values of the
    right shape and a plausible size, so that a picture can be tried without running an engine. The
    two samplers' chains switch labels halfway, as real ones do.

    Args:
        rows: N.
        columns: D; a density grid is included for one or two.
        components: K.
        engines: any of "MLE-EM", "MAP-EM", "Gibbs", "NUTS", in the order to show them.
        seed: of the random numbers.

    Returns:
        An object with the fields of `bayesmix.Comparison` that pictures and reports read.

    Raises:
        ValueError: for an engine of another name, or a size below 1.

    >>> example_comparison(rows=30, columns=1).data.shape
    (30, 1)
    """
    unknown = set(engines) - set(ENGINES)
    if unknown:
        raise ValueError(f"unknown engines {sorted(unknown)}; known are {list(ENGINES)}")
    if min(rows, columns, components) < 1:
        raise ValueError("rows, columns and components must each be at least 1")
    random = np.random.default_rng(seed)
    weights = np.arange(components, 0, -1.0) + 1.0
    weights /= weights.sum()
    means = 4.0 * np.arange(components)[:, None] + random.normal(0.0, 1.0, (components, columns))
    turn = random.normal(0.0, 0.4, (components, columns, columns))
    covariances = np.eye(columns) + turn @ turn.swapaxes(1, 2)
    truth = SimpleNamespace(weights=weights, means=means, covariances=covariances)
    data = _sample(truth, random, rows)
    names = tuple(f"column {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"[:columns])
    results = {name: _engine(name, truth, data, random) for name in engines}
    transforms = _transforms(results, rows, columns)
    return SimpleNamespace(
        title=f"Gaussian mixture, K = {components}, on made-up rows",
        plan_text="weights     parameter  Dirichlet    closed form\n"
        "mean        parameter  Normal       closed form\n"
        "x           observed   MultivariateNormal",
        columns=names,
        data=data,
        num_components=components,
        seed=seed,
        versions={"bayesmix": "0.0", "numpy": np.__version__},
        engines=results,
        parameters=_parameters(results, names),
        scores=[
            {
                "engine": name,
                "plug_in": result.draws is None,
                "held_out": float(result.held_out.mean()),
                "se": 0.1,
                "difference": None if name == "MAP-EM" else 0.01,
                "difference_se": None if name == "MAP-EM" else 0.005,
            }
            for name, result in results.items()
        ],
        calibration=transforms,
        calibration_scores=[calibration.record(each, names) for each in transforms],
        calibration_note="",
        agreements=_agreements(tuple(results)),
        modes=_modes(results),
        diagnostics=[
            {
                "engine": name,
                "rhat_invariant": 1.001,
                "ess_invariant": 850.0,
                "rhat_labelled": 1.7,
                "rhat_relabelled": 1.002,
                "ess_relabelled": 790.0,
                "switches": 4,
            }
            for name, result in results.items()
            if result.draws is not None
        ],
        density=_density(results, data) if columns <= 2 else None,
        evidence=[],
        interrupted=False,
        left_out={},
        verdict="The engines agree to well within the posterior intervals.",
    )


def example_draws(*, chains: int = 2, draws: int = 150, rows: int = 40, seed: int = 0) -> Any:
    """Return invented draws of a mixture of three normals whose labels switch now and then (ArviZ).

    Components 1 and 2 overlap and exchange labels more often than either does with component 0.

    >>> example_draws()["posterior"]["mean"].dims
    ('chain', 'draw', 'component')
    """
    random = np.random.default_rng(seed)
    truth = np.array([-5.0, 0.0, 1.8])
    x = truth[np.arange(rows) % 3] + random.normal(size=rows)
    mean = truth + random.normal(0.0, 0.25, (chains, draws, 3))
    swaps = np.array([[0, 1, 2], [0, 2, 1], [2, 1, 0]])
    kinds = random.choice(3, p=[0.85, 0.12, 0.03], size=(chains, draws))
    order = np.tile(np.arange(3), (chains, draws, 1))
    for draw in range(1, draws):
        order[:, draw] = np.take_along_axis(swaps[kinds[:, draw]], order[:, draw - 1], -1)
    mean = np.take_along_axis(mean, order, -1)
    joint = np.exp(-0.5 * (x[:, None] - mean[:, :, None]) ** 2) / np.sqrt(2 * np.pi) / 3
    share = joint / joint.sum(-1, keepdims=True)
    z = np.minimum((random.uniform(size=(*share.shape[:3], 1)) > share.cumsum(-1)).sum(-1), 2)
    groups = {
        "posterior": {"mean": mean},
        "latents": {"z": z, "z_probability": share},
        "log_likelihood": {"x": np.log(joint.sum(-1))},
        "observed_data": {"x": x},
    }
    dims = {"mean": ["component"], "z": ["rows"], "z_probability": ["rows", "component"]}
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes", "relabelled": "no"}}
    return arviz_compat.make(groups, dims=dims | {"x": ["rows"]}, attrs=attrs)


def _sample(truth: Any, random: np.random.Generator, rows: int) -> Array:
    labels = random.choice(len(truth.weights), size=rows, p=truth.weights)
    factors = np.linalg.cholesky(truth.covariances)[labels]
    noise = random.normal(size=(rows, truth.means.shape[1], 1))
    return truth.means[labels] + (factors @ noise)[..., 0]


def _log_components(point: Any, x: Array) -> Array:
    """Return log weight + log density of each component, shape (..., K)."""
    residual = x[..., None, :] - point.means
    precision = np.linalg.inv(point.covariances)
    distance = np.einsum("...ki,kij,...kj->...k", residual, precision, residual)
    constant = np.linalg.slogdet(2.0 * np.pi * point.covariances)[1]
    return np.log(point.weights) - 0.5 * (distance + constant)


def _log_density(point: Any, x: Array) -> Array:
    return np.logaddexp.reduce(_log_components(point, x), axis=-1)


def _engine(name: str, truth: Any, data: Array, random: np.random.Generator) -> Any:
    """Invent one engine's answer: the true parameters a little off."""
    components, columns = truth.means.shape
    point = SimpleNamespace(
        weights=truth.weights,
        means=truth.means + random.normal(0.0, 0.05, truth.means.shape),
        covariances=truth.covariances * random.uniform(0.95, 1.05),
    )
    joint = _log_components(point, data)
    responsibilities = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    result = SimpleNamespace(
        name=name,
        seconds=float(random.uniform(0.1, 9.0)),
        compiling=0.05,
        by_latent={"z": responsibilities},
        responsibilities=responsibilities,
        labels=responsibilities.argmax(axis=1),
        held_out=_log_density(point, _sample(truth, random, 30)),
        **vars(point),
        objective=None,
        status="",
        modes=[],
        starts=0,
        failed=(),
        draws=None,
        relabelled=None,
        label_axis={},
        diagnostics="",
        replicated=None,
    )
    total = float(_log_density(point, data).sum())
    if name.endswith("EM"):
        result.objective = total - 90.0 * np.exp(-0.4 * np.arange(25))
        result.status = "Converged after 25 iterations; the objective never fell."
        result.modes = [(total, 41), (total - 3.4, 8), (total - 17.0, 1)]
        return result
    chains, draws = 4, 150
    drawn = {
        "weights": random.dirichlet(60.0 * truth.weights, (chains, draws)),
        "mean": truth.means + random.normal(0.0, 0.2, (chains, draws, components, columns)),
    }
    result.relabelled = drawn
    result.draws = {site: values.copy() for site, values in drawn.items()}
    for values in result.draws.values():
        values[1:, draws // 2 :] = np.roll(values[1:, draws // 2 :], 1, axis=2)
    result.label_axis = {"weights": 0, "mean": 0}
    result.diagnostics = "The chains switched labels; what doesn't depend on labels has converged."
    result.replicated = np.stack([_sample(truth, random, len(data)) for _ in range(20)])
    return result


def _transforms(results: dict[str, Any], rows: int, columns: int) -> list[calibration.Calibration]:
    """Uniform values, as if all engines were calibrated; random numbers of their own."""
    random = np.random.default_rng(1)
    found = []
    for name, result in results.items():
        for kind in (calibration.HELD_OUT, calibration.LEFT_OUT)[: 1 + (result.draws is not None)]:
            marginal, in_turn = random.uniform(size=(2, rows, columns))
            found.append(calibration.Calibration(name, kind, np.arange(rows), marginal, in_turn))
    return found


def _agreements(names: tuple[str, ...]) -> dict[str, Agreement]:
    if len(names) < 2:
        return {}
    same = np.eye(len(names))
    return {"z": Agreement(names, 0.97 + 0.03 * same, 0.12 - 0.12 * same)}


def _modes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The modes of MAP-EM, weighed as if each were as wide as the others."""
    if "MAP-EM" not in results:
        return []
    found = results["MAP-EM"].modes
    weights = relative_weights(np.array([objective for objective, _ in found]))
    samplers = [name for name, result in results.items() if result.draws is not None]
    return [
        {
            "objective": objective,
            "starts": count,
            "copies": 2,
            "log_weight": objective,
            "weight": float(weights[i]),
            "reason": "",
            "draws": dict.fromkeys(samplers, 1.0 if i == 0 else 0.0),
        }
        for i, (objective, count) in enumerate(found)
    ]


def _parameters(results: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        for k, weight in enumerate(result.weights):
            _enter(table, f"weights[{k}]", name, weight, result.draws, 0.05)
            for d, column in enumerate(names):
                _enter(table, f"mean[{k}, {column}]", name, result.means[k, d], result.draws, 0.4)
    return [{"parameter": parameter, **row} for parameter, row in sorted(table.items())]


def _enter(table: Any, parameter: str, engine: str, value: Any, draws: Any, half: float) -> None:
    centre = float(value)
    cell = centre if draws is None else (centre, centre - half, centre + half)
    table.setdefault(parameter, {})[engine] = cell


def _density(results: dict[str, Any], data: Array) -> dict[str, Any]:
    low, high = data.min(axis=0) - 2.0, data.max(axis=0) + 2.0
    points = 240 if data.shape[1] == 1 else 60
    axes = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
    mesh = np.stack(np.meshgrid(*axes), axis=-1)  # (G, 1) or (len(gy), len(gx), 2)
    log_density = {name: _log_density(result, mesh) for name, result in results.items()}
    return {"grid": axes[0] if len(axes) == 1 else tuple(axes), "log_density": log_density}
