"""Deformable sampling as two Triton kernels, for GPUs; `mmcore_glee.deformable` says what is computed.

One program serves one head of some queries. It goes through their points, reads the four corners of each from the
value table, and keeps only the sum, or on the way back three gradients. Nothing of the size of all corners ever exists:
what a call needs beyond its result is a float32 gradient of the values.

The gradient of the values is added up atomically, so its last bits depend on the order in which programs run.
Triton compiles on first use; importing this file without Triton is an ImportError.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]
QUERIES = 32
"""Queries of one program."""


def sample(value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """Weighted sum of values interpolated at points; the arguments are those of `mmcore_glee.deformable.sample`."""
    result: Tensor = _Sample.apply(value, points, weights, shapes)  # type: ignore[assignment]
    return result


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, points: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        value, points, weights = value.contiguous(), points.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, points, weights)
        ctx.shapes = shapes
        batch, queries, heads = points.shape[:3]
        result = value.new_empty(batch, queries, heads * value.shape[3])
        _forward[_grid(points)](value, points, weights, _levels(shapes, value.device), result, **_sizes(value, points))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value, points, weights = ctx.saved_tensors
        of_value = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        of_points, of_weights = torch.empty_like(points), torch.empty_like(weights)
        _backward[_grid(points)](
            gradient.contiguous(),
            value,
            points,
            weights,
            _levels(ctx.shapes, value.device),
            of_value,
            of_points,
            of_weights,
            **_sizes(value, points),
        )
        return of_value.to(value.dtype), of_points, of_weights, None


def _grid(points: Tensor) -> Sequence[int]:
    batch, queries, heads = points.shape[:3]
    return (triton.cdiv(queries, QUERIES), heads, batch)


def _sizes(value: Tensor, points: Tensor) -> dict[str, Any]:
    """What is compiled into the kernels. Numbers of queries and pixels are arguments, for images differ in size."""
    channels = value.shape[3]
    return {
        "num_queries": points.shape[1],
        "num_pixels": value.shape[1],
        "num_heads": points.shape[2],
        "num_levels": points.shape[3],
        "num_points": points.shape[4],
        "channels": channels,
        "padded": triton.next_power_of_2(channels),
        "block": QUERIES,
        "exact": tl.float64 if value.dtype == torch.float64 else tl.float32,
    }


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept results may be needed by a training step
def _levels(shapes: Shapes, device: torch.device) -> Tensor:
    """Width, height and first pixel of each level, (levels, 3) int32."""
    table, first = [], 0
    for height, width in shapes:
        table.append([width, height, first])
        first += height * width
    return torch.tensor(table, dtype=torch.int32).to(device)


@triton.jit
def _corners(points, level_table, level, spot, present, exact: tl.constexpr):
    """Where a point lies: its upper left corner, its share right and down of it, and the size of its level."""
    width = tl.load(level_table + level * 3)
    height = tl.load(level_table + level * 3 + 1)
    first = tl.load(level_table + level * 3 + 2)
    x = tl.load(points + spot * 2, mask=present, other=-1.0).to(exact)
    y = tl.load(points + spot * 2 + 1, mask=present, other=-1.0).to(exact)
    # Outside, also at infinity, no corner counts; the share must stay finite.
    outside = (x <= -1) | (x >= width) | (y <= -1) | (y >= height)
    x = tl.where(outside, -1.0, x)
    y = tl.where(outside, -1.0, y)
    # What is no number has no place, but must come out as such.
    left = tl.where(x == x, tl.floor(x), -1.0)
    top = tl.where(y == y, tl.floor(y), -1.0)
    present = present & (outside == 0)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top, width, height, first, present


@triton.jit
def _corner(value, base, column, row, width, height, first, present, channel, num_heads: tl.constexpr,
            channels: tl.constexpr, exact: tl.constexpr):  # fmt: skip
    """One corner of every query's point: its values, where they lie, and whether they lie inside."""
    inside = present & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = tl.where(inside, first + row * width + column, 0).to(tl.int64)
    place = base + pixel[:, None] * (num_heads * channels) + channel[None, :]
    shown = inside[:, None] & (channel < channels)[None, :]
    return tl.load(value + place, mask=shown, other=0.0).to(exact), place, shown


