"""Ready programs: plain NumPyro, with no privilege over one that a user writes.

Copy one and change it: nothing below the edges of the package knows these functions by name.

- tables of numbers: `gaussian_mixture` and five with other covariances, `student_mixture`,
  `multivariate_normal`, `multivariate_student`, `gaussian_classifier` (some labels known);
- yes and no, categories, counts, waiting times: `bernoulli_mixture`, `categorical_mixture`,
  `multinomial_mixture`, `poisson_mixture`, `negative_binomial`, `exponential_mixture`;
- several kinds of columns: `mixed_mixture`;
- several hidden values in a row: `bayes_net`, `naive_bayes`, `latent_tree`, `hidden_markov_poisson`,
  `hidden_markov_normal`;
- regressions: `linear_regression_mixture`, `poisson_regression_mixture`,
  `logistic_regression_mixture`, `probit_regression`, `probit_regression_latent`;
- mixtures of experts: `linear_experts`, `student_experts`, `poisson_experts`, `logistic_experts`,
  `mixture_density_network`.

`PROGRAMS` lists the Gaussian mixtures by the short names of the command line.

>>> from bayesmix import zoo
>>> list(zoo.PROGRAMS)
['full', 'tied', 'diagonal', 'diagonal-tied', 'spherical', 'spherical-tied']
"""

from collections.abc import Callable

from .counts import (
    bernoulli_mixture,
    categorical_mixture,
    exponential_mixture,
    multinomial_mixture,
    negative_binomial,
    poisson_mixture,
)
from .experts import (
    linear_experts,
    logistic_experts,
    mixture_density_network,
    poisson_experts,
    student_experts,
)
from .gaussian import (
    gaussian_mixture,
    gaussian_mixture_diagonal,
    gaussian_mixture_diagonal_tied,
    gaussian_mixture_spherical,
    gaussian_mixture_spherical_tied,
    gaussian_mixture_tied,
)
from .graphs import (
    bayes_net,
    hidden_markov_normal,
    hidden_markov_poisson,
    latent_tree,
    naive_bayes,
)
from .hierarchical import hierarchical_experts
from .mixed import mixed_mixture
from .normal import gaussian_classifier, multivariate_normal
from .probit import probit_regression, probit_regression_latent
from .regressions import (
    linear_regression_mixture,
    logistic_regression_mixture,
    poisson_regression_mixture,
)
from .student import multivariate_student, student_mixture

PROGRAMS: dict[str, Callable[..., None]] = {
    "full": gaussian_mixture,
    "tied": gaussian_mixture_tied,
    "diagonal": gaussian_mixture_diagonal,
    "diagonal-tied": gaussian_mixture_diagonal_tied,
    "spherical": gaussian_mixture_spherical,
    "spherical-tied": gaussian_mixture_spherical_tied,
}

__all__ = [
    "PROGRAMS",
    "bayes_net",
    "bernoulli_mixture",
    "categorical_mixture",
    "exponential_mixture",
    "gaussian_classifier",
    "gaussian_mixture",
    "gaussian_mixture_diagonal",
    "gaussian_mixture_diagonal_tied",
    "gaussian_mixture_spherical",
    "gaussian_mixture_spherical_tied",
    "gaussian_mixture_tied",
    "hidden_markov_normal",
    "hidden_markov_poisson",
    "hierarchical_experts",
    "latent_tree",
    "linear_experts",
    "linear_regression_mixture",
    "logistic_experts",
    "logistic_regression_mixture",
    "mixed_mixture",
    "mixture_density_network",
    "multinomial_mixture",
    "multivariate_normal",
    "multivariate_student",
    "naive_bayes",
    "negative_binomial",
    "poisson_experts",
    "poisson_mixture",
    "poisson_regression_mixture",
    "probit_regression",
    "probit_regression_latent",
    "student_experts",
    "student_mixture",
]
