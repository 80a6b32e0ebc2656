"""What a person pointed at, as a mask: a point, a box, a scribble or a mask in pixels of one image.

point     a square around it, a fortieth of the image's height and width to each side
box       filled
scribble  a line as thick as such a square's half
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from mmcore.contract.values import VisualPrompt
from mmcore.errors import UsageError

SHARE = 40
"""A point reaches the side of the image divided by this to each side of it."""


def prompt_mask(prompt: VisualPrompt, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """The region that a prompt means, 1 inside.

    Args:
        prompt: in pixels of the image.
        size: height and width of the image.

    Raises:
        UsageError: the prompt lies outside the image, means nothing of it, or is a mask of another size.
    """
    height, width = size
    if prompt.kind == "mask":
        assert prompt.mask is not None
        mask = (prompt.mask.numpy() != 0).astype(np.uint8)
        if mask.shape != size:
            raise UsageError(f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {width}x{height}", where="mask")
    else:
        assert prompt.points_xy is not None
        points = prompt.points_xy.double().numpy()
        if not (np.isfinite(points).all() and (points >= 0).all() and (points <= (width, height)).all()):
            raise UsageError(
                f"the {prompt.kind} {points.tolist()} is not inside a {width}x{height} image",
                where=prompt.kind,
                do="give x,y in pixels from the upper left corner",
            )
        mask = _drawn(prompt.kind, points, size)
    if not mask.any():
        raise UsageError(f"the {prompt.kind} covers no pixel", where=prompt.kind, do="point at what is meant")
    return mask


def _drawn(kind: str, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    reach = max(1, height // SHARE), max(1, width // SHARE)
    if kind == "scribble":
        canvas = Image.new("L", (width, height))
        thick = max(2, min(reach))
        path = [(float(x), float(y)) for x, y in points]
        ImageDraw.Draw(canvas).line([*path, path[-1]], fill=1, width=thick, joint="curve")
        for x, y in (path[0], path[-1]):
            ImageDraw.Draw(canvas).ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=1)
        return np.array(canvas)
    mask = np.zeros(size, np.uint8)
    if kind == "box":
        (left, top), (right, bottom) = np.sort(points, axis=0).round().astype(int).tolist()
        mask[top:bottom, left:right] = 1
        return mask
    for x, y in points.astype(int).tolist():
        mask[max(y - reach[0], 0) : y + reach[0], max(x - reach[1], 0) : x + reach[1]] = 1
    return mask
