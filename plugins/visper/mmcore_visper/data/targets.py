"""What a sample carries for the embedding losses: pixels for live teachers, or targets (`mmcore_visper.cache`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from torch import Tensor


class Targets(Protocol):
    """Where the targets of the embedding losses come from."""

    def of(self, rgb: UInt8[np.ndarray, "height width 3"], path: Path) -> Mapping[str, Mapping[str, Tensor]]:
        """`{"images": {task: pixels}}` or `{"features": {task: features}}` of one picture.

        Args:
            rgb: the picture as it is on disk.
            path: its file.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """What the targets depend on besides the pictures."""
        ...
