"""The plan: what a NumPyro program says, read once, and how each engine will treat every site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random

from ..families.forms import base_support
from ..families.likelihoods import Family
from . import rows as row_pass
from .arguments import Arguments, compile_lightly, split, take_rows
from .conjugacy import Conditional, random_points, recognise
from .evaluate import Evaluation, Values, enumerated_trace, evaluate, family_of
from .labels import Labels, find_labels
from .links import describe_links
from .reading import (
    Program,
    ProgramError,
    Reading,
    check_data,
    observed_values,
    read,
)

_PROBE_ROWS = 32


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that the engines need to know about a program, and nothing about its data.

    Attributes:
        program: the NumPyro program.
        reading: sites and their roles.
        families: for each observed site, the family whose statistics stand for its rows, or None.
        blocks: the parameters' conditionals, in the order in which engines visit them.
        certificates: for each parameter, its largest departure from a closed form (below 1 passes)
            and the factor that departs most.
        labels: axes that carry component labels, and whether the prior is exchangeable.
        links: for each observed site, how its mean and covariance follow from the parameters.
        by_row: whether some factor differs from row to row, so that no K statistics suffice.

    `print(plan)` explains the program.
    """

    program: Program
    reading: Reading
    families: dict[str, Family | None]
    blocks: tuple[Conditional, ...]
    certificates: dict[str, tuple[float, str]]
    labels: Labels
    links: dict[str, tuple[str, str]]
    by_row: bool

    # ------------------------------------------------------------------ densities, all to be jitted
    def evaluate(self, arguments: Arguments, values: Values) -> Evaluation:
        """Every factor of the log joint at parameter `values`."""
        return evaluate(self.program, self.reading, self.families, arguments, values)

    def blocks_of_rows(self, arguments: Arguments) -> row_pass.Blocks:
        """The observed rows, arranged once for any number of passes."""
        names = tuple(self.families)
        observed = observed_values(self.program, arguments, names)
        return self.arrange(observed)

    def check(self, arguments: Arguments) -> None:
        """Raise :class:`ProgramError` where the observed values of a call hold NaN or infinities."""
        known = [a for a in arguments.arrays if not isinstance(a, jax.core.Tracer)]
        if all(np.all(np.isfinite(np.asarray(a))) for a in known if _is_float(a)):
            return
        reading, observed = read(self.program, arguments)
        check_data(reading, observed)

    def arrange(self, observed: Values) -> row_pass.Blocks:
        """Observed values of each site as blocks of rows."""
        return row_pass.arrange(
            self.families, observed, self.reading.num_components, whole=self.by_row
        )

    def log_prior(self, evaluation: Evaluation) -> Array:
        """log p(theta), in the constrained space (no Jacobian)."""
        return sum(evaluation.prior.values(), jnp.zeros(()))

    def log_likelihood(self, arguments: Arguments, values: Values) -> Array:
        """sum_i log p(x_i | theta) with the latent summed out, a scalar."""
        evaluation = self.evaluate(arguments, values)
        return row_pass.log_likelihood(self.families, evaluation, self.blocks_of_rows(arguments))

    def log_joint_table(self, arguments: Arguments, values: Values) -> Array:
        """log p(x_i, z_i = k | theta) for every row, shape (K, N)."""
        evaluation = self.evaluate(arguments, values)
        return row_pass.log_joint_table(self.families, evaluation, self.blocks_of_rows(arguments))

    def expected_log_joint(
        self, arguments: Arguments, statistics: row_pass.Statistics
    ) -> Callable[[Values], Array]:
        """Q(theta) + log p(theta) as a function of theta, at fixed statistics."""

        # under jit the program is traced once, however often a conditional is read from it
        @jax.jit
        def log_joint(values: Values) -> Array:
            evaluation = self.evaluate(arguments, values)
            factors = row_pass.expected_factors(self.families, evaluation, statistics)
            return sum(factors.values(), self.log_prior(evaluation))

        return log_joint

    # --------------------------------------------------------------------------------- for a reader
    @property
    def label_dim(self) -> str:
        """The name of the dimension that counts components: a plate's, or 'component'."""
        for site in self.reading.parameters:
            axis = self.labels.axes.get(site.name)
            batch = len(site.shape) - site.event_ndim
            for plate in site.plates:
                if axis is not None and batch + plate.dim == axis:
                    return plate.name
        return "component"

    def dims(self, name: str) -> tuple[str, ...]:
        """Names for each axis of a parameter or deterministic site: plates, labels, then its own."""
        reading = self.reading
        site = next(s for s in (*reading.parameters, *reading.deterministic) if s.name == name)
        names = [f"{name}_dim_{axis}" for axis in range(len(site.shape))]
        batch = len(site.shape) - site.event_ndim
        for plate in site.plates:
            names[batch + plate.dim] = plate.name
        if name in self.labels.axes:
            names[self.labels.axes[name]] = self.label_dim
        return tuple(names)

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


