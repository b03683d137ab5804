"""bayesmix: mixture models and other models with hidden causes, from one NumPyro program."""

from .comparison import Comparison, compare
from .families import gaussian as _gaussian
from .infer.em import EM
from .infer.gibbs import ConjugateGibbs
from .infer.result import EMResult
from .infer.status import Status
from .program.errors import ProgramError
from .program.plan import Plan, plan
from .program.transforms import marginalize, without_priors
from .posterior.convert import to_arviz
from .posterior.labels import LabelSwitching, LabelSwitchingWarning, label_switching, relabel
from .posterior.summary import summary

del _gaussian

__all__ = [
    "EM",
    "Comparison",
    "ConjugateGibbs",
    "EMResult",
    "LabelSwitching",
    "LabelSwitchingWarning",
    "Plan",
    "ProgramError",
    "Status",
    "compare",
    "label_switching",
    "marginalize",
    "plan",
    "relabel",
    "summary",
    "to_arviz",
    "without_priors",
]
__version__ = "0.1.0"
