"""The values under the address they had before API 0.2; use `mmcore` or `mmcore.contract.values`."""

import warnings

from mmcore.contract.values import *  # noqa: F403
from mmcore.contract.values import __all__ as __all__

warnings.warn("mmcore.types is now mmcore.contract.values", DeprecationWarning, stacklevel=2)
