"""Exponential-family likelihoods from one builder, :func:`exponential_family`.

    log p(x | k) = sum_f c_f(theta_k) t_f(x) + h(x)

with features t_f and base h of the data, and coefficients c_f of the parameters. One feature is as a
rule the constant 1, its coefficient minus the log normaliser. All is then products of matrices: log
densities are c t + h, statistics are w t', and Q is the sum of c times these (h is a constant).

Cells of an event are independent, with features of their own. In a missing cell all of them are zero,
the constant one too: it is integrated out, and costs no code. Infinite coefficients (log 0) and features
have a finite stand-in, so that 0 log 0 is 0 and an impossible value has a log density near -1e30.

Source: Barndorff-Nielsen (1978), *Information and Exponential Families in Statistical Theory*, Wiley,
chapter 8; Brown (1986), *Fundamentals of Statistical Exponential Families*, IMS, chapter 1.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from .columns import COLUMNS
from .likelihoods import Family, Lead, register
from .peel import Peeled

# Stands for infinity: times 0 it is 0, and sums of many still fit into single precision.
_INFINITE = 1e30


class FeatureRows(NamedTuple):
    """Features (F, N), zero in missing cells, and each row's base (N,)."""

    features: Array
    base: Array


# -------------------------------------------------------------------------------------- the builder
def exponential_family(
    name: str,
    parameter_names: tuple[str, ...],
    *,
    features: Callable[[Array], Any],
    coefficients: Callable[..., Any],
    moments: Callable[..., tuple[Any, Any]],
    base: Callable[[Array], Any] = lambda x: 0.0,
    read: Callable[[Any], tuple[Any, ...]] | None = None,
    parameter_axes: tuple[int, ...] | None = None,
    value_axes: int = 0,
) -> Family:
    """A family with log p(x | k) = sum_f coefficients_f(parameters of k) features_f(x) + base(x).

    The event's cells become D columns; D is 1 where an event is one cell.

    - ``features(x)`` with x (D, N): a tuple of F arrays like x, or numbers.
    - ``coefficients(*parameters)`` with parameters (K, D): a tuple of F arrays like these, or numbers.
    - ``base(x)``: like x; zero unless given.
    - ``moments(*parameters)``: mean and variance of a cell, each (K, D).
    - ``read(distribution)``: a tuple of the parameters as the NumPyro distribution has them; unless
      given, its attributes of these names.

    Where a parameter has axes of its own (the probabilities of a categorical), `parameter_axes` says how
    many for each parameter, and the parameter is (K, D, *own). Where a cell's value has (counts of a
    multinomial), `value_axes` says how many: x is (C, D, N), base is (D, N), the moments are (K, D, C)
    and (K, D, C, C), and a cell is there when all its entries are. Features and coefficients may also be
    one array with the F parts along its first axis.

    Values that are zero with a probability of their own, for instance:

    >>> family = exponential_family(
    ...     "exponential columns with zeros",
    ...     ("gate", "rate"),
    ...     features=lambda x: (x == 0, x > 0, x),
    ...     coefficients=lambda gate, rate: (jnp.log(gate), jnp.log1p(-gate) + jnp.log(rate), -rate),
    ...     moments=lambda gate, rate: ((1 - gate) / rate, (1 - gate**2) / rate**2),
    ... )
    >>> prepared = family.prepare((jnp.array([[0.25], [0.5]]), jnp.array([[2.0], [1.0]])), None)
    >>> rows = family.arrange(jnp.array([0.0, 1.0, 2.0]), jnp.array([True, True, False]))
    >>> jnp.exp(family.log_prob(prepared, rows)).round(3).tolist()  # (K, N)
    [[0.250, 0.203, 1.000], [0.500, 0.184, 1.000]]
    >>> family.accumulate(prepared, rows, jnp.ones((2, 3)), None).tolist()  # (K, F)
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    axes = (0,) * len(parameter_names) if parameter_axes is None else parameter_axes
    make = namedtuple("Parameters", parameter_names)  # type: ignore[misc]

    if read is None:
        read = lambda distribution: tuple(getattr(distribution, each) for each in parameter_names)

    def parameters(peeled: Peeled, lead: Lead) -> Any:
        found = zip(read(peeled.base), axes, strict=True)
        return make(*(_led(array, own, peeled, lead) for array, own in found))

    def prepare(parameters: Any, pattern: Array | None = None) -> Array:
        shape = parameters[0].shape[:2]
        parts = _stacked(coefficients(*parameters), shape, parameters[0].dtype)
        return jnp.moveaxis(parts, 0, 1).reshape(shape[0], -1)  # (K, F), in the order of `_arrange`

    return Family(
        name=name,
        parameter_names=parameter_names,
        parameters=parameters,
        arrange=functools.partial(_arrange, features, base, value_axes),
        prepare=prepare,
        log_prob=_log_prob,
        accumulate=_accumulate,
        finish=lambda prepared, sums: sums,
        expected_log_prob=lambda parameters, sums: jnp.sum(prepare(parameters) * sums, -1),
        moments=functools.partial(_moments, moments, value_axes),
        entries=lambda components, cells, fits: cells,
    )


def _float(array: Any) -> Array:
    return jnp.asarray(array, jnp.result_type(array, float))


def _led(array: Any, own_axes: int, peeled: Peeled, lead: Lead) -> Array:
    """One parameter, brought to (K, D, *own)."""
    array = _float(array)
    event_ndim = peeled.reinterpreted + own_axes
    array = array.reshape((1,) * (event_ndim - array.ndim) + array.shape)
    led = lead(array, event_ndim)
    cells = peeled.event_shape[: peeled.reinterpreted]
    own = led.shape[1 + peeled.reinterpreted :]
    led = jnp.broadcast_to(led, (led.shape[0], *cells, *own))
    return led.reshape(led.shape[0], math.prod(cells), *own)


def _turned(value: Array, own_axes: int) -> Array:
    """(N, *event) as (*own, D, N)."""
    event = value.shape[1:]
    cells, own = event[: len(event) - own_axes], event[len(event) - own_axes :]
    flat = value.reshape(value.shape[0], math.prod(cells), *own)
    return jnp.moveaxis(flat, (0, 1), (-1, -2))


def _stacked(parts: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """F parts as one array (F, *shape) of finite numbers."""
    if isinstance(parts, tuple):
        parts = jnp.stack([jnp.broadcast_to(part, shape) for part in parts])
    return jnp.clip(jnp.asarray(parts, dtype), -_INFINITE, _INFINITE)


def _arrange(features: Any, base: Any, own_axes: int, value: Any, present: Any) -> FeatureRows:
    x = _turned(_float(value), own_axes)
    cells = x.shape[own_axes:]
    parts = _stacked(features(x), cells, x.dtype)
    constants = jnp.broadcast_to(jnp.asarray(base(x), x.dtype), cells)
    if present is not None:
        there = jnp.all(_turned(jnp.asarray(present), own_axes), axis=tuple(range(own_axes)))
        parts, constants = jnp.where(there, parts, 0), jnp.where(there, constants, 0)
    return FeatureRows(parts.reshape(-1, cells[-1]), jnp.sum(constants, axis=0))


# accelerators multiply single precision with fewer digits unless told otherwise
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _log_prob(prepared: Array, rows: FeatureRows) -> Array:
    return _product(prepared, rows.features) + rows.base


def _accumulate(prepared: Array, rows: FeatureRows, weights: Array, rng_key: Array | None) -> Array:
    # missing cells have no features: there is nothing to expect or to draw
    return _product(weights, rows.features.T)


def _moments(moments: Callable[..., Any], own_axes: int, parameters: Any) -> tuple[Array, Array]:
    """Mean (K, D C) and covariance (K, D C, D C), whose blocks are the cells'."""
    size, cells = parameters[0].shape[:2]
    mean, spread = map(jnp.asarray, moments(*parameters))
    if own_axes == 0:
        mean = jnp.broadcast_to(mean, (size, cells))[..., None]
        spread = jnp.broadcast_to(spread, (size, cells))[..., None, None]
    # not a product with the identity: variances may be infinite
    same = jnp.eye(cells, dtype=bool)[:, None, :, None]
    covariance = jnp.where(same, spread[:, :, :, None, :], 0)
    mean = mean.reshape(size, -1)
    return mean, covariance.reshape(*mean.shape, -1)


