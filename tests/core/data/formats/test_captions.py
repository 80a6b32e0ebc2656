"""COCO captions as conversations: one a caption or one an image, and bad records named."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.formats.captions import REQUESTS, CaptionParser
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.index import open_index
from mmcore.errors import DataError

IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "sub/b.jpg"}]
CAPTIONS = [
    {"id": 1, "image_id": 3, "caption": "A tall house. "},
    {"id": 2, "image_id": 7, "caption": "a wide street"},
    {"id": 3, "image_id": 3, "caption": "ein Häuschen"},
]


def read(folder: Path, captions: list[Any], images: list[Any] = IMAGES, **options: Any) -> LlavaIndex:
    """Records of a file with this content."""
    path = folder / "captions.json"
    path.write_text(json.dumps({"info": {}, "annotations": captions, "images": images}), encoding="utf-8")
    return LlavaIndex(open_index(CaptionParser(path, **options), folder / "cache"))


def test_every_caption_is_the_answer_to_a_request_about_its_image(tmp_path: Path) -> None:
    records = read(tmp_path, CAPTIONS)
    assert [(record.id, record.image) for record in map(records.__getitem__, range(3))] == [
        (3, "sub/b.jpg"),
        (7, "a.jpg"),
        (3, "sub/b.jpg"),
    ]
    asked, said = records[2].turns()
    assert said.text == "ein Häuschen"
    assert asked.text.removeprefix("<image>\n") in REQUESTS


def test_the_marker_stands_on_either_side_of_the_request(tmp_path: Path) -> None:
    captions = [{"id": n, "image_id": 3, "caption": f"caption {n}"} for n in range(40)]
    records = read(tmp_path, captions)
    first = [records[n].conversations[0]["value"].startswith("<image>") for n in range(40)]
    assert 5 < sum(first) < 35


def test_once_per_image_takes_the_first_caption_in_the_order_of_the_file(tmp_path: Path) -> None:
    records = read(tmp_path, CAPTIONS, one_per_image=True)
    assert [records[n].image for n in range(len(records))] == ["sub/b.jpg", "a.jpg"]
    assert records[0].conversations[1]["value"] == "A tall house."


def test_probing_asks_one_thing_and_hears_one_letter(tmp_path: Path) -> None:
    records = read(tmp_path, CAPTIONS, requests=("Say it.",), answer="n", one_per_image=True, marker_last=True)
    assert [turn["value"] for turn in records[1].conversations] == ["Say it.\n<image>", "n"]


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ({"id": 9, "image_id": 5, "caption": "x"}, "image id 5 is not among the file's images"),
        ({"id": 9, "image_id": 3, "caption": "  "}, "the caption is '  '"),
        ({"id": 9, "image_id": 3}, "the caption is None"),
    ],
)
def test_a_bad_caption_keeps_its_place_and_says_what_is_wrong(
    tmp_path: Path, caption: dict[str, Any], message: str
) -> None:
    records = read(tmp_path, [CAPTIONS[0], caption, CAPTIONS[1]])
    assert len(records) == 3
    with pytest.raises(DataError) as caught:
        records[1]
    assert message in str(caught.value)
    assert "captions.json, record 1" in str(caught.value)
    assert records[2].id == 7
    assert len(list(records.problems())) == 1


def test_an_image_outside_its_folder_is_refused(tmp_path: Path) -> None:
    records = read(tmp_path, CAPTIONS[1:2], [{"id": 7, "file_name": "../x.jpg"}])
    with pytest.raises(DataError, match="climbs out"):
        records[0]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no annotations"):
        read(tmp_path, [])


def test_a_caption_with_the_images_marker_does_not_become_a_second_image(tmp_path: Path) -> None:
    records = read(tmp_path, [{"id": 1, "image_id": 3, "caption": "the word <image> here"}])
    assert records[0].conversations[1]["value"] == "the word  here"
