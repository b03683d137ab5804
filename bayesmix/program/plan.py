"""The plan: what a NumPyro program says, read once, and how each engine will treat every site."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..families.augmented import Statistic
from ..families.likelihoods import Family
from .arguments import Arguments, Layout, on_device, shapes_of, split
from .blocks import Blocks, arrange
from .certificate import Certificate
from .compiling import compile_lightly
from .conjugacy import Conditional
from .devices import mesh_of
from .elimination import Graph
from .errors import ProgramError
from .evaluate import Evaluation, Values, evaluate
from .labels import Labels
from .locals import collapse
from .loops import Unrolled
from .mixtures import Opened
from .modules import read_arrays
from .observed import (
    Observed,
    check_alike,
    check_cells,
    check_components,
    check_numbers,
    check_seen,
    tidy,
)
from .probe import few_rows, probe
from .reading import (
    ON_TRACED,
    Program,
    Reading,
    Site,
    described,
    look,
    observe,
    structure_of,
    to_hold,
)
from .recent import Recent
from .specialise import Specialised, specialise
from .tracing import unchecked

# what a plan remembers for different engines and shapes
_MADE = 256


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that the engines need to know about a program, and nothing about its data.

    Attributes:
        program: the NumPyro program, its scans unrolled and its marginal mixtures opened.
        reading: sites and their roles.
        certificate: how far densities were from NumPyro's own where the reading was certified.
        families: for each observed site, the family whose statistics stand for its rows, or None.
        blocks: the parameters' conditionals, in the order in which engines visit them.
        certificates: for each parameter, its largest departure from a closed form (below 1 passes)
            and the factor that departs most.
        labels: axes that carry component labels, and whether the prior is exchangeable.
        links: for each observed site, how its mean and covariance follow from the parameters.
        by_row: whether some factor differs from row to row, so that no K statistics suffice.
        points: ordinary values of every parameter, leading with a few draws: where closed forms were
            certified, and where fits start from.
        gaps: whether the rows that the plan was made from had missing cells or known labels.
        held: places of the arguments that the program reads in Python (see :mod:`.held`).

    `print(plan)` explains the program.
    """

    program: Program
    reading: Reading
    certificate: Certificate
    families: dict[str, Statistic]
    blocks: tuple[Conditional, ...]
    certificates: dict[str, tuple[float, str]]
    labels: Labels
    links: dict[str, tuple[str, str]]
    by_row: bool
    points: dict[str, np.ndarray] = field(repr=False)
    gaps: bool = False
    held: frozenset[int] = frozenset()
    _made: Recent = field(default_factory=lambda: Recent(_MADE), init=False, repr=False)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` gave the first time: compiled functions, shared by all engines on this plan."""
        return self._made.get(key, make)

    @property
    def graph(self) -> Graph:
        """The latents of a row, and which of them each factor depends on."""
        return self.reading.graph

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The program's arguments as this plan takes them."""
        return split(args, kwargs).hold(self.held)

    # ------------------------------------------------------------------ densities, all to be jitted
    def evaluate(self, arguments: Arguments, values: Values) -> Evaluation:
        """Every factor of the log joint at parameter `values`."""
        layout = arguments.layout
        if layout.specialised:
            parts, count = self._parts(layout._replace(specialised=False)), len(layout.shapes)
            if parts.fits(values):
                return parts.rest(arguments.arrays[:count], arguments.arrays[count:], values)
        return evaluate(self.program, self.reading, self.families, arguments, values)

    def specialise(self, arguments: Arguments) -> Arguments:
        """The same call with what depends on its arrays alone computed once, for any number of
        evaluations; itself where its arrays are being traced. NumPy's arrays go to the device if
        evaluations need them, and else stay where they are."""
        if arguments.layout.specialised or any(
            isinstance(array, jax.core.Tracer) for array in arguments.arrays
        ):
            return arguments
        with jax.core.eval_context():
            parts = self._parts(arguments.layout)
            known = parts.known(arguments.arrays)
            arrays = (
                on_device(array) if i in parts.needed else array
                for i, array in enumerate(arguments.arrays)
            )
            layout = arguments.layout._replace(specialised=True)
            return Arguments((*arrays, *known), layout)

    def _parts(self, layout: Layout) -> Specialised:
        """The program taken apart into what depends on a call's arrays alone, and the rest."""
        dtype = jnp.result_type(float)

        def make() -> Specialised:
            def every(arrays: tuple[Array, ...], values: Values) -> Evaluation:
                told = Arguments(arrays, layout)
                return evaluate(self.program, self.reading, self.families, told, values)

            arrays = tuple(jax.ShapeDtypeStruct(shape, kind) for shape, kind in layout.shapes)
            values = {s.name: jax.ShapeDtypeStruct(s.shape, dtype) for s in self.reading.parameters}
            parts = specialise(every, arrays, values)
            return parts._replace(known=compile_lightly(parts.known))

        return self.remember(self._place_of_parts(layout, dtype), make)

    def _place_of_parts(self, layout: Layout, dtype: Any) -> Hashable:
        return "specialised", layout, np.dtype(dtype).name

    def observe(self, arguments: Arguments, fitting: bool = False) -> Observed:
        """What a call says of its rows, checked; on the host. More is asked of rows to be fitted.

        Where arrays are being traced nothing can be checked, and what is missing is found when the
        compiled function runs. Vectors that need a whitener for each pattern of missing cells are then
        taken to be whole if the rows that the plan was made from had no gaps, and nothing masks them.

        Raises :class:`ProgramError` naming site, rows and columns that cannot be taken.
        """
        mesh = mesh_of(arguments.arrays)
        if any(isinstance(array, jax.core.Tracer) for array in arguments.arrays):
            if fitting:
                raise ProgramError(
                    "rows are fitted as real numbers, and these are being traced by a JAX "
                    "transformation; fit outside of it (bayesmix.marginalize works inside)"
                )
            grouped = {n for n, f in self.families.items() if isinstance(f, Family) and f.grouped}
            whole = frozenset(grouped if not self.gaps else ())
            return observe(self.program, self.reading, arguments, whole)._replace(mesh=mesh)
        self.check_call(arguments)
        with jax.core.eval_context():
            structure = structure_of(self.reading)
            looking = self.remember(
                ("look", arguments.layout), lambda: look(self.program, arguments, structure)
            )
            observed = tidy(*looking(arguments.arrays))
            check_cells(self.reading, self.families, observed)
            if fitting:
                check_seen(observed)
                check_components(self.labels, observed)
            return observed._replace(mesh=mesh)

    def check_call(self, arguments: Arguments) -> None:
        """Raise :class:`ProgramError` where the program has sites of other shapes with these arguments
        than those that the plan was made from, but for the number of rows."""

        def check() -> None:
            with jax.core.eval_context():
                check_alike(self.reading, lambda: described(self.program, arguments))

        self.remember(("call", arguments.layout), check)

    def arrange(self, observed: Observed, fits: int = 1) -> Blocks:
        """Observed rows as blocks, of which each is visited by so many fits at a time."""
        told = partial(arrange, self.families, observed, self.graph, whole=self.by_row, fits=fits)
        if observed.traced:
            return told()
        with jax.core.eval_context():
            return told()

    # --------------------------------------------------------------------------------- for a reader
    @property
    def num_parameters(self) -> int:
        """The number of free coordinates of all parameters: K - 1 of K weights, D (D + 1) / 2 of a
        covariance matrix."""
        return sum(math.prod(site.free_shape) for site in self.reading.parameters)

    def label_dim(self, latent: str) -> str:
        """The name of the dimension that counts a latent's values: a plate's, or 'component'."""
        group = self.labels.group_of(latent)
        axes = group.axes if group else {}
        for site in self.reading.parameters:
            for axis, plate in self._plate_axes(site).items():
                if axis in axes.get(site.name, ()):
                    return plate
        if len(self.reading.latents) <= 1:
            return "component"
        return f"{group.latents[0] if group else latent}_component"

    def dims(self, name: str) -> tuple[str, ...]:
        """Names for each axis of a parameter or deterministic site: plates, labels, then its own."""
        reading = self.reading
        site = next(s for s in (*reading.parameters, *reading.deterministic) if s.name == name)
        names = [f"{name}_dim_{axis}" for axis in range(len(site.shape))]
        for axis, plate in self._plate_axes(site).items():
            names[axis] = plate
        for group in self.labels.groups:
            for position, axis in enumerate(group.axes.get(name, ())):
                label = self.label_dim(group.latents[0])
                names[axis] = label + ("_next" * position)
        return tuple(names)

    def _plate_axes(self, site: Site) -> dict[int, str]:
        """The axes of a site's value that are plates, with their names.

        How many axes of a deterministic site or a `numpyro.param` are its own, NumPyro does not say: as
        few as leave the plates their sizes; where it carries labels, an axis of theirs is a plate's.
        """
        known = site.event_ndim < len(site.shape)
        trials = [len(site.shape) - site.event_ndim] if known else range(len(site.shape), 0, -1)
        fitting = []
        for batch in trials:
            axes = {batch + plate.dim: plate for plate in site.plates}
            if all(i >= 0 and site.shape[i] in (1, plate.size) for i, plate in axes.items()):
                fitting.append({i: plate.name for i, plate in axes.items()})
        carried = {i for g in self.labels.groups for i in g.axes.get(site.name, ())}
        fitting.sort(key=lambda axes: not carried & set(axes))
        return fitting[0] if fitting else {}

    def __str__(self) -> str:
        """The explanation that `print(plan)` shows."""
        from .explain import explain

        return explain(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def plan(program: Program, *args: Any, **kwargs: Any) -> Plan:
    """Read a NumPyro program once: roles, families, links, closed-form conditionals, label axes.

    The program has one plate of rows with one finite latent in it; its parameters are sample sites
    outside that plate (or `numpyro.param` sites). It is recognised by evaluating it, so that
    `mean[z]`, a one-hot product and `jnp.take` are the same thing, and each closed form is certified:
    log joint minus the claimed log conditional is constant over random points.

    Args:
        program: the NumPyro program.
        *args, **kwargs: its own arguments, as in `numpyro.infer.MCMC.run`.

    Returns:
        A :class:`Plan`; `print` it.

    Raises:
        ProgramError: with one sentence and the cure, where the program cannot be read or its data
            cannot be taken (NaN, more components than rows, no plate, no latent).

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> import bayesmix
        >>> def program(x, K):
        ...     weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0).expand([K]))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Categorical(weights))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> plan = bayesmix.plan(program, jnp.array([0.1, -0.3, 4.0, 5.1]), K=2)
        >>> [(block.site, block.name) for block in plan.blocks]
        [('weights', 'Dirichlet'), ('mean', 'normal')]
    """
    return plan_arguments(program, split(args, kwargs))


def plan_arguments(
    program: Program, arguments: Arguments, held: frozenset[int] = frozenset()
) -> Plan:
    """As :func:`plan`, for arguments already split into arrays and static ones; `held` are the places of
    arguments that are known to have to be held."""
    # a sampler may ask for a plan from inside its own transformations: step out of them
    if any(isinstance(a, jax.core.Tracer) for a in arguments.arrays):
        raise ProgramError(
            "a program is read on real data, and these are being traced by a JAX transformation; "
            "make the plan first and pass it in the program's place: bayesmix.plan(program, ...) "
            "for bayesmix.marginalize, which works inside; fits are made outside"
        )
    program = Opened(Unrolled(program))
    with jax.core.eval_context():
        try:
            read = read_arrays(program, arguments)
        except ProgramError:
            raise
        except ON_TRACED as failure:
            held = to_hold(program, arguments, failure)
            arguments = arguments.hold(held)
            read = read_arrays(program, arguments)
        program, reading, observed, looking = read
        check_seen(observed)
        # numpyro's argument checks would refuse the off-simplex points that label tests visit
        with jax.enable_x64(True), unchecked():
            reading = collapse(program, reading, arguments)
            looked_at = few_rows(program, arguments, reading, observed)
            found = probe(program, *looked_at)
            if found is None:
                # a column may be constant over the few rows, and a prior scaled by it
                looked_at = (arguments, reading, observed)
                found = probe(program, *looked_at)
        if found is None:
            check_numbers(arguments, observed)
            raise ProgramError(
                "the log joint of the program is not finite at ordinary parameter values; look for a "
                "prior scaled by a constant column, or a matrix that is not positive definite"
            )
        check_components(found.labels, observed)
        check_cells(reading, found.families, observed)
        present = observed.present.values()
        gaps = observed.labels is not None or any(there is not None for there in present)
        attributes = found._asdict()
        parts = attributes.pop("parts")
        made = Plan(program, reading, **attributes, gaps=gaps, held=held)
        made.remember(("look", arguments.layout), lambda: looking)
        made.remember(("call", arguments.layout), lambda: None)
        # were all rows looked at, as they are?
        if shapes_of(looked_at[0].arrays) == arguments.layout.shapes:
            made.remember(made._place_of_parts(arguments.layout, np.float64), lambda: parts)
        return made
