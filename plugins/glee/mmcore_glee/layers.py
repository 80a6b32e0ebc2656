"""Small blocks that the pixel decoder and the query decoder share, and the encodings of positions and boxes."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TEMPERATURE = 10_000.0


class Mlp(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: channels in.
        hidden: channels between the layers.
        outputs: channels out.
        depth: number of linear layers.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu_(layer(x))
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Two linear layers around a ReLU.

    Args:
        dim: channels in and out.
        hidden: channels between.
        dropout: between the layers, while training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(dropped(F.relu_(self.linear1(x)), self.dropout, self.training))


def dropped(x: Tensor, dropout: float, training: bool) -> Tensor:
    """Dropout, where there is any."""
    return F.dropout(x, dropout) if dropout and training else x


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of a probability, finite at 0 and 1."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def sine_positions(height: int, width: int, dim: int, device: torch.device) -> Float[Tensor, "pixels dim"]:
    """Sine encoding of every pixel of a map, rows first: half the channels tell y, the other half x.

    Positions count from 1 and are scaled so that the last one is 2π (DETR's normalised encoding).
    """
    y = torch.arange(1, height + 1, dtype=torch.float32, device=device) / (height + 1e-6) * (2 * math.pi)
    x = torch.arange(1, width + 1, dtype=torch.float32, device=device) / (width + 1e-6) * (2 * math.pi)
    encoded_y = _sine(y, dim // 2)[:, None].expand(height, width, -1)
    encoded_x = _sine(x, dim // 2)[None].expand(height, width, -1)
    return torch.cat([encoded_y, encoded_x], dim=-1).flatten(0, 1)


def box_positions(boxes_cxcywh: Float[Tensor, "*shape 4"], dim: int) -> Float[Tensor, "*shape features"]:
    """Sine encoding of boxes in [0, 1]: `dim` channels each for y, x, width and height, in this order."""
    y, x, w, h = boxes_cxcywh[..., 1], boxes_cxcywh[..., 0], boxes_cxcywh[..., 2], boxes_cxcywh[..., 3]
    return _sine(torch.stack([y, x, w, h], dim=-1) * (2 * math.pi), dim).flatten(-2)


def _sine(angle: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape dim"]:
    """Pairs of sine and cosine at `dim / 2` wavelengths from 2π to 2π·10000."""
    exponent = torch.arange(dim, dtype=torch.float32, device=angle.device)
    phase = angle[..., None].float() / TEMPERATURE ** (2 * (exponent // 2) / dim)
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2).to(angle.dtype)
