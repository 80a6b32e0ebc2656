"""Multi-scale deformable attention (Zhu et al. 2021) in plain torch: each query looks at a few points per level.

A query's result is a weighted sum of 4 corners x points x levels rows of the value table, which is what an embedding
bag computes without holding the rows; on GPUs with Triton a kernel does (`deformable_triton`). The table has a border
of zeros around each level: a point outside is moved onto the border, and no corner asks whether it lies inside. Indices
and corner weights are computed again in the backward pass, so that an encoder layer keeps its sampling points only: 3
numbers per point instead of several times 4 corners x channels.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from mmcore.base.terminal import tell
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
        triton: whether a GPU may use the Triton kernel.
    """

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int, *, triton: bool = True) -> None:
        super().__init__()
        self.triton = triton
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
            # Repeated for every point first: the sum then runs through a query's points, not through pairs.
            centres = (reference * size).expand(-1, -1, -1, -1, self.num_points, -1).contiguous()
            points = centres + (offsets - 0.5)
        else:
            # A box's points lie inside it at first: offsets are a share of half its size.
            spread = reference[..., 2:] * size * (0.5 / self.num_points)
            points = reference[..., :2] * size + (offsets * spread - 0.5)
        value = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        return self.output_proj(sample(value, points, weights, shapes, triton=self.triton))


def sample(
    value: Float[Tensor, "batch pixels heads channels"],
    points: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
    shapes: Shapes,
    *,
    triton: bool = True,
) -> Float[Tensor, "batch queries dim"]:
    """Weighted sum of values interpolated at points; outside the map they are zero.

    Args:
        value: pixels of all levels end to end, by head.
        points: (x, y) in pixels of each level; 0 is the centre of the first pixel.
        weights: of each point.
        shapes: size of each level.
        triton: whether a GPU may use the Triton kernel; it never is where torch is asked for deterministic results.
    """
    if triton and value.is_cuda and not torch.are_deterministic_algorithms_enabled():
        kernels = _kernels(value.device)
        if kernels is not None:
            return kernels.sample(value, points, weights, shapes)
    result: Tensor = _Sample.apply(value, points, weights, shapes)  # type: ignore[assignment]
    return result


