"""Methods of relabelling, and the functions that they are made of, under one name.

A method goes to :func:`bayesmix.relabel`, :func:`bayesmix.label_switching` or
:func:`bayesmix.compare_relabellings`, or is called with :class:`LabelledDraws`, plain arrays of any
sampler, and returns permutations (S, K).

>>> import numpy as np
>>> draws = LabelledDraws(allocations=np.array([[0, 0, 1], [1, 1, 0]]), num_components=2)
>>> ECR(pivot=0)(draws).tolist()
[[0, 1], [1, 0]]
"""

from .posterior.labelled_draws import LabelledDraws, draws_by_dim
from .posterior.relabelling_comparison import agreement, applicable_methods
from .posterior.relabelling_confidence import confidence
from .posterior.relabelling_iterative import (
    DataBased,
    IterativeECR,
    OnlineStephens,
    RunningAverage,
    Stephens,
    as_drawn,
    stephens_loss,
    stephens_online,
)
from .posterior.relabelling_methods import (
    ECR,
    PRA,
    OrderBy,
    Pivot,
    best_draw,
    drawn_labels,
    label_probabilities,
    medoid,
    raw_units,
    within_spread,
)

__all__ = [
    "ECR",
    "PRA",
    "DataBased",
    "IterativeECR",
    "LabelledDraws",
    "OnlineStephens",
    "OrderBy",
    "Pivot",
    "RunningAverage",
    "Stephens",
    "agreement",
    "applicable_methods",
    "as_drawn",
    "best_draw",
    "confidence",
    "drawn_labels",
    "draws_by_dim",
    "label_probabilities",
    "medoid",
    "raw_units",
    "stephens_loss",
    "stephens_online",
    "within_spread",
]
