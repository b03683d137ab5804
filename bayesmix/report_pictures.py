"""The pictures of the report, each with a caption that says what to look for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bayesmix import plots
from bayesmix.plots.draws import has_replications, has_traces

from .report_html import picture, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayesmix.plots.common import Comparison
_MOST_LATENTS = 6


def pictures(comparison: Comparison) -> str:
    """Draw every picture that the comparison has something for."""
    engines = comparison.engines
    gaussian = any(result.covariances is not None for result in engines.values())
    latents = list(next(iter(engines.values())).by_latent)[:_MOST_LATENTS] if engines else []
    several = len(latents) > 1
    jobs: list[tuple[str, str, Callable[[], Figure]]] = []
    if engines and not several:
        caption = (
            "Rows in the colour of their most probable component, with the density of the engines"
            + (" and the components' ellipses or curves" if gaussian else "")
            + "; look for rows that no component covers and for a component that covers few rows."
        )
        jobs.append(("Density", caption, lambda: plots.plot_density(comparison)))
    if comparison.parameters:
        caption = "Point estimates, component by component, each panel in its own units."
        if any(result.draws is not None for result in engines.values()):
            caption = (
                "Open markers are point estimates, filled ones posterior means with their 94% "
                "interval; a point far from the middle of its interval says that the mode doesn't "
                "stand for the mass."
            )
        jobs.append(("Estimates", caption, lambda: plots.plot_parameters(comparison)))
    for latent in latents:
        caption = (
            f"{latent + ': each' if several else 'Each'} vertical bar is one row's responsibilities; "
            "mixed bars are rows that belong to no component for sure, and the curves below say by "
            "how much."
        )
        draw = partial(plots.plot_responsibilities, comparison, latent=latent if several else None)
        jobs.append(("Responsibilities", caption, draw))
    if comparison.calibration:
        caption = (
            "Each curve should stay in the grey band and wander about zero; a steep rise in the "
            "middle says that predictions are too wide, a steep fall that they are too narrow, a hump "
            "or a dip that they lie too high or too low."
        )
        jobs.append(("Calibration", caption, lambda: plots.plot_calibration(comparison)))
    if has_replications(comparison):
        caption = (
            "Light is replicated from the fitted model, dark is the data; a dark line outside the "
            "light ones, or a p-value near 0 or 1, is something that the model can't produce."
        )
        jobs.append(("Predictive check", caption, lambda: plots.plot_predictive_check(comparison)))
    for name, result in engines.items():
        if has_traces(result):
            caption = (
                f"{name}: where colours change places at the left the labels switched; at the "
                "right each colour should keep to its own band."
            )
            jobs.append(
                (f"Draws of {name}", caption, lambda name=name: plots.plot_traces(comparison, name))  # type: ignore[misc]
            )
    if any(r.objective is not None and np.size(r.objective) for r in engines.values()):
        caption = (
            "The objective of EM may never fall; the straighter and steeper the line at the right, "
            "the faster it converged."
        )
        jobs.append(("Climb of EM", caption, lambda: plots.plot_objective(comparison)))
    if any(result.modes for result in engines.values()):
        caption = (
            "How many starts ended at each mode, the best on top; few starts at the best mode call "
            "for more restarts."
        )
        jobs.append(("Modes", caption, lambda: plots.plot_modes(comparison)))
    if not jobs:
        return ""
    return section("Pictures", *(picture(name, text, draw()) for name, text, draw in jobs))
