"""Frozen networks that say something of every picture: teachers whose features are learned, encoders that only read.

An `Extractor` is a description, small and without weights: data workers prepare its input, caches write down its
identity, and only `load` costs memory. Inputs travel as bytes; they become numbers on the device, in float32, and are
then computed in the precision of the published run. `Extractors` are the loaded ones. What they say is rounded to the
precision in which caches store it (`mmcore.data.cache`), also when it has just been computed, so that both train the
same model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from mmcore.errors import MissingDataError, ShapeError
from mmcore.vision.frozen import weight_files
from mmcore.weights.files import read_tensors

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASS = 4
"""Images of one pass. Always so many: a shorter rest is filled up. Matrix kernels may add in another order for another
number of rows, and then the same image would have other features in another batch."""


class Extractor(Protocol):
    """One network, described. Instances are frozen and travel to data workers."""

    @property
    def name(self) -> str:
        """Of what it gives."""
        ...

    @property
    def precision(self) -> str:
        """In what it computes: fp32, bf16 or fp16."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it says of one image."""
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
        """The picture as the network takes it, still bytes."""
        ...

    def load(self) -> nn.Module:
        """The network with its weights: (images, 3, side, side) uint8 -> (images, *shape) float32.

        Raises:
            MissingDataError: its files are not there.
            WeightsError: they are not those of this network.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedExtractor(ABC):
    """An extractor whose weights lie in files."""

    WHAT: ClassVar[str] = "feature extractor"
    """What messages call it."""
    DO: ClassVar[str] = "put them into the folder `weights` of the data root"
    """What to do when its files are not there."""

    name: str
    weights: Path | None = None
    """The checkpoint, or the folder with `config.json` and the weights."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights and configuration."""
        return weight_files(self.existing(self.weights, self.name))

    def load(self) -> nn.Module:
        """The network with the published weights; see `Extractor.load`."""
        return self.build(read_tensors(self.existing(self.weights, self.name)), str(self.weights))

    @abstractmethod
    def build(self, published: Mapping[str, Tensor], label: str) -> nn.Module:
        """The network from tensors under published names; `label` says in errors where they come from."""

    @classmethod
    def existing(cls, path: Path | None, name: str) -> Path:
        """The path, if it is there.

        Raises:
            MissingDataError: it is not, or none was named.
        """
        if path is None or not path.exists():
            raise MissingDataError(f"the weights of the {name} {cls.WHAT} are not there", where=path, do=cls.DO)
        return path


class Extractors:
    """Networks to ask. Not a module: they are no part of the model's weights, checkpoints, modes or engines.

    Each is loaded when it is first asked; where all features are cached that is never.

    Args:
        extractors: their descriptions.
        store: precision that features are rounded to, as caches of them are: fp16 or fp32.
    """

    def __init__(self, extractors: Sequence[Extractor], *, store: str = "fp16") -> None:
        self.described = {extractor.name: extractor for extractor in extractors}
        self.networks: dict[str, nn.Module] = {}
        """Those that are loaded."""
        self.store = PRECISIONS[store]

    def load(self, device: torch.device | str = "cpu") -> "Extractors":
        """The same networks, all of them loaded and on a device.

        Raises:
            MissingDataError, WeightsError: the weights of one are not there or do not fit.
        """
        for name in self.described:
            self._network(name).to(device)
        return self

    def _network(self, name: str) -> nn.Module:
        if name not in self.described:
            raise ShapeError(f"no frozen network gives {name!r}", known=self.described)
        if name not in self.networks:
            self.networks[name] = self.described[name].load().eval()
        return self.networks[name]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What every network in `inputs` says; networks follow their inputs to their device.

        Args:
            inputs: name -> (images, 3, side, side) uint8, as `Extractor.inputs` gives them.

        Returns:
            Name -> (images, *shape) float32, rounded to the stored precision.
        """
        return {name: self.stored(name, pixels).float() for name, pixels in inputs.items()}

    @torch.no_grad()
    def stored(self, name: str, pixels: Tensor) -> Tensor:
        """What one network says, in the stored precision.

        Raises:
            ShapeError: there is no such network.
            MissingDataError, WeightsError: its weights are not there or do not fit.
        """
        network = self._network(name).to(pixels.device)
        shape = self.described[name].shape
        if not len(pixels):
            return torch.zeros(0, *shape, dtype=self.store, device=pixels.device)
        # Training may run under autocast; what a frozen network computes must not depend on it.
        with torch.autocast(pixels.device.type, enabled=False):
            passes = [network(_filled(part))[: len(part)] for part in pixels.split(PASS)]
        return torch.cat(passes).to(self.store)


def _filled(pixels: Tensor) -> Tensor:
    """A pass of full length; images repeat where some are missing."""
    missing = PASS - len(pixels)
    return pixels if not missing else torch.cat([pixels, pixels[:1].expand(missing, *pixels.shape[1:])])
