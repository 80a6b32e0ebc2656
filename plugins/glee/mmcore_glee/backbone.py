"""Image encoder of GLEE Lite: ResNet-50 (He et al. 2016) with frozen batch norms, stride 2 in the 3x3 convolution.

Parameters are named as in torchvision's `resnet50`. Frozen norms are affine maps with constant coefficients, so they
are folded into the convolution's weights on the fly: equal outputs, no elementwise pass over the feature maps.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcore_glee.config import GleeConfig


class ImageEncoder(Protocol):
    """What GLEE asks of any backbone."""

    channels: tuple[int, ...]
    """Channels of each output."""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        """Feature maps from fine to coarse, each half the size of the one before."""
        ...


class FrozenBatchNorm(nn.Module):
    """Statistics and coefficients of a batch norm that never change; all four are buffers.

    Args:
        channels: number of channels.
    """

    eps = 1e-5
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def coefficients(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Scale and shift that are equal to the norm."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm) -> Tensor:
    """Convolution followed by a frozen norm, as one convolution."""
    scale, shift = norm.coefficients()
    weight = conv.weight * scale.to(conv.weight.dtype)[:, None, None, None]
    return F.conv2d(x, weight, shift.to(conv.weight.dtype), conv.stride, conv.padding, groups=conv.groups)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around which the input is added.

    Args:
        inputs: channels in.
        width: channels inside.
        outputs: channels out.
        stride: of one convolution and of the shortcut.
        config: which convolution has the stride, and in how many groups the 3x3 one is divided.
        shortcut: whether the input is projected before it is added.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, config: GleeConfig, *, shortcut: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if config.resnet_stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = FrozenBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=config.resnet_groups, bias=False)
        self.bn2 = FrozenBatchNorm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = FrozenBatchNorm(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenBatchNorm(outputs))
            if shortcut
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(conv_norm(x, self.conv1, self.bn1))
        y = F.relu_(conv_norm(y, self.conv2, self.bn2))
        y = conv_norm(y, self.conv3, self.bn3)
        if self.downsample is not None:
            conv, norm = self.downsample
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, FrozenBatchNorm)
            x = conv_norm(x, conv, norm)
        return F.relu_(y + x)


class ResNet(nn.Module):
    """Four stages of bottlenecks; outputs at strides 4, 8, 16 and 32.

    Args:
        config: the `resnet_*` entries are used.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        self.channels = config.feature_channels
        self.conv1 = nn.Conv2d(3, config.resnet_stem, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm(config.resnet_stem)
        inputs = config.resnet_stem
        for i, (depth, outputs) in enumerate(zip(config.resnet_depths, self.channels, strict=True)):
            width = config.resnet_width * 2**i
            blocks = [
                Bottleneck(
                    inputs if j == 0 else outputs, width, outputs, 2 if i and j == 0 else 1, config, shortcut=j == 0
                )
                for j in range(depth)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self._reset(sum(config.resnet_depths))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of normalised images.

        Args:
            images: (batch, 3, height, width), RGB with mean 0 and deviation 1; sides are multiples of 32.

        Returns:
            Feature maps at strides 4, 8, 16 and 32.
        """
        x = F.relu_(conv_norm(images, self.conv1, self.bn1))
        x1 = self.layer1(F.max_pool2d(x, 3, 2, 1))
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return x1, x2, x3, self.layer4(x3)

    def _reset(self, num_blocks: int) -> None:
        # With identity norms nothing rescales the sum of many residual branches, so each branch starts small enough
        # that all together add about as much variance as the input has (Zhang et al. 2019, Fixup).
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                linear = "downsample" in name
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if linear else "relu")
                if name.endswith("conv3"):
                    with torch.no_grad():
                        module.weight.mul_(num_blocks**-0.5)
