"""What the teachers share: their common face, pixels, files, and a transformers module from published tensors.

A `Teacher` is a description, small and without weights: data workers prepare its input, caches write down its
identity, and only `load` costs memory. Inputs travel as bytes; they become numbers on the device, in float32, and are
then computed in the precision of the published run.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from mmcore.errors import MissingDataError, WeightsError
from mmcore.weights.files import read_tensors
from PIL import Image
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(Protocol):
    """One teacher, described. Instances are frozen and travel to data workers."""

    @property
    def task(self) -> str:
        """Whose target it gives."""
        ...

    @property
    def precision(self) -> str:
        """In what it computes: fp32, bf16 or fp16."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's target."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides its values."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Everything else that decides its values, as JSON values."""
        ...

    def inputs(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 side side"]:
        """The picture as the teacher takes it, still bytes."""
        ...

    def load(self) -> nn.Module:
        """The network with its weights: (images, 3, side, side) uint8 -> (images, *shape) float32.

        Raises:
            MissingDataError: its files are not there.
            WeightsError: they are not those of this teacher.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTeacher(ABC):
    """A teacher whose weights lie in files."""

    task: str
    weights: Path | None = None
    """The checkpoint, or the folder with `config.json` and the weights."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights and configuration."""
        return weight_files(self._existing())

    def load(self) -> nn.Module:
        """The network with the published weights; see `Teacher.load`."""
        return self.build(read_tensors(self._existing()), str(self.weights))

    @abstractmethod
    def build(self, published: Mapping[str, Tensor], label: str) -> nn.Module:
        """The network from tensors under published names; `label` says in errors where they come from."""

    def _existing(self) -> Path:
        return existing_file(self.weights, f"the {self.task} teacher")


def resize(rgb: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """An image of (height, width) `size`, by Pillow, aspect ignored."""
    height, width = size
    return np.asarray(Image.fromarray(rgb).resize((width, height), how))


def as_tensor(rgb: np.ndarray) -> UInt8[Tensor, "3 height width"]:
    """Channels first, in memory of its own."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


class Pixels(nn.Module):
    """Bytes to what a network reads: divided by 255, less the mean, over the deviation, in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pixels: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        return (pixels.float() / 255 - self.mean.float()) / self.std.float()


def existing_file(path: Path | None, what: str) -> Path:
    """The path, if it is there.

    Raises:
        MissingDataError: it is not, or none was named.
    """
    if path is None or not path.exists():
        raise MissingDataError(
            f"the weights of {what} are not there",
            where=path,
            do="put them into the folder `weights` of the data root, name them with "
            "--set model.teachers.TASK=PATH, or train from targets that were cached elsewhere",
        )
    return path


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint: itself, or those of a folder that decide its values, in order."""
    if path.is_file():
        return (path,)
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    return (*found, *(path / name for name in ("config.json", "preprocessor_config.json") if (path / name).is_file()))


def load_published(kind: Any, config: Any, tensors: Mapping[str, Tensor], label: str) -> nn.Module:
    """A frozen transformers module with tensors under the names of its published files.

    Those names are stable; what a module calls its parameters in memory changes from one version to the next, and
    `from_pretrained` knows how.

    Raises:
        WeightsError: tensors are missing, misshapen or left over; names them.
    """
    try:
        with quiet():
            module, told = kind.from_pretrained(
                None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32
            )
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit: {str(error).strip().splitlines()[-1]}", where=label) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, told.get(problem) or ())):
            raise WeightsError(
                f"{len(names)} {problem.replace('_keys', '')} tensors: {', '.join(names[:3])}",
                where=label,
                do="check that the files are those of this teacher",
            )
    return freeze(module)


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return module.eval().requires_grad_(False)


class quiet:  # noqa: N801 a context
    """Keep transformers' report and progress bar of loading to itself; what is wrong becomes an error."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging = logging
        self._level = logging.get_verbosity()
        self._bar = logging.is_progress_bar_enabled()
        logging.set_verbosity(50)  # critical
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bar:
            self._logging.enable_progress_bar()
