"""One of several distributions for each row, as a label says: components of different families.

    log p(x | z) = log p_g(x) where g is the number of the distribution that z chooses

Statistics are those of each distribution's own family, over the rows that chose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax, random

from .exponential import INFINITE, exponential_family, known
from .likelihoods import Family, Lead, lookup, register
from .masked import Masked, masked
from .peel import Peeled, peel


class OneOf(dist.Distribution):
    """The distribution that a label chooses: `parts[chosen]`, for parts with the same event shape.

    Values outside the support of a part are impossible under it where `checked`; elsewhere its own
    density says what they are, as in `numpyro.distributions.MixtureGeneral` without a support.

    >>> parts = dist.Normal(0.0, 1.0), dist.Exponential(2.0)
    >>> either = OneOf(parts, jnp.array([[0], [1]]), dist.constraints.real, checked=True)
    >>> either.log_prob(jnp.array([-1.0, 1.0])).round(3).tolist()
    [[-1.419, -1.419], [-inf, -1.307]]
    """

    pytree_data_fields = ("parts", "chosen", "_support")
    pytree_aux_fields = ("checked",)

    def __init__(
        self, parts: tuple[Any, ...], chosen: Any, support: Any, *, checked: bool = False
    ) -> None:
        self.parts, self.chosen, self.checked, self._support = parts, chosen, checked, support
        batch = lax.broadcast_shapes(jnp.shape(chosen), *(part.batch_shape for part in parts))
        super().__init__(batch, parts[0].event_shape, validate_args=False)

    @dist.constraints.dependent_property
    def support(self) -> Any:
        """Of all parts together."""
        return self._support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """One value of every part, of which the label chooses."""
        shape, events = (*sample_shape, *self.batch_shape), (1,) * self.event_dim
        chosen = jnp.reshape(self.chosen, (*jnp.shape(self.chosen), *events))
        keys = random.split(key, len(self.parts))
        drawn = [part.expand(shape).sample(k) for part, k in zip(self.parts, keys, strict=True)]
        return _choose(chosen, drawn)

    def log_prob(self, value: Any) -> Any:
        """Of each value under the part that its label chooses."""
        return _choose(self.chosen, [self._of_part(part, value) for part in self.parts])

    def _of_part(self, part: Any, value: Any) -> Any:
        if not self.checked:
            return part.log_prob(value)
        inside = part.support(value)
        events = (1,) * self.event_dim
        there = jnp.reshape(inside, (*jnp.shape(inside), *events))
        value = jnp.where(there, value, part.support.feasible_like(value))
        return jnp.where(inside, part.log_prob(value), -jnp.inf)


def _choose(chosen: Any, each: list[Any]) -> Any:
    found = each[0]
    for number, other in enumerate(each[1:], 1):
        found = jnp.where(chosen == number, other, found)
    return found


# ------------------------------------------------------------------------------------ its statistics
class ChoiceRows(NamedTuple):
    """Rows as each part's family has them, and minus infinity (a stand-in) where they are impossible
    under it, (N,) each; None where they never are."""

    parts: tuple[Any, ...]
    impossible: tuple[Any, ...]


def _choice_family(peeled: Peeled) -> Family | None:
    """A family where every part has one, and impossible values can be told from the value alone."""
    whole = peeled.base
    families = [_point_family(part) or lookup(part) for part in _parts(peeled)]
    supports = [part.support for part in whole.parts]
    if whole.checked and any(jax.tree.leaves(support) for support in supports):
        return None  # a support with bounds, which may depend on the row
    found = [masked(family) for family in families if family is not None]
    if len(found) < len(families):
        return None

    def parameters(later: Peeled, lead: Lead) -> tuple[Masked, ...]:
        chosen = lead(later.base.chosen, later.reinterpreted).reshape(-1)
        return tuple(
            family.parameters(part._replace(mask=chosen == number), lead)
            for number, (family, part) in enumerate(zip(found, _parts(later), strict=True))
        )

    def arrange(value: Any, present: Any) -> ChoiceRows:
        rows, impossible = [], []
        for family, support in zip(found, supports, strict=True):
            own, never = value, None
            if whole.checked and support != whole.support:
                inside = jnp.asarray(support(value))
                cells = (*inside.shape, *(1,) * (value.ndim - inside.ndim))
                own = jnp.where(inside.reshape(cells), value, support.feasible_like(value))
                if present is not None:
                    inside |= ~jnp.all(jnp.reshape(present, (*inside.shape, -1)), axis=-1)
                inside = jnp.all(inside.reshape(inside.shape[0], -1), axis=-1)
                never = jnp.where(inside, 0, jnp.asarray(-INFINITE, float))
            rows.append(family.arrange(own, present))
            impossible.append(never)
        return ChoiceRows(tuple(rows), tuple(impossible))

    return _delegating(found)._replace(parameters=parameters, arrange=arrange)


def _parts(whole: Peeled) -> list[Peeled]:
    """The distributions of all parts, peeled, within the event of the whole."""
    parts = [peel(part) for part in whole.base.parts]
    return [
        Peeled(part.base, part.reinterpreted + whole.reinterpreted, whole.event_shape)
        for part in parts
    ]


def _delegating(families: list[Family]) -> Family:
    """All but how parameters and rows are read: to each part its own."""

    def each(method: Callable[[Family], Any], *given: Any) -> tuple[Any, ...]:
        return tuple(method(f)(*own) for f, *own in zip(families, *given, strict=True))

    def prepare(parameters: Any, pattern: Any) -> Any:
        patterns = [pattern if family.grouped else None for family in families]
        return each(lambda f: f.prepare, parameters, patterns)

    def log_prob(prepared: Any, rows: ChoiceRows) -> Array:
        total = jnp.zeros(())
        own = each(lambda f: f.log_prob, prepared, rows.parts)
        for part, found, never in zip(prepared, own, rows.impossible, strict=True):
            total += found if never is None else jnp.where(part.mask[:, None], found + never, 0)
        return total

    def accumulate(prepared: Any, rows: ChoiceRows, weights: Array, rng_key: Any) -> Any:
        size = len(families)
        keys = [None] * size if rng_key is None else random.split(rng_key, size)
        return each(lambda f: f.accumulate, prepared, rows.parts, [weights] * size, keys)

    def expected_log_prob(parameters: Any, statistics: Any) -> Array:
        return sum(each(lambda f: f.expected_log_prob, parameters, statistics), jnp.zeros(()))

    def moments(parameters: Any) -> tuple[Array, Array]:
        means, spreads = zip(*each(lambda f: f.moments, parameters), strict=True)
        masks = [part.mask for part in parameters]
        return (
            sum(jnp.where(mask[:, None], x, 0) for mask, x in zip(masks, means, strict=True)),
            sum(
                jnp.where(mask[:, None, None], x, 0) for mask, x in zip(masks, spreads, strict=True)
            ),
        )

    def complete(prepared: Any, sums: Any) -> Any:
        return each(lambda f: f.complete or (lambda _, own: own), prepared, sums)

    def combine(one: Any, other: Any, first: Any, second: Any) -> Any:
        size = len(families)
        return each(lambda f: f.combine, one, other, [first] * size, [second] * size)

    return Family(
        name="one of " + ", ".join(family.name for family in families),
        parameters=lambda peeled, lead: None,
        arrange=lambda value, present: None,
        prepare=prepare,
        log_prob=log_prob,
        accumulate=accumulate,
        finish=lambda prepared, sums: each(lambda f: f.finish, prepared, sums),
        expected_log_prob=expected_log_prob,
        moments=moments,
        grouped=any(family.grouped for family in families),
        entries=lambda *sizes: sum(family.entries(*sizes) for family in families),
        combine=combine,
        complete=complete if any(family.complete for family in families) else None,
    )


def _point_family(peeled: Peeled) -> Family | None:
    """All mass at one known value: nothing to estimate, and no other value is possible."""
    if not isinstance(peeled.base, dist.Delta) or peeled.base.event_dim:
        return None
    value, height = known(peeled.base.v, peeled), known(peeled.base.log_density, peeled)
    if value is None or height is None or np.any(height != 0):
        return None
    points = exponential_family(
        "one value",
        ("log_density",),
        features=lambda x: (x != value,),
        coefficients=lambda height: (height - INFINITE,),
        moments=lambda height: (value.T + height, 0 * height),
    )
    # rows elsewhere have weight 0, but tests of closed forms try any weights
    return points._replace(expected_log_prob=lambda height, sums: jnp.zeros(sums.shape[0]))


register(OneOf, _choice_family)
