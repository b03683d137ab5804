"""The judgement follows from the numbers, in each situation that there is."""

import types

import numpy as np
import pytest

from bayesmix.comparison.engines import Evidence
from bayesmix.comparison.mode_weights import nearest, relative_weights
from bayesmix.comparison.records import Agreement, evidence
from bayesmix.comparison.verdict import verdict

MIXED = [{"engine": "NUTS", "rhat_invariant": 1.002}]
STUCK = [{"engine": "NUTS", "rhat_invariant": 1.7}]
SAFE, UNSAFE, UNKNOWN = "looks safe", "is not safe", "cannot be judged"
FEW = "Nothing speaks against"


def scores(difference, error):
    return [
        {"engine": "MAP-EM", "plug_in": True, "difference": None, "difference_se": None},
        {"engine": "MLE-EM", "plug_in": True, "difference": 9.0, "difference_se": 0.1},
        {"engine": "NUTS", "plug_in": False, "difference": difference, "difference_se": error},
    ]


def calibration(own, other):
    return [
        {"engine": name, "rows": "held out", "p_value": p}
        for name, p in (("MAP-EM", own), ("NUTS", other))
    ]


def modes(*weights, share=1.0):
    return [
        {
            "objective": -10.0 - i,
            "starts": 5,
            "weight": w,
            "draws": {"NUTS": share if i == 0 else 0},
        }
        for i, w in enumerate(weights)
    ]


def agreement(index):
    matrix = np.array([[1.0, index], [index, 1.0]])
    return {"z": Agreement(("MAP-EM", "NUTS"), matrix, 1 - matrix)}


FINE = (scores(0.001, 0.002), calibration(0.4, 0.5), modes(1.0), agreement(0.99), MIXED)


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({}, SAFE, ["at most 0.005 nats", "as well as", "same cluster"]),
        (
            {0: scores(0.03, 0.01)},
            UNSAFE,
            ["predicts held-out rows better (in nats a row: NUTS +0.0300, s.e. 0.0100)"],
        ),
        ({0: scores(0.01, 0.01)}, SAFE, ["at most 0.030"]),  # not more than two standard errors
        ({0: scores(0.03, 0.02)}, FEW, ["too few", "up to 0.070 nats"]),
        ({0: scores(0.004, 0.001)}, SAFE, ["at most 0.006"]),  # certain, and negligible
        ({0: scores(-0.03, 0.01)}, SAFE, ["at most 0.000", "worse than"]),
        (
            {1: calibration(0.001, 0.3)},
            UNSAFE,
            ["not calibrated (p = 0.001)", "NUTS are (p = 0.3)"],
        ),
        ({1: calibration(0.001, 0.002)}, SAFE, ["the model is at fault"]),
        ({2: modes(0.6, 0.4)}, UNSAFE, ["60% of the weight of the 2 modes", "1.00 nats below"]),
        ({2: modes(0.97, 0.03)}, SAFE, ["2 distinct modes", "50% of the 10 starts"]),
        ({2: modes(0.97, 0.03, share=0.3)}, UNSAFE, ["30% of the draws of NUTS are nearest"]),
        ({2: modes(None, None)}, SAFE, ["2 distinct modes"]),
        ({3: agreement(0.7)}, SAFE, ["index of NUTS with MAP is 0.70"]),
        ({3: {}}, SAFE, []),
        ({4: STUCK}, UNKNOWN, ["NUTS did not mix"]),
        ({4: []}, UNKNOWN, ["a sampler that mixed"]),  # an approximation in the place of NUTS
        ({4: [], 0: scores(0.03, 0.01), 2: modes(0.97, 0.03, share=0.3)}, UNKNOWN, []),
        ({4: STUCK, 2: modes(0.97, 0.03, share=0.3)}, UNKNOWN, ["did not mix"]),
        ({4: STUCK, 2: modes(0.6, 0.4)}, UNSAFE, ["60% of the weight", "did not mix"]),
        ({0: [], 1: []}, UNKNOWN, ["held-out rows"]),
        ({0: scores(0.5, float("nan"))}, UNKNOWN, []),
    ],
)
def test_the_judgement_follows_from_the_numbers(changed, kind, words):
    said = verdict(*(changed.get(i, fine) for i, fine in enumerate(FINE)))
    assert kind in said and sum(each in said for each in (SAFE, UNSAFE, UNKNOWN, FEW)) == 1
    for each in words:
        assert each in said


def test_samplers_that_have_mixed_and_yet_disagree_are_named():
    found = modes(0.97, 0.03)
    found[0]["draws"] = {"NUTS": 1.0, "SMC": 0.6, "Gibbs": 0.2}
    diagnostics = [*MIXED, {"engine": "SMC", "rhat_invariant": 1.01}]
    said = verdict(FINE[0], FINE[1], found, FINE[3], diagnostics)
    assert "do not agree" in said and "(NUTS 100%, SMC 60%)" in said
    assert "do not agree" not in verdict(FINE[0], FINE[1], found, FINE[3], MIXED)


def test_an_estimate_below_a_lower_bound_is_too_low():
    def result(value, error, kind):
        return types.SimpleNamespace(evidence=Evidence(value, error, kind))

    bound = result(-10.0, None, "lower bound")
    for value, too_low in ((-10.5, False), (-14.0, True)):
        found = evidence({"VB": bound, "SMC": result(value, 0.1, "estimate")})
        assert ("too low" in found[1]["kind"]) == too_low and found[0]["kind"] == "lower bound"


def test_weights_are_shares_of_what_is_known():
    found = relative_weights(np.array([-1000.0, -1000.0 - np.log(3.0), np.nan]))
    np.testing.assert_allclose(found[:2], [0.75, 0.25], rtol=1e-12)
    assert np.isnan(found[2]) and np.isnan(relative_weights(np.array([np.nan]))).all()


def test_the_nearest_mode_is_that_of_the_least_distance():
    random = np.random.default_rng(0)
    draws, modes = random.normal(-1e3, 1.0, (50, 30)), random.normal(-1e3, 1.0, (4, 30))
    expected = ((draws[:, None] - modes) ** 2).sum(axis=-1).argmin(axis=1)
    assert nearest(draws, modes).tolist() == expected.tolist()
