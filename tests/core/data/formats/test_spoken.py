"""Conversations as people write them, in one form: LLaVA, ShareGPT, messages, content in parts, objects in the text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.spoken import RecordFault, Said, understand
from mmcore.errors import DataError
from mmcore.geometry.box_text import BoxText
from mmcore.geometry.coordinates import CONVENTIONS

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
MESSAGES = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A cup."}]
PIXELS = BoxText(convention=CONVENTIONS["pixels"], box="({0} {1} {2} {3})", prose=True)


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a/b.jpg", "conversations": TURNS},
        {"image": ["a/b.jpg"], "conversations": TURNS},
        {"images": ["a/b.jpg"], "conversations": TURNS},
        {"image": "a\\b.jpg", "images": [], "conversations": TURNS},
        {"images": [{"path": "a/b.jpg", "bytes": None}], "messages": MESSAGES},
        {"images": "a/b.jpg", "messages": [{"role": "user", "content": "What?"}, MESSAGES[1]]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a/b.jpg"}},
                        {"type": "text", "text": "What?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
            ]
        },
        {
            "images": ["a/b.jpg"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                MESSAGES[1],
            ],
        },
    ],
)
def test_one_conversation_written_in_many_ways_is_the_same(record: dict[str, Any]) -> None:
    assert understand(record) == Said(None, "a/b.jpg", TURNS)


@pytest.mark.parametrize("nothing", [{"image": None}, {"image": ""}, {"images": []}, {"images": None}, {}])
def test_text_without_an_image_is_text(nothing: dict[str, Any]) -> None:
    said = understand({**nothing, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]})
    assert isinstance(said, Said)
    assert said.image is None


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.jpg", "system": "Be brief.", "conversations": TURNS},
        {"images": ["a.jpg"], "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]},
    ],
)
def test_a_system_text_goes_before_the_first_question(record: dict[str, Any]) -> None:
    said = understand(record)
    assert isinstance(said, Said)
    assert said.turns[0]["value"] == "<image>\nBe brief.\nWhat?"


def grounded(box: list[float], kind: str | None = None, answer: str = "At <bbox>.") -> dict[str, Any]:
    turns = [
        {"role": "user", "content": "<image>Where is the <ref-object>?"},
        {"role": "assistant", "content": answer},
    ]
    objects = {"ref": ["red cup"], "bbox": [box], **({"bbox_type": kind} if kind else {})}
    return {"images": ["a.jpg"], "messages": turns, "objects": objects}


@pytest.mark.parametrize(
    ("box", "kind"), [([10, 20, 50, 40], None), ([0.1, 0.4, 0.5, 0.8], "norm1"), ([100, 400, 500, 800], "norm1000")]
)
def test_objects_are_written_into_the_text_whatever_their_numbers_mean(tmp_path: Path, box: Any, kind: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps([grounded(box, kind)]))
    record = LlavaIndex.open(tmp_path / "a.json", tmp_path / "cache")[0]
    placed = record.placed((50, 100), PIXELS)
    asked, answered = (turn["value"] for turn in placed.conversations)
    assert asked == "<image>Where is the red cup?"
    numbers = np.array(answered.removeprefix("At (").removesuffix(").").split(), np.float64)
    np.testing.assert_allclose(numbers, [10, 20, 50, 40], atol=1e-9)
    assert placed.boxes is None


def test_a_box_outside_its_image_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([grounded([200, 20, 300, 40])]))
    record = LlavaIndex.open(tmp_path / "a.json", tmp_path / "cache")[0]
    with pytest.raises(DataError, match=r"lies outside the 100x50 image(.|\n)*record 0(.|\n)*bbox_type"):
        record.placed((50, 100), PIXELS)


@pytest.mark.parametrize("value", [None, "", "x", [1, 2], {"images": 3}, {"messages": [None]}, {"messages": [{}]}])
def test_whatever_it_is_a_record_is_understood_or_flawed(value: Any) -> None:
    assert isinstance(understand(value), RecordFault)
