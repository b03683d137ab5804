"""Every picture is drawn for every shape of comparison, and its mathematics is right."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from bayesmix import plots
from bayesmix.plots import common, draws, estimates, search
from bayesmix.plots.density import _draw_contours
from tests.examples import example_comparison

PICTURES = (
    plots.plot_density,
    plots.plot_modes,
    plots.plot_objective,
    plots.plot_parameters,
    plots.plot_predictive_check,
    plots.plot_responsibilities,
)
SUBSETS = (("MAP-EM",), ("NUTS",), ("MLE-EM", "Gibbs"), ("MLE-EM", "MAP-EM", "Gibbs", "NUTS"))


def _draws(engines):
    return [name for name in engines if name in ("Gibbs", "NUTS")]


def _titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


SHAPES = [(columns, components) for columns in (1, 2, 4) for components in (1, 2, 5)]
CASES = [(*shape, SUBSETS[-1]) for shape in SHAPES] + [
    (columns, 2, engines) for columns in (1, 2, 4) for engines in SUBSETS[:-1]
]


@pytest.mark.parametrize(("columns", "components", "engines"), CASES)
def test_every_picture_is_drawn_or_says_why_not(columns, components, engines):
    comparison = example_comparison(
        rows=25, columns=columns, components=components, engines=engines
    )
    sampled = bool(_draws(engines))
    optimised = len(_draws(engines)) < len(engines)
    possible = {
        plots.plot_modes: optimised,
        plots.plot_objective: optimised,
        plots.plot_predictive_check: sampled,
    }
    for picture in PICTURES:
        if possible.get(picture, True):
            assert picture(comparison).axes
        else:
            with pytest.raises(ValueError, match="no engine"):
                picture(comparison)
    for name in _draws(engines):
        assert len(plots.plot_traces(comparison, name).axes) == 2


def test_pictures_leave_pyplot_and_the_settings_alone():
    code = (
        "import sys, bayesmix.plots as plots, bayesmix.comparison.report\n"
        "assert 'matplotlib' not in sys.modules, 'imported too early'\n"
        "from tests.examples import example_comparison\n"
        "import matplotlib\n"
        "before = dict(matplotlib.rcParams)\n"
        "plots.figure_png(plots.plot_density(example_comparison(rows=20)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot state touched'\n"
        "assert dict(matplotlib.rcParams) == before, 'settings changed'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_matplotlib_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.plot_density(example_comparison(rows=20))


def test_a_figure_shows_itself_in_a_notebook_repeats_to_the_byte_and_pickles():
    first, second = (plots.plot_modes(example_comparison(rows=20)) for _ in range(2))
    assert first._repr_png_() == plots.figure_png(second)
    assert pickle.loads(pickle.dumps(first)).axes


@pytest.mark.parametrize("mass", [0.3, 0.68, 0.95])
def test_an_ellipse_holds_its_mass(mass):
    mean, covariance = np.array([3.0, -50.0]), np.array([[4.0, -1.7], [-1.7, 0.9]])
    outline = plots.ellipse_points(mean, covariance, mass, points=721)
    deviation = outline - mean
    distance = np.einsum("ni,ij,nj->n", deviation, np.linalg.inv(covariance), deviation)
    np.testing.assert_allclose(distance, distance[0], rtol=1e-9)
    np.testing.assert_allclose(outline[0], outline[-1])
    # Integrate the density over the polygon's inside: whitened, it is a disc of that radius.
    step = 0.01
    axis = np.arange(-8, 8, step) + step / 2
    across, up = np.meshgrid(axis, axis)
    inside = across**2 + up**2 <= distance[0]
    density = np.exp(-0.5 * (across**2 + up**2)) / (2 * np.pi)
    assert float(density[inside].sum() * step**2) == pytest.approx(mass, abs=2e-3)
    draws_inside = np.random.default_rng(1).multivariate_normal(mean, covariance, 40_000) - mean
    share = np.mean(
        np.einsum("ni,ij,nj->n", draws_inside, np.linalg.inv(covariance), draws_inside)
        <= distance[0]
    )
    assert share == pytest.approx(mass, abs=5 * np.sqrt(mass * (1 - mass) / 40_000))


def test_an_ellipse_of_a_singular_covariance_is_flat_and_a_bad_one_is_refused():
    flat = plots.ellipse_points([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(flat[:, 0], flat[:, 1], atol=1e-7)
    bad = {
        "negative eigenvalue": [[1.0, 2.0], [2.0, 1.0]],
        "symmetric": [[1.0, 0.5], [0.0, 1.0]],
        "finite": [[np.nan, 0.0], [0.0, 1.0]],
        r"\(2, 2\)": [[1.0]],
    }
    for message, covariance in bad.items():
        with pytest.raises(ValueError, match=message):
            plots.ellipse_points([0.0, 0.0], covariance)
    for mass in (0.0, 1.0):
        with pytest.raises(ValueError, match="mass"):
            plots.ellipse_points([0.0, 0.0], np.eye(2), mass)


def test_levels_enclose_the_mass_of_a_normal_on_an_uneven_grid():
    x = np.sort(np.concatenate([np.linspace(-6, 0, 1500), np.linspace(0.001, 6, 4000)]))
    log_density = -0.5 * x**2
    levels = plots.mass_levels(log_density, [0.6827, 0.9545], np.gradient(x))
    np.testing.assert_allclose(np.sqrt(-2 * levels), [1.0, 2.0], atol=0.01)
    with pytest.raises(ValueError, match="finite"):
        plots.mass_levels([-np.inf, -np.inf], [0.5])
    with pytest.raises(ValueError, match="NaN"):
        plots.mass_levels([0.0, np.nan], [0.5])


def test_contours_stand_minus_infinity_and_a_flat_density():
    grid = (np.linspace(0, 1, 8), np.linspace(0, 2, 9))
    values = np.zeros((9, 8))
    axes = common.new_figure(2, 2).add_subplot()
    _draw_contours(axes, grid, values)
    values[:, :3] = -np.inf
    values[4, 5] = 2.0
    _draw_contours(axes, grid, values)


def test_the_kernel_density_agrees_with_scipys_at_the_same_bandwidth():
    stats = pytest.importorskip("scipy.stats")
    sample = np.random.default_rng(0).normal(2.0, 3.0, 400)
    grid = np.linspace(-15, 20, 800)
    spread = min(sample.std(), np.subtract(*np.percentile(sample, [75, 25])) / 1.34)
    width = 0.9 * spread * 400**-0.2
    oracle = stats.gaussian_kde(sample, bw_method=width / sample.std(ddof=1))(grid)
    np.testing.assert_allclose(plots.kernel_density(sample, grid), oracle, atol=2e-4)
    with_gaps = np.append(sample, [np.nan, np.nan])
    np.testing.assert_array_equal(
        plots.kernel_density(with_gaps, grid), plots.kernel_density(sample, grid)
    )


def test_a_component_keeps_its_colour_and_no_two_share_one():
    colors = plots.component_colors(20)
    assert len(set(colors)) == 20
    assert colors[:3] == plots.component_colors(3)
    with pytest.raises(ValueError, match="at least 1"):
        plots.component_colors(0)


def test_the_responsibility_image_has_each_colour_in_its_share():
    responsibilities = np.array([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    image = plots.responsibility_image(responsibilities, height=120)
    for k, color in enumerate(plots.component_colors(3)):
        share = np.all(image == color, axis=2).mean(axis=0)
        np.testing.assert_allclose(share, responsibilities[:, k], atol=1e-12)
    np.testing.assert_array_equal(image[-1, 0], plots.component_colors(3)[0])  # 0 is at the bottom


def test_rows_are_sorted_by_label_then_certainty():
    responsibilities = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    ordered = responsibilities[plots.sorted_rows(responsibilities)]
    labels = ordered.argmax(axis=1)
    assert np.all(np.diff(labels) >= 0)
    for k in range(3):
        assert np.all(np.diff(ordered[labels == k].max(axis=1)) <= 0)


def test_the_predictive_check_spots_a_wrong_model_and_leaves_missing_cells_out():
    comparison = example_comparison(rows=80, columns=1, components=1)
    comparison.data = np.random.default_rng(0).exponential(3.0, (80, 1))
    figure = plots.plot_predictive_check(comparison)
    assert _titles(figure)[1] == "p = 0.00"
    comparison.data[np.argmax(comparison.data)] = np.nan
    assert plots.plot_predictive_check(comparison, "Gibbs").axes
    assert draws.skewness(comparison.data) > 0.5
    assert np.isnan(draws.largest([np.nan]))
    with pytest.raises(ValueError, match="at least one"):
        plots.predictive_p_value(0.0, [])
    with pytest.raises(ValueError, match="MAP-EM replicated no data"):
        plots.plot_predictive_check(comparison, "MAP-EM")


def test_skewness_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    sample = np.random.default_rng(3).gamma(2.0, size=300)
    assert draws.skewness(sample) == pytest.approx(float(stats.skew(sample)))
    assert draws.skewness([4.0, 4.0]) == 0.0


def test_traces_take_the_label_axis_wherever_it_is_and_refuse_what_has_none():
    comparison = example_comparison(rows=20, columns=2, components=3)
    engine = comparison.engines["Gibbs"]
    straight = plots.plot_traces(comparison, "Gibbs", "mean", column=1)
    engine.draws["turned"] = engine.draws["mean"].swapaxes(2, 3)
    engine.label_axis["turned"] = 1
    turned = plots.plot_traces(comparison, "Gibbs", "turned", column=1)
    assert len(turned.axes) == 1  # nothing relabelled under this name
    for one, other in zip(straight.axes[0].lines[:3], turned.axes[0].lines[:3], strict=True):
        np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())
    assert turned.axes[0].get_ylabel() == "turned, column b"
    engine.draws["shared"] = np.zeros((4, 150))
    for site in ("shared", "nowhere"):
        with pytest.raises(ValueError, match="carries no label"):
            plots.plot_traces(comparison, "Gibbs", site)
    with pytest.raises(ValueError, match="column must lie"):
        plots.plot_traces(comparison, "Gibbs", "mean", column=2)
    with pytest.raises(ValueError, match="point estimate"):
        plots.plot_traces(comparison, "MAP-EM")
    with pytest.raises(ValueError, match="it holds: MLE-EM, MAP-EM, Gibbs, NUTS"):
        plots.plot_traces(comparison, "SVI")
    with pytest.raises(ValueError, match="chain, draw, K"):
        plots.draw_trace(straight.axes[0], np.zeros(3))


def test_a_trace_prefers_a_real_vector_and_falls_back_on_what_there_is():
    engine = example_comparison(rows=20, columns=2).engines["NUTS"]
    matrices = {"covariance": np.ones((4, 150, 2, 2, 2)), "z": np.zeros((4, 150, 2), int)}
    engine.draws = {**matrices, **engine.draws}
    engine.label_axis = {"covariance": 0, "z": 0, "weights": 0, "mean": 0}
    assert draws._carrier(engine) == "mean"
    del engine.label_axis["mean"]
    assert draws._carrier(engine) == "covariance"
    del engine.label_axis["covariance"]
    assert draws._carrier(engine) == "weights"
    engine.label_axis = {"z": 0}
    assert not draws.has_traces(engine)


def test_long_chains_are_thinned_but_keep_their_length():
    axes = common.new_figure(3, 2).add_subplot()
    plots.draw_trace(axes, np.random.default_rng(0).normal(size=(2, 9000, 1)))
    assert axes.get_xlim() == (0.0, 18_000.0)
    assert len(axes.lines[0].get_xdata()) <= 4001


def test_the_forest_groups_components_and_marks_them_only_where_labels_are():
    comparison = example_comparison(rows=20, columns=1, components=11)
    comparison.parameters = [
        *comparison.parameters,
        {"parameter": "nu", "MAP-EM": 4.0, "NUTS": (5.0, 3.0, 9.0)},
        {"parameter": "slope[0]", "MAP-EM": np.nan, "NUTS": None},
        {"parameter": "slope[1]", "MAP-EM": 2.0},
    ]
    groups = estimates._panels(comparison)
    assert list(groups) == ["mean, column a", "weights", "nu", "slope"]
    assert [component for _, component, _ in groups["weights"]] == list(range(11))
    assert [component for _, component, _ in groups["slope"]] == [None, None]
    assert _titles(plots.plot_parameters(comparison, ["nu", "slope"]))[:2] == ["nu", "slope"]
    with pytest.raises(ValueError, match="no parameter"):
        plots.plot_parameters(comparison, ["sigma"])
    comparison.parameters = []
    with pytest.raises(ValueError, match="empty"):
        plots.plot_parameters(comparison)


def test_the_forest_finds_a_label_that_is_not_the_first_index():
    comparison = example_comparison(rows=20, columns=1, components=2)
    comparison.engines["Gibbs"].label_axis = {"rates": 1}
    comparison.parameters = [{"parameter": f"rates[a, {k}]", "MAP-EM": 1.0} for k in range(2)]
    assert list(estimates._panels(comparison)) == ["rates, a"]


def test_many_panels_are_cut_and_the_title_says_so():
    comparison = example_comparison(rows=20, columns=15, components=2)
    figure = plots.plot_parameters(comparison)
    assert "4 more panels" in figure.get_suptitle()


def test_the_density_picture_takes_names_and_refuses_unknown_ones():
    comparison = example_comparison(rows=30, columns=6, components=2)
    names = ["column f", "column a", "column c"]
    matrix = plots.plot_density(comparison, engines=["Gibbs"], columns=names)
    assert [axes.get_xlabel() for axes in matrix.axes[-3:]] == names
    assert not matrix.axes[1].axison  # one engine: nothing above the diagonal
    assert len(plots.plot_density(comparison).axes) == 16  # the first four columns
    assert len(plots.plot_density(comparison, ["NUTS"], names[:2]).axes) == 1
    with pytest.raises(ValueError, match="no column"):
        plots.plot_density(comparison, columns=["speed"])
    with pytest.raises(ValueError, match="at least two"):
        plots.plot_density(comparison, columns=["column a"])
    with pytest.raises(ValueError, match="no engine 'VB'"):
        plots.plot_density(comparison, engines=["VB"])


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_counts_missing_cells_and_components_without_covariance(columns):
    comparison = example_comparison(rows=60, columns=columns, components=2)
    comparison.data = np.random.default_rng(0).poisson(4.0, (60, columns)).astype(float)
    comparison.data[::6, 0] = np.nan
    comparison.density = None
    for engine in comparison.engines.values():
        engine.weights = engine.means = engine.covariances = None
        if engine.replicated is not None:
            engine.replicated = np.round(np.abs(engine.replicated))
    for picture in (plots.plot_density, plots.plot_predictive_check):
        assert picture(comparison).axes


def test_constant_and_fully_missing_columns_are_drawn():
    comparison = example_comparison(rows=30, columns=3, components=2)
    comparison.data[:, 0] = 2.5
    comparison.data[:, 1] = np.nan
    for picture in (plots.plot_density, plots.plot_predictive_check):
        assert picture(comparison).axes


def test_names_that_look_like_formulas_are_shown_as_they_are():
    comparison = example_comparison(rows=30, columns=2, components=2)
    comparison.columns = (r"cost $\frac$ a_{b", "_hidden $x$")
    comparison.title = r"half $ open \alpha$" * 5
    for picture in PICTURES:
        assert plots.figure_png(picture(comparison))
    assert plots.figure_png(plots.plot_traces(comparison, "NUTS"))


def test_large_data_is_thinned_and_said_to_be():
    comparison = example_comparison(rows=7000, columns=2, engines=("MAP-EM",))
    assert "5,000 of 7,000 rows drawn" in _titles(plots.plot_density(comparison))[0]
    strip = plots.plot_responsibilities(comparison, max_rows=400)
    assert strip.axes[0].images[0].get_array().shape[1] == 400
    assert "400 of 7,000" in _titles(strip)[0]


def test_a_falling_objective_is_shown_as_one_and_nan_breaks_nothing():
    comparison = example_comparison(rows=20, engines=("MAP-EM",))
    comparison.engines["MAP-EM"].objective = np.array([-9.0, -5.0, -5.5, -4.0])
    assert _titles(plots.plot_objective(comparison))[0] == "MAP-EM: falls at 1 places (crossed)"
    for trace in ([-3.0], [np.nan, np.nan], [-5.0, -np.inf, -3.0], [-2.0, -2.0]):
        comparison.engines["MAP-EM"].objective = np.array(trace)
        assert plots.plot_objective(comparison).axes
    assert search.falls([-1e6, -1e6 - 1e-4]).size == 0  # rounding, not a fall


def test_modes_are_ranked_and_the_low_ones_gathered():
    modes = [(-20.0 - i, 1) for i in range(30)] + [(-3.0, 5)]
    lines = search.gather_modes(modes, limit=4)
    assert lines[0] == ("-3.00 (best)", 5)
    assert lines[-1] == ("27 lower modes", 27)
    assert sum(count for _, count in lines) == 35


def test_responsibilities_need_an_engine():
    comparison = example_comparison(rows=20, engines=())
    with pytest.raises(ValueError, match="at least one engine"):
        plots.plot_responsibilities(comparison)


def test_the_example_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown engines"):
        example_comparison(engines=("HMC",))
    with pytest.raises(ValueError, match="at least 1"):
        example_comparison(columns=0)
