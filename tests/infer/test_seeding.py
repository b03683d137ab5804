"""What seeds are chosen by: the columns of sites whose components have one density for all rows."""

import numpy as np
import pytest

from bayesmix.infer.starts import seeding_rows
from tests.fixed import bernoulli, experts, fit_of, normal, student


@pytest.mark.parametrize(
    ("program", "columns"), [(normal, 3), (student, 2), (bernoulli, 4), (experts, 2)]
)
def test_all_columns_tell_but_those_of_a_regression(program, columns):
    fit = fit_of(program)
    observed = fit.plan.observe(fit.arguments)
    blocks = fit.plan.arrange(observed)
    (points,) = seeding_rows(fit.plan, fit.arguments, blocks, observed).points
    assert points.shape == (observed.num_rows, columns)
    assert np.isfinite(points).all()
