"""Videos in YouTube-VIS form: frames without a thing, flaws that are noted, and records that come back whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.videos import VideoRecord, VideoRecords
from mmcore.errors import DataError
from mmcore.geometry import masks


def video(**changes: Any) -> dict[str, Any]:
    names = [f"a/{frame}.jpg" for frame in range(3)]
    return {"id": 5, "height": 20, "width": 30, "length": 3, "file_names": names} | changes


def track(**changes: Any) -> dict[str, Any]:
    square = [[4.0, 4.0, 10.0, 4.0, 10.0, 9.0, 4.0, 9.0]]
    entry = {"id": 7, "video_id": 5, "category_id": 2, "iscrowd": 0}
    return entry | {"bboxes": [[4, 4, 6, 5], None, [4, 4, 6, 5]], "segmentations": [square, None, square]} | changes


def opened(folder: Path, videos: list[Any], annotations: list[Any], **options: Any) -> VideoRecords:
    content = {"videos": videos, "annotations": annotations, "categories": [{"id": 2, "name": "dog"}]}
    (folder / "videos.json").write_text(json.dumps(content))
    return VideoRecords(
        open_index(Videos(folder / "videos.json", **options), folder / "cache", workers=1), keep_empty=True
    )


def test_a_thing_is_where_it_has_box_and_mask(tmp_path: Path) -> None:
    (record,) = opened(tmp_path, [video()], [track(), track(id=8, segmentations=[None, None, None])])
    assert [one.id for one in record.objects] == [7]
    assert record.objects[0].boxes_xywh == ((4, 4, 6, 5), None, (4, 4, 6, 5))
    assert VideoRecord.from_bytes(record.to_bytes()) == record
    boxes = opened(tmp_path, [video()], [track(), track(id=8, segmentations=[None] * 3)], has_masks=False)
    assert [one.id for one in boxes[0].objects] == [7, 8]


@pytest.mark.parametrize(
    ("videos", "annotations", "told"),
    [
        (video(height=-1), track(), "-1 is not a positive whole number"),
        (video(file_names=["../a.jpg", "b.jpg", "c.jpg"]), track(), r"\.\./a\.jpg"),
        (video(), track(bboxes=[[4, 4, 6, 5]]), "1 entries for 3 frames"),
        (video(), track(bboxes=[[4, 4, 600, 5], None, None]), "outside its 30x20 image"),
        (video(), track(category_id=9), "category 9 is not among"),
        (video(), track(segmentations=[{"size": [9, 9], "counts": [81]}, None, None]), "mask of size"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_frame(tmp_path: Path, videos: Any, annotations: Any, told: str) -> None:
    records = opened(tmp_path, [videos], [annotations])
    with pytest.raises(DataError, match=told):
        _ = records[0]
    assert records.index.column("num_objects").tolist() == [1]  # so that the policy for bad samples is asked


def test_a_length_that_differs_from_the_names_is_counted(tmp_path: Path) -> None:
    records = opened(tmp_path, [video(length=2)], [track()])
    assert len(records[0].frames) == 2
    assert records.left_out() == {"length left out or cut": 1}


def test_run_lengths_of_a_whole_video_are_those_of_the_file(tmp_path: Path) -> None:
    bitmap = masks.polygons_to_bitmap([[4.0, 4.0, 10.0, 4.0, 10.0, 9.0]], 20, 30)
    rle = masks.encode(bitmap)
    (record,) = opened(tmp_path, [video()], [track(segmentations=[rle, rle, rle], bboxes=[[4, 4, 6, 5]] * 3)])
    assert record.objects[0].segmentations == (rle, rle, rle)
