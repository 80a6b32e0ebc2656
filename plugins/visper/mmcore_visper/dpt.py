"""The DPT decoder of Depth-Anything-V2 (Ranftl et al. 2021): four token maps to a depth picture. Viewing only, no loss.

    tokens -> 1x1 -> x4, x2, x1, /2 -> 3x3 -> fuse from coarse to fine -> 3x3 -> 14 pixels a token -> 3x3 -> 1x1 -> ReLU

Parameter names are the published ones, below `depth_head.`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from mmcore.errors import ShapeError
from torch import Tensor, nn

from mmcore_visper.config import VisperConfig

PIXELS_PER_TOKEN = 14
HEAD_WIDTH = 32


class ResidualUnit(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, and what came in."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + x


class FusionBlock(nn.Module):
    """Add a finer map to the coarser one's result, and bring the sum to the next size.

    `resConfUnit1` of the coarsest block has nothing to work on; it is in published files all the same.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, coarse: Tensor, fine: Tensor | None, size: Sequence[int]) -> Tensor:
        joined = coarse if fine is None else coarse + self.resConfUnit1(fine)
        grown = F.interpolate(self.resConfUnit2(joined), tuple(size), mode="bilinear", align_corners=True)
        return self.out_conv(grown)


class DepthHead(nn.Module):
    """Published `depth_head`: four maps of tokens to one channel."""

    def __init__(self, in_channels: int, features: int, out_channels: Sequence[int]) -> None:
        super().__init__()
        first, second, _, last = out_channels
        self.projects = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for channels in out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.scratch = nn.Module()
        for number, channels in enumerate(out_channels, 1):
            self.scratch.add_module(f"layer{number}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            self.scratch.add_module(f"refinenet{number}", FusionBlock(features))
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, HEAD_WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(HEAD_WIDTH, 1, 1), nn.ReLU()
        )

    def forward(self, maps: Sequence[Float[Tensor, "images channels side side"]]) -> Float[Tensor, "images 1 px px"]:
        """Depth of each image, `PIXELS_PER_TOKEN` pixels to a token, not below 0."""
        side = maps[0].shape[-1]
        pyramid = [
            self.scratch.get_submodule(f"layer{i + 1}_rn")(resize(project(tokens)))
            for i, (tokens, project, resize) in enumerate(zip(maps, self.projects, self.resize_layers, strict=True))
        ]
        path = self.scratch.get_submodule("refinenet4")(pyramid[3], None, pyramid[2].shape[2:])
        path = self.scratch.get_submodule("refinenet3")(path, pyramid[2], pyramid[1].shape[2:])
        path = self.scratch.get_submodule("refinenet2")(path, pyramid[1], pyramid[0].shape[2:])
        twice = [2 * length for length in pyramid[0].shape[2:]]
        path = self.scratch.get_submodule("refinenet1")(path, pyramid[0], twice)
        size = (side * PIXELS_PER_TOKEN, side * PIXELS_PER_TOKEN)
        picture = F.interpolate(self.scratch.output_conv1(path), size, mode="bilinear", align_corners=True)  # type: ignore[operator]
        return self.scratch.output_conv2(picture)  # type: ignore[operator]


class DepthDecoder(nn.Module):
    """Features of a depth predictor or teacher to a picture.

    Args:
        in_channels: of the tokens.
        features: width of the fusion.
        out_channels: of the four levels, fine to coarse.
    """

    def __init__(
        self, in_channels: int = 1024, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024)
    ) -> None:
        super().__init__()
        self.depth_head = DepthHead(in_channels, features, out_channels)

    def forward(self, features: Sequence[Float[Tensor, "images tokens channels"]]) -> Float[Tensor, "images px px"]:
        """Depth of each image, not below 0.

        Args:
            features: four levels; the same one four times, or the four outputs of a depth predictor.

        Raises:
            ShapeError: there are not four, or their tokens are no square.
        """
        side = round(features[0].shape[1] ** 0.5)
        if len(features) != 4 or side * side != features[0].shape[1]:
            raise ShapeError(
                f"{len(features)} levels of {features[0].shape[1]} tokens", known="four levels of a square"
            )
        maps = [level.transpose(1, 2).unflatten(2, (side, side)) for level in features]
        return F.relu(self.depth_head(maps)).squeeze(1)


def as_picture(depth: Float[Tensor, "images px px"]) -> Float[Tensor, "images px px"]:
    """Depth of each image brought to 0 ... 1; a flat one becomes 0."""
    least, most = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
    return (depth - least) / (most - least).clamp_min(1e-12)


def build_depth_decoder(config: VisperConfig) -> DepthDecoder | None:
    """The frozen decoder of models that predict depth."""
    predicted = [config.probe] if config.probe else [task.name for task in config.tasks if config.predictors]
    sizes = config.depth_decoder
    if "depth" not in predicted or sizes is None:
        return None
    return DepthDecoder(sizes.in_channels, sizes.features, sizes.out_channels).requires_grad_(False)
