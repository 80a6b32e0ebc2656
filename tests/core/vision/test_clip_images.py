"""Pixels for CLIP, bit for bit those of the two libraries that the published code used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.errors import DataError, RecipeError
from mmcore.parity import deterministic_image
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD, ClipImages, pad_to_square
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from transformers import CLIPImageProcessorPil

SIZES = [(50, 80), (96, 64), (40, 40), (337, 336), (31, 500), (700, 333)]
SIDE = 56


def published(side: int = SIDE, **changes: object) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **changes)


@pytest.mark.parametrize("mode", ["crop", "square"])
@pytest.mark.parametrize("size", SIZES)
def test_cropping_is_bit_equal_to_transformers_with_pillow(size: tuple[int, int], mode: str) -> None:
    image = deterministic_image(1, *size)
    expected = published()(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ClipImages(SIDE, mode)(image), expected)


@pytest.mark.parametrize("size", SIZES)
def test_padding_is_bit_equal_to_a_square_of_the_mean_colour_given_to_transformers(size: tuple[int, int]) -> None:
    image = deterministic_image(2, *size)
    side = max(size)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = (122, 116, 104)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[0], left : left + size[1]] = image
    expected = published()(Image.fromarray(square), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ClipImages(SIDE, "pad")(image), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_other_arithmetic_is_bit_equal_to_torchvision_as_open_clip_calls_it(size: tuple[int, int]) -> None:
    image = deterministic_image(3, *size)
    chain = transforms.Compose(
        [
            transforms.Resize(SIDE, interpolation=transforms.InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    assert torch.equal(ClipImages(SIDE, library="torchvision")(image), chain(Image.fromarray(image)))


def test_squashing_is_bit_equal_to_resizing_both_sides() -> None:
    image = deterministic_image(4, 90, 50)
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    expected = published(do_resize=False, do_center_crop=False)(small, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ClipImages(SIDE, "squash", resample="bilinear")(image), expected)


def test_squashing_gives_griffons_published_pixels(shared: Path) -> None:
    folder = shared / "goldens/griffon/image_preprocess"
    case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
    for entry in case["cases"]:
        image = deterministic_image(*entry["source"])
        ours = ClipImages(entry["small_size"], "squash", resample="bilinear")(image)
        torch.testing.assert_close(ours, stored[f"small{entry['index']}"], rtol=0, atol=1e-6)
        assert list(pad_to_square(Image.fromarray(image)).size) == entry["expand2square_size"]


def test_a_square_image_is_not_padded() -> None:
    picture = Image.fromarray(deterministic_image(5, 30, 30))
    assert pad_to_square(picture) is picture


def test_an_unknown_mode_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        ClipImages(SIDE, "padd")
    assert "there is no image mode 'padd'" in str(caught.value)
    assert "did you mean 'pad'?" in str(caught.value)


def test_an_image_far_too_narrow_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(DataError) as caught:
        ClipImages(SIDE)(np.zeros((2, 5000, 3), np.uint8))
    assert "the image is 5000x2" in str(caught.value)
