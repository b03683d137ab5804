"""What every form offers, and what several share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma

LogDensity = Callable[[Array], Array]


class Spread(NamedTuple):
    """A density as expectations need it: values of equal weight with its mean of t(v), leading with an
    axis of them; a value in the middle; its entropy, (); is it a density, ()."""

    points: Any
    centre: Any
    entropy: Array
    proper: Array


class Form(Protocol):
    """What every form offers, of one site or of several; see :mod:`bayesmix.families.forms`. A form of
    several sites has a tuple of values, in their order, where others have one."""

    @property
    def name(self) -> str:
        """Name shown in a plan."""

    @property
    def parts(self) -> tuple[SiteForm, ...]:
        """The form of each site given the others."""

    def read(self, log_density: Any, value: Any) -> Any:
        """Coefficients, from a few derivatives of a log density about a value."""

    def mode(self, c: Any, value: Any) -> tuple[Any, Array]:
        """The mode, and is it one; where it is not, the value or what is next to a mode."""

    def sample(self, rng_key: Any, c: Any) -> Any:
        """A draw."""

    def spread(self, c: Any) -> Spread:
        """What expectations need of the density."""

    def moments(self, c: Any) -> tuple[Any, Any]:
        """Mean and variance of each entry; infinite or NaN where they do not exist."""

    def distribution(self, c: Any) -> Any:
        """NumPyro's distribution, or None where it has none."""

    def looking_at(self, c: Any, log_density: Any) -> Any:
        """The coefficients with the log density that they were read from, for forms that look at it
        again to draw and for moments; with None, arrays alone."""

    def terms(self, log_density: Any, anchor: Any, groups: int, log_prior: Any = None) -> Any:
        """Coefficients that add up, leading with groups; with `log_prior`, those of all factors."""

    def added(self, c: Any) -> tuple[Any, ...]:
        """The arrays of coefficients that add up."""

    def with_added(self, c: Any, arrays: tuple[Any, ...]) -> Any:
        """The same coefficients with other addends."""

    def at_anchor(self, c: Any) -> Array:
        """log q where the coefficients were read, by independent element."""


class SiteForm(Form, Protocol):
    """A form of one site, and what most of them do alike.

    event_axes: how many trailing axes of a value are one element, independent of the others; addends:
    names of the coefficients that add up.
    """

    @property
    def event_axes(self) -> int:
        """No axes, where every number is an element."""
        return 0

    @property
    def addends(self) -> tuple[str, ...]:
        """No names, where the coefficients are one array."""
        return ()

    def points(self, c: Any) -> Array:
        """Values (J, *shape) of equal weight with the density's mean of t(v)."""

    def centre(self, c: Any) -> Array:
        """A value in the middle."""

    def entropy(self, c: Any) -> Array:
        """Of the density in the value's own space, a scalar."""

    def proper(self, c: Any) -> Array:
        """Do the coefficients give a density?"""

    def designs(
        self, value: np.ndarray, rng: np.random.Generator, step: float = 1.0, reach: float = 1.0
    ) -> list[Design]:
        """Designs about a value; real values are moved by about `step`, others in proportion, and both
        as far as `reach` as well, where a link may bend.

        Each block (an element, a vector, a matrix) is moved by itself, all are moved together, and
        random halves together and apart, which shows whether blocks are independent.
        """

    @property
    def parts(self) -> tuple[SiteForm, ...]:
        return (self,)

    def spread(self, c: Any) -> Spread:
        return Spread(self.points(c), self.centre(c), self.entropy(c), self.proper(c))

    def looking_at(self, c: Any, log_density: Any) -> Any:
        return c

    def anchor(self, value: Array) -> Array:
        """Where to read coefficients that are to be added: anywhere, but at one place."""
        return value

    def lead(self, c: Any, groups: int) -> Any:
        """Coefficients whose arrays all lead with the first axis of the value, of so many entries."""
        return c

    def terms(self, log_density: Any, anchor: Any, groups: int, log_prior: Any = None) -> Any:
        return self.lead(self.read(log_density, anchor), groups)

    def added(self, c: Any) -> tuple[Any, ...]:
        return tuple(getattr(c, name) for name in self.addends) or (c,)

    def with_added(self, c: Any, arrays: tuple[Any, ...]) -> Any:
        if not self.addends:
            return arrays[0]
        return c._replace(**dict(zip(self.addends, arrays, strict=True)))


