"""Questions about loose pictures: classes, words, or an example that is cut out."""

import numpy as np
import pytest
from mmcore.errors import UsageError
from mmcore.language.sequence import IMAGE, REGION
from mmcore_griffon.build import build
from mmcore_griffon.prompts import question
from mmcore_griffon.stages import stages

PHOTO, CROP = np.full((40, 60, 3), 90, np.uint8), np.full((10, 12, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def model():
    return build(stages("tiny")[0], "tiny").eval()


def test_an_example_becomes_one_token_behind_its_picture(model) -> None:
    batch = model.prepare([PHOTO, PHOTO], example=CROP)
    assert batch.other_images["crop"].shape[:2] == (2, 3)
    assert [name for name, slots in batch.sequences.slots.items() if len(slots)] == ["image", "region"]
    assert len(batch.sequences.slots["region"]) == 2
    (first, _) = batch.turns[0]
    assert first.text.startswith("<image>\n")
    assert "<region>" in first.text


def test_classes_are_asked_for_as_in_training(model) -> None:
    (asked, answer) = model.prepare([PHOTO], names=["cat", "t-shirt"]).turns[0]
    assert "cat, t-shirt" in asked.text
    assert asked.text.endswith("class name-[x1, y1, x2, y2], and concatenate them with &.")
    assert answer.text == ""


@pytest.mark.parametrize(
    ("prompt", "shown", "expected"),
    [
        ("Where is the cat?", False, "<image>\nWhere is the cat?"),
        ("Count these:", True, "<image>\nCount these: <region>"),
        ("What of <region> is left in <image>?", True, "What of <region> is left in <image>?"),
    ],
)
def test_words_are_asked_as_they_are(prompt: str, shown: bool, expected: str) -> None:
    assert question(None, prompt, shown=shown) == expected
    assert IMAGE != REGION


def test_a_region_that_nobody_shows_is_refused(model) -> None:
    with pytest.raises(UsageError):
        model.prepare([PHOTO], prompt="Find more of <region>.")
