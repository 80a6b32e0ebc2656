"""A picture in the corner of a square: where it lies, and maps at its own size."""

import pytest
import torch
from mmcore.geometry.square import enlarge, frame
from torch.nn.functional import interpolate


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (1, 7), (256, 256), (479, 641)])
def test_the_longest_side_fills_the_square_and_the_shape_stays(size):
    resized, original = frame(size, 256)
    assert original == size
    assert max(resized) == 256
    assert resized[0] / resized[1] == pytest.approx(size[0] / size[1], rel=0.5 / min(resized) + 1e-6)


def test_two_products_enlarge_like_resizing_twice():
    low, size = torch.randn(2, 64, 64), (57, 91)
    place = frame(size, 256)
    height, width = place.resized
    large = interpolate(low[:, None], (256, 256), mode="bilinear", align_corners=False)
    expected = interpolate(large[..., :height, :width], size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(low, place, 256), expected[:, 0], rtol=1e-6, atol=1e-6)
