"""Rows spread over devices: the same program, and the same answers."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bayesmix
from bayesmix import ProgramError
from bayesmix.program.devices import mesh_of, whole
from tests.program.spread import compare, numbers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", ["gaussians", "lines"])
def test_sums_gradients_and_rows_are_those_of_one_device(case):
    assert len(jax.devices()) > 1
    for name, departure in compare(case, numbers).items():
        assert departure < 1e-13, name


def started(*asked: str) -> subprocess.Popen:
    """`python -m tests.program.spread`, running."""
    command = [sys.executable, "-m", "tests.program.spread", *asked]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def printed(process: subprocess.Popen) -> list[dict]:
    """What it finds."""
    out, error = process.communicate()
    assert process.returncode == 0, error
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    "asked",
    [
        ("gaussians", "lines", "bernoullis", "chain", "students"),
        ("engines", "gaussians", "lines"),
        ("engines", "chain"),
    ],
)
def test_four_devices_find_the_same(asked):
    for found in printed(started(*asked)):
        assert found["devices"] == 4
        for name, departure in found["apart"].items():
            assert departure < 1e-12, (found["case"], name)


def test_processes_find_the_same_together():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [started("process", rank, address, "engines", "gaussians") for rank in "01"]
    for (found,) in list(map(printed, both)):
        assert found["devices"] == 2
        for name, departure in found["apart"].items():
            assert departure < 1e-12, name


@pytest.mark.parametrize("devices", [[], jax.devices() * 2])
def test_devices_are_given_once_each(devices):
    with pytest.raises(ProgramError, match="give at least one, each once"):
        with bayesmix.rows_on(devices):
            pass


def test_data_that_are_spread_say_where_the_rows_are():
    mesh = jax.make_mesh((2,), ("anything",), devices=jax.devices()[:2])  # its axis is explicit
    array = jax.device_put(jax.numpy.ones((4, 2)), NamedSharding(mesh, PartitionSpec("anything")))
    assert mesh_of((array,)).devices.tolist() == jax.devices()[:2]
    columns = jax.device_put(array, NamedSharding(mesh, PartitionSpec(None, "anything")))
    assert mesh_of((columns,)) is None
    assert set(whole(array).sharding.mesh.axis_types) == {AxisType.Auto}
    with bayesmix.rows_on():
        assert mesh_of((columns,)).axis_names == ("rows",)
    assert mesh_of((columns,)) is None
