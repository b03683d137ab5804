"""The pictures of the report, each with a caption that says what to look for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from .. import plots
from ..plots.draws import has_replications, has_traces
from .sections import framed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .result import Comparison

_MOST_LATENTS = 6
Job = tuple[str, str, Callable[[], "Figure"]]  # name, caption, how to draw it


def pictures(comparison: Comparison) -> str:
    """Draw every picture that the comparison has something for."""
    parts = (_of_answers, _of_rows, _of_predictions, _of_draws, _of_modes)
    jobs = [job for part in parts for job in part(comparison)]
    if not jobs:
        return ""
    return framed("Pictures", *(_picture(name, text, draw()) for name, text, draw in jobs))


def _picture(name: str, caption: str, figure: Figure) -> str:
    """A figure as a PNG inside the page, with its caption."""
    code = base64.b64encode(plots.figure_png(figure)).decode("ascii")
    return (
        f'<figure>\n<img alt="{escape(name)}" src="data:image/png;base64,{code}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def _latents(comparison: Comparison) -> list[str]:
    return [n for result in list(comparison.engines.values())[:1] for n in result.by_latent]


def _of_answers(comparison: Comparison) -> Iterator[Job]:
    engines = comparison.engines
    if engines and len(_latents(comparison)) < 2:
        gaussian = any(result.covariances is not None for result in engines.values())
        caption = (
            "Rows in the colour of their most probable component, with the density of the engines"
            + (" and the components' ellipses or curves" if gaussian else "")
            + "; look for rows that no component covers and for a component that covers few rows."
        )
        yield "Density", caption, partial(plots.plot_density, comparison)
    if comparison.parameters:
        caption = "Point estimates, component by component, each panel in its own units."
        if any(result.draws is not None for result in engines.values()):
            caption = (
                "Open markers are point estimates, filled ones posterior means with their 94% "
                "interval; a point far from the middle of its interval says that the mode doesn't "
                "stand for the mass."
            )
        yield "Estimates", caption, partial(plots.plot_parameters, comparison)


def _of_rows(comparison: Comparison) -> Iterator[Job]:
    latents = _latents(comparison)
    several = len(latents) > 1
    for latent in latents[:_MOST_LATENTS]:
        caption = (
            f"{latent + ': each' if several else 'Each'} vertical bar is one row's responsibilities; "
            "mixed bars are rows that belong to no component for sure, and the curves below say by "
            "how much."
        )
        chosen = latent if several else None
        draw = partial(plots.plot_responsibilities, comparison, latent=chosen)
        yield "Responsibilities", caption, draw


def _of_predictions(comparison: Comparison) -> Iterator[Job]:
    if comparison.calibration:
        caption = (
            "Each curve should stay in the grey band and wander about zero; a steep rise in the "
            "middle says that predictions are too wide, a steep fall that they are too narrow, a hump "
            "or a dip that they lie too high or too low."
        )
        yield "Calibration", caption, partial(plots.plot_calibration, comparison)
    if has_replications(comparison):
        caption = (
            "Light is replicated from the fitted model, dark is the data; a dark line outside the "
            "light ones, or a p-value near 0 or 1, is something that the model can't produce."
        )
        yield "Predictive check", caption, partial(plots.plot_predictive_check, comparison)


def _of_draws(comparison: Comparison) -> Iterator[Job]:
    for name, result in comparison.engines.items():
        if has_traces(result):
            caption = (
                f"{name}: where colours change places at the left the labels switched; at the "
                "right each colour should keep to its own band."
            )
            yield f"Draws of {name}", caption, partial(plots.plot_traces, comparison, name)


def _of_modes(comparison: Comparison) -> Iterator[Job]:
    engines = comparison.engines.values()
    if any(r.objective is not None and np.size(r.objective) for r in engines):
        caption = (
            "The objective of EM may never fall; the straighter and steeper the line at the right, "
            "the faster it converged."
        )
        yield "Climb of EM", caption, partial(plots.plot_objective, comparison)
    if any(result.modes for result in engines):
        caption = (
            "How many starts ended at each mode, the best on top; few starts at the best mode call "
            "for more restarts."
        )
        yield "Modes", caption, partial(plots.plot_modes, comparison)
