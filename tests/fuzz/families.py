"""Families of observed sites for composed programs: how each is written, and data for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .grammar import Composer, Hidden

    Write = Callable[[Composer, list[Hidden], str], str]

Rng = np.random.Generator


class Family(NamedTuple):
    """How a site is written (source text of its distribution) and what is observed.

    `event`: axes of one row's value; `regression`: needs a covariate; `gaps`: cells may be missing.
    """

    name: str
    write: Write
    data: Callable[[Rng, int], np.ndarray]
    event: int = 0
    regression: bool = False
    gaps: bool = True


def _reals(rng: Rng, n: int) -> np.ndarray:
    return np.round(2 * rng.normal(size=n), 2)


def _angles(rng: Rng, n: int) -> np.ndarray:
    return np.round(rng.uniform(-3.0, 3.0, n), 2)


def _vectors(rng: Rng, n: int) -> np.ndarray:
    return np.round(2 * rng.normal(size=(n, 2)), 2)


def _positives(rng: Rng, n: int) -> np.ndarray:
    return np.round(rng.gamma(2.0, 1.0, n) + 0.05, 2)


def _shares(rng: Rng, n: int) -> np.ndarray:
    return np.round(rng.uniform(0.05, 0.95, n), 2)


def _counts(rng: Rng, n: int) -> np.ndarray:
    return rng.poisson(2.0, n)


def _bits(rng: Rng, n: int) -> np.ndarray:
    return rng.integers(0, 2, n)


def _entry(
    c: Composer, prefix: str, parents: list[Hidden], kind: str, d: tuple[int, ...] = ()
) -> str:
    """A parameter by component, or one for all."""
    if c.chance(0.2):
        c.word("tied")
        return c.table(prefix, [], d, kind)
    return c.pick(c.table(prefix, parents, d, kind), parents, len(d))


def _location(c: Composer, parents: list[Hidden], d: tuple[int, ...] = ()) -> str:
    if not d and len(parents) == 1 and c.chance(0.1):
        c.word("arithmetic")
        low, gap = c.table("mean", [], (), "real"), c.table("gap", [], (), "real")
        return f"({low} + {gap} * {parents[0].index})"
    return _entry(c, "mean", parents, "real", d)


def _scale(c: Composer, parents: list[Hidden], d: tuple[int, ...] = ()) -> str:
    kind = c.word(c.choose("fixed scale", "scale", "variance", "precision", "standard"))
    if kind in ("fixed scale", "standard"):
        return "0.8" if kind == "fixed scale" else "1.0"
    entry = _entry(c, "spread", parents, "positive", d)
    return {
        "scale": entry,
        "variance": f"jnp.sqrt({entry})",
        "precision": f"(1 / jnp.sqrt({entry}))",
    }[kind]


def _normal(c: Composer, parents: list[Hidden], u: str) -> str:
    return f"dist.Normal({_location(c, parents)}, {_scale(c, parents)})"


def _line(c: Composer, parents: list[Hidden], u: str) -> str:
    slope, at = _entry(c, "slope", parents, "real"), _location(c, parents)
    return f"dist.Normal({at} + {slope} * {u}, {_scale(c, parents)})"


def _columns(c: Composer, parents: list[Hidden], u: str) -> str:
    return f"dist.Normal({_location(c, parents, (2,))}, {_scale(c, parents, (2,))}).to_event(1)"


def _multivariate(c: Composer, parents: list[Hidden], u: str) -> str:
    at = _location(c, parents, (2,))
    kind = c.word(c.choose("covariance", "fixed covariance", "precision matrix"))
    if kind == "fixed covariance":
        return f"dist.MultivariateNormal({at}, jnp.array([[1.0, 0.3], [0.3, 0.8]]))"
    name, latent = f"matrix{c.tables}", parents[0]
    c.tables += 1
    form = "InverseWishart" if kind == "covariance" else "Wishart"
    c.priors += [
        f'with numpyro.plate("{name}_components", {latent.size}):',
        f'    {name} = numpyro.sample("{name}", dist.{form}(5.0, jnp.eye(2)))',
    ]
    key = "covariance_matrix" if kind == "covariance" else "precision_matrix"
    return f"dist.MultivariateNormal({at}, {key}={name}[{latent.index}])"


def _one(form: str, *kinds: tuple[str, str]) -> Write:
    """A family whose parameters are entries of tables."""

    def write(c: Composer, parents: list[Hidden], u: str) -> str:
        return form.format(*(_entry(c, prefix, parents, kind) for prefix, kind in kinds))

    return write


def _log_link(c: Composer, parents: list[Hidden], u: str) -> str:
    return f"dist.Poisson(jnp.exp(0.3 * {_location(c, parents)} + 0.3 * {u}))"


def _categorical(c: Composer, parents: list[Hidden], u: str) -> str:
    if c.chance(0.3):
        c.word("logits of categories")
        return f"dist.Categorical(logits={_entry(c, 'logits', parents, 'real', (3,))})"
    return f"dist.Categorical({_entry(c, 'probs', parents, 'simplex', (3,))})"


def _multinomial(c: Composer, parents: list[Hidden], u: str) -> str:
    return f"dist.Multinomial(4, probs={_entry(c, 'probs', parents, 'simplex', (3,))})"


def _ordinal(c: Composer, parents: list[Hidden], u: str) -> str:
    return f"dist.OrderedLogistic({_location(c, parents)} * {u}, jnp.array([-0.5, 0.8]))"


REAL, POSITIVE, UNIT = ("mean", "real"), ("rate", "positive"), ("share", "unit")

FAMILIES = (
    Family("Normal", _normal, _reals),
    Family("Normal line", _line, _reals, regression=True),
    Family("Normal columns", _columns, _vectors, event=1),
    Family("MultivariateNormal", _multivariate, _vectors, event=1),
    Family("StudentT", _one("dist.StudentT(4.0, {0}, {1})", REAL, POSITIVE), _reals),
    Family("Laplace", _one("dist.Laplace({0}, 0.9)", REAL), _reals),
    Family("Cauchy", _one("dist.Cauchy({0}, {1})", REAL, POSITIVE), _reals),
    Family("Logistic", _one("dist.Logistic({0}, 1.0)", REAL), _reals),
    Family("Poisson", _one("dist.Poisson({0})", POSITIVE), _counts),
    Family("Poisson line", _log_link, _counts, regression=True),
    Family("Exponential", _one("dist.Exponential({0})", POSITIVE), _positives),
    Family("Gamma", _one("dist.Gamma({0}, {1})", POSITIVE, POSITIVE), _positives),
    Family("InverseGamma", _one("dist.InverseGamma(3.0, {0})", POSITIVE), _positives),
    Family("LogNormal", _one("dist.LogNormal({0}, {1})", REAL, POSITIVE), _positives),
    Family("Weibull", _one("dist.Weibull({0}, 1.5)", POSITIVE), _positives),
    Family("HalfNormal", _one("dist.HalfNormal({0})", POSITIVE), _positives),
    Family("Beta", _one("dist.Beta({0}, {1})", POSITIVE, POSITIVE), _shares),
    Family("VonMises", _one("dist.VonMises({0}, {1})", REAL, POSITIVE), _angles),
    Family("Bernoulli", _one("dist.Bernoulli({0})", UNIT), _bits),
    Family("Bernoulli logits", _one("dist.Bernoulli(logits={0})", REAL), _bits),
    Family("Binomial", _one("dist.Binomial(3, {0})", UNIT), lambda r, n: r.integers(0, 4, n)),
    Family("Geometric", _one("dist.Geometric({0})", UNIT), _counts),
    Family(
        "NegativeBinomial", _one("dist.NegativeBinomial2({0}, {1})", POSITIVE, POSITIVE), _counts
    ),
    Family(
        "BetaBinomial",
        _one("dist.BetaBinomial({0}, {1}, 3)", POSITIVE, POSITIVE),
        lambda r, n: r.integers(0, 4, n),
    ),
    Family("ZeroInflated", _one("dist.ZeroInflatedPoisson({0}, {1})", UNIT, POSITIVE), _counts),
    Family("Categorical", _categorical, lambda r, n: r.integers(0, 3, n)),
    Family(
        "Multinomial",
        _multinomial,
        lambda r, n: r.multinomial(4, [0.3, 0.3, 0.4], n),
        event=1,
        gaps=False,
    ),
    Family("Ordinal", _ordinal, lambda r, n: r.integers(0, 3, n), regression=True),
    Family(
        "Uniform",
        _one("dist.Uniform(-9.0, 9.0 + {0})", POSITIVE),
        lambda r, n: np.round(r.uniform(-4, 4, n), 2),
    ),
)