def plan_arguments(program: Program, arguments: Arguments) -> Plan:
    """As :func:`plan`, for arguments already split into arrays and static ones."""
    # a sampler may ask for a plan from inside its own transformations: step out of them
    if any(isinstance(a, jax.core.Tracer) for a in arguments.arrays):
        raise ProgramError(
            "a program is read on real data, and these are being traced by a JAX transformation; "
            "make the plan first and pass it in the program's place: bayesmix.plan(program, ...)"
        )
    with jax.core.eval_context():
        reading, observed = read(program, arguments)
        check_data(reading, observed)
        # numpyro's argument checks would refuse the off-simplex points that label tests visit
        with jax.enable_x64(True), dist.distribution.validation_enabled(False):
            found = _probe(program, reading, _few_rows(arguments, reading))
            if (
                found is None
            ):  # a column may be constant over the few rows, and a prior scaled by it
                found = _probe(program, reading, arguments)
        if found is None:
            raise ProgramError(
                "the log joint of the program is not finite at ordinary parameter values; look for a "
                "prior scaled by a constant column, or a matrix that is not positive definite"
            )
        return found


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.floating)


def _few_rows(arguments: Arguments, reading: Reading) -> Arguments:
    """The call on some of the rows, spread over all, and in double precision: structure does not depend
    on how many there are."""
    wide = tuple(
        a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
        for a in (jnp.asarray(np.asarray(a)) for a in arguments.arrays)
    )
    arguments = arguments._replace(arrays=wide)
    size = reading.rows.size
    keep = max(_PROBE_ROWS, 4 * max((s.shape[-1] for s in reading.observed if s.shape), default=1))
    if size <= 2 * keep:
        return arguments
    chosen = np.sort(np.random.default_rng(0).permutation(size)[:keep])
    return take_rows(arguments, size, chosen)


def _probe(program: Program, full: Reading, arguments: Arguments) -> Plan | None:
    reading, observed = read(program, arguments)
    arrays = arguments.arrays

    def call(arrays: tuple[Array, ...]) -> Arguments:
        return arguments._replace(arrays=arrays)

    families: dict[str, Family | None] = {}

    def evaluated(values: Values, arrays: tuple[Array, ...] = arrays) -> Evaluation:
        return evaluate(program, reading, families, call(arrays), values)

    def prepare(arrays: tuple[Array, ...], rng_key: Array) -> tuple[Values, Any]:
        """Random points and statistics; on the way, each observed site's family."""
        points = random_points(reading.parameters, rng_key)
        first = jax.tree.map(lambda x: x[0], points)
        sites = enumerated_trace(program, reading, call(arrays), first)
        families.update({s.name: family_of(sites[s.name], reading) for s in reading.observed})
        values = {s.name: sites[s.name]["value"] for s in reading.observed}

        def statistics(point: Values, key: Array) -> row_pass.Statistics:
            return _random_statistics(families, evaluated(point, arrays), values, reading, key)

        keys = random.split(rng_key, len(jax.tree.leaves(points)[0]))
        return points, jax.vmap(statistics)(points, keys)

    try:
        points, statistics = jax.tree.map(
            np.asarray, compile_lightly(prepare)(arrays, random.key(2))
        )
    except ProgramError:
        raise
    except Exception as error:
        raise ProgramError(
            f"the program does not run with latent '{reading.latent.name}' enumerated "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); index tables with it along a "
            "leading axis (mean[z]), or with Vindex when there is more than one index"
        ) from error

    def factors(values: Values, statistics: row_pass.Statistics) -> dict[str, Array]:
        evaluation = evaluated(values)
        found = {f"the prior of {name}": value for name, value in evaluation.prior.items()}
        expected = row_pass.expected_factors(families, evaluation, statistics)
        for name, value in expected.items():
            found[f"the likelihood of {name or reading.latent.name}"] = value
        return found

    if not _finite(factors, points, statistics):
        return None
    recognition = recognise(reading.parameters, factors, points, statistics)
    point = {name: value[0] for name, value in points.items()}
    return Plan(
        program=program,
        reading=full,
        families=families,
        blocks=recognition.blocks,
        certificates=recognition.certificates,
        labels=_labels(reading, families, evaluated, observed, point),
        links=_links(families, evaluated, point, reading),
        by_row=_by_row(families, evaluated, point),
    )


