"""Every way of sampling is grid_sample with zero padding; uncertain points are those nearest to zero."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.losses import sample_channels, sample_masks, sample_points, uncertain_points
from torch.nn import functional as F


def grid_sample(maps, points):
    return F.grid_sample(maps, (2 * points - 1).unsqueeze(2), align_corners=False, padding_mode="zeros").squeeze(3)


def points_around(seed, rows, number):
    """Points inside, on the border and a little outside of the map."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(rows, number, 2, generator=generator) * 1.4 - 0.2
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]]).expand(rows, -1, -1)
    return torch.cat((inside, corners), dim=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_bytes_sampled_without_conversion_equal_grid_sample(height, width, seed):
    masks = torch.randint(0, 2, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    points = points_around(seed, 3, 20)
    torch.testing.assert_close(
        sample_masks(masks, points), grid_sample(masks[:, None].float(), points).squeeze(1), rtol=0, atol=2e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_channels_last_maps_sample_like_grid_sample(height, width, seed):
    maps = torch.randn(2, 5, height, width, generator=torch.Generator().manual_seed(seed))
    points = points_around(seed, 2, 20)
    actual = sample_channels(maps.permute(0, 2, 3, 1).contiguous(), points)
    torch.testing.assert_close(actual, grid_sample(maps, points).transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_rows_choose_which_map_is_read():
    masks = torch.randint(0, 2, (3, 6, 5), dtype=torch.uint8)
    maps = torch.randn(3, 6, 5, 4)
    rows = torch.tensor([2, 0, 2, 1])
    points = points_around(0, 4, 11)
    assert torch.equal(sample_masks(masks, points, rows), sample_masks(masks[rows], points))
    assert torch.equal(sample_channels(maps, points, rows), sample_channels(maps[rows], points))


def test_no_rows_give_no_values():
    assert sample_masks(torch.zeros(0, 4, 4, dtype=torch.uint8), torch.zeros(0, 7, 2)).shape == (0, 7)


def test_points_outside_the_map_are_zero():
    masks = torch.ones(1, 4, 4, dtype=torch.uint8)
    far = torch.tensor([[[-0.5, 0.5], [1.5, 0.5], [0.5, 7.0], [1e6, -1e6]]])
    assert sample_masks(masks, far).abs().max() == 0


def test_float_maps_pass_gradients():
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    points = points_around(1, 2, 6).double()
    assert torch.autograd.gradcheck(lambda m: sample_points(m, points), (maps,))


def test_the_uncertain_candidates_are_kept_and_uniform_points_follow():
    maps = torch.randn(3, 6, 6)
    candidates, uniform = torch.rand(3, 24, 2), torch.rand(3, 2, 2)
    points = uncertain_points(maps, candidates, uniform, 6)
    assert torch.equal(points[:, 6:], uniform)
    certainty = sample_points(maps[:, None], candidates).squeeze(1).abs()
    kept = sample_points(maps[:, None], points[:, :6]).squeeze(1).abs()
    torch.testing.assert_close(kept.sort(1).values, certainty.sort(1).values[:, :6])


def test_choosing_points_passes_no_gradient():
    maps = torch.randn(1, 4, 4, requires_grad=True)
    assert not uncertain_points(maps, torch.rand(1, 9, 2), torch.rand(1, 1, 2), 3).requires_grad
