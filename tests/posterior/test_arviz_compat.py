"""One face for both ArviZ generations: containers, files, and the numbers ArviZ computes."""

import warnings

import numpy as np
import pytest
import xarray as xr

from bayesmix.posterior import arviz_compat


@pytest.fixture
def idata():
    rng = np.random.default_rng(11)
    return arviz_compat.make(
        {
            "posterior": {
                "mean": rng.normal(size=(2, 50, 3, 2)),
                "rate": rng.gamma(2, size=(2, 50)),
            },
            "log_likelihood": {"x": rng.normal(-2, 0.1, size=(2, 50, 7))},
            "latents": {"z": rng.integers(0, 3, size=(2, 50, 7))},
            "observed_data": {"x": rng.normal(size=7)},
        },
        coords={"component": [0, 1, 2], "column": ["eruptions", "waiting"], "row": np.arange(7)},
        dims={"mean": ["component", "column"], "x": ["row"], "z": ["row"]},
        attrs={
            "posterior": {"label_dims": "component", "relabelled": "no", "empty": ""},
            "/": {"made_by": "a test"},
        },
    )


def assert_same(one, other):
    assert arviz_compat.groups(one) == arviz_compat.groups(other)
    assert dict(one.attrs) == dict(other.attrs)
    for group in arviz_compat.groups(one):
        assert arviz_compat.dataset(one, group).identical(arviz_compat.dataset(other, group)), group


def test_make_gives_arviz_its_own_container(idata):
    import arviz

    found = arviz.rhat(idata)["mean"]
    assert found.dims == ("component", "column")
    assert arviz_compat.groups(idata)[0] == "posterior"
    assert set(arviz_compat.groups(idata)) == {
        "posterior",
        "log_likelihood",
        "latents",
        "observed_data",
    }
    assert arviz_compat.dataset(idata, "observed_data")["x"].dims == ("row",)
    assert arviz_compat.dataset(idata, "latents")["z"].dims == ("chain", "draw", "row")
    assert type(arviz_compat.dataset(idata, "posterior")) is xr.Dataset


def test_dimensions_without_a_name_get_one():
    idata = arviz_compat.make({"posterior": {"a": np.zeros((1, 4, 2))}})
    assert arviz_compat.dataset(idata, "posterior")["a"].dims == ("chain", "draw", "a_dim_0")


