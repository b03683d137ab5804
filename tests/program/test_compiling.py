"""What a process holds in compiled code, and in plans."""

import gc

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.program import compiling
from bayesmix.program.compiling import compile_fully, compile_lightly


def num_executables() -> int:
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def test_code_that_has_not_been_used_for_longest_is_dropped_and_made_again(monkeypatch):
    monkeypatch.setattr(compiling, "MOST_KEPT", 3)
    x = jnp.arange(3.0)
    functions = [compile_fully(lambda x, i=i: jnp.sum(i * x)) for i in range(6)]
    counts = []
    for function in functions:
        functions[0](x)
        function(x)
        counts.append(num_executables())
    assert counts[-1] == counts[3]
    assert [f._cache_size() for f in functions] == [1, 0, 0, 0, 1, 1]
    assert [float(f(x)) for f in functions] == [3.0 * i for i in range(6)]


def test_one_function_called_with_many_shapes_is_dropped_as_well(monkeypatch):
    monkeypatch.setattr(compiling, "MOST_KEPT", 3)
    total = compile_lightly(jnp.sum)
    for size in range(1, 9):
        assert float(total(np.ones(size))) == size
        assert total._cache_size() <= 3


def test_inside_another_transformation_a_function_is_part_of_it():
    double = compile_lightly(lambda x: 2 * x)
    assert float(jax.jit(lambda x: double(x) + double(1.0))(3.0)) == 8.0
    np.testing.assert_array_equal(jax.vmap(double)(jnp.arange(3)), [0, 2, 4])
