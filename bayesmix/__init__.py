"""bayesmix: mixture models and other models with hidden causes, from one NumPyro program."""

from . import threads as _threads

_threads.widen_pool()  # before anything computes

from .comparison import Comparison, compare  # noqa: E402
from .families import exponential as _exponential  # noqa: E402
from .families import gaussian as _gaussian  # noqa: E402
from .families import student as _student  # noqa: E402
from .infer import search_strategies as strategies  # noqa: E402
from .infer.em import EM  # noqa: E402
from .infer.gibbs import ConjugateGibbs  # noqa: E402
from .infer.mixed import MixedGibbs  # noqa: E402
from .infer.result import EMResult  # noqa: E402
from .infer.search import Search  # noqa: E402
from .infer.search_comparison import StrategyComparison, compare_strategies  # noqa: E402
from .infer.search_result import SearchResult  # noqa: E402
from .infer.status import Status  # noqa: E402
from .posterior.convert import to_arviz  # noqa: E402
from .posterior.imputation import multiple_imputations  # noqa: E402
from .posterior.labels import LabelSwitching, LabelSwitchingWarning, label_switching, relabel  # noqa: E402
from .posterior.summary import summary  # noqa: E402
from .program.errors import ProgramError  # noqa: E402
from .program.plan import Plan, plan  # noqa: E402
from .program.transforms import marginalize, without_priors  # noqa: E402

del _exponential, _gaussian, _student, _threads

__all__ = [
    "EM",
    "Comparison",
    "ConjugateGibbs",
    "EMResult",
    "LabelSwitching",
    "LabelSwitchingWarning",
    "MixedGibbs",
    "Plan",
    "ProgramError",
    "Search",
    "SearchResult",
    "Status",
    "StrategyComparison",
    "compare",
    "compare_strategies",
    "label_switching",
    "marginalize",
    "multiple_imputations",
    "plan",
    "relabel",
    "strategies",
    "summary",
    "to_arviz",
    "without_priors",
]
__version__ = "0.1.0"
