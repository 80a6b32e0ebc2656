"""Regions lie on the picture where the tower sees them, however it was cut, padded or squashed."""

import dataclasses

import numpy as np
import pytest
import torch
from mmcore.contract.values import MAIN, ConversationSample, Draw, Phrase, Region, Turn, VisualPrompt
from mmcore.language.collate import ConversationCollator
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.show.batch import draw_batch
from mmcore.show.marks import PALETTE
from mmcore.show.seen import PROMPT, UNSEEN, seen
from mmcore.vision.clip_images import MODES, ClipImages
from PIL import Image

SIDE = 32
THING = (16, 24, 40, 56)
"""Box of the one bright thing: left, top, right, bottom."""


def photo(height: int, width: int) -> np.ndarray:
    image = np.full((height, width, 3), 20, np.uint8)
    left, top, right, bottom = THING
    image[top:bottom, left:right] = (250, 250, 250)
    return image


@pytest.mark.parametrize("library", ["transformers", "torchvision"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (80, 80), (61, 47)])
@pytest.mark.parametrize("mode", MODES)
def test_a_box_and_a_mask_lie_on_the_thing_they_mean(mode: str, size: tuple[int, int], library: str) -> None:
    image = photo(*size)
    pixels = ClipImages(SIDE, mode, library=library)  # type: ignore[arg-type]
    on = seen(pixels.resized(image), pixels.place(*size), size)
    bright = np.asarray(on.picture.convert("L"), np.int16) > 150
    mask = on.mask((image[..., 0] > 200).astype(np.uint8)) > 0
    covered = mask & ~_unseen(on.picture)
    assert (bright & covered).sum() > 0.75 * (bright | covered).sum()
    rows, columns = np.nonzero(mask)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.array(on.box(THING)) - found).max() <= on.picture.width / SIDE


def _unseen(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) == UNSEEN).all(-1)


def test_what_is_cut_off_is_grey_and_keeps_its_regions() -> None:
    pixels = ClipImages(SIDE, "crop")
    on = seen(pixels.resized(photo(64, 256)), pixels.place(64, 256), (64, 256))
    assert on.picture.width == 4 * on.picture.height
    across = np.asarray(on.box(THING))[[0, 2]]
    assert across[1] < on.picture.width * 3 / 8, "outside of what is seen"
    assert _unseen(on.picture)[:, int(across[0]) : int(across[1])].all()
    assert on.mask(np.ones((64, 256), np.uint8)).all()


def sample(size: tuple[int, int], pixels: ClipImages, **fields) -> ConversationSample:
    left, top, right, bottom = THING
    text = "the bright thing"
    return ConversationSample(
        encoded=Encoded(np.array([1, IMAGE, 5]), np.array([IGNORE, IGNORE, 5])),
        turns=(Turn("user", "what?"), Turn("assistant", text)),
        images={MAIN: (pixels(photo(*size)),)},
        draw=Draw("a", 0, 0),
        image_id=0,
        original_size=size,
        **{
            "regions": (Region((left, top, right, bottom), text="thing"),),
            "phrases": (Phrase(1, 4, len(text), (0,)),),
            **fields,
        },
    )


def drawn(mode: str, **fields) -> np.ndarray:
    pixels = ClipImages(SIDE, mode)
    collate = ConversationCollator({IMAGE: (("image", 4),)}, SIDE, 40, pixels=pixels)
    (picture,) = draw_batch(collate([sample((64, 96), pixels, **fields)], 0), collate)
    return np.asarray(picture)


@pytest.mark.parametrize("mode", MODES)
def test_a_conversation_has_its_regions_on_its_picture_and_its_words_below(mode: str) -> None:
    picture = drawn(mode)
    top = picture[:340]
    orange = (picture == PALETTE[0]).all(-1)
    assert orange[:340].any(), "the box"
    assert orange[340:].any(), "the phrase"
    rows, columns = np.nonzero((top == PALETTE[0]).all(-1))
    inside = top[rows.min() + 40 : rows.max() - 8, columns.min() + 12 : columns.max() - 12]
    assert (inside > 150).mean() > 0.75, "it stands around the bright thing"


def test_what_was_pointed_at_is_shown_too() -> None:
    plain = (drawn("squash") == PROMPT).all(-1).sum()
    box = VisualPrompt("box", torch.tensor([[60.0, 10], [90, 50]]))
    line = VisualPrompt("scribble", torch.tensor([[60.0, 10], [90, 50]]))
    assert plain == 0
    for prompt in (box, line):
        assert (drawn("squash", prompts=(prompt,)) == PROMPT).all(-1).sum() > 100
    known = dataclasses.replace(box, region=0)
    assert (drawn("squash", prompts=(known,)) != drawn("squash")).any(), "its region is dashed"
    assert (drawn("squash", regions=(), phrases=(), prompts=(box,)) == PROMPT).all(-1).any()
