"""bayesmix: mixture models and other models with hidden causes, from one NumPyro program."""

from .families import gaussian as _gaussian
from .infer.em import EM
from .infer.result import EMResult
from .infer.status import Status
from .program.errors import ProgramError
from .program.plan import Plan, plan
from .program.transforms import marginalize, without_priors

del _gaussian

__all__ = [
    "EM",
    "EMResult",
    "Plan",
    "ProgramError",
    "Status",
    "marginalize",
    "plan",
    "without_priors",
]
__version__ = "0.1.0"
