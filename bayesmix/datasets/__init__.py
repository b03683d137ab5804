"""Small data sets that the mixture literature keeps returning to, and some for the zoo's other programs.

>>> from bayesmix import datasets
>>> datasets.names()[:3]
('acidity', 'airquality', 'bankruptcy')
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
        values: float64 array ``[N, D]``, read-only; NaN where a cell is missing.
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
    "airquality": _Shipped(
        "Daily air quality in New York, May to September 1973: ozone (parts per billion), solar "
        "radiation (langleys), wind (miles per hour) and temperature (degrees Fahrenheit), of 153 "
        "days; 44 cells are missing. New York State Department of Conservation and National Weather "
        "Service; Chambers, Cleveland, Kleiner and Tukey (1983), Graphical Methods for Data "
        "Analysis, Wadsworth."
    ),
    "bankruptcy": _Shipped(
        "Retained earnings, and earnings before interest and taxes, both over total assets, of 66 "
        "firms of which half went bankrupt; standardised columns. Altman (1968), Financial ratios, "
        "discriminant analysis and the prediction of corporate bankruptcy, Journal of Finance 23, "
        "589-609.",
        label_column="outcome",
    ),
    "birthwt": _Shipped(
        "189 births: was the child's weight below 2.5 kg (low), and its mother's age, weight "
        "(pounds), race (1 white, 2 black, 3 other), smoking, premature labours before, hypertension "
        "and uterine irritability. Baystate Medical Center, Springfield, 1986; Hosmer and Lemeshow "
        "(1989), Applied Logistic Regression, Wiley, as in Venables and Ripley (1999), Modern "
        "Applied Statistics with S-PLUS, Springer."
    ),
    "carcinoma": _Shipped(
        "Is there carcinoma on a slide? Verdicts of seven pathologists on 118 slides of the uterine "
        "cervix. Landis and Koch (1977), An application of hierarchical kappa-type statistics in the "
        "assessment of majority agreement among multiple observers, Biometrics 33, 363-374; Agresti "
        "(2002), Categorical Data Analysis, Wiley, p. 542."
    ),
    "cheating": _Shipped(
        "319 undergraduates: did you lie to avoid an exam, lie to avoid a paper, buy a paper or an "
        "exam, copy from a neighbour (0 no, 1 yes), and the grade point average (0: at most 2.99, 1: "
        "to 3.25, 2: to 3.50, 3: to 3.75, 4: to 4.00; 4 are missing). Dayton (1998), Latent Class "
        "Scaling Analysis, Sage, pp. 33 and 85; Dayton and Macready (1988), Journal of the American "
        "Statistical Association 83, 173-178."
    ),
    "deaths": _Shipped(
        "On how many days of 1910-1912 the London Times announced so many deaths of women of 80 "
        "years and over: a table of frequencies. Hasselblad (1969), Estimation of finite mixtures of "
        "distributions from the exponential family, Journal of the American Statistical Association "
        "64, 1459-1471."
    ),
    "epilepsy": _Shipped(
        "Epileptic seizures of 59 patients: age, counts in the eight weeks before a trial and in each "
        "of four two-week periods of it, and the treatment. Thall and Vail (1990), Some covariance "
        "models for longitudinal count data with overdispersion, Biometrics 46, 657-671.",
        label_column="treatment",
    ),
    "ethanol": _Shipped(
        "A one-cylinder engine run on ethanol, 88 times: nitric oxide in the exhaust (micrograms per "
        "joule) and the equivalence ratio, the richness of the mixture of air and fuel. Brinkman "
        "(1981), Ethanol fuel: a single-cylinder engine study of efficiency and exhaust emissions, "
        "SAE Transactions 90, 1410-1424."
    ),
    "failures": _Shipped(
        "Hours between 205 successive failures of the air conditioning of 14 Boeing 720 aircraft, "
        "and the aircraft. Proschan (1963), Theoretical explanation of observed decreasing failure "
        "rate, Technometrics 5, 375-383; the intervals that Scholz and Stephens (1987) took from it, "
        "K-sample Anderson-Darling tests, Journal of the American Statistical Association 82, 918-924."
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
    "patents": _Shipped(
        "Patents granted to 70 pharmaceutical and biomedical firms in 1976, the log of their spending "
        "on research and development (millions of dollars), and its ratio to sales. National Bureau "
        "of Economic Research, in Wang, Cockburn and Puterman (1998), Analysis of patent data: a "
        "mixed-Poisson-regression-model approach, Journal of Business & Economic Statistics 16, "
        "27-41."
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
    An empty cell of the file is missing, and becomes NaN.

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
        values=np.array([[float(row[j] or "nan") for j in numeric] for row in rows]),
        columns=tuple(header[j] for j in numeric),
        labels=labels,
        source=source,
    )
