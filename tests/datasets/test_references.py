"""The stored references agree with themselves: their numbers follow from their parameters."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from tests.references import FOLDER, reference

NAMES = ("faithful", "iris", "galaxies", "acidity")


def mixture_log_likelihood(x, fit) -> float:
    terms = [
        np.log(weight) + np.reshape(multivariate_normal(mean, sigma).logpdf(x), -1)
        for weight, mean, sigma in zip(fit["pro"], fit["mean"], fit["sigma"])
    ]
    return logsumexp(terms, axis=0).sum()


@pytest.mark.parametrize("kind", ["fits", "prior_fits"])
@pytest.mark.parametrize("name", NAMES)
def test_mclust_log_likelihoods_follow_from_the_parameters(name, kind):
    stored = reference(f"mclust_{name}")
    tight = {key: fit["tight"] for key, fit in stored[kind].items() if fit["tight"]}
    assert len(tight) >= 10
    for key, fit in tight.items():
        got = mixture_log_likelihood(stored["data"], fit)
        assert got == pytest.approx(fit["loglik"], abs=1e-5), key


def test_multistart_log_likelihoods_follow_from_the_parameters():
    for key, fit in reference("multistart_map_gmm")["results"].items():
        x = reference(f"mclust_{key.split('_')[0]}")["data"]
        got = mixture_log_likelihood(x, fit)
        assert got == pytest.approx(fit["best_loglik"], abs=1e-6), key
        best = max(fit["optima"]["logpost"])
        assert fit["best_logpost_incl_normalised_NIW"] == pytest.approx(best, abs=1e-3), key
        assert sum(fit["optima"]["count"]) <= fit["ok"], key  # rare optima are left out


def test_pmtk_log_likelihoods_follow_from_the_parameters():
    stored = reference("pmtk3_octave")
    for key, fit in stored["results"].items():
        x = stored["data"][f"{key.split('_')[0]}_standardised"]
        got = mixture_log_likelihood(
            x, {"pro": fit["mixWeight"], "mean": fit["mu"], "sigma": fit["Sigma"]}
        )
        assert got == pytest.approx(fit["loglik"], abs=1e-2), key  # PMTK stops early


def test_exact_small_mixtures_are_probabilities():
    for key, case in reference("exact_small_mixtures")["results"].items():
        together = np.array(case["coclustering"])
        np.testing.assert_allclose(together, together.T, err_msg=key)
        np.testing.assert_allclose(np.diag(together), 1.0, err_msg=key)
        assert sum(case["posterior_nonempty"]) == pytest.approx(1.0), key


def test_every_file_is_described():
    described = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.json"):
        assert path.stem in described or "label_switching" in path.stem, path.name


def test_unknown_reference_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"there are: .*exact_small_mixtures"):
        reference("nothing")
