"""bayesmix: mixture models and other models with hidden causes, from one NumPyro program."""

from . import threads as _threads

_threads.widen_pool()  # before anything computes

from .comparison import compare  # noqa: E402
from .comparison.result import Comparison, load_comparison  # noqa: E402
from .families import choice as _choice  # noqa: E402
from .families import gaussian as _gaussian  # noqa: E402
from .families import outcomes as _outcomes  # noqa: E402
from .families import positive as _positive  # noqa: E402
from .families import student as _student  # noqa: E402
from .infer import accelerators, e_steps, m_steps, orders, theory  # noqa: E402
from .infer import search_strategies as strategies  # noqa: E402
from .infer.codebook import KMeansResult  # noqa: E402
from .infer.collapsed import CollapsedGibbs  # noqa: E402
from .infer.distortion import DistortionCurve, distortion_curve  # noqa: E402
from .infer.em import EM  # noqa: E402
from .infer.gibbs import ConjugateGibbs  # noqa: E402
from .infer.kmeans import KMeans  # noqa: E402
from .infer.mixed import MixedGibbs  # noqa: E402
from .infer.monte_carlo import MonteCarloEM, MonteCarloResult  # noqa: E402
from .infer.online import OnlineEM  # noqa: E402
from .infer.parallel_tempering import ParallelTempering, log_evidence  # noqa: E402
from .infer.result import EMResult  # noqa: E402
from .infer.run import Progress  # noqa: E402
from .infer.search import Search  # noqa: E402
from .infer.search_comparison import StrategyComparison, compare_strategies  # noqa: E402
from .infer.search_result import SearchResult  # noqa: E402
from .infer.smc import SMCResult, TemperedSMC  # noqa: E402
from .infer.status import Status  # noqa: E402
from .infer.variational import VariationalBayes  # noqa: E402
from .infer.variational_result import VariationalResult  # noqa: E402
from .posterior.convert import to_arviz  # noqa: E402
from .posterior.imputation import multiple_imputations  # noqa: E402
from .posterior.labelled_draws import declare_labels  # noqa: E402
from .posterior.labels import LabelSwitching, LabelSwitchingWarning, label_switching, relabel  # noqa: E402
from .posterior.point_partition import point_partition  # noqa: E402
from .posterior.posterior import Posterior  # noqa: E402
from .posterior.predictive_density import predictive_log_density  # noqa: E402
from .posterior.relabelling_comparison import compare_relabellings  # noqa: E402
from .posterior.stacking import Stacking, stack_chains  # noqa: E402
from .posterior.summary import summary  # noqa: E402
from .program.compiling import cache_compiled  # noqa: E402
from .program.devices import rows_on  # noqa: E402
from .program.errors import ProgramError  # noqa: E402
from .program.plan import Plan, plan  # noqa: E402
from .program.transforms import marginalize, without_priors  # noqa: E402

del _choice, _gaussian, _outcomes, _positive, _student, _threads

__all__ = [
    "EM",
    "CollapsedGibbs",
    "Comparison",
    "ConjugateGibbs",
    "DistortionCurve",
    "EMResult",
    "KMeans",
    "KMeansResult",
    "LabelSwitching",
    "LabelSwitchingWarning",
    "MixedGibbs",
    "MonteCarloEM",
    "MonteCarloResult",
    "OnlineEM",
    "ParallelTempering",
    "Plan",
    "Posterior",
    "ProgramError",
    "Progress",
    "SMCResult",
    "Search",
    "SearchResult",
    "Stacking",
    "Status",
    "StrategyComparison",
    "TemperedSMC",
    "VariationalBayes",
    "VariationalResult",
    "accelerators",
    "cache_compiled",
    "compare",
    "compare_relabellings",
    "compare_strategies",
    "declare_labels",
    "distortion_curve",
    "e_steps",
    "label_switching",
    "load_comparison",
    "log_evidence",
    "m_steps",
    "marginalize",
    "multiple_imputations",
    "orders",
    "plan",
    "point_partition",
    "predictive_log_density",
    "relabel",
    "rows_on",
    "stack_chains",
    "strategies",
    "summary",
    "theory",
    "to_arviz",
    "without_priors",
]
__version__ = "0.1.0"
