"""Records of images with parts that are spoken of: they come back as written, and what is wrong is told."""

from pathlib import Path

import numpy as np
import pytest
from mmcore.data.formats.grounded_captions import GroundedCaptions, understand
from mmcore.data.grounded import Grounded, GroundedIndex, Part, span_fault
from mmcore.data.index import open_index
from mmcore.data.records import Defect
from mmcore.errors import DataError
from mmcore.geometry import masks

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]


def test_a_record_comes_back_as_it_was_written() -> None:
    part = Part("a cat", (1.0, 2.0, 3.0, 4.5), ((SQUARE, {"size": [4, 4], "counts": "04"}),), (0, 5), 3)
    record = Grounded("a/é.jpg", "x7", (part, Part("b")), "a cat", (Defect("record", "f", "m", False),))
    assert Grounded.from_bytes(record.to_bytes()) == record


def test_shapes_of_one_thing_add_up_and_things_are_joined() -> None:
    square = masks.polygons_to_bitmap([SQUARE], 10, 10)
    twice = Part("a", objects=((SQUARE, masks.encode(square)),))
    assert (twice.bitmap((10, 10), "here") == 2 * square).all()
    both = Part("a", objects=((SQUARE, SQUARE), (SQUARE,)))
    assert (both.bitmap((10, 10), "here") == 3 * square).all(), "2 | 1"
    assert not Part("nothing").bitmap((10, 10), "here").any()


def test_a_mask_of_another_size_is_refused() -> None:
    part = Part("a", objects=((masks.encode(np.ones((4, 5), np.uint8)),),))
    with pytest.raises(DataError, match="mask is 4x5, its image 10x10"):
        part.bitmap((10, 10), "a.jpg")


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 5), (6, 9)], None),
        ([(0, 5), (4, 9)], "overlap at character 4"),
        ([(0, 5), (0, 5)], "overlap at character 0"),
        ([(6, 11)], "outside the caption of 10"),
        ([(-1, 3)], "outside"),
        ([(3, 3)], "outside"),
    ],
)
def test_spans_lie_inside_the_caption_and_apart(spans: list[tuple[int, int]], said: str | None) -> None:
    found = span_fault("a cat sits", spans)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ([], "the whole record"),
        ({"file_name": "../a.jpg", "caption": "c", "groundings": {}}, "file_name"),
        ({"file_name": "a.jpg", "groundings": {}}, "caption"),
        ({"file_name": "a.jpg", "caption": "c"}, "groundings"),
        ({"file_name": "a.jpg", "caption": "c", "groundings": {"c": 3}}, "groundings"),
        ({"file_name": "a.jpg", "caption": "c", "groundings": {"c": {"token_positives": [0]}}}, "token_positives"),
        ({"file_name": "a.jpg", "caption": "c", "groundings": {"c": {"token_positives": [0, 1]}}}, "rle_masks"),
        (
            {
                "file_name": "a.jpg",
                "caption": "c",
                "groundings": {"c": {"token_positives": [0, 9], "bbox": [0, 0, 1, 1]}},
            },
            "groundings.token_positives",
        ),
    ],
)
def test_what_is_wrong_with_a_record_names_its_field(record: object, field: str) -> None:
    found = understand(record, 4)
    assert [defect.field for defect in found.defects if defect.fatal] == [field]


def test_bad_records_keep_their_place_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    cat = {"cat": {"token_positives": [2, 5], "polygons": [SQUARE]}}
    path = tmp_path / "g.json"
    path.write_text(
        str(
            [
                {"file_name": "a.jpg", "caption": "a cat", "groundings": cat},
                {"file_name": "b.jpg", "caption": "nothing", "groundings": {}},
                {"file_name": "c.jpg", "caption": "a", "groundings": cat},
            ]
        ).replace("'", '"')
    )
    records = GroundedIndex(open_index(GroundedCaptions(path), tmp_path))
    assert len(records) == 2
    assert records[0].parts[0].text == "cat"
    assert [records.unusable(position) for position in range(2)] == [False, True]
    with pytest.raises(DataError, match="outside the caption of 1 characters") as caught:
        records[1]
    assert "c.jpg" in str(caught.value.where)
    assert len(list(records.problems())) == 1
