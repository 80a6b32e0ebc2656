"""What a sample carries for the embedding losses: pixels for a live teacher, or targets that were cached."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from mmcore_visper.teachers import Teacher


class Targets(Protocol):
    """Where the targets of the embedding losses come from."""

    def of(self, rgb: UInt8[np.ndarray, "height width 3"], path: Path) -> Mapping[str, Mapping[str, Tensor]]:
        """`{"teacher_inputs": {task: pixels}}` or `{"targets": {task: features}}` of one picture.

        Args:
            rgb: the picture as it is on disk.
            path: its file.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """What the targets depend on besides the pictures."""
        ...


@dataclass(frozen=True)
class LiveTargets:
    """Pixels as each teacher takes them; the model asks the teachers."""

    teachers: tuple[Teacher, ...]

    def of(self, rgb: UInt8[np.ndarray, "height width 3"], path: Path) -> Mapping[str, Mapping[str, Tensor]]:
        """The picture, prepared for every teacher."""
        return {"teacher_inputs": {teacher.task: teacher.inputs(rgb) for teacher in self.teachers}}

    @property
    def fingerprint(self) -> str:
        """Teachers are weights, not data: nothing here depends on more than the pictures."""
        return "live"
