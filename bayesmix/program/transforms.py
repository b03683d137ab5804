"""Programs made from programs: without priors, and with the latent summed out."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.primitives import Messenger

from .arguments import Arguments, split
from .errors import ProgramError
from .loops import Unrolled
from .observed import Observed
from .plan import Plan
from .problem import Plans, Problem
from .reading import ON_TRACED, Program, to_hold
from .recent import Recent
from .structure import Outside, outside_rows
from .tracing import one_at_a_time

_LAYOUTS = 64  # calls of different shapes that are remembered


class _FlattenPriors(Messenger):
    """Replace the distribution of every unobserved continuous site by a flat one on its support, and
    factors that are priors by 0; not those in the plate of rows, which are no parameters."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample":
            return
        fn = msg["fn"]
        if msg["name"] in self.outside.priors:
            msg["fn"] = dist.Unit(jnp.zeros(fn.batch_shape))
            return
        if msg["is_observed"] or fn.is_discrete:
            return
        if any(frame.name == self.outside.rows for frame in msg["cond_indep_stack"]):
            return
        msg["fn"] = dist.ImproperUniform(fn.support, fn.batch_shape, fn.event_shape)


def without_priors(program: Program) -> Program:
    """The same program with a flat density in place of every parameter's prior: MAP becomes MLE.

    Args:
        program: a NumPyro program.

    Returns:
        A NumPyro program with the same sites and arguments.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> import bayesmix
        >>> x = jnp.array([-3.0, -2.0, 7.0, 8.0])
        >>> fit = bayesmix.EM(bayesmix.without_priors(program)).run(jax.random.key(0), x)
        >>> sorted(fit.parameters["mean"].round(3).tolist())
        [-2.5, 7.5]
    """
    return WithoutPriors(program)


class WithoutPriors:
    """A NumPyro program without priors; made by :func:`without_priors`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._outside = Recent(_LAYOUTS)
        update_wrapper(self, program, updated=())
        self.__name__ = f"{getattr(program, '__name__', 'program')} without priors"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = split(args, kwargs)

        def outside() -> Outside:
            with _Isolated():
                return _outside_rows(Unrolled(self.program), arguments)

        with one_at_a_time, _FlattenPriors(self._outside.get(arguments.layout, outside)):
            return self.program(*args, **kwargs)


def _outside_rows(program: Program, arguments: Arguments) -> Outside:
    try:
        return outside_rows(program, arguments)
    except ON_TRACED as failure:
        return outside_rows(program, arguments.hold(to_hold(program, arguments, failure)))


class Marginal:
    """A NumPyro program with the latent summed out; made by :func:`marginalize`."""

    def __init__(self, program: Program | Plan | Plans) -> None:
        self.plans = program if isinstance(program, Plans) else Plans(program)
        self.__name__ = f"{getattr(self.plans.program, '__name__', 'program')}, latent summed out"

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for these arguments; read once per layout."""
        with one_at_a_time, _Isolated():
            return self.plans.call(args, kwargs).plan

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with one_at_a_time:
            self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> None:
        plan = self.plan(*args, **kwargs)
        problem = Problem(plan, plan.call(args, kwargs))
        with _Isolated():
            observed = problem.observe()
            problem = problem.at(plan.arrange(observed))
        visible = _Parameters(plan)
        # a latent that is being traced indexes no array of NumPy's
        args, kwargs = problem.arguments.call()
        with visible:
            plan.program(*args, **kwargs)
        # compiled, since samplers also call programs outside jit
        total = problem.compiled(Problem.log_likelihood, fully=True)
        by_row = problem.compiled(Problem.log_evidence, fully=True)
        given = problem.arguments, problem.blocks, visible.values
        with _Isolated():
            intermediates = [total(*given)]
        name, value = _data(plan, observed)
        rows = RowDensity(by_row, given, value, weighted=observed.weight is not None)
        with (
            _Intermediates(intermediates),
            numpyro.plate(plan.reading.rows.name, observed.num_rows, dim=-1),
        ):
            numpyro.sample(name, rows, obs=value)


def _data(plan: Plan, observed: Observed) -> tuple[str, Any]:
    """The name and the value of the site that stands for all data of the rows: where there are several,
    their columns side by side."""
    given = observed.given
    sites = [site.name for site in plan.reading.data]
    if len(sites) == 1:
        return sites[0], given[sites[0]]
    columns = [jnp.reshape(given[name], (observed.num_rows, -1)) for name in sites]
    return "+".join(sites), jnp.concatenate(columns, axis=1)


