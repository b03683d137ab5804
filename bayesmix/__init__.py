"""bayesmix: mixture models and other models with hidden causes, from one NumPyro program."""

from . import threads as _threads

_threads.widen_pool()  # before anything computes

from .comparison import Comparison, compare  # noqa: E402
from .families import exponential as _exponential  # noqa: E402
from .families import gaussian as _gaussian  # noqa: E402
from .families import student as _student  # noqa: E402
from .infer.em import EM  # noqa: E402
from .infer.gibbs import ConjugateGibbs  # noqa: E402
from .infer.mixed import MixedGibbs  # noqa: E402
from .infer.online import OnlineEM  # noqa: E402
from .infer.orders import ConstantRate, Incremental, PowerDecay, Stepwise  # noqa: E402
from .infer.result import EMResult  # noqa: E402
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
    "ConstantRate",
    "EMResult",
    "Incremental",
    "LabelSwitching",
    "LabelSwitchingWarning",
    "MixedGibbs",
    "OnlineEM",
    "Plan",
    "PowerDecay",
    "ProgramError",
    "Status",
    "Stepwise",
    "compare",
    "label_switching",
    "marginalize",
    "multiple_imputations",
    "plan",
    "relabel",
    "summary",
    "to_arviz",
    "without_priors",
]
__version__ = "0.1.0"
