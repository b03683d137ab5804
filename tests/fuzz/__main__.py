"""`python -m tests.fuzz --count 300`: compose programs, check each, and print what became of them."""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter

import jax
import numpyro

from .checks import FAULTS, outcomes
from .grammar import Composed, compose
from .judge import REFUSED


def main() -> None:
    """Print a line for each fault as it is found, and the counts at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--density", action="store_true", help="leave out EM and Gibbs")
    parser.add_argument("--refused", action="store_true", help="print what is refused as well")
    parser.add_argument("--source", action="store_true", help="print the program of a fault")
    asked = parser.parse_args()
    numpyro.enable_x64()
    counts: dict[str, Counter[str]] = {}
    refusals: Counter[str] = Counter()
    start = time.time()
    done = 0
    try:
        for seed in range(asked.first, asked.first + asked.count):
            _check(compose(seed), asked, counts, refusals)
            done += 1
            if seed % 50 == 49:
                jax.clear_caches()  # compiled programs hold memory maps, of which there are so many
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(f"\n{done} programs composed, in {time.time() - start:.0f} s")
    for name, found in counts.items():
        print(f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in found.most_common()))
    for sentence, count in refusals.most_common():
        print(f"  {count} {sentence}")


def _check(
    made: Composed,
    asked: argparse.Namespace,
    counts: dict[str, Counter[str]],
    refusals: Counter[str],
) -> None:
    """Count what becomes of one program, and print its faults."""
    for name, said in outcomes(made, engines=not asked.density).items():
        kind = said.split(":")[0]
        counts.setdefault(name, Counter())[kind] += 1
        if kind == REFUSED:
            refusals[re.sub(r"'[^']*'|\([^)]*\)|\d+", "...", said)[:110]] += 1
        if kind in FAULTS or (asked.refused and kind == REFUSED):
            words = ", ".join(made.words)
            print(f"{made.name}, {name}: {said}\n    ({words})", flush=True)
            if asked.source:
                print(made.source, made.arguments, sep="\n")


if __name__ == "__main__":
    main()
