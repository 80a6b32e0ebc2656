"""What the engine moves, counts and saves: any family's batch, and that of images with objects."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mmcore.contract.values.parts import Draw, Id


@dataclass(slots=True)
class Batch:
    """What every family's batch tells the engine; families add their tensors in a subclass.

    Both kinds of count are plain Python numbers, so that they can be summed without touching the device.
    """

    source: str
    draws: tuple[Draw, ...]
    normalisers: dict[str, float]
    """How many tokens, objects, masks, samples... this batch contributes to what the model's losses are divided by."""
    statistics: dict[str, float] = field(default_factory=dict, kw_only=True)
    """What is shown and logged but divides nothing: `positions` that are read and `padding` beside them, `images`,
    samples that were `cut`."""

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Self:
        """The same batch with every tensor, also inside tuples, lists, dicts and dataclasses, on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; called by the data loader."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> Self:
        values = {f.name: map_tensors(getattr(self, f.name), function) for f in dataclasses.fields(self)}
        return type(self)(**values)

    def __len__(self) -> int:
        return len(self.draws)


def map_tensors(value: Any, function: Any) -> Any:
    """`value` with `function` applied to every tensor inside tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        mapped = tuple(map_tensors(v, function) for v in value)
        return type(value)(*mapped) if hasattr(value, "_fields") else mapped
    if isinstance(value, list):
        return [map_tensors(v, function) for v in value]
    if isinstance(value, dict):
        return {k: map_tensors(v, function) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        return dataclasses.replace(value, **{name: map_tensors(getattr(value, name), function) for name in fields})
    return value


@dataclass(slots=True)
class DetectionBatch(Batch):
    """Images padded to one size on the right and bottom, and their objects laid end to end.

    Object tensors are flat over the batch: image i owns the next `num_objects[i]` rows. So nothing is padded to
    the largest image and no loop over images is needed to read them. The frames of clips follow each other, clip by
    clip, as images.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    """Zero padded; what lies outside `image_sizes` is not image."""
    image_sizes: tuple[tuple[int, int], ...]
    """Height and width of each image before padding, pixels."""
    original_sizes: tuple[tuple[int, int], ...]
    """Height and width of each image on disk, pixels."""
    image_ids: tuple[Id, ...]
    num_objects: tuple[int, ...]
    labels: Int[Tensor, " objects"]
    boxes_cxcywh: Float[Tensor, "objects 4"]
    """Fractions of the padded width and height, in [0, 1]."""
    masks: UInt8[Tensor, "objects height width"] | None
    """0 or 1 at padded size; None when the source has no masks."""
    record_ids: tuple[Id | None, ...] | None = field(default=None, kw_only=True)
    """Of each image's record, where images have several."""
    track_ids: Int[Tensor, " objects"] | None = field(default=None, kw_only=True)
    """The same number for one thing in all frames of its clip; None for images."""
    num_frames: tuple[int, ...] | None = field(default=None, kw_only=True)
    """Frames of each clip, which sum to the images; None for images."""
    frame_numbers: tuple[int, ...] | None = field(default=None, kw_only=True)
    """Number of each image within its video; None for images."""
    label_maps: Int[Tensor, "batch height width"] | None = field(default=None, kw_only=True)
    """Class of every pixel at padded size, `IGNORED` in the padding."""
    ignore: Bool[Tensor, "batch height width"] | None = field(default=None, kw_only=True)
    """Where nothing is judged, at padded size."""
