"""Rows spread over devices: the same program, and the same answers."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bayesmix
from bayesmix import ProgramError
from bayesmix.program.devices import mesh_of, whole

ROOT = Path(__file__).parents[2]


def spread(*asked: str) -> list[dict]:
    """What `python -m tests.program.spread` finds, on four devices."""
    command = [sys.executable, "-m", "tests.program.spread", *asked]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("cases", [("gaussians", "lines"), ("bernoullis", "chain", "students")])
def test_sums_gradients_and_rows_are_those_of_one_device(cases):
    for found in spread(*cases):
        assert found["devices"] == 4
        for name, departure in found["apart"].items():
            assert departure < 1e-13, (found["case"], name)


@pytest.mark.parametrize("case", ["gaussians", "lines", "chain"])
def test_engines_find_the_same_on_several_devices(case):
    (found,) = spread("engines", case)
    for name, departure in found["apart"].items():
        assert departure < 1e-9, name


@pytest.mark.parametrize("devices", [[], jax.devices() * 2])
def test_devices_are_given_once_each(devices):
    with pytest.raises(ProgramError, match="give at least one, each once"):
        with bayesmix.rows_on(devices):
            pass


def test_data_that_are_spread_say_where_the_rows_are():
    mesh = jax.make_mesh((1,), ("anything",))  # its axis is explicit
    array = jax.device_put(jax.numpy.ones((4, 2)), NamedSharding(mesh, PartitionSpec("anything")))
    assert mesh_of((array,)).devices.tolist() == [jax.devices()[0]]
    columns = jax.device_put(array, NamedSharding(mesh, PartitionSpec(None, "anything")))
    assert mesh_of((columns,)) is None
    assert (
        jax.typeof(whole(array)).sharding.mesh.empty
        or whole(array).sharding.spec == array.sharding.spec
    )
    with bayesmix.rows_on():
        assert mesh_of((columns,)).axis_names == ("rows",)
    assert mesh_of((columns,)) is None
