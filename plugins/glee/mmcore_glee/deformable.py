"""Multi-scale deformable attention (Zhu et al. 2021) in plain torch: each query looks at a few points per level.

A query's result is a weighted sum of 4 corners x points x levels rows of the value table, which is what an embedding
bag computes without holding the rows. Indices and corner weights are computed again in the backward pass, so that an
encoder layer keeps its sampling points only: 3 numbers per point instead of several times 4 corners x channels.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Shapes = tuple[tuple[int, int], ...]
"""Height and width of each level, in the order in which the levels are laid end to end."""


class DeformableAttention(nn.Module):
    """Attention at predicted points around each query's reference.

    Args:
        dim: channels of queries and values.
        num_levels: feature levels.
        num_heads: attention heads.
        num_points: points per head and level.
    """

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in different directions, further with each point; every point weighs the same."""
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        ring = direction[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        reference: Float[Tensor, "#batch queries levels coordinates"],
        value: Float[Tensor, "batch pixels dim"],
        shapes: Shapes,
    ) -> Float[Tensor, "batch queries dim"]:
        """Look up `value` around each reference.

        Args:
            query: content plus position of each query.
            reference: points (x, y) or boxes (cx, cy, w, h) as fractions of the map; one level, or one per level.
            value: pixels of all levels end to end.
            shapes: size of each level.
        """
        split = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*split, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1).unflatten(-1, split[1:])
        size = _sizes(shapes, query)
        reference = reference[:, :, None, :, None]
        if reference.shape[-1] == 2:
            points = reference * size + (offsets - 0.5)
        else:
            # A box's points lie inside it at first: offsets are a share of half its size.
            spread = reference[..., 2:] * size * (0.5 / self.num_points)
            points = reference[..., :2] * size + (offsets * spread - 0.5)
        value = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        return self.output_proj(sample(value, points, weights, shapes))


def sample(
    value: Float[Tensor, "batch pixels heads channels"],
    points: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
    shapes: Shapes,
) -> Float[Tensor, "batch queries dim"]:
    """Weighted sum of values interpolated at points; outside the map they are zero.

    Args:
        value: pixels of all levels end to end, by head.
        points: (x, y) in pixels of each level; 0 is the centre of the first pixel.
        weights: of each point.
        shapes: size of each level.
    """
    result: Tensor = _Sample.apply(value, points, weights, shapes)  # type: ignore[assignment]
    return result


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value, points, weights)
        ctx.shapes = shapes
        return _gather(value, points, weights, shapes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            output = _gather(inputs[0], inputs[1], inputs[2], ctx.shapes)
        value, points, weights = torch.autograd.grad(output, inputs, gradient)
        return value, points, weights, None


def _gather(value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    batch, queries, heads = points.shape[:3]
    index, corner_weights = _corners(points, weights, shapes, value.shape[1])
    rows = value.reshape(-1, value.shape[-1])
    bags = batch * queries * heads
    summed = F.embedding_bag(
        index.view(bags, -1), rows, per_sample_weights=corner_weights.view(bags, -1).to(rows.dtype), mode="sum"
    )
    return summed.view(batch, queries, -1)


def _corners(
    points: Tensor, weights: Tensor, shapes: Shapes, num_pixels: int
) -> tuple[Int[Tensor, "*points 4"], Float[Tensor, "*points 4"]]:
    """Row of the value table and weight of the four pixels around each point; weight 0 outside the map."""
    batch, _, heads = points.shape[:3]
    corner = points.detach().floor()
    along = points - corner
    x, y = corner.int().unbind(-1)
    ax, ay = along.unbind(-1)
    width, height, start = _geometry(shapes, points.device)
    base = torch.arange(batch, dtype=torch.int32, device=points.device)[:, None, None, None, None] * num_pixels + start
    head = torch.arange(heads, dtype=torch.int32, device=points.device)[:, None, None]
    indices, factors = [], []
    for y_corner, share_y in ((y, 1 - ay), (y + 1, ay)):
        row = base + torch.minimum(y_corner.clamp(min=0), height - 1) * width
        share_y = weights * share_y * ((y_corner >= 0) & (y_corner < height))
        for x_corner, share_x in ((x, 1 - ax), (x + 1, ax)):
            indices.append((row + torch.minimum(x_corner.clamp(min=0), width - 1)) * heads + head)
            factors.append(share_y * share_x * ((x_corner >= 0) & (x_corner < width)))
    return torch.stack(indices, dim=-1), torch.stack(factors, dim=-1)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _geometry(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Width, height and first row of each level, (levels, 1) int32."""
    starts = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
    table = torch.tensor([[w, h, s] for (h, w), s in zip(shapes, starts, strict=True)], dtype=torch.int32)
    width, height, start = table.to(device).unbind(-1)
    return width[:, None], height[:, None], start[:, None]


def _sizes(shapes: Shapes, like: Tensor) -> Float[Tensor, "levels 1 2"]:
    width, height, _ = _geometry(shapes, like.device)
    return torch.stack([width, height], dim=-1).to(like.dtype)