@lru_cache
def _kernels(device: torch.device) -> ModuleType | None:
    """The Triton kernels if they run on this device, which is tried once; whether they do is told."""
    try:
        from mmcore_glee import deformable_triton as kernels  # Triton is not part of every build of torch
    except ImportError:
        tell("deformable attention: plain torch, for Triton is not installed\n  do:    pip install triton")
        return None
    try:
        one = torch.ones(1, 1, 1, 1, device=device)
        kernels.sample(one, one.view(1, 1, 1, 1, 1, 1).expand(1, 1, 1, 1, 1, 2), one[..., None], ((1, 1),))
    except Exception as error:  # no compiler, a GPU that Triton does not know: training goes on without
        tell(f"deformable attention: plain torch, for Triton cannot compile here: {type(error).__name__}: {error}")
        return None
    tell(f"deformable attention on {device}: the Triton kernel (--set model.triton=false is plain torch)")
    return kernels


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value, points, weights)
        ctx.shapes = shapes
        places = _places(points, shapes)
        rows = _bordered(value, shapes)
        shares = _shares(places, weights, corner_dim=3).flatten(3).flatten(0, 2).to(rows.dtype)
        summed = F.embedding_bag(_corner_rows(places.cell, shapes), rows, per_sample_weights=shares, mode="sum")
        return summed.view(*points.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value, points, weights = ctx.saved_tensors
        places = _places(points, ctx.shapes)
        of_points, of_weights = _point_gradients(gradient, value, points, weights, places, ctx.shapes)
        return _value_gradient(gradient, value, weights, places, ctx.shapes), of_points, of_weights, None


class _Places(NamedTuple):
    """Where points lie in the bordered table."""

    cell: Int[Tensor, "batch queries heads levels points"]
    """Pixel of the table that is a point's upper left corner, counted over the batch; heads are not counted."""
    right: Float[Tensor, "batch queries heads levels points"]
    """Way from that corner to the next one, from 0 to 1."""
    down: Float[Tensor, "batch queries heads levels points"]


def _places(points: Float[Tensor, "batch queries heads levels points 2"], shapes: Shapes) -> _Places:
    """Cell and position inside it of each point; what lies outside is moved to where the border gives zero."""
    width, height, start = _by_point(shapes, points.device, *points.shape[2:5])
    per_image = _geometry(shapes, points.device)[3]
    x, y = points.unbind(-1)
    last_x, last_y = width.to(x.dtype), height.to(x.dtype)
    x, y = torch.minimum(x, last_x).clamp_(min=-1), torch.minimum(y, last_y).clamp_(min=-1)
    left, top = torch.minimum(x.floor(), last_x - 1), torch.minimum(y.floor(), last_y - 1)
    image = _counted(points.shape[0], points.device)[:, None, None, None, None] * per_image
    cell = top.int().mul_(width + 2).add_(left.int()).add_(image + start)
    # Points that are not finite have no place; they must reach the guard as such, not read outside the table.
    last_cell = points.shape[0] * per_image - shapes[-1][1] - 4
    return _Places(cell.clamp_(0, last_cell), x.sub_(left), y.sub_(top))


def _bordered(value: Float[Tensor, "batch pixels heads channels"], shapes: Shapes) -> Float[Tensor, "rows channels"]:
    """The value table with a border of zeros around each level: one row per image, pixel and head."""
    batch, _, heads, channels = value.shape
    table = value.new_zeros(batch, _geometry(shapes, value.device)[3], heads, channels)
    for inner, pixels in zip(_insides(table, shapes, down=1, right=1), _maps(value, shapes), strict=True):
        inner.copy_(pixels)
    return table.view(-1, channels)


def _corner_rows(cell: Int[Tensor, "batch queries heads levels points"], shapes: Shapes) -> Int[Tensor, "bags rows"]:
    """Rows of the four corners of each point, left to right, then down; one bag per query and head."""
    batch, queries, heads, levels, num_points = cell.shape
    width = _by_point(shapes, cell.device, heads, levels, num_points)[0]
    first = (cell * heads).add_(_counted(heads, cell.device)[:, None, None])
    rows = cell.new_empty(batch, queries, heads, 4, levels, num_points)
    for corner, step in enumerate((0, 1, width + 2, width + 3)):
        torch.add(first, step * heads, out=rows[:, :, :, corner])
    return rows.view(batch * queries * heads, -1)


def _shares(places: _Places, weights: Tensor, *, corner_dim: int) -> Float[Tensor, "*points"]:
    """What each corner counts, left to right, then down, as a new dimension at `corner_dim`."""
    lower = weights * places.down
    upper = weights - lower
    lower_right, upper_right = lower * places.right, upper * places.right
    return torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=corner_dim)


def _point_gradients(
    gradient: Float[Tensor, "batch queries dim"],
    value: Float[Tensor, "batch pixels heads channels"],
    points: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
    places: _Places,
    shapes: Shapes,
) -> tuple[Tensor, Tensor]:
    """Gradients of points and of their weights, from each corner's dot product with its query's gradient."""
    rows, index = _bordered(value, shapes), _corner_rows(places.cell, shapes)
    bags, per_bag = index.shape
    bag = _counted(bags, index.device)
    # The operator behind embedding bags' own gradient; through autograd it would cost another forward.
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient.reshape(bags, -1).to(rows.dtype),
        rows,
        index.view(-1),
        bag * per_bag,
        bag[:, None].expand(-1, per_bag).reshape(-1),
        _SUM,
    )
    corners = dots.to(weights.dtype).view(*weights.shape[:3], 4, *weights.shape[3:]).unbind(3)
    slope_top, slope_bottom = corners[1] - corners[0], corners[3] - corners[2]
    top = torch.addcmul(corners[0], places.right, slope_top)
    slope_down = torch.addcmul(corners[2], places.right, slope_bottom).sub_(top)
    slope_right = torch.addcmul(slope_top, places.down, slope_bottom.sub_(slope_top))
    moves = _between(points, shapes).mul(weights)
    return torch.stack([slope_right.mul_(moves), slope_down * moves], dim=-1), slope_down.mul_(places.down).add_(top)


