"""Random programs, and programs as people write them: read rightly, or refused.

`python -m tests.fuzz --count 300` checks as many as one likes, and prints what became of them.
"""

import pytest

from . import of_annotation, of_forums, of_masks, of_series, of_traps, of_tutorials
from .checks import FAULTS, outcomes
from .enumeration import Enumeration
from .grammar import compose
from .judge import AGREED, REFUSED, Verdict, judge
from .of_cures import CURES

WRITTEN = {
    getattr(program, "__name__", type(program).__name__): (program, arguments)
    for module in (of_annotation, of_forums, of_masks, of_series, of_traps, of_tutorials)
    for program, arguments in module.PROGRAMS.items()
}


def assert_right(seed: int, engines: bool = True) -> None:
    made = compose(seed)
    said = outcomes(made, engines)
    faults = {name: text for name, text in said.items() if text.split(":")[0] in FAULTS}
    assert not faults, f"{faults}\n{made.source}\n{made.arguments}"


def verdict_of(name: str) -> Verdict:
    program, arguments = WRITTEN[name]
    if len(arguments) == 2 and isinstance(arguments[0], tuple):
        return judge(program, *arguments)
    return judge(program, arguments)


@pytest.mark.parametrize("seed", [2, 4])
def test_a_random_program_is_read_rightly(seed):
    assert_right(seed, engines=False)


def test_engines_are_right_on_a_random_program():
    assert_right(9)


@pytest.mark.parametrize("seed", range(300))
def test_random_programs_are_right(seed):
    assert_right(seed)


@pytest.mark.parametrize("name", ["dawid_skene", "mask_by_label"])
def test_a_program_is_read(name):
    verdict = verdict_of(name)
    assert verdict.kind == AGREED, f"{verdict.kind}: {verdict.text}"


@pytest.mark.parametrize("name", ["count_of_labels", "roll"])
def test_rows_that_depend_on_each_other_are_refused(name):
    verdict = verdict_of(name)
    assert verdict.kind == REFUSED, f"{verdict.kind}: {verdict.text}"
    assert "independent" in verdict.text


@pytest.mark.parametrize("name", WRITTEN)
def test_programs_are_read_or_refused(name):
    verdict = verdict_of(name)
    assert verdict.kind in (AGREED, REFUSED), f"{verdict.kind}: {verdict.text}"


@pytest.mark.parametrize("refused, cured, args", CURES, ids=lambda x: getattr(x, "__name__", "-"))
def test_programs_are_cured(refused, cured, args):
    before, after = Enumeration(refused, args), Enumeration(cured, args)
    values = before.draw(3)
    assert after.look(values).height == pytest.approx(before.look(values).height, rel=1e-10)
    verdict = judge(cured, args, exact=after)
    assert verdict.kind == AGREED, f"{verdict.kind}: {verdict.text}"
