"""The plan: what a NumPyro program says, read once, and how each engine will treat every site."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions.distribution import validation_enabled

from ..families.augmented import Statistic
from . import rows as row_pass
from .arguments import Arguments, Layout, compile_lightly, shapes_of, split
from .blocks import Blocks, Observed, arrange
from .certificate import Certificate
from .conjugacy import Conditional
from .devices import mesh_of
from .errors import ProgramError
from .evaluate import Evaluation, Values, evaluate
from .graph import Graph, Tables
from .labels import Labels
from .locals import collapse
from .loops import Unrolled
from .mixtures import Opened
from .modules import read_arrays
from .observed import check_cells, check_components, check_numbers, check_seen, tidy
from .probe import few_rows, probe
from .reading import ON_TRACED, Program, Reading, look, observe, structure_of, to_hold
from .specialise import Specialised, specialise
from .statistics import expected_factors


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
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # compiled functions stay here

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make()` gave the first time: compiled functions, shared by all engines on this plan."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

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
                jnp.asarray(array) if i in parts.needed else array
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

        Raises :class:`ProgramError` naming site, rows and columns that cannot be taken.
        """
        mesh = mesh_of(arguments.arrays)
        if any(isinstance(array, jax.core.Tracer) for array in arguments.arrays):
            return observe(self.program, self.reading, arguments)._replace(mesh=mesh)
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

    def blocks_of_rows(self, arguments: Arguments) -> Blocks:
        """The observed rows, arranged once for any number of passes; not to be called under jit, unless
        the arrays are being traced (then nothing may be missing)."""
        return self.arrange(self.observe(arguments))

    def arrange(self, observed: Observed, fits: int = 1) -> Blocks:
        """Observed rows as blocks, of which each is visited by so many fits at a time."""
        return arrange(self.families, observed, self.graph, whole=self.by_row, fits=fits)

    def log_prior(self, evaluation: Evaluation) -> Array:
        """log p(theta), in the constrained space (no Jacobian)."""
        return sum(evaluation.prior.values(), jnp.zeros(()))

    def log_likelihood(self, arguments: Arguments, blocks: Blocks, values: Values) -> Array:
        """sum_i w_i log p(x_i | theta) with the latent summed out, a scalar."""
        evaluation = self.evaluate(arguments, values)
        return row_pass.log_likelihood(self.graph, self.families, evaluation, blocks)

    def log_factors(self, arguments: Arguments, blocks: Blocks, values: Values) -> Tables:
        """The sum of the log factors of each clique of latents for every row, (K, N)."""
        evaluation = self.evaluate(arguments, values)
        return row_pass.log_factors(self.graph, self.families, evaluation, blocks)

    def expected_log_joint(
        self, arguments: Arguments, statistics: row_pass.Statistics
    ) -> Callable[[Values], Array]:
        """Q(theta) + log p(theta) as a function of theta, at fixed statistics."""

        # under jit the program is traced once, however often a conditional is read from it
        @jax.jit
        def log_joint(values: Values) -> Array:
            evaluation = self.evaluate(arguments, values)
            factors = expected_factors(self.families, evaluation, statistics)
            return sum(factors.values(), self.log_prior(evaluation))

        return log_joint

    # --------------------------------------------------------------------------------- for a reader
    def label_dim(self, latent: str) -> str:
        """The name of the dimension that counts a latent's values: a plate's, or 'component'."""
        group = self.labels.group_of(latent)
        axes = group.axes if group else {}
        for site in self.reading.parameters:
            batch = len(site.shape) - site.event_ndim
            for plate in site.plates:
                if batch + plate.dim in axes.get(site.name, ()):
                    return plate.name
        if len(self.reading.latents) <= 1:
            return "component"
        return f"{group.latents[0] if group else latent}_component"

    def dims(self, name: str) -> tuple[str, ...]:
        """Names for each axis of a parameter or deterministic site: plates, labels, then its own."""
        reading = self.reading
        site = next(s for s in (*reading.parameters, *reading.deterministic) if s.name == name)
        names = [f"{name}_dim_{axis}" for axis in range(len(site.shape))]
        batch = len(site.shape) - site.event_ndim
        for plate in site.plates:
            names[batch + plate.dim] = plate.name
        for group in self.labels.groups:
            for position, axis in enumerate(group.axes.get(name, ())):
                label = self.label_dim(group.latents[0])
                names[axis] = label + ("_next" * position)
        return tuple(names)

    def __str__(self) -> str:
        """The explanation that `print(plan)` shows."""
        from .explain import explain

        return explain(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


class Plans:
    """A program's plans, each read when a layout of arguments first needs it; or the one plan that was
    given in the program's place."""

    def __init__(self, program: Program | Plan) -> None:
        self.given = program if isinstance(program, Plan) else None
        self.program = program.program if isinstance(program, Plan) else program
        self._read: dict[Layout, Plan] = {}

    def __getstate__(self) -> dict[str, Any]:
        # plans hold compiled parts and are read again when needed
        return {**self.__dict__, "given": None, "_read": {}}

    def of(self, arguments: Arguments) -> tuple[Plan, Arguments]:
        """The plan for these arguments, and the arguments as it takes them.

        Raises :class:`ProgramError` as :func:`plan` does.
        """
        if self.given is not None:
            return self.given, arguments.hold(self.given.held)
        found = self._read.get(arguments.layout)
        if found is None or found.held:
            # what is held is part of a plan: another plan serves other values of it
            held = arguments.hold(found.held) if found else arguments
            if held.layout not in self._read:
                made = plan_arguments(self.program, arguments)
                held = arguments.hold(made.held)
                self._read[arguments.layout] = self._read[held.layout] = made
            return self._read[held.layout], held
        return found, arguments


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


def plan_arguments(program: Program, arguments: Arguments) -> Plan:
    """As :func:`plan`, for arguments already split into arrays and static ones."""
    # a sampler may ask for a plan from inside its own transformations: step out of them
    if any(isinstance(a, jax.core.Tracer) for a in arguments.arrays):
        raise ProgramError(
            "a program is read on real data, and these are being traced by a JAX transformation; "
            "make the plan first and pass it in the program's place: bayesmix.plan(program, ...)"
        )
    program = Opened(Unrolled(program))
    with jax.core.eval_context():
        held: frozenset[int] = frozenset()
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
        with jax.enable_x64(True), validation_enabled(False):
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
        # were all rows looked at, as they are?
        if shapes_of(looked_at[0].arrays) == arguments.layout.shapes:
            made.remember(made._place_of_parts(arguments.layout, np.float64), lambda: parts)
        return made
