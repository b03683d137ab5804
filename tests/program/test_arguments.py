"""Arguments as tables and files give them: numbers whatever holds them, or one sentence."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import bayesmix
from bayesmix import ProgramError, zoo
from bayesmix.program.arguments import split

NUMBERS = [1.5, 2.0, -3.0]


@pytest.mark.parametrize(
    "given",
    [
        np.array(NUMBERS, ">f8"),
        np.array(NUMBERS, np.longdouble),
        np.array(NUMBERS, object),
        pd.Series(NUMBERS, dtype="Float64"),
        pd.Series(NUMBERS, dtype="double[pyarrow]"),
        pd.Series([decimal.Decimal(str(each)) for each in NUMBERS]),
    ],
    ids=["big-endian", "long double", "objects", "nullable", "arrow", "decimal"],
)
def test_numbers_are_taken_whatever_holds_them(given):
    (array,) = split((given,), {}).arrays
    assert array.dtype == jnp.result_type(float) and array.tolist() == NUMBERS


def test_what_is_missing_is_nan_and_whole_numbers_stay_whole():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [True, None]})
    whole = pd.DataFrame({"a": pd.array([1, 2], dtype="Int64"), "b": pd.array([3, 4], "UInt8")})
    gaps, kept = (np.asarray(split((each,), {}).arrays[0]) for each in (frame, whole))
    np.testing.assert_array_equal(gaps, [[1.0, 1.0], [np.nan, np.nan]])
    assert kept.dtype.kind == "i" and kept.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("given", [np.int64(3), np.uint8(3), np.array(3), jnp.array(3)])
def test_one_whole_number_is_an_int(given):
    arguments = split((), {"K": given})
    assert not arguments.arrays and type(arguments.call()[1]["K"]) is int
    assert split((np.bool_(True),), {}).call()[0] == (True,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array([1j]), "argument x of the program holds complex numbers"),
        (jnp.array([1j]), "complex numbers"),
        (np.array([1, 2], "m8[s]"), "holds times"),
        (np.array([1, "2"], object), "text or mixed objects"),
        (np.array(["1e400"], np.longdouble), "too large for float64; pass smaller"),
    ],
)
def test_what_is_no_number_is_refused_by_the_name_of_its_argument(given, words):
    with pytest.raises(ProgramError, match=words):
        split((), {"x": given})


def test_numbers_that_single_precision_does_not_hold_are_refused():
    with jax.enable_x64(False):
        assert split((np.array([2**31 - 1]),), {}).arrays[0].dtype == np.int32
        for given in (np.array([2**31]), np.array([2**32], np.uint64), np.array([1e39])):
            with pytest.raises(ProgramError, match="enable_x64"):
                split((given,), {})


def test_a_known_label_between_two_values_is_refused():
    def program(x, labels):
        mean = numpyro.sample("mean", dist.Normal(0.0, 9.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.full(2, 0.5)), obs=labels)
            numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    for label in (0.5, 1.7, -0.5):
        with pytest.raises(ProgramError, match=r"outside its 2 values \(row 3,"):
            bayesmix.plan(program, np.arange(6.0), np.array([0, 1, -1, label, np.nan, 1]))


def test_no_components_are_said_to_be_none():
    def program(x, K):
        mean = numpyro.sample("mean", dist.Normal(0.0, 9.0))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(K)))
            numpyro.sample("x", dist.Normal(mean * z, 1.0), obs=x)

    for given in (program, zoo.gaussian_mixture):
        with pytest.raises(ProgramError, match="ask for at least one component"):
            bayesmix.plan(given, np.arange(6.0)[:, None], K=np.int64(0))
