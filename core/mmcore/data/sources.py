"""What data sources are under the address it had before API 0.2; use `mmcore` or `mmcore.contract.protocols`."""

import warnings

from mmcore.contract.protocols import Collate as Collate
from mmcore.contract.protocols import DataContext as DataContext
from mmcore.contract.protocols import Datasets as Datasets
from mmcore.contract.protocols import DataSource as DataSource
from mmcore.contract.protocols import Evaluator as Evaluator

warnings.warn("mmcore.data.sources is now mmcore.contract.protocols", DeprecationWarning, stacklevel=2)