class RowDensity(dist.Distribution):
    """The density of the rows of one call with the latents summed out, at parameter values.

    It belongs to the data that it was made with. `log_prob(value)` has an entry for each row, (N,), as
    ArviZ needs them; with `intermediates` it is their sum, which NumPyro's samplers need, and whose
    gradient goes through statistics.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("_given",)
    pytree_aux_fields = ("_by_row", "_weighted")

    def __init__(self, by_row: Any, given: Any, value: Any, weighted: bool) -> None:
        self._by_row, self._given, self._weighted = by_row, given, weighted
        super().__init__(jnp.shape(value)[:1], jnp.shape(value)[1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Any numbers, and NaN where something is missing."""
        return dist.constraints.independent(dist.constraints.real, self.event_dim)

    def _validate_sample(self, value: Any) -> Any:
        return jnp.ones(self.batch_shape, bool)  # data were looked at when the program was read

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """log p(x_i) of each row, or the sum over the rows with their weights."""
        if intermediates:
            return intermediates[0]
        if self._weighted:
            raise ProgramError(
                "rows have weights (handlers.scale), of which a log likelihood by row knows nothing: "
                "use bayesmix.to_arviz, which has an entry for each of a row's copies"
            )
        return self._by_row(*self._given)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Rows are not drawn from here."""
        raise ProgramError(
            "data are not drawn with the latent summed out; draw them from the program itself, or take "
            "the group posterior_predictive of bayesmix.to_arviz"
        )


class _Intermediates(Messenger):
    """Hand the site inside its intermediate results."""

    def __init__(self, intermediates: list[Any]) -> None:
        self.intermediates = intermediates
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            msg["intermediates"] = self.intermediates


class _Isolated(Messenger):
    """Hide everything inside from handlers outside: a program run on the side."""

    def process_message(self, msg: dict[str, Any]) -> None:
        msg["stop"] = True


class _Parameters(Messenger):
    """Let parameters through to the handlers outside, note their values, and hide the rows' sites."""

    def __init__(self, plan: Plan) -> None:
        reading = plan.reading
        self.names = {site.name for site in reading.parameters}
        self.hidden = {site.name for site in reading.observed}
        self.latents = {latent.name for latent in reading.latents}
        self.hidden |= self.latents
        self.hidden |= {site.name for site in reading.locals}
        self.told = set(reading.fixed)
        self.rows = reading.rows.name
        self.values: dict[str, Any] = {}
        self.derived: dict[str, Any] = {}
        self.shapes = {site.name: site.shape for site in reading.deterministic}
        super().__init__()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "prng_key":
            return
        if isinstance(msg["value"], np.ndarray):
            msg["value"] = jnp.asarray(msg["value"])  # so that a traced latent can index it
        in_rows = any(frame.name == self.rows for frame in msg.get("cond_indep_stack", ()))
        if msg["name"] in self.told:
            msg["is_observed"] = True  # what is substituted inside is no parameter outside
        if msg["name"] in self.hidden:
            msg["stop"] = True
            # any value in the support will do: what follows from it is hidden as well
            fn = msg["fn"]
            if msg["name"] in self.latents:  # known labels too: those that are NaN index nothing
                msg["value"] = fn.enumerate_support(expand=True)[0]
            elif msg["value"] is None:
                msg["value"] = fn.support.feasible_like(jnp.zeros(fn.shape()))
        elif msg["type"] == "deterministic" and in_rows:
            msg["stop"] = True

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg.get("name") in self.names:
            self.values[msg["name"]] = msg["value"]


def marginalize(program: Program | Plan) -> Callable[..., None]:
    """A NumPyro program with the same parameters and the latent summed out, for NUTS, SVI and others.

    Its log density is log p(theta) + sum_i w_i log sum_k p(z_i = k | theta) p(x_i | z_i = k, theta). Its
    gradient is the expected complete score (Fisher's identity), so a gradient costs what the value costs
    and stores nothing per row. The data are one site, in the plate of rows and named after the data
    (`x+y` where the rows have two sites), so that `numpyro.infer.log_likelihood`, and with it
    `arviz.from_numpyro`, finds one log likelihood for each row; where rows have weights
    (`handlers.scale`), it is refused, and :func:`bayesmix.to_arviz` serves.

    Args:
        program: a NumPyro program (or a plan of one) with one finite latent per row.

    Returns:
        A NumPyro program with the same arguments. The latent comes back from draws of the parameters:
        see :func:`bayesmix.to_arviz`.

    Raises:
        ProgramError: when called, where the program cannot be read.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer.util import log_density
        >>> import bayesmix
        >>> def program(x):
        ...     mean = numpyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     with numpyro.plate("rows", x.shape[0]):
        ...         z = numpyro.sample("z", dist.Bernoulli(0.5))
        ...         numpyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)
        >>> value, trace = log_density(
        ...     bayesmix.marginalize(program), (jnp.zeros(2),), {}, {"mean": jnp.zeros(2)}
        ... )
        >>> round(float(value), 4)  # four standard normal densities at 0
        -3.6758
    """
    return Marginal(program)
