"""Visual prompts: the model is shown a region instead of told a name.

A prompt speaks twice. A crop around it goes through the backbone and joins the words of the early fusion (the
template). Samples of the encoded pixels inside it join the queries of the decoder.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from mmcore_glee.backbone import ImageEncoder
from mmcore_glee.batch import PromptMode
from mmcore_glee.config import GleeConfig
from mmcore_glee.deformable import Shapes
from mmcore_glee.outputs import Draws
from mmcore_glee.query_decoder import PromptTokens

DECODER_LEVELS = 3
"""Decoder layer i reads level i mod 3; the coarsest level is never read."""
PUBLISHED_LEVELS = 4
"""Embeddings that published files have, whatever the number of levels."""
MARKED: frozenset[PromptMode] = frozenset({"scribble", "point"})
"""Modes whose region is drawn into the crop, by adding 1 to the normalised image."""


class TemplateFuser(nn.Module):
    """Bring the three coarse feature maps to one size and add them.

    Args:
        channels: of the three maps, from fine to coarse.
        dim: channels out.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(nn.Conv2d(inputs, dim, 3, padding=1) for inputs in channels)

    def forward(self, features: Sequence[Tensor]) -> Float[Tensor, "batch dim height width"]:
        first, *rest = (conv(feature) for conv, feature in zip(self.refine, features, strict=True))
        for coarse in rest:
            first = first + aligned_upsample(coarse, first.shape[-1] // coarse.shape[-1])
        return first


class VisualPrompt(nn.Module):
    """Tokens of a prompted region for the fusion and for the decoder.

    Args:
        config: sizes; without `visual_prompt` the fuser is left out, as in stage 1.
        channels: of the backbone's four maps.
    """

    def __init__(self, config: GleeConfig, channels: Sequence[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_points = config.prompt_points
        self.crop_size = config.prompt_crop
        self.embed = nn.ParameterList(torch.empty(dim, dim) for _ in range(PUBLISHED_LEVELS))
        for matrix in self.embed:
            nn.init.trunc_normal_(matrix, std=0.02)
        self.sign = nn.Embedding(2, dim)
        """What marks a sample as wanted (row 0); the published code never uses row 1, for unwanted ones."""
        self.fuser = TemplateFuser(channels[-3:], dim) if config.visual_prompt else None

    def template(
        self,
        images: Float[Tensor, "batch 3 height width"],
        masks: UInt8[Tensor, "batch height width"],
        mode: PromptMode,
        backbone: ImageEncoder,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of a crop around each prompt; no gradient reaches the backbone from here.

        Args:
            images: normalised and padded.
            masks: the prompted region of each image.
            mode: whether the region is marked in the crop.
            backbone: the image encoder.
        """
        assert self.fuser is not None
        crops = crop_around(
            images + masks[:, None].to(images.dtype) if mode in MARKED else images, masks, self.crop_size
        )
        with torch.no_grad():
            features = backbone(crops)
        return self.fuser(features[1:]).flatten(2).transpose(1, 2)

    def forward(
        self,
        pixels: Float[Tensor, "batch pixels dim"],
        shapes: Shapes,
        masks: UInt8[Tensor, "batch height width"],
        draws: Draws,
    ) -> PromptTokens:
        """Samples of the encoded pixels inside each prompt, for every level the decoder reads."""
        levels = [self.level(i, pixels, shapes, masks, draws) for i in range(min(DECODER_LEVELS, len(shapes)))]
        tokens, valid = zip(*levels, strict=True)
        return PromptTokens(tokens, valid, by_confidence=True)

    def level(
        self,
        level: int,
        pixels: Float[Tensor, "batch pixels dim"],
        shapes: Shapes,
        masks: UInt8[Tensor, "batch height width"],
        draws: Draws,
    ) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"]]:
        """Samples at one feature level, and which of them belong to a pixel of the prompt."""
        height, width = masks.shape[1:]
        inside = masks.flatten(1).bool()
        keys = draws.prompt_keys(level, inside).masked_fill(~inside, -1)
        chosen = keys.topk(min(self.num_points, inside.shape[1]), dim=1)
        valid = chosen.values > -1
        row = (chosen.indices // width).to(pixels.dtype) / height
        column = (chosen.indices % width).to(pixels.dtype) / width
        points = torch.stack([column, row], dim=-1) * valid[..., None]
        start = sum(h * w for h, w in shapes[:level])
        rows, columns = shapes[level]
        feature = pixels[:, start : start + rows * columns].transpose(1, 2).unflatten(-1, (rows, columns))
        sampled = F.grid_sample(feature, points[:, None] * 2 - 1, align_corners=True).squeeze(2).transpose(1, 2)
        return sampled @ self.embed[level] + self.sign.weight[0] * valid[..., None], valid


def mask_boxes(
    masks: UInt8[Tensor, "batch height width"],
) -> tuple[Int[Tensor, "batch 4"], Bool[Tensor, " batch"]]:
    """First and last column and row of each mask (x1, y1, x2, y2, last ones included), and whether it has any pixel."""
    columns, rows = masks.bool().any(1).byte(), masks.bool().any(2).byte()
    x1, y1 = columns.argmax(1), rows.argmax(1)
    x2 = columns.shape[1] - 1 - columns.flip(1).argmax(1)
    y2 = rows.shape[1] - 1 - rows.flip(1).argmax(1)
    return torch.stack([x1, y1, x2, y2], dim=1), columns.any(1)


def fill_boxes(masks: UInt8[Tensor, "batch height width"]) -> UInt8[Tensor, "batch height width"]:
    """The bounding box of each mask, filled but for its last row and column, as published."""
    (x1, y1, x2, y2), any_pixel = mask_boxes(masks)[0].unbind(1), mask_boxes(masks)[1]
    y = torch.arange(masks.shape[1], device=masks.device)
    x = torch.arange(masks.shape[2], device=masks.device)
    in_rows = (y >= y1[:, None]) & (y < y2[:, None]) & any_pixel[:, None]
    in_columns = (x >= x1[:, None]) & (x < x2[:, None])
    return (in_rows[:, :, None] & in_columns[:, None]).to(masks.dtype)


def crop_around(
    images: Float[Tensor, "batch 3 height width"], masks: UInt8[Tensor, "batch height width"], size: int
) -> Float[Tensor, "batch 3 size size"]:
    """A square of twice the mask's extent around it, cut at the image's border, resized bilinearly to `size`.

    Cropping and resizing are one product with a row and a column matrix, so no box has to leave the device. A mask
    without extent crops nothing away.
    """
    height, width = images.shape[-2:]
    box, any_pixel = mask_boxes(masks)
    x1, y1, x2, y2 = box.double().unbind(1)
    side = (2 * ((x2 - x1) * (y2 - y1)).sqrt()).ceil() * any_pixel
    left = (x1 + 0.5 * (x2 - x1) - 0.5 * side).round().clamp(min=0)
    top = (y1 + 0.5 * (y2 - y1) - 0.5 * side).round().clamp(min=0)
    columns = (left + side).clamp(max=width) - left
    rows = (top + side).clamp(max=height) - top
    whole = (columns <= 0) | (rows <= 0)
    left, top = left.masked_fill(whole, 0), top.masked_fill(whole, 0)
    columns, rows = columns.masked_fill(whole, width), rows.masked_fill(whole, height)
    with torch.autocast(images.device.type, enabled=False):
        vertical = _resize_matrix(top, rows, size, height).to(images.dtype)
        horizontal = _resize_matrix(left, columns, size, width).to(images.dtype)
        return vertical[:, None] @ images @ horizontal[:, None].transpose(-1, -2)


def _resize_matrix(
    start: Float[Tensor, " batch"], length: Float[Tensor, " batch"], size: int, full: int
) -> Float[Tensor, "batch size full"]:
    """Weights with which `size` outputs read a stretch of a line, as bilinear interpolation without aligned corners."""
    centre = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    position = (centre * (length[:, None] / size) - 0.5).clamp(min=0)
    low = position.floor()
    share = position - low
    high = torch.minimum(low + 1, length[:, None] - 1)
    weights = start.new_zeros(len(start), size, full)
    for index, weight in ((low, 1 - share), (high, share)):
        weights.scatter_add_(2, (index + start[:, None]).long()[..., None], weight[..., None])
    return weights


def aligned_upsample(x: Float[Tensor, "batch dim h w"], factor: int) -> Float[Tensor, "batch dim height width"]:
    """Enlarge so that the first pixels of input and output coincide (CondInst's aligned bilinear)."""
    if factor == 1:
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, :, : factor * height, : factor * width]