# --------------------------------------------------------------------------------- known parameters
def known(array: Any, peeled: Peeled) -> np.ndarray | None:
    """A parameter (D, 1) that is the same for all components and rows and in every call, or None.

    Only Python and NumPy numbers count: what has passed through JAX may be a parameter or data.

    >>> counts = dist.Binomial(total_count=np.array([5, 8]), probs=jnp.full((3, 1, 2), 0.5))
    >>> known(counts.total_count, Peeled(counts, 1, (2,))).tolist()
    [[5.0], [8.0]]
    """
    if not isinstance(array, (int, float, np.ndarray, np.generic)):
        return None
    value = np.asarray(array, float)
    shape = value.shape[max(0, value.ndim - peeled.reinterpreted) :]
    if value.size != math.prod(shape):
        return None
    return np.broadcast_to(value.reshape(shape), peeled.event_shape).reshape(-1, 1)


def where_known(
    attribute: str, build: Callable[[np.ndarray], Family]
) -> Callable[[Peeled], Family | None]:
    """What to register where an attribute has to be :func:`known`: `build` gets its value (D, 1).

    Elsewhere no family is chosen, and the density is evaluated row by row.

    >>> from .likelihoods import lookup
    >>> lookup(Peeled(dist.Binomial(4, jnp.array([0.2, 0.7])), 0)).name
    'binomial columns'
    >>> lookup(Peeled(dist.Binomial(jnp.array([4, 5]), 0.5), 0)) is None
    True
    """

    def choose(peeled: Peeled) -> Family | None:
        value = known(getattr(peeled.base, attribute), peeled)
        if value is None:
            return None
        family = build(value)

        def parameters(later: Peeled, lead: Lead) -> Any:
            # rows are arranged with the value that the plan saw; another one needs another plan
            now = known(getattr(later.base, attribute), later)
            if now is None or not np.array_equal(now, value):
                raise ValueError(
                    f"{attribute} is not what the program was planned with ({value.ravel().tolist()}); "
                    "make a new plan for these arguments"
                )
            return family.parameters(later, lead)

        return family._replace(parameters=parameters)

    return choose


