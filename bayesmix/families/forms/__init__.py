"""Conjugate forms: complete conditionals read off a log density by differentiation.

A prior is conjugate to whatever stands below it exactly when the log joint, as a function of that
one unknown ``v``, is linear in the sufficient statistics ``t(v)`` of an exponential family:

    log p(v, everything else) = <c, t(v)> + constant.

A *form* is one such ``t``. It reads the coefficients ``c`` from a few derivatives of the log joint at
the current value, in coordinates scaled by that value, so that tight and wide problems lose nothing to
rounding. Whether the density really is linear in ``t(v)`` is certified when the program is read
(:mod:`bayesmix.program.conjugacy`). The mode (for EM) and a draw (for Gibbs) come from the same ``c``.
Links (a scale whose square is the variance, a mean tied over components, a regression) need no case of
their own: they are differentiated through.

A form is one class in one file, and owns all its verbs, of coefficients c::

    read(log_density, value)    -> c
    mode(c, value)              -> (value, proper)    `proper` is False where no mode exists
    sample(rng_key, c)          -> a draw
    spread(c)                   -> points, a value in the middle, entropy, is it a density
    moments(c), distribution(c)
    terms(log_density, anchor, groups), added(c), with_added(c, arrays), at_anchor(c)
                                -> coefficients that add up, and log q where they were read
    designs(value, rng)         -> points at which a log density shows whether it has the form

A normal and what scales it are one block with a form of its own (:mod:`.joint`), which is made of
theirs: its values, keys and moments are pairs.

**Expectations** are plain means over a few points. A log density that is linear in t(v) has, whatever
its coefficients, the expectation

    E_q[<c, t(v)>] = <c, E_q[t(v)]> = mean over points v_j of <c, t(v_j)>

for any points of equal weight with the same mean of t. So no coefficient needs to be known: a program is
evaluated at the points. Two points do for most forms, one on each side:

- powers: v^p = E[v^p] (1 +- d) with d^2 = 1 - exp(2 (E[log v^p] - log E[v^p])), positive by Jensen;
- Wishart, inverse Wishart: the same with the matrix that enters linearly, log|.| / D for log;
- Dirichlet, beta: log v = a +- (h u + s) with a = E[log v], u = 1 and -1 at the two largest entries, and
  h, s such that both sum to one: a quadratic equation in cosh h;
- normal: m +- sqrt(d) L e_j, where L L' is the covariance: 2 d points, shared by independent blocks.

What a form's value is made of (the simplexes of a table, the entries of a vector of variances) moves
together: a log density that is linear in t is a sum over them.

**Sums.** Coefficients of a sum of log densities are the sums of their coefficients, as long as all are
read at one anchor. There `at_anchor` is log q = <c, t(v)> - log of the integral of exp <c, t(v)>, of
every element that is independent of the others.

**Designs.** A design is a set of values of one site and the linear combinations of the log density at
those values that vanish for every density of the form. No derivative is needed, so that one compiled
evaluation of the program serves every site and every form. Directions are random: a density that is not
of the form passes with probability zero, up to the rounding that the caller allows.

Sources: the definition of conjugacy for exponential families, Diaconis & Ylvisaker (1979), *Annals of
Statistics* 7, 269-281; the coordinates are ours; the points are sigma points (Julier & Uhlmann 2004,
*Proceedings of the IEEE* 92, 401-422) for statistics other than v and v v'. Entropies and integrals:
Bishop (2006), *Pattern Recognition and Machine Learning*, Springer, appendix B; of a function of v by
its Jacobian.
"""

from __future__ import annotations

from typing import Any

from numpyro.distributions import constraints

from .common import Design, Form, LogDensity, ScaleForm, SiteForm, Spread
from .joint import JointForm
from .normal import NormalCoefficients, NormalForm
from .power import PowerCoefficients, PowerForm
from .shares import BetaForm, DirichletForm
from .wishart import WishartCoefficients, WishartForm

__all__ = [
    "BetaForm",
    "Design",
    "DirichletForm",
    "Form",
    "JointForm",
    "LogDensity",
    "NormalCoefficients",
    "NormalForm",
    "PowerCoefficients",
    "PowerForm",
    "ScaleForm",
    "SiteForm",
    "Spread",
    "WishartCoefficients",
    "WishartForm",
    "base_support",
    "candidates",
]


def base_support(support: Any) -> Any:
    """The constraint below any `independent` wrappers."""
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def candidates(support: Any, ndim: int) -> tuple[SiteForm, ...]:
    """Forms a value of this support could have, simplest first.

    `support` is a NumPyro constraint and `ndim` the number of axes of the value. Empty where no closed
    form is known for the support (the site is then climbed, or sampled by NUTS).

    >>> from numpyro.distributions import constraints
    >>> [form.name for form in candidates(constraints.positive_definite, 3)]
    ['inverse Wishart', 'Wishart']
    """
    base = base_support(support)
    if base == constraints.real or isinstance(base, type(constraints.real_vector)):
        return tuple(NormalForm(joint) for joint in range(ndim + 1))
    if base == constraints.positive:
        return tuple(PowerForm(power) for power in (-1, 1, -2, 2))
    if base == constraints.positive_definite:
        return (WishartForm(True), WishartForm(False))
    if base == constraints.simplex:
        return (DirichletForm(),)
    if base == constraints.unit_interval:
        return (BetaForm(),)
    return ()