def _finite(factors: Any, points: Values, statistics: Any) -> bool:
    """Is some probe finite in every factor? (A support may have corners that probes fall into.)"""
    found = compile_lightly(jax.vmap(factors))(points, statistics)
    return bool(np.isfinite(np.stack([np.asarray(v) for v in found.values()])).all(axis=0).any())


def _by_row(
    families: dict[str, Family | None],
    evaluated: Callable[[Values], Evaluation],
    point: Values,
) -> bool:
    latent = jax.eval_shape(evaluated, point).latent
    return latent.ndim > 1 or any(family is None for family in families.values())


def _random_statistics(
    families: dict[str, Family | None],
    evaluation: Evaluation,
    observed: Values,
    reading: Reading,
    rng_key: Array,
) -> row_pass.Statistics:
    """Valid statistics at unit scale: random weights over random rows."""
    weight_key, row_key = random.split(rng_key)
    size, count = reading.num_components, reading.rows.size
    weights = random.uniform(weight_key, (size, count), minval=0.05)
    moments = {}
    for i, site in enumerate(reading.observed):
        name, family = site.name, families[site.name]
        if family is None:
            continue
        arranged = family.arrange(jnp.asarray(observed[name]))
        real = base_support(site.support)
        if real == dist.constraints.real or real == dist.constraints.real_vector:
            arranged = random.normal(random.fold_in(row_key, i), arranged.shape)
        prepared = family.prepare(evaluation.components[name])
        moments[name] = family.finish(prepared, family.accumulate(prepared, arranged, weights))
    return row_pass.Statistics(jnp.sum(weights, axis=1), moments, weights)


def _labels(
    reading: Reading,
    families: dict[str, Family | None],
    evaluated: Callable[[Values], Evaluation],
    observed: Values,
    point: Values,
) -> Labels:
    blocks = row_pass.arrange(families, observed, reading.num_components, whole=True)

    @compile_lightly
    def look(values: Values) -> tuple[Array, Array, Array, Values]:
        evaluation = evaluated(values)
        latent = evaluation.latent
        joint = row_pass.log_joint_table(families, evaluation, blocks)
        latent = latent[:, None] if latent.ndim == 1 else latent
        log_prior = sum(evaluation.prior.values(), jnp.zeros(()))
        latent = jnp.broadcast_to(latent, joint.shape)
        return latent, joint - latent, log_prior, evaluation.deterministic

    def derive(values: Values) -> Values:
        return {name: np.asarray(value) for name, value in look(values)[3].items()}

    values = {site.name: point[site.name] for site in reading.parameters}
    unit = dist.constraints.unit_interval
    shares = tuple(s.name for s in reading.parameters if base_support(s.support) == unit)
    return find_labels(lambda v: look(v)[:2], lambda v: look(v)[2], derive, values, shares)


def _links(
    families: dict[str, Family | None],
    evaluated: Callable[[Values], Evaluation],
    point: Values,
    reading: Reading,
) -> dict[str, tuple[str, str]]:
    known = {name: family for name, family in families.items() if family is not None}

    @compile_lightly
    def moments(values: Values) -> dict[str, tuple[Array, Array]]:
        components = evaluated(values).components
        return {name: family.moments(components[name]) for name, family in known.items()}

    def one(name: str) -> tuple[str, str]:
        return describe_links(lambda values: moments(values)[name], point, reading.latent.name)

    return {name: one(name) for name in known}