def _register(choice: Family | Callable[[Peeled], Family | None], *types: type) -> None:
    """Register a family, or what chooses one, for NumPyro distributions."""
    for each in types:
        register(each, (lambda peeled: choice) if isinstance(choice, Family) else choice)


# ------------------------------------------------------------------------------------------- outcomes
def _log(p: Array) -> Array:
    """log p with the stand-in for log 0; its gradient there is 0, not NaN."""
    there = p >= jnp.finfo(p.dtype).tiny
    return jnp.where(there, jnp.log(jnp.where(there, p, 1)), -_INFINITE)


def _log_p_q(distribution: Any) -> tuple[Array, Array]:
    """log p and log (1 - p) of a success, from the logits, the probability or the gamma's rate."""
    given = distribution.arg_constraints
    if "logits" in given:
        logits = _float(distribution.logits)
        return jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    if "probs" not in given:
        rate = _float(distribution.rate)
        return -jnp.log1p(rate), -jnp.log1p(1 / rate)
    p = _float(distribution.probs)
    log_q = jnp.log1p(-jnp.where(p < 1, p, 0))
    return _log(p), jnp.where(p < 1, log_q, -_INFINITE)


def _log_probs(distribution: Any) -> Array:
    """Log probabilities of C categories, from logits or probabilities."""
    if "logits" in distribution.arg_constraints:
        return jax.nn.log_softmax(_float(distribution.logits))
    return _log(_float(distribution.probs))


