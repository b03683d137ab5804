"""How a run ended, as a value with a sentence and a remedy."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome of a fit; truthy only where it converged.

    `status.sentence` says what happened, `status.remedy` what to do about it.

    >>> bool(Status.CONVERGED), bool(Status.NOT_FINITE)
    (True, False)
    """

    RUNNING = 0
    CONVERGED = 1
    OUT_OF_STEPS = 2
    OBJECTIVE_FELL = 3
    NOT_FINITE = 4
    COMPONENT_EMPTY = 5
    COVARIANCE_SINGULAR = 6
    AT_BOUNDARY = 7
    SYMMETRIC_START = 8
    ROUNDING = 9
    GATE_WITHOUT_BOUND = 10
    CLIMB_STUCK = 11
    COMPONENTS_COINCIDE = 12

    def __bool__(self) -> bool:
        return self is Status.CONVERGED

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        return _TEXTS[self][0]

    @property
    def remedy(self) -> str:
        """What to do about it; empty where nothing needs doing."""
        return _TEXTS[self][1]

    def __str__(self) -> str:
        return " ".join(text for text in (self.sentence, self.remedy) if text)


_TEXTS = {
    Status.RUNNING: ("The run has not ended.", ""),
    Status.CONVERGED: ("Converged: the estimated gain still to come is below the tolerance.", ""),
    Status.OUT_OF_STEPS: (
        "Stopped at the largest number of steps before converging.",
        "Raise max_steps (of OnlineEM num_passes), or loosen tolerance.",
    ),
    Status.OBJECTIVE_FELL: (
        "The objective fell by more than rounding, which EM never does.",
        "Run in double precision (numpyro.enable_x64()); if it persists, report it as a bug.",
    ),
    Status.NOT_FINITE: (
        "The objective became infinite or NaN; the last finite parameters are returned.",
        "Give the covariances a prior, lower the number of components, or use double precision.",
    ),
    Status.COMPONENT_EMPTY: (
        "A component explains no row, so its parameters are not determined by the data.",
        "Lower the number of components, or give its parameters a prior.",
    ),
    Status.COVARIANCE_SINGULAR: (
        "A component has shrunk onto rows that leave its covariance singular: the likelihood is "
        "unbounded there, and this is no estimate.",
        "Give the covariances a prior (inverse Wishart or inverse gamma), or use more restarts.",
    ),
    Status.AT_BOUNDARY: (
        "A parameter has reached the boundary of its support (a weight of zero, say): there is no "
        "interior mode, and where the prior density is infinite there, no largest value at all.",
        "Use a prior that vanishes at the boundary (a Dirichlet concentration or beta shapes above 1, a "
        "gamma or log-normal), lower the number of components, or draw from the posterior instead.",
    ),
    Status.ROUNDING: (
        "Stopped where rounding hides any further gain: a step lost less than the square root of the "
        "machine's precision, and was not taken.",
        "The columns are nearly collinear, or their scales far apart: drop or rescale some, or use "
        "double precision.",
    ),
    Status.GATE_WITHOUT_BOUND: (
        "A gate has grown so steep that the data no longer bound its slope: covariates separate the "
        "components, and the likelihood rises for ever.",
        "Give the gate's coefficients a prior (a normal one, say), or lower the number of components.",
    ),
    Status.CLIMB_STUCK: (
        "A site without a closed form could not be moved, though the slope of the objective promises "
        "more than the tolerance: this is no mode.",
        "Bring the data and covariates to ordinary size, give initial values (init) or more restarts, "
        "or name another climber (m_step).",
    ),
    Status.COMPONENTS_COINCIDE: (
        "Two components have become the same: they explain every row equally.",
        "Use more restarts, give initial values (init), or lower the number of components; where an "
        "ordered prior is highest at a tie, use one that is not, or none and relabel.",
    ),
    Status.SYMMETRIC_START: (
        "Every component explains every row equally, and EM cannot tell them apart from there.",
        "Give initial values that differ between components, or none.",
    ),
}
