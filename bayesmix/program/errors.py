"""What can be wrong with a program or its data, said in one sentence with the cure."""

from __future__ import annotations


class ProgramError(ValueError):
    """A program that cannot be read, or data that it cannot take; the message names the cure."""


class PytreeParameter(ProgramError):
    """A `numpyro.param` site holds a pytree; see :mod:`bayesmix.program.modules`."""


class MarginalMixture(ProgramError):
    """An observed site is a mixture with its latent summed out; see :mod:`bayesmix.program.mixtures`."""