# features: the number of successes, and of failures; p and q below are logs of probabilities
_successes_and_failures = functools.partial(
    exponential_family,
    parameter_names=("log_p", "log_q"),
    read=_log_p_q,
    coefficients=lambda p, q: (p, q),
)


def _binomial(total: np.ndarray) -> Family:
    """Successes among `total` (D, 1) trials."""
    return _successes_and_failures(
        "binomial columns",
        features=lambda x: (x, total - x),
        base=lambda x: gammaln(total + 1) - gammaln(x + 1) - gammaln(total - x + 1),
        moments=lambda p, q: (total.T * jnp.exp(p), total.T * jnp.exp(p + q)),
    )


def _negative_binomial(total: np.ndarray) -> Family:
    """Successes before `total` (D, 1) failures, which need not be whole."""
    return _successes_and_failures(
        "negative binomial columns",
        features=lambda x: (x, total),
        base=lambda x: gammaln(x + total) - gammaln(x + 1) - gammaln(total),
        moments=lambda p, q: (total.T * jnp.exp(p - q), total.T * jnp.exp(p - 2 * q)),
    )


def _categorical(peeled: Peeled) -> Family:
    """One feature for each of C categories; moments are those of the category's number."""
    given = "logits" if "logits" in peeled.base.arg_constraints else "probs"
    numbers = np.arange(jnp.shape(getattr(peeled.base, given))[-1])

    def moments(log_probs: Array) -> tuple[Array, Array]:
        probs = jnp.exp(log_probs)
        mean = jnp.sum(probs * numbers, axis=-1)
        return mean, jnp.sum(probs * (numbers - mean[..., None]) ** 2, axis=-1)

    return exponential_family(
        "categorical columns",
        ("log_probs",),
        read=lambda distribution: (_log_probs(distribution),),
        features=lambda x: x == numbers[:, None, None],
        coefficients=lambda log_probs: jnp.moveaxis(log_probs, -1, 0),
        moments=moments,
        parameter_axes=(1,),
    )


def _multinomial_moments(log_probs: Array, total: Array) -> tuple[Array, Array]:
    probs, total = jnp.exp(log_probs), total[..., None]
    diagonal = probs[..., None] * jnp.eye(probs.shape[-1])
    return total * probs, total[..., None] * (diagonal - probs[..., None] * probs[..., None, :])


# the number of trials is in the data, and may differ from row to row; moments are at its mean
MULTINOMIAL = exponential_family(
    "multinomial counts",
    ("log_probs", "total_count"),
    read=lambda found: (_log_probs(found), jnp.mean(_float(found.total_count))),
    features=lambda x: x,
    coefficients=lambda log_probs, total: jnp.moveaxis(log_probs, -1, 0),
    base=lambda x: gammaln(jnp.sum(x, 0) + 1) - jnp.sum(gammaln(x + 1), 0),
    moments=_multinomial_moments,
    parameter_axes=(1, 0),
    value_axes=1,
)
BERNOULLI = _successes_and_failures(
    "Bernoulli columns",
    features=lambda x: (x, 1 - x),
    moments=lambda p, q: (jnp.exp(p), jnp.exp(p + q)),
)
GEOMETRIC = _successes_and_failures(  # failures before one success
    "geometric columns",
    features=lambda x: (1, x),
    moments=lambda p, q: (jnp.exp(q - p), jnp.exp(q - 2 * p)),
)
POISSON = exponential_family(
    "Poisson columns",
    ("rate",),
    features=lambda x: (1, x),
    coefficients=lambda rate: (-rate, _log(rate)),
    base=lambda x: -gammaln(x + 1),
    moments=lambda rate: (rate, rate),
)
_register(BERNOULLI, dist.BernoulliProbs, dist.BernoulliLogits)
_register(where_known("total_count", _binomial), dist.BinomialProbs, dist.BinomialLogits)
_register(_categorical, dist.CategoricalProbs, dist.CategoricalLogits)
_register(MULTINOMIAL, dist.MultinomialProbs, dist.MultinomialLogits)
_register(GEOMETRIC, dist.GeometricProbs, dist.GeometricLogits)
_register(POISSON, dist.Poisson)
_register(
    where_known("concentration", _negative_binomial),
    *(dist.NegativeBinomialProbs, dist.NegativeBinomialLogits),
    *(dist.NegativeBinomial2, dist.GammaPoisson),
)


