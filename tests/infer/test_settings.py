"""Settings of every engine and part: a count of none, half a step or a NaN is refused in a sentence."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest

import bayesmix
from bayesmix import ProgramError, accelerators, e_steps, m_steps, orders, strategies, zoo
from bayesmix.infer import tempering

PLACES = (accelerators, e_steps, m_steps, orders, strategies, tempering)
PARTS = {
    value
    for place in PLACES
    for value in vars(place).values()
    if inspect.isclass(value)
    and dataclasses.is_dataclass(value)
    and value.__module__.startswith("bayesmix.infer")
}
ENGINES = {
    bayesmix.EM: (zoo.gaussian_mixture,),
    bayesmix.OnlineEM: (zoo.gaussian_mixture,),
    bayesmix.VariationalBayes: (zoo.gaussian_mixture,),
    bayesmix.MonteCarloEM: (zoo.gaussian_mixture, "z"),
    bayesmix.Search: (zoo.gaussian_mixture,),
    bayesmix.TemperedSMC: (zoo.gaussian_mixture,),
    bayesmix.MixedGibbs: (zoo.gaussian_mixture,),
    bayesmix.KMeans: (),
}
NEEDED = {"num_clusters": 2, "rate": 0.5, "sites": "mean"}


def settings():
    """What each has of numbers: its maker, its other arguments, a setting and its kind."""
    for maker in (*ENGINES, *sorted(PARTS, key=lambda part: part.__name__)):
        parameters = inspect.signature(maker).parameters.values()
        needed = {p.name: NEEDED[p.name] for p in parameters if p.name in NEEDED}
        for parameter in parameters:
            kinds = {each.strip() for each in str(parameter.annotation).split("|")}
            if kinds & {"int", "float"}:
                kind = "float" if "float" in kinds else "int"
                yield pytest.param(
                    maker, needed, parameter.name, kind, id=f"{maker.__name__}-{parameter.name}"
                )


@pytest.mark.parametrize(("maker", "needed", "name", "kind"), list(settings()))
def test_what_is_no_number_of_its_kind_is_refused(maker, needed, name, kind):
    bad = (float("nan"), "many") if kind == "float" else (-1, 2.5, float("nan"), "many", 2**40)
    for value in bad:
        with pytest.raises(ProgramError, match=f"{name}.* is "):
            maker(*ENGINES.get(maker, ()), **{**needed, name: value})
    if kind == "int":
        maker(*ENGINES.get(maker, ()), **{**needed, name: np.int64(3)})


def test_a_seed_of_any_whole_kind_is_one_key():
    from bayesmix.program.settings import key_of

    same = {str(jax.random.key_data(key_of(seed))) for seed in (3, np.uint8(3), np.array(3))}
    assert len(same) == 1
    for seed in (0.5, True, "3", None, 2**64, jax.random.split(jax.random.key(0))):
        with pytest.raises(ProgramError, match="rng_key"):
            key_of(seed)
