"""What seeds are chosen by: the columns of sites whose components have one density for all rows."""

import numpy as np

from bayesmix.infer.starts import seeding_rows
from tests.fixed import bernoulli, fit_of


def test_the_columns_of_an_event_made_of_independent_ones_tell_rows_apart():
    fit = fit_of(bernoulli)
    observed = fit.plan.observe(fit.arguments)
    blocks = fit.plan.arrange(observed)
    (points,) = seeding_rows(fit.plan, fit.arguments, blocks, observed).points
    assert points.shape == (observed.num_rows, 4)
    assert np.isfinite(points).all()