_SUM = 0
"""The operator's number for bags that are sums."""


def _between(points: Tensor, shapes: Shapes) -> Tensor:
    """Whether a point has a pixel of its map beside it; the others were moved and have no gradient."""
    width, height, _ = _by_point(shapes, points.device, *points.shape[2:5])
    x, y = points.unbind(-1)
    return (x > -1) & (x < width) & (y > -1) & (y < height)


def _value_gradient(
    gradient: Float[Tensor, "batch queries dim"],
    value: Float[Tensor, "batch pixels heads channels"],
    weights: Float[Tensor, "batch queries heads levels points"],
    places: _Places,
    shapes: Shapes,
) -> Float[Tensor, "batch pixels heads channels"]:
    """Every value row's weighted sum of query gradients, without atomic additions.

    Points are sorted by their cell, so that each cell is a bag again; a cell's sum for one corner then moves to that
    corner's pixel, which is a shift of the whole map.
    """
    batch, _, heads, levels, num_points = weights.shape
    num_cells = batch * _geometry(shapes, value.device)[3] * heads
    cells = (places.cell * heads).add_(_counted(heads, value.device)[:, None, None])
    ordered, order = cells.flatten().sort()
    offsets = torch.searchsorted(ordered, _counted(num_cells, ordered.device), out_int32=True)
    query = (order // (levels * num_points)).int()
    rows = gradient.reshape(-1, value.shape[-1])
    shares = _shares(places, weights, corner_dim=5).view(-1, 4).index_select(0, order).to(rows.dtype).t().contiguous()
    result = torch.zeros_like(value)
    for corner, share in enumerate(shares):
        sums = F.embedding_bag(query, rows, offsets, per_sample_weights=share, mode="sum")
        down, right = divmod(corner, 2)
        moved = _insides(sums.view(batch, -1, heads, value.shape[-1]), shapes, down=1 - down, right=1 - right)
        for pixels, part in zip(_maps(result, shapes), moved, strict=True):
            pixels.add_(part)
    return result


def _maps(value: Float[Tensor, "batch pixels heads channels"], shapes: Shapes) -> Iterator[Tensor]:
    """Each level as a map, (batch, height, width, heads, channels)."""
    for level, (height, width) in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
        yield level.unflatten(1, (height, width))


def _insides(
    table: Float[Tensor, "batch cells heads channels"], shapes: Shapes, *, down: int, right: int
) -> Iterator[Tensor]:
    """Of each bordered level the part as large as its map that begins `down` rows and `right` columns inside."""
    sizes = [(height + 2) * (width + 2) for height, width in shapes]
    for level, (height, width) in zip(table.split(sizes, dim=1), shapes, strict=True):
        yield level.unflatten(1, (height + 2, width + 2))[:, down : down + height, right : right + width]


def _counted(number: int, device: torch.device) -> Int[Tensor, " number"]:
    return torch.arange(number, dtype=torch.int32, device=device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept results may be needed by a training step
def _geometry(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Width, height and place of the first pixel of each bordered level, (levels, 1) int32, and all cells' number."""
    table, first = [], 0
    for height, width in shapes:
        table.append([width, height, first + width + 3])
        first += (height + 2) * (width + 2)
    columns = torch.tensor(table, dtype=torch.int32).to(device).unbind(-1)
    return columns[0][:, None], columns[1][:, None], columns[2][:, None], first


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _by_point(
    shapes: Shapes, device: torch.device, heads: int, levels: int, points: int
) -> tuple[Int[Tensor, "heads levels points"], ...]:
    """The same three, repeated for every head and point: on a CPU an operation with (levels, 1) goes through all
    points in runs of four, one with this in runs of all of a query's."""
    return tuple(one.expand(heads, levels, points).contiguous() for one in _geometry(shapes, device)[:3])


def _sizes(shapes: Shapes, like: Tensor) -> Float[Tensor, "levels 1 2"]:
    width, height, _, _ = _geometry(shapes, like.device)
    return torch.stack([width, height], dim=-1).to(like.dtype)
