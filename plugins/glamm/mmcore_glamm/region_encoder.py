"""From a box to one word of the language model: GLaMM's region encoder (GPT4RoI, Zhang et al. 2023).

    four states of the image tower -> 1x1 convolutions, sizes 8:4:2:1 -> five rounds of exchange between neighbours
        -> the box cut out of each (RoIAlign) -> 3x3 convolutions, summed -> one vector, + the box's place -> a word

Boxes are read in a square of 224 pixels although the tower sees 336 (`RegionConfig.box_side`): each reads the upper
left two thirds of where it is. The published weights were trained so, and the published code reads them so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

Levels = Sequence[Float[Tensor, "images channels _ _"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    """Sizes of the region encoder; the defaults are the published ones, literals in the released code."""

    num_levels: int = 4
    """States of the image tower that are read."""
    step: int = 3
    """Layers between two of them; the last is the one that the language model sees."""
    rounds: int = 5
    """Of exchange between neighbouring levels."""
    groups: int = 64
    """Of the norms between them."""
    roi_size: int = 14
    """Cells along each side of what is cut out."""
    inner: int = 1024
    """Width of a box's vector before it becomes a word."""
    place_hidden: int = 256
    box_side: int = 224
    """Pixels that a box of the whole picture is taken to span. The published tower sees 336, so each box reads the
    upper left two thirds of where it is; the published weights were trained so."""
    patch: int = 14
    """Pixels of one cell of the coarsest level."""


class RegionEncoder(nn.Module):
    """Boxes to words.

    Args:
        config: sizes.
        channels: of the image tower.
        width: of the language model.
    """

    def __init__(self, config: RegionConfig, channels: int, width: int) -> None:
        super().__init__()
        self.config, levels, place = config, range(config.num_levels), config.place_hidden
        self.input_convs = nn.ModuleList(nn.Conv2d(channels + 2, channels, 1) for _ in levels)
        self.exchange = nn.ModuleList(Exchange(channels, config.groups) for _ in range(config.rounds))
        self.roi_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in levels)
        self.flatten = nn.Linear(channels * config.roi_size**2, config.inner)
        self.place = nn.Sequential(
            nn.Linear(4, place),
            nn.ReLU(),
            nn.LayerNorm(place),
            nn.Linear(place, config.inner),
            nn.ReLU(),
            nn.LayerNorm(config.inner),
        )
        self.word = nn.Linear(config.inner, width)

    def forward(
        self,
        states: Sequence[Float[Tensor, "images patches channels"]],
        boxes: Float[Tensor, "boxes 4"],
        images: Int[Tensor, " boxes"],
    ) -> Float[Tensor, "boxes width"]:
        """The word of each box.

        Args:
            states: of the tower without its class token, the one for the finest map first.
            boxes: left, top, right, bottom as fractions of the picture's sides.
            images: picture of each box.
        """
        return self.words(self.crops(self.fuse(states), boxes, images), boxes)

    def fuse(self, states: Sequence[Float[Tensor, "images patches channels"]]) -> Levels:
        """A map of each level, 8, 4, 2 and 1 times the tower's patches along a side, that knows of its neighbours."""
        levels = [self._level(number, state) for number, state in enumerate(states)]
        for exchange in self.exchange:
            levels = exchange(levels)
        return levels

    def crops(
        self, levels: Levels, boxes: Float[Tensor, "boxes 4"], images: Int[Tensor, " boxes"]
    ) -> list[Float[Tensor, "boxes channels cells cells"]]:
        """What lies inside each box, level by level; sampled in float32."""
        rois = torch.cat([images[:, None].float(), (boxes * self.config.box_side).float()], dim=1)
        size = self.config.roi_size
        scales = [2 ** (len(levels) - 1 - number) / self.config.patch for number in range(len(levels))]
        with torch.autocast(rois.device.type, enabled=False):
            return [
                roi_align(level.float(), rois, size, scale, sampling_ratio=2, aligned=True).to(level.dtype)
                for level, scale in zip(levels, scales, strict=True)
            ]

    def words(self, crops: Sequence[Tensor], boxes: Float[Tensor, "boxes 4"]) -> Float[Tensor, "boxes width"]:
        """One word for each box, of what lies inside it and of where it is."""
        found = torch.stack([conv(crop) for conv, crop in zip(self.roi_convs, crops, strict=True)]).sum(0)
        seen = self.flatten(F.relu(found).flatten(1))
        return self.word(seen + self.place(boxes.to(seen.dtype)))

    def _level(self, number: int, state: Float[Tensor, "images patches channels"]) -> Float[Tensor, "images _ _ _"]:
        """The map of one level before any exchange.

        Published code enlarges first and convolves then; both are linear and enlarging leaves straight lines straight,
        so the other order gives the same at a 64th of the work.
        """
        side = round(state.shape[1] ** 0.5)
        square = state.transpose(1, 2).unflatten(2, (side, side))
        line = torch.linspace(-1, 1, side, device=state.device, dtype=state.dtype)
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y]).expand(len(state), -1, -1, -1)
        mixed = self.input_convs[number](torch.cat([square, places], dim=1))
        return resize(mixed, side * 2 ** (len(self.input_convs) - 1 - number))


class Exchange(nn.Module):
    """One round: each level takes a quarter of its channels from the coarser and one from the finer neighbour."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.quarter = channels // 4
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, levels: Levels) -> list[Tensor]:
        """All levels anew; each reads the others as they were before the round."""
        own = levels[0].shape[1] - 2 * self.quarter
        result = []
        for number, level in enumerate(levels):
            coarser, finer = levels[min(number + 1, len(levels) - 1)], levels[max(number - 1, 0)]
            side = level.shape[-1]
            parts = [
                level[:, :own],
                resize(coarser[:, own + self.quarter :], side),
                resize(finer[:, own : own + self.quarter], side),
            ]
            result.append(F.relu(self.norm(self.conv(torch.cat(parts, dim=1)))))
        return result


def resize(maps: Float[Tensor, "images channels _ _"], side: int) -> Float[Tensor, "images channels _ _"]:
    """Square maps of another side, corner on corner; computed in float32."""
    if maps.shape[-1] == side:
        return maps
    wide = F.interpolate(maps.float(), (side, side), mode="bilinear", align_corners=True)
    return wide.to(maps.dtype)
