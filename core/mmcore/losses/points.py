"""Bilinear sampling at points, and which points of a mask are worth a loss (PointRend, Kirillov et al. 2020).

Points are (x, y) in [0, 1] of the map's width and height; outside the map all is zero. That is `grid_sample` with
align_corners=False and zero padding. Three layouts have three functions: float maps with a gradient
(`sample_points`), maps with many channels in the last axis (`sample_channels`, one contiguous read per neighbour
instead of one per channel), and ground-truth masks in bytes (`sample_masks`, which are never converted as a whole).
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


def sample_points(
    maps: Float[Tensor, "maps channels height width"], points: Float[Tensor, "maps points 2"]
) -> Float[Tensor, "maps channels points"]:
    """Values of float maps at points, with gradients to the maps.

    Args:
        maps: (maps, channels, height, width).
        points: (maps, points, 2), x and y in [0, 1].

    Returns:
        (maps, channels, points).
    """
    grid = (2 * points - 1).to(maps.dtype).unsqueeze(2)
    return F.grid_sample(maps, grid, align_corners=False).squeeze(3)


def sample_channels(
    maps: Float[Tensor, "maps height width channels"],
    points: Float[Tensor, "rows points 2"],
    rows: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows points channels"]:
    """All channels of channels-last maps at points.

    Args:
        maps: (maps, height, width, channels), contiguous.
        points: (rows, points, 2), x and y in [0, 1].
        rows: (rows,) the map that each row of points reads; None when row i reads map i.

    Returns:
        (rows, points, channels).
    """
    _, height, width, channels = maps.shape
    index, weight = _neighbours(points, height, width, rows)
    values = F.embedding_bag(
        index.view(-1, 4), maps.view(-1, channels), mode="sum", per_sample_weights=weight.view(-1, 4).to(maps.dtype)
    )
    return values.view(*points.shape[:2], channels)


def sample_masks(
    masks: UInt8[Tensor, "masks height width"],
    points: Float[Tensor, "rows points 2"],
    rows: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows points"]:
    """Ground-truth masks of 0 and 1 at points, as float32 in [0, 1].

    Args:
        masks: (masks, height, width) bytes, contiguous.
        points: (rows, points, 2), x and y in [0, 1].
        rows: (rows,) the mask that each row of points reads; None when row i reads mask i.

    Returns:
        (rows, points).
    """
    _, height, width = masks.shape
    index, weight = _neighbours(points, height, width, rows)
    return (torch.take(masks, index) * weight).sum(-1)


def uncertain_points(
    maps: Float[Tensor, "maps height width"],
    candidates: Float[Tensor, "maps candidates 2"],
    uniform: Float[Tensor, "maps uniform 2"],
    num_uncertain: int,
) -> Float[Tensor, "maps points 2"]:
    """The candidates where the mask logit is nearest to zero, followed by the uniform points.

    Args:
        maps: (maps, height, width) mask logits; no gradient passes.
        candidates: (maps, candidates, 2) uniform random points, x and y in [0, 1].
        uniform: (maps, uniform, 2) further random points, taken as they are.
        num_uncertain: how many candidates are kept.

    Returns:
        (maps, num_uncertain + uniform, 2); the kept candidates are in no particular order.
    """
    with torch.no_grad():
        logits = sample_points(maps.unsqueeze(1), candidates).squeeze(1)
        chosen = logits.abs().topk(num_uncertain, dim=1, largest=False, sorted=False).indices
        kept = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
        return torch.cat((kept, uniform), dim=1)


def _neighbours(
    points: Tensor, height: int, width: int, rows: Tensor | None
) -> tuple[Int[Tensor, "rows points 4"], Float[Tensor, "rows points 4"]]:
    """The four pixels around each point as positions in the flattened maps, and their bilinear weights."""
    if rows is None:
        rows = torch.arange(len(points), device=points.device)
    x0, x1, left, right = _neighbours_on_axis(points[..., 0], width)
    y0, y1, up, down = _neighbours_on_axis(points[..., 1], height)
    above, below = (rows[:, None] * height + y0) * width, (rows[:, None] * height + y1) * width
    index = torch.stack((above + x0, above + x1, below + x0, below + x1), dim=-1)
    return index, torch.stack((up * left, up * right, down * left, down * right), dim=-1)


def _neighbours_on_axis(fraction: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels around each place along one axis, and their weights."""
    place = fraction.float() * size - 0.5
    first = place.floor()
    share = place - first
    low = first.long()
    # A pixel outside the map has weight 0 and is read at the border instead.
    inside_low, inside_high = (low >= 0) & (low < size), (low >= -1) & (low < size - 1)
    low_weight, high_weight = (1 - share) * inside_low, share * inside_high
    return low.clamp(0, size - 1), (low + 1).clamp(0, size - 1), low_weight, high_weight
