"""Gradients of Q that a family offers, against differentiating its Q."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesmix.families import gaussian, student
from bayesmix.program.compiling import compile_lightly

K, N = 3, 800  # so many rows that normals take quadratic features
PATTERN = {2: [True, False], 4: [True, False, True, True]}


def parameters_of(family, D):
    rng = np.random.default_rng(D)
    lower = np.tril(rng.normal(size=(K, D, D)), -1) + 0.5 * np.eye(D)
    given = (rng.normal(size=(K, D)), lower, rng.uniform(1.5, 9.0, size=K))
    kind = gaussian.Gaussian if family is gaussian.FULL else student.Student
    return kind(*map(jnp.asarray, given[: len(kind._fields)]))


@pytest.mark.parametrize("D", [2, 4])
@pytest.mark.parametrize("family", [gaussian.FULL, student.FULL], ids=lambda family: family.name)
def test_the_score_is_the_gradient_of_q(family, D):
    rng = np.random.default_rng(7)
    rows, weights = rng.normal(size=(D, N)), rng.uniform(size=(K, N))

    def both(parameters, rows, weights, pattern):
        prepared = family.prepare(parameters, pattern)
        sums = family.accumulate(prepared, rows, weights, None)
        assert isinstance(sums, gaussian.FeatureSums) == (family is gaussian.FULL)
        if pattern is not None and family.complete:
            sums = family.complete(prepared, sums)
        statistics = family.finish(prepared, sums)
        slope = jax.grad(lambda p: jnp.sum(family.expected_log_prob(p, statistics)))
        return family.score(prepared, sums), slope(parameters)

    for pattern in (None, jnp.asarray(PATTERN[D])):
        found, exact = compile_lightly(both)(parameters_of(family, D), rows, weights, pattern)
        for one, other in zip(found, exact, strict=True):
            rounding = 1e-12 * float(jnp.abs(other).max())
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=rounding)
