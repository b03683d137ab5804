"""What a program's sites are: the records that a reading is made of, without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpyro.distributions import biject_to

from ..families.collapse import Rule
from .elimination import Graph

Program = Callable[..., Any]


class Plate(NamedTuple):
    """A plate's name, its dimension counted from the right (negative), and its size."""

    name: str
    dim: int
    size: int


class Site(NamedTuple):
    """One named site: its value's shape, prior family, support, plates, event dimensions, whether it is
    a scalar with finitely many values, and whether its entries are dependent (a vector's, say).

    masks: for each layer of masks, outermost first, whether it depends on hidden values (then it belongs
    to the density, and else it says what is missing); bounded: whether the support, or the observed
    value, depends on parameters or on hidden values, so that values outside it are impossible rather
    than wrong.
    """

    name: str
    shape: tuple[int, ...]
    family: str
    support: Any
    plates: tuple[Plate, ...]
    event_ndim: int
    finite: bool = False
    joint: bool = False
    masks: tuple[bool, ...] = ()
    bounded: bool = False

    @property
    def free_shape(self) -> tuple[int, ...]:
        """The shape of the value's unconstrained coordinates."""
        return biject_to(self.support).inverse_shape(self.shape)


class Latent(NamedTuple):
    """A finite latent of every row: its site, the number of its values and the first of them, the
    dimension that it is enumerated in (negative, left of all plates), and whether the program observes
    it (then its value is known in rows where it is there)."""

    site: Site
    size: int
    lowest: int
    dim: int
    observed: bool

    @property
    def name(self) -> str:
        """The name of its site."""
        return self.site.name


class Collapse(NamedTuple):
    """A continuous latent of a row that is integrated out of one observed site, by a rule; `shape` is
    the shape of the value at which the program is looked at."""

    local: str
    observed: str
    rule: Rule
    shape: tuple[int, ...]


class Reading(NamedTuple):
    """The structure of a program: the role of every site.

    `latents` are the finite latents of a row (none, one or several), `graph` says which of them each
    factor of a row depends on. `fixed` names sites outside the rows whose values the program is told (by
    `handlers.condition`, `handlers.substitute` or `obs=`): they are factors of the log joint, not
    parameters. `locals` are continuous latents of a row, `collapsed` says how each is integrated out.
    """

    parameters: tuple[Site, ...]
    latents: tuple[Latent, ...]
    graph: Graph
    observed: tuple[Site, ...]
    deterministic: tuple[Site, ...]
    rows: Plate
    plate_depth: int
    fixed: tuple[str, ...] = ()
    locals: tuple[Site, ...] = ()
    collapsed: tuple[Collapse, ...] = ()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameter sites, in the program's order."""
        return tuple(site.name for site in self.parameters)

    @property
    def data(self) -> tuple[Site, ...]:
        """What the program observes in the rows; last the labels that it knows."""
        return (*self.observed, *(latent.site for latent in self.latents if latent.observed))

    @property
    def factors(self) -> tuple[str, ...]:
        """Observed sites that are a `numpyro.factor`: a density, and no data to draw."""
        return tuple(site.name for site in self.observed if site.family == "Unit")

    @property
    def latent(self) -> Latent | None:
        """The only latent of a row; None where there is none, or several."""
        return self.latents[0] if len(self.latents) == 1 else None

    @property
    def num_components(self) -> int:
        """K: the number of joint values of the latents that a factor depends on, at the most."""
        return max(self.graph.table_sizes)

    @property
    def width(self) -> int:
        """Dimensions of a batch: the plates', and those in which latents are enumerated."""
        return self.plate_depth + max((-x.dim - self.plate_depth for x in self.latents), default=1)