@pytest.mark.parametrize(
    ("shape", "dims", "coords", "says"),
    [
        ((1, 4, 2), {"a": []}, {}, "name one dimension for each axis"),
        ((4,), {}, {}, "does not fit the dimensions"),
        ((1, 4, 2), {"a": ["side"]}, {"side": [1, 2, 3]}, "2 entries along `side` where 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shape, dims, coords, says):
    with pytest.raises(ValueError, match=says):
        arviz_compat.make({"posterior": {"a": np.zeros(shape)}}, coords, dims)


def test_variables_of_a_group_share_their_draws():
    with pytest.raises(ValueError, match="`b` in group `posterior` has 5 entries along `draw`"):
        arviz_compat.make({"posterior": {"a": np.zeros((1, 4)), "b": np.zeros((1, 5))}})


def test_a_missing_group_is_named(idata):
    with pytest.raises(KeyError, match="no group `prior`; these are there: posterior"):
        arviz_compat.dataset(idata, "prior")


@pytest.mark.parametrize("group", ["posterior", "latents", "new"])
def test_replacing_a_group_leaves_the_old_container_alone(idata, group):
    before = {
        name: arviz_compat.dataset(idata, name).copy(deep=True)
        for name in arviz_compat.groups(idata)
    }
    changed = (arviz_compat.dataset(idata, "posterior") + 1).assign_attrs(relabelled="pivot")
    renewed = arviz_compat.replace_group(idata, group, changed)
    assert arviz_compat.dataset(renewed, group).identical(changed)
    assert dict(renewed.attrs) == dict(idata.attrs)
    assert arviz_compat.groups(idata) == tuple(before)
    for name, data in before.items():
        assert arviz_compat.dataset(idata, name).identical(data)
        assert name == group or arviz_compat.dataset(renewed, name).identical(data)


def test_arviz_reads_the_file_itself(idata, tmp_path):
    import arviz

    path = arviz_compat.to_netcdf(idata, tmp_path / "draws.nc")
    found = arviz.from_netcdf(str(path))
    assert_same(found, idata)
    getattr(found, "close", lambda: None)()
    assert [file.name for file in tmp_path.iterdir()] == ["draws.nc"]


def test_a_failed_write_leaves_the_old_file(idata, tmp_path):
    path = arviz_compat.to_netcdf(idata, tmp_path / "draws.nc")
    whole = path.read_bytes()
    data = arviz_compat.dataset(idata, "latents").assign_attrs(unwritable={"a": "mapping"})
    with pytest.raises(TypeError):
        arviz_compat.to_netcdf(arviz_compat.replace_group(idata, "latents", data), path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["draws.nc"]


def test_rhat_and_ess_are_arviz_own(idata):
    import arviz

    posterior = arviz_compat.dataset(idata, "posterior")
    np.testing.assert_allclose(arviz_compat.rhat(posterior)["mean"], arviz.rhat(posterior)["mean"])
    np.testing.assert_allclose(arviz_compat.ess(posterior)["mean"], arviz.ess(posterior)["mean"])
    tail = arviz.ess(posterior, method="tail", prob=(0.05, 0.95))["mean"]
    np.testing.assert_allclose(arviz_compat.ess(posterior, "tail")["mean"], tail)
    with pytest.raises(ValueError, match="`kind`"):
        arviz_compat.ess(posterior, "middle")


def test_rhat_of_one_chain_compares_its_halves():
    drift = np.concatenate([np.zeros(100), np.full(101, 9.0)])
    calm = np.random.default_rng(0).normal(size=(1, 201))
    data = arviz_compat.dataset(
        arviz_compat.make({"posterior": {"drift": calm + drift, "calm": calm}}), "posterior"
    )
    found = arviz_compat.rhat(data)
    assert found["drift"] > 1.5
    assert found["calm"] < 1.05


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (1, 7), (2, 3), (4, 1)])
def test_few_draws_give_nan_quietly(chains, draws, caplog):
    values = np.random.default_rng(0).normal(size=(chains, draws, 2))
    data = arviz_compat.dataset(arviz_compat.make({"posterior": {"a": values}}), "posterior")
    assert np.isnan(arviz_compat.rhat(data)["a"]).all()
    if draws < 4:
        assert np.isnan(arviz_compat.ess(data)["a"]).all()
    assert caplog.records == []


def test_constants_and_non_finite_columns_do_not_disturb_the_rest(caplog):
    values = np.random.default_rng(0).normal(size=(4, 100, 4))
    values[..., 1], values[2, 7, 2], values[0, 0, 3] = 3.0, np.nan, np.inf
    data = arviz_compat.dataset(arviz_compat.make({"posterior": {"a": values}}), "posterior")
    assert np.isfinite(arviz_compat.rhat(data)["a"]).values.tolist() == [True, False, False, False]
    assert np.isfinite(arviz_compat.ess(data)["a"]).values.tolist() == [True, True, False, False]
    assert caplog.records == []


def test_diagnostics_name_every_scalar(idata):
    found = arviz_compat.diagnostics(arviz_compat.dataset(idata, "posterior"))
    assert list(found.index[:3]) == ["mean[0, eruptions]", "mean[0, waiting]", "mean[1, eruptions]"]
    assert found.index[-1] == "rate"
    assert found.loc["rate", "variable"] == "rate"
    expected = arviz_compat.rhat(arviz_compat.dataset(idata, "posterior"))["mean"].values
    np.testing.assert_array_equal(found["r_hat"][:-1], expected.ravel())


@pytest.mark.parametrize("prob", [0.5, 0.89, 0.94])
def test_hdi_is_arviz_own(prob):
    import arviz

    values = np.random.default_rng(3).gamma(2.0, size=(2, 400, 3))
    low, high = arviz_compat.hdi(values, prob)
    name = "hdi_prob" if arviz.__version__.startswith("0") else "prob"
    data = arviz_compat.dataset(arviz_compat.make({"posterior": {"a": values}}), "posterior")
    np.testing.assert_allclose(np.stack([low, high], -1), arviz.hdi(data, **{name: prob})["a"])


def test_hdi_edges():
    assert np.isnan(arviz_compat.hdi(np.array([[1.0, np.nan, 2.0]]))).all()
    assert arviz_compat.hdi(np.ones((1, 1)), 0.5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        arviz_compat.hdi(np.ones((1, 5)), 94)


def test_loo_is_close_to_the_exact_answer():
    """A normal mean with known variance has its leave-one-out density in closed form."""
    rng = np.random.default_rng(5)
    x = rng.normal(1.0, 1.0, size=30)
    draws = rng.normal(x.mean(), 1 / np.sqrt(len(x)), size=(4, 1000))
    density = -0.5 * np.log(2 * np.pi) - 0.5 * (x - draws[..., None]) ** 2
    idata = arviz_compat.make({"posterior": {"mean": draws}, "log_likelihood": {"x": density}})
    elpd, se, pareto_k = arviz_compat.loo(idata)
    others, spread = (x.sum() - x) / (len(x) - 1), 1 + 1 / (len(x) - 1)
    exact = -0.5 * np.log(2 * np.pi * spread) - 0.5 * (x - others) ** 2 / spread
    assert abs(elpd - exact.sum()) < 0.05
    assert abs(se - np.sqrt(len(x) * exact.var())) < 0.05
    assert pareto_k.shape == (30,)
    assert pareto_k.max() < 0.5


def test_loo_does_not_depend_on_labels():
    """ArviZ's own default takes the tail length from parameters, which switching spoils."""
    rng = np.random.default_rng(6)
    rows, mean = rng.normal(-2, 0.3, size=(2, 200, 12)), rng.normal([0.0, 9.0], size=(2, 200, 2))
    groups = {"posterior": {"mean": mean}, "log_likelihood": {"x": rows}}
    switched = {**groups, "posterior": {"mean": np.stack([mean[0], mean[1][:, ::-1]])}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one, other = (
            arviz_compat.loo(arviz_compat.make(groups)),
            arviz_compat.loo(arviz_compat.make(switched)),
        )
    assert one[:2] == other[:2]


def test_rows_that_cannot_be_left_out_are_named():
    """exp(-log likelihood) of the row is Pareto with shape 1.2: its mean is not finite."""
    rng = np.random.default_rng(0)
    rows = rng.normal(-1.0, 0.1, (4, 1000, 6))
    rows[..., 3] = 1.2 * np.log(rng.uniform(size=(4, 1000)))
    coords = {"city": ["Ames", "Bonn", "Cork", "Delft", "Essen", "Fes"]}
    idata = arviz_compat.make({"log_likelihood": {"x": rows}}, coords=coords, dims={"x": ["city"]})
    with pytest.warns(
        UserWarning, match=r"above 0\.7\d* for 1 of 6 rows: Delft \(k = 1\.\d\d\)\. Weighted"
    ):
        arviz_compat.loo(idata)


def test_loo_asks_which_variable(idata):
    both = arviz_compat.dataset(idata, "log_likelihood").assign(
        y=arviz_compat.dataset(idata, "log_likelihood")["x"]
    )
    with pytest.raises(ValueError, match="pass one of 'x', 'y'"):
        arviz_compat.loo(arviz_compat.replace_group(idata, "log_likelihood", both))
    with pytest.raises(KeyError, match="log_likelihood"):
        arviz_compat.loo(arviz_compat.make({"posterior": {"a": np.zeros((1, 4))}}))
