"""The teachers of VisPer-LM: frozen networks whose features the language model learns to predict.

    depth   Depth-Anything-V2's DINOv2          `teachers.depth`
    seg     OneFormer's Swin backbone           `teachers.seg`
    gen     Stable Diffusion unCLIP's CLIP      `teachers.gen`
    any     random features, for the tiny size  `teachers.random`

Each is described by a small `Teacher`; `Teachers` are the loaded ones. A target is rounded to the precision in which
caches store it, also when a live teacher has just computed it, so that both train the same model.
"""

from collections.abc import Mapping, Sequence

import torch
from mmcore.errors import ShapeError
from torch import Tensor, nn

from mmcore_visper.teachers.common import PRECISIONS, Teacher
from mmcore_visper.teachers.depth import DepthTeacher
from mmcore_visper.teachers.gen import GenTeacher
from mmcore_visper.teachers.random import RandomTeacher
from mmcore_visper.teachers.seg import SegTeacher

__all__ = ["PASS", "DepthTeacher", "GenTeacher", "RandomTeacher", "SegTeacher", "Teacher", "Teachers"]

PASS = 4
"""Images of one pass. Always so many: a shorter rest is filled up. Matrix kernels may add in another order for another
number of rows, and then the same image would have other targets in another batch."""


class Teachers:
    """Teachers to ask. Not a module: they are no part of the model's weights, checkpoints, modes or engines.

    Each is loaded when it is first asked; where all targets are cached that is never.

    Args:
        teachers: their descriptions.
        store: precision that targets are rounded to, as caches of these targets are: fp16 or fp32.
    """

    def __init__(self, teachers: Sequence[Teacher], *, store: str = "fp16") -> None:
        self.teachers = {teacher.task: teacher for teacher in teachers}
        self.networks: dict[str, nn.Module] = {}
        """Those that are loaded."""
        self.store = PRECISIONS[store]

    def load(self, device: torch.device | str = "cpu") -> "Teachers":
        """The same teachers, all of them loaded and on a device.

        Raises:
            MissingDataError, WeightsError: the weights of one are not there or do not fit.
        """
        for task in self.teachers:
            self._network(task).to(device)
        return self

    def _network(self, task: str) -> nn.Module:
        if task not in self.teachers:
            raise ShapeError(f"no teacher for task {task!r}", known=self.teachers)
        if task not in self.networks:
            self.networks[task] = self.teachers[task].load().eval()
        return self.networks[task]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Targets of every task in `inputs`; teachers follow their inputs to their device.

        Args:
            inputs: task -> (images, 3, side, side) uint8, as `Teacher.inputs` gives them.

        Returns:
            Task -> (images, *shape) float32, rounded to the stored precision.
        """
        return {task: self.stored(task, pixels).float() for task, pixels in inputs.items()}

    @torch.no_grad()
    def stored(self, task: str, pixels: Tensor) -> Tensor:
        """Targets of one task in the stored precision.

        Raises:
            ShapeError: there is no such teacher.
            MissingDataError, WeightsError: its weights are not there or do not fit.
        """
        network = self._network(task).to(pixels.device)
        shape = self.teachers[task].shape
        if not len(pixels):
            return torch.zeros(0, *shape, dtype=self.store, device=pixels.device)
        # Training may run under autocast; what a teacher computes must not depend on it.
        with torch.autocast(pixels.device.type, enabled=False):
            passes = [network(_filled(part))[: len(part)] for part in pixels.split(PASS)]
        return torch.cat(passes).to(self.store)


def _filled(pixels: Tensor) -> Tensor:
    """A pass of full length; images repeat where some are missing."""
    missing = PASS - len(pixels)
    return pixels if not missing else torch.cat([pixels, pixels[:1].expand(missing, *pixels.shape[1:])])
