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
        return _gather(value, *_corners(points, weights, shapes, value.shape[1]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        value, points, weights = ctx.saved_tensors
        points, weights = points.detach().requires_grad_(), weights.detach().requires_grad_()
        with torch.enable_grad():
            index, shares = _corners(points, weights, ctx.shapes, value.shape[1])
            output = _gather(value.detach(), index, shares)
        of_points, of_weights = torch.autograd.grad(output, (points, weights), gradient)
        of_value = _scatter(gradient, points.detach(), shares.detach(), ctx.shapes, value)
        return of_value, of_points, of_weights, None


def _gather(
    value: Float[Tensor, "batch pixels heads channels"],
    index: Int[Tensor, "*points 4"],
    shares: Float[Tensor, "*points 4"],
) -> Float[Tensor, "batch queries dim"]:
    """Each query's weighted sum of rows of the value table."""
    batch, queries, heads = index.shape[:3]
    rows = value.reshape(-1, value.shape[-1])
    bags = batch * queries * heads
    weights = shares.view(bags, -1).to(rows.dtype)
    summed = F.embedding_bag(index.view(bags, -1), rows, per_sample_weights=weights, mode="sum")
    return summed.view(batch, queries, -1)


def _scatter(
    gradient: Float[Tensor, "batch queries dim"],
    points: Float[Tensor, "batch queries heads levels points 2"],
    shares: Float[Tensor, "batch queries heads levels points 4"],
    shapes: Shapes,
    value: Float[Tensor, "batch pixels heads channels"],
) -> Float[Tensor, "batch pixels heads channels"]:
    """The transpose of `_gather`: every value row's weighted sum of query gradients, without atomic additions.

    Points are sorted by the cell between four pixels they lie in, so that each cell is a bag again; a cell's sum for
    one corner then moves to that corner's pixel, which is a shift of the whole map.
    """
    batch, _, heads, _, num_points = points.shape[:5]
    cells, num_cells = _cells(points, shapes)
    ordered, order = cells.flatten().sort()
    offsets = torch.searchsorted(ordered, torch.arange(num_cells, device=ordered.device, dtype=ordered.dtype))
    query = (order // (len(shapes) * num_points)).to(ordered.dtype)
    rows = gradient.reshape(-1, value.shape[-1])
    result = torch.zeros_like(value)
    for corner, weights in enumerate(shares.flatten(0, -2).to(rows.dtype).unbind(-1)):
        sums = F.embedding_bag(query, rows, offsets.to(query.dtype), per_sample_weights=weights[order], mode="sum")
        sums = sums.view(batch, -1, heads, value.shape[-1])
        down, right = divmod(corner, 2)
        first = start = 0
        for height, width in shapes:
            cut = sums[:, first : first + (height + 1) * (width + 1)].unflatten(1, (height + 1, width + 1))
            moved = cut[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
            result[:, start : start + height * width].unflatten(1, (height, width)).add_(moved)
            first, start = first + (height + 1) * (width + 1), start + height * width
    return result


def _cells(points: Tensor, shapes: Shapes) -> tuple[Int[Tensor, "*points"], int]:
    """Between which four pixels each point lies: (H+1)·(W+1) cells per level, image and head, and their number.

    A point far outside counts in a border cell, where its shares are 0.
    """
    batch, _, heads = points.shape[:3]
    x, y = points.floor().int().unbind(-1)
    width, height, _, start = _geometry(shapes, points.device)
    per_image = sum((h + 1) * (w + 1) for h, w in shapes)
    column = torch.minimum((x + 1).clamp(min=0), width)
    row = torch.minimum((y + 1).clamp(min=0), height)
    image, head = _owners(batch, heads, points.device)
    cell = image * per_image + start + row * (width + 1) + column
    return cell * heads + head, batch * per_image * heads


def _corners(
    points: Tensor, weights: Tensor, shapes: Shapes, num_pixels: int
) -> tuple[Int[Tensor, "*points 4"], Float[Tensor, "*points 4"]]:
    """Row of the value table and share of the four pixels around each point; share 0 outside the map.

    Corners run left to right, then down.
    """
    batch, _, heads = points.shape[:3]
    corner = points.detach().floor()
    x, y = corner.int().unbind(-1)
    right, down = (points - corner).unbind(-1)
    width, height, start, _ = _geometry(shapes, points.device)
    image, head = _owners(batch, heads, points.device)
    first = image * num_pixels + start
    rows = [torch.minimum(at.clamp(min=0), height - 1) * width + first for at in (y, y + 1)]
    columns = [torch.minimum(at.clamp(min=0), width - 1) for at in (x, x + 1)]
    lower = weights * down
    of_rows = [(weights - lower) * _inside(y, height), lower * _inside(y + 1, height)]
    of_columns = [(1 - right) * _inside(x, width), right * _inside(x + 1, width)]
    index = torch.stack([(row + column) * heads + head for row in rows for column in columns], dim=-1)
    shares = torch.stack([row * column for row in of_rows for column in of_columns], dim=-1)
    return index, shares


def _inside(at: Tensor, size: Tensor) -> Tensor:
    return (at >= 0) & (at < size)


def _owners(batch: int, heads: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Number of the image and of the head, int32, as they broadcast over points."""
    image = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None, None]
    return image, torch.arange(heads, dtype=torch.int32, device=device)[:, None, None]


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept results may be needed by a training step
def _geometry(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width, height, first pixel and first cell of each level, (levels, 1) int32."""
    table, pixel, cell = [], 0, 0
    for height, width in shapes:
        table.append([width, height, pixel, cell])
        pixel, cell = pixel + height * width, cell + (height + 1) * (width + 1)
    columns = torch.tensor(table, dtype=torch.int32).to(device).unbind(-1)
    return columns[0][:, None], columns[1][:, None], columns[2][:, None], columns[3][:, None]


def _sizes(shapes: Shapes, like: Tensor) -> Float[Tensor, "levels 1 2"]:
    width, height, _, _ = _geometry(shapes, like.device)
    return torch.stack([width, height], dim=-1).to(like.dtype)
