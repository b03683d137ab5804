"""Results of other software, stored in ``tests/data`` (its README says whose and how)."""

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


@functools.cache
def reference(name: str) -> dict[str, Any]:
    """The reference file ``tests/data/<name>.json``, read once: do not change what you get."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json")))
        raise ValueError(f"no reference called '{name}'; there are: {known}")
    return json.loads(path.read_text(encoding="utf-8"))
