"""Four small data sets that the mixture literature keeps returning to.

>>> from bayesmix import datasets
>>> datasets.names()
('acidity', 'faithful', 'galaxies', 'iris')
>>> faithful = datasets.load("faithful")
>>> faithful
Table(faithful: 272 rows, 2 columns: eruptions, waiting)
>>> faithful.values.shape
(272, 2)
"""

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """N rows and D numeric columns, with what is known about them.

    Attributes:
        name: a short name, used in titles and messages.
        values: float64 array ``[N, D]``, read-only.
        columns: the D column names.
        labels: the known class of each row, ``[N]`` of str, or ``None``. Never used in a fit.
        source: where the data come from, in words.
    """

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    labels: np.ndarray | None = None
    source: str = ""

    def __post_init__(self) -> None:
        values = np.array(
            self.values, dtype=np.float64
        )  # a copy, so that freezing it is ours to do
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "columns", tuple(self.columns))

    def __repr__(self) -> str:
        rows, width = self.values.shape
        plural = "" if width == 1 else "s"
        return f"Table({self.name}: {rows} rows, {width} column{plural}: {', '.join(self.columns)})"


class _Shipped(NamedTuple):
    source: str
    label_column: str | None = None


_SHIPPED = {
    "acidity": _Shipped(
        "Acid neutralising capacity of 155 lakes in north-central Wisconsin, log(ANC + 50) with "
        "ANC in microequivalents per litre. Crawford, DeGroot, Kadane and Small (1992), Modeling "
        "lake-chemistry distributions: approximate Bayesian methods for estimating a "
        "finite-mixture model, Technometrics 34, 441-453."
    ),
    "faithful": _Shipped(
        "Old Faithful geyser, Yellowstone: 272 eruptions, their length and the waiting time to "
        "the next one, both in minutes. Azzalini and Bowman (1990), A look at some data on the "
        "Old Faithful geyser, Applied Statistics 39, 357-365."
    ),
    "galaxies": _Shipped(
        "Velocities of 82 galaxies in the Corona Borealis region, in 1000 km/s, with observation "
        "78 corrected to 26.960. Postman, Huchra and Geller (1986), Probes of large-scale "
        "structure in the Corona Borealis region, Astronomical Journal 92, 1238-1247; Roeder "
        "(1990), Density estimation with confidence sets exemplified by superclusters and voids "
        "in the galaxies, JASA 85, 617-624."
    ),
    "iris": _Shipped(
        "Sepals and petals of 150 irises of three species, in centimetres. Anderson (1935), The "
        "irises of the Gaspe Peninsula, Bulletin of the American Iris Society 59, 2-5; Fisher "
        "(1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, "
        "179-188.",
        label_column="species",
    ),
}


def names() -> tuple[str, ...]:
    """Names of the shipped data sets, in alphabetical order."""
    return tuple(_SHIPPED)


def closest(word: str, words: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` for the entry of ``words`` nearest to ``word``, or ``""``.

    >>> closest("faithfull", names())
    "; did you mean 'faithful'?"
    >>> closest("zzz", names())
    ''
    """
    lowered = {w.lower(): w for w in words}
    match = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f"; did you mean '{lowered[match[0]]}'?" if match else ""


def load(name: str) -> Table:
    """A shipped data set by name.

    A column of known classes (``species`` of the irises) goes to ``labels``, never to ``values``.

    Raises:
        ValueError: no data set of that name is shipped.

    >>> load("iris").labels[0].item()
    'setosa'
    """
    if name not in _SHIPPED:
        raise ValueError(
            f"no shipped data set is called '{name}'{closest(name, names()) or ';'} "
            f"shipped: {', '.join(names())}"
        )
    source, label_column = _SHIPPED[name]
    with resources.files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    numeric = [j for j, column in enumerate(header) if column != label_column]
    labels = None
    if label_column is not None:
        labels = np.array([row[header.index(label_column)] for row in rows])
    return Table(
        name=name,
        values=np.array([[float(row[j]) for j in numeric] for row in rows]),
        columns=tuple(header[j] for j in numeric),
        labels=labels,
        source=source,
    )
