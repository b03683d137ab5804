"""Every fit of mclust's that is stored, searched for anew: `python -m tests.oracles.sweep`.

The suite holds a selection (`test_mclust.py`); this is the whole: each data set, covariance model and
K = 1..5, by maximum likelihood and under Fraley and Raftery's prior, from 50 starts. Takes half an hour,
nearly all of it compiling. A line is a failure where our best is worse than mclust's by more than 1e-4
of it, or where mclust's fit is no fixed point. Exits with 1 if there is one.
"""

import sys

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from tests.oracles.models import (  # noqa: E402
    arguments_of,
    em_of,
    one_step,
    parameters_of,
    plan_of,
    stored,
)
from tests.references import reference  # noqa: E402

_ENDS = ("EEI", "EII")  # see NOT_ITS_OWN_PRIOR in test_mclust.py


def _line(dataset: str, model: str, K: int, kind: str) -> tuple[str, bool]:
    theirs = stored(dataset, model, K, kind)["tight"]
    em, arguments = em_of(dataset, model, K, kind), arguments_of(dataset, model, K)
    start = parameters_of(model, theirs)
    there, moved = one_step(plan_of(dataset, model, K, kind), arguments, start)
    moves = max(
        float(np.max(np.abs(np.asarray(moved[n]) - v)) / np.max(np.abs(v)))
        for n, v in start.items()
    )
    fit = em.run(0, *arguments, restarts=50)
    gain = (fit.objective[-1] - float(there)) / abs(float(there))
    comparable = kind == "fits" or model not in _ENDS
    good = not comparable or (gain > -1e-4 and (moves < 1e-4 or gain > 1e-4))
    converged = sum(map(bool, fit.restart_statuses))
    text = (
        f"{dataset:9} {model:3} K={K} {kind:10} mclust {float(there):14.6f} "
        f"ours {fit.objective[-1]:14.6f} ({gain:+.1e}) fixed point to {moves:.0e}, "
        f"{converged} of 50 converged, {fit.status.name}"
    )
    return text + ("" if comparable else "  [not comparable]") + ("" if good else "  FAILED"), good


def main() -> int:
    """Print a line for each stored fit, of all data sets or of those named on the command line."""
    bad = 0
    for dataset in sys.argv[1:] or ("faithful", "iris", "galaxies", "acidity"):
        for kind in ("fits", "prior_fits"):
            for name, fit in reference(f"mclust_{dataset}")[kind].items():
                if "_" in name and fit["tight"]:  # null where the likelihood ran into a spike
                    model, K = name.split("_")
                    text, good = _line(dataset, model, int(K), kind)
                    bad += not good
                    print(text, flush=True)
                    em_of.cache_clear()
                    plan_of.cache_clear()
                    jax.clear_caches()
    print(f"{bad} failed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
