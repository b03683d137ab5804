"""Pictures of a comparison, and of a fit; each function returns a `matplotlib.figure.Figure`.

A component has one colour in every picture, safe with colour blindness, so engines must number
their components alike. Save a picture with ``figure.savefig("name.png")``; a notebook shows the
returned figure by itself. matplotlib is imported when the first picture is drawn.
In the examples `comparison` is what :func:`bayesmix.compare` returns.

>>> figure = plot_density(comparison)
>>> figure.axes[0].get_xlabel()
'column a'
"""

from .bound import plot_bound
from .calibration import plot_calibration
from .common import (
    component_colors,
    ellipse_points,
    figure_png,
    kernel_density,
    mass_levels,
)
from .density import draw_clusters, draw_ellipses, plot_density
from .distortion import plot_distortion
from .draws import (
    draw_replications,
    draw_trace,
    plot_predictive_check,
    plot_traces,
    predictive_p_value,
)
from .estimates import (
    plot_parameters,
    plot_responsibilities,
    responsibility_image,
    sorted_rows,
)
from .labels import plot_agreement, plot_similarity, plot_switched_pairs
from .search import plot_modes, plot_objective
from .strategies import plot_search, plot_strategies

__all__ = [
    "component_colors",
    "draw_clusters",
    "draw_ellipses",
    "draw_replications",
    "draw_trace",
    "ellipse_points",
    "figure_png",
    "kernel_density",
    "mass_levels",
    "plot_agreement",
    "plot_bound",
    "plot_calibration",
    "plot_density",
    "plot_distortion",
    "plot_modes",
    "plot_objective",
    "plot_parameters",
    "plot_predictive_check",
    "plot_responsibilities",
    "plot_search",
    "plot_similarity",
    "plot_strategies",
    "plot_switched_pairs",
    "plot_traces",
    "predictive_p_value",
    "responsibility_image",
    "sorted_rows",
]