# ------------------------------------------------------------------------------------ positive values
def _inverse_gamma_moments(a: Array, b: Array) -> tuple[Array, Array]:
    mean = jnp.where(a > 1, b / (a - 1), jnp.inf)
    return mean, jnp.where(a > 2, mean**2 / (a - 2), jnp.inf)


EXPONENTIAL = exponential_family(
    "exponential columns",
    ("rate",),
    features=lambda x: (1, x),
    coefficients=lambda rate: (jnp.log(rate), -rate),
    moments=lambda rate: (1 / rate, 1 / rate**2),
)
GAMMA = exponential_family(
    "gamma columns",
    ("concentration", "rate"),
    features=lambda x: (1, jnp.log(x), x),
    coefficients=lambda a, b: (a * jnp.log(b) - gammaln(a), a - 1, -b),
    moments=lambda a, b: (a / b, a / b**2),
)
INVERSE_GAMMA = exponential_family(
    "inverse gamma columns",
    ("concentration", "rate"),
    features=lambda x: (1, jnp.log(x), 1 / x),
    coefficients=lambda a, b: (a * jnp.log(b) - gammaln(a), -a - 1, -b),
    moments=_inverse_gamma_moments,
)
BETA = exponential_family(
    "beta columns",
    ("concentration1", "concentration0"),
    features=lambda x: (1, jnp.log(x), jnp.log1p(-x)),
    # JAX's betaln errs in the seventh digit
    coefficients=lambda a, b: (gammaln(a + b) - gammaln(a) - gammaln(b), a - 1, b - 1),
    moments=lambda a, b: (a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))),
)
HALF_NORMAL = exponential_family(
    "half-normal columns",
    ("scale",),
    features=lambda x: (1, x**2),
    coefficients=lambda s: (math.log(2 / math.pi) / 2 - jnp.log(s), -1 / (2 * s**2)),
    moments=lambda s: (math.sqrt(2 / math.pi) * s, (1 - 2 / math.pi) * s**2),
)
_register(EXPONENTIAL, dist.Exponential)
_register(GAMMA, dist.Gamma, dist.Chi2)
_register(INVERSE_GAMMA, dist.InverseGamma)
_register(BETA, dist.Beta, dist.BetaProportion)
_register(HALF_NORMAL, dist.HalfNormal)


def _log_normal_arrange(value: Any, present: Any) -> tuple[Any, Array]:
    """The logs, arranged as normal columns, and minus their sum by row (N,)."""
    logs = jnp.log(_float(value))
    there = logs if present is None else jnp.where(jnp.asarray(present), logs, 0)
    return COLUMNS.arrange(logs, present), -jnp.sum(there, axis=tuple(range(1, there.ndim)))


def _log_normal_moments(parameters: Any) -> tuple[Array, Array]:
    location, scale = parameters
    mean, growth = jnp.exp(location + scale**2 / 2), jnp.expm1(scale**2)
    return mean, (growth * mean**2)[..., None] * jnp.eye(mean.shape[-1])


# Not by sums of log x and its square, which cancel for tight clusters: those of normal columns do not.
LOG_NORMAL = COLUMNS._replace(
    name="log-normal columns",
    parameter_names=("loc", "scale"),
    arrange=_log_normal_arrange,
    log_prob=lambda prepared, rows: COLUMNS.log_prob(prepared, rows[0]) + rows[1],
    accumulate=lambda prepared, rows, *rest: COLUMNS.accumulate(prepared, rows[0], *rest),
    moments=_log_normal_moments,
)
_register(LOG_NORMAL, dist.LogNormal)