@runtime_checkable
class ScaleForm(SiteForm, Protocol):
    """A form of what may scale a normal, with which it is then one block (:class:`.JointForm`)."""

    def log_size(self, value: Array) -> Array:
        """log|v|, summed."""

    def shift(self, c: Any, powers: Any) -> Any:
        """Multiply the density by |v|^powers."""

    def inverse_centre(self, c: Any) -> Array:
        """The value whose inverse (of v^p, or of the matrix) is the inverse's expectation."""


def symmetric(matrix: Array) -> Array:
    """The symmetric part of a matrix."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def transpose(matrix: Array) -> Array:
    """The last two axes exchanged."""
    return jnp.swapaxes(matrix, -1, -2)


def half_log_determinant(lower: Array) -> Array:
    """log|L L'| / 2."""
    return jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)


def log_less_digamma(x: Array) -> Array:
    """log x - digamma(x), without the cancellation at large x."""
    inverse = 1 / x**2
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))
    return jnp.where(x > 30, 1 / (2 * x) + series, jnp.log(x) - digamma(x))


def either_side(gap: Array) -> Array:
    """Two numbers (2, ...) of mean one, whose logs have the mean -gap."""
    larger = 1 + jnp.sqrt(-jnp.expm1(-2 * gap))
    return jnp.stack([larger, jnp.exp(-2 * gap) / larger])


# ------------------------------------------------------------------------------------------ designs
STEPS = np.array([-1.0, -0.6, -0.3, 0.0, 0.2, 0.5, 0.8, 1.0])
_CONTRAST = np.array([[1.0, -1.0, -1.0, 1.0]])
_BLOCKS_TRIED = 2


class Design(NamedTuple):
    """Values (M, ...) and combinations (R, M) with `combinations @ log_density(values) = 0`."""

    points: np.ndarray
    combinations: np.ndarray


def annihilator(columns: np.ndarray) -> np.ndarray:
    """Rows spanning the combinations of M values that vanish on every column of (M, C)."""
    columns = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    sizes = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(sizes > 0, sizes, 1.0)
    left, singular, _ = np.linalg.svd(scaled)
    rank = int(np.sum(singular > 1e-10 * singular[0]))
    return left[:, rank:].T


def halves(
    value: np.ndarray, moved: np.ndarray, batch: tuple[int, ...], rng: np.random.Generator
) -> list[Design]:
    """Moving half of the blocks, the other half, and all: the mixed difference must vanish."""
    size = int(np.prod(batch, dtype=int))
    if size < 2:
        return []
    found = []
    for _ in range(3):
        chosen = np.zeros(size, bool)
        chosen[rng.permutation(size)[: max(1, size // 2)]] = True
        mask = chosen.reshape(batch + (1,) * (value.ndim - len(batch)))
        one, other = np.where(mask, moved, value), np.where(mask, value, moved)
        found.append(Design(np.stack([value, one, other, moved]), _CONTRAST))
    return found


def some(batch: tuple[int, ...], rng: np.random.Generator) -> list[tuple[int, ...]]:
    """A few blocks of a value, by their place in its leading axes."""
    size = int(np.prod(batch, dtype=int))
    chosen = rng.permutation(size)[:_BLOCKS_TRIED]
    return [tuple(map(int, np.unravel_index(i, batch))) if batch else () for i in chosen]


def replaced(value: np.ndarray, index: tuple[int, ...], blocks: np.ndarray) -> np.ndarray:
    """Copies of `value` with one block replaced by each of `blocks`."""
    points = np.repeat(value[None], len(blocks), axis=0)
    points[(slice(None), *index)] = blocks  # type: ignore[index]
    return points