@triton.jit
def _forward(value, points, weights, level_table, result, num_queries, num_pixels, num_heads: tl.constexpr,
             num_levels: tl.constexpr, num_points: tl.constexpr, channels: tl.constexpr, padded: tl.constexpr,
             block: tl.constexpr, exact: tl.constexpr):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, padded)
    present = query < num_queries
    row_of_query = (image * num_queries + query) * num_heads + head
    base = image * num_pixels * (num_heads * channels) + head * channels
    total = tl.zeros([block, padded], dtype=exact)
    for number in range(num_levels * num_points):
        spot = row_of_query * (num_levels * num_points) + number
        left, top, right, down, width, height, first, seen = _corners(
            points, level_table, number // num_points, spot, present, exact)  # fmt: skip
        share = tl.load(weights + spot, mask=present, other=0.0).to(exact)
        for corner in tl.static_range(4):  # type: ignore
            found, _, _ = _corner(value, base, left + corner % 2, top + corner // 2, width, height, first, seen,
                                  channel, num_heads, channels, exact)  # fmt: skip
            across = right if corner % 2 else 1 - right
            along = down if corner // 2 else 1 - down
            total += found * (share * across * along)[:, None]
    place = row_of_query[:, None] * channels + channel[None, :]
    shown = present[:, None] & (channel < channels)[None, :]
    tl.store(result + place, total.to(result.dtype.element_ty), mask=shown)


@triton.jit
def _backward(gradient, value, points, weights, level_table, of_value, of_points, of_weights, num_queries, num_pixels,
              num_heads: tl.constexpr, num_levels: tl.constexpr, num_points: tl.constexpr, channels: tl.constexpr,
              padded: tl.constexpr, block: tl.constexpr, exact: tl.constexpr):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, padded)
    present = query < num_queries
    row_of_query = (image * num_queries + query) * num_heads + head
    base = image * num_pixels * (num_heads * channels) + head * channels
    place = row_of_query[:, None] * channels + channel[None, :]
    shown = present[:, None] & (channel < channels)[None, :]
    wanted = tl.load(gradient + place, mask=shown, other=0.0).to(exact)
    for number in range(num_levels * num_points):
        spot = row_of_query * (num_levels * num_points) + number
        left, top, right, down, width, height, first, seen = _corners(
            points, level_table, number // num_points, spot, present, exact)  # fmt: skip
        share = tl.load(weights + spot, mask=present, other=0.0).to(exact)
        of_share = tl.zeros([block], dtype=exact)
        of_x = tl.zeros([block], dtype=exact)
        of_y = tl.zeros([block], dtype=exact)
        for corner in tl.static_range(4):  # type: ignore
            found, at, inside = _corner(value, base, left + corner % 2, top + corner // 2, width, height, first, seen,
                                        channel, num_heads, channels, exact)  # fmt: skip
            across = right if corner % 2 else 1 - right
            along = down if corner // 2 else 1 - down
            tl.atomic_add(of_value + at, wanted * (share * across * along)[:, None], mask=inside)
            dot = tl.sum(wanted * found, axis=1)
            of_share += dot * across * along
            of_x += dot * along if corner % 2 else -(dot * along)  # type: ignore
            of_y += dot * across if corner // 2 else -(dot * across)  # type: ignore
        tl.store(of_weights + spot, of_share.to(of_weights.dtype.element_ty), mask=present)
        tl.store(of_points + spot * 2, (of_x * share).to(of_points.dtype.element_ty), mask=present)
        tl.store(of_points + spot * 2 + 1, (of_y * share).to(of_points.dtype.element_ty), mask=present)
