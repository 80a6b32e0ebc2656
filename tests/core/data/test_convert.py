"""Published annotations in the forms that are read here, each by its command, and read back without defects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore import cli
from mmcore.data.formats.coco import CocoInstances
from mmcore.data.formats.ytvis import Videos
from mmcore.data.index import open_index
from mmcore.data.records import Records
from mmcore.data.videos import VideoRecords
from mmcore.geometry import masks
from PIL import Image

HEIGHT, WIDTH = 40, 60
CORNERS = ("x1", "y1", "x2", "y2")
SEQUENCE = f"[Sequence]\nimWidth={WIDTH}\nimHeight={HEIGHT}\nseqLength=2\nimExt=.jpg\n".encode()


def convert(folder: Path, kind: str, source: Path, *options: str, code: int = 0) -> Path:
    out = folder / f"{kind}.json"
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "convert", kind, str(source), str(out), *options])
    assert int(stop.value.code or 0) == code
    return out


def left_out(capsys) -> set[str]:
    told = capsys.readouterr().out.splitlines()
    return {line.partition("left out: ")[2] for line in told if "left out: " in line}


def videos(path: Path, cache: Path, **settings: Any) -> list[Any]:
    found = list(VideoRecords(open_index(Videos(path, **settings), cache, workers=1), keep_empty=True))
    assert not any(record.defects for record in found)
    return found


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def sequence(root: Path, info: bytes, rows: bytes) -> None:
    """One of MOTChallenge's."""
    (root / "SEQ/gt").mkdir(parents=True)
    (root / "SEQ/seqinfo.ini").write_bytes(info)
    (root / "SEQ/gt/gt.txt").write_bytes(rows)


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[y : y + side, x : x + side] = True
    return bitmap


def test_tao(tmp_path: Path) -> None:
    image = {"video_id": 3, "height": HEIGHT, "width": WIDTH}
    box = {"track_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4]}
    content = {
        "videos": [{"id": 3, "name": "val/A/v", "neg_category_ids": [1], "not_exhaustive_category_ids": [2]}],
        "images": [
            {"id": 52, "file_name": "val/A/v/2.jpg", "frame_index": 30, **image},
            {"id": 51, "file_name": "val/A/v/1.jpg", "frame_index": 0, **image},
        ],
        "tracks": [{"id": 9, "category_id": 7, "video_id": 3}],
        "annotations": [{"image_id": 52, **box}],
        "categories": [{"id": 2, "name": "cup", "merged": [{"id": 7, "name": "mug"}]}, {"id": 5, "name": "axe"}],
    }
    out = convert(tmp_path, "tao", put(tmp_path / "validation.json", content))
    [record] = videos(out, tmp_path / "cache", has_masks=False)
    assert (record.frames, record.frame_ids) == (("val/A/v/1.jpg", "val/A/v/2.jpg"), (51, 52))
    assert record.category_lists == {"neg_category_ids": [1], "not_exhaustive_category_ids": [2]}
    [track] = record.objects
    assert (track.id, track.boxes_xywh) == (9, (None, (1, 2, 3, 4)))
    assert json.loads(out.read_text())["categories"] == [{"id": 2, "name": "cup"}]


def test_burst(tmp_path: Path, capsys) -> None:
    shape = {"rle": masks.encode(square(5, 6))["counts"]}
    sequence = {"id": 4, "dataset": "A", "seq_name": "v", "height": HEIGHT, "width": WIDTH, "neg_category_ids": [8]}
    sequence |= {"annotated_image_paths": ["a.jpg", "b.jpg"], "segmentations": [{}, {"1": shape}]}
    content = {
        "sequences": [{**sequence, "track_category_ids": {"1": 2, "2": 5}}],
        "categories": [{"id": 2, "name": "cup"}, {"id": 5, "name": "axe"}],
    }
    out = convert(tmp_path, "burst", put(tmp_path / "all_classes.json", content))
    [record] = videos(out, tmp_path / "cache")
    assert record.frames == ("A/v/a.jpg", "A/v/b.jpg")
    [track] = record.objects
    assert left_out(capsys) == {"1 tracks that are seen in no frame", "1 categories without annotations"}
    assert track.boxes_xywh == (None, (5, 6, 10, 10))
    assert (masks.decode(track.segmentations[1]).astype(bool) == square(5, 6)).all()


def paint(root: Path) -> None:
    for frame in range(3):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[square(5 + frame, 6)] = 1
        labels[square(30, 20)] = 2 if frame else 0
        labels[:2] = 255
        for kind, suffix in (("Annotations", "png"), ("JPEGImages", "jpg")):
            path = root / kind / "v" / f"{frame:05d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)


def test_painted_masks_with_and_without_expressions(tmp_path: Path) -> None:
    paint(tmp_path)
    out = convert(tmp_path, "masks", tmp_path / "Annotations")
    [record] = videos(out, tmp_path / "cache")
    assert record.frames == tuple(f"v/{frame:05d}.jpg" for frame in range(3))
    one, other = record.objects
    assert one.boxes_xywh == tuple((5.0 + frame, 6, 10, 10) for frame in range(3))
    assert other.boxes_xywh == (None, (30, 20, 10, 10), (30, 20, 10, 10))
    out.unlink()
    said = {"0": {"exp": "it", "obj_id": "2"}, "1": {"exp": "that", "obj_id": "1"}, "2": {"exp": "this", "obj_id": "2"}}
    meta = put(tmp_path / "meta.json", {"videos": {"v": {"expressions": said, "frames": ["00000", "00001"]}}})
    out = convert(tmp_path, "masks", tmp_path / "Annotations", "--expressions", str(meta))
    found = videos(out, tmp_path / "cache", expressions=True)
    assert [record.expressions for record in found] == [("that",), ("it", "this")]
    assert [len(record.objects) for record in found] == [1, 1]
    assert found[1].objects[0].boxes_xywh[0] is None
    asked = convert(tmp_path, "expressions", meta, "--images", str(tmp_path / "JPEGImages"))
    found = videos(asked, tmp_path / "cache", expressions=True)
    assert [record.expressions for record in found] == [("it",), ("that",), ("this",)]
    assert {(record.frames, record.height, record.width) for record in found} == {
        (("v/00000.jpg", "v/00001.jpg"), HEIGHT, WIDTH)
    }


@pytest.mark.parametrize("referring", [False, True])
def test_frames_of_videos_become_images(tmp_path: Path, referring: bool) -> None:
    paint(tmp_path)
    content = json.loads(convert(tmp_path, "masks", tmp_path / "Annotations").read_text())
    if referring:
        content["videos"][0]["expressions"] = ["it", "that"]
    content["categories"] = [{"id": 1, "name": "kite"}]
    out = convert(tmp_path, "frames", put(tmp_path / "videos.json", content))
    made = json.loads(out.read_text())
    assert [one["id"] for one in made["images"]] == [0, 1, 2]
    assert [one["id"] for one in made["annotations"]] == list(range(5))
    assert [one["image_id"] for one in made["annotations"]] == [0, 1, 2, 1, 2]
    assert made["categories"] == [{"id": 1, "name": "object" if referring else "kite"}]
    assert all(one.get("expressions") == (["it", "that"] if referring else None) for one in made["images"])
    records = Records(open_index(CocoInstances(out), tmp_path / "cache", workers=1), keep_empty=True)
    assert [len(record.objects) for record in records] == [1, 2, 2]


def test_mot_counts_pedestrians_that_count(tmp_path: Path, capsys) -> None:
    rows = ["2,5,-3,4,10,10,1,1,1", "1,5,1,4,10,10,1,1,1", "1,6,1,1,5,5,0,1,1", "1,7,1,1,5,5,1,2,1"]
    rows += ["1,8,70,1,5,5,1,1,1"]
    sequence(tmp_path / "train", SEQUENCE, "\n".join([*rows, ""]).encode())
    [record] = videos(convert(tmp_path, "mot", tmp_path / "train"), tmp_path / "cache", has_masks=False)
    assert record.frames == ("SEQ/img1/000001.jpg", "SEQ/img1/000002.jpg")
    [track] = record.objects
    assert track.boxes_xywh == ((1, 4, 10, 10), (0, 4, 7, 10))
    assert left_out(capsys) == {"1 rows that do not count", "1 rows of other classes", "1 boxes outside the picture"}


def test_bdd_boxes_of_pictures_and_videos(tmp_path: Path, capsys) -> None:
    corners = {"x1": 10, "y1": 20, "x2": 29, "y2": 59}
    labels = [
        {"id": "a", "category": "person", "box2d": corners},
        {"id": "b", "category": "trailer", "box2d": corners},
        {"id": "c", "category": "lane"},
        {"id": "d", "category": "traffic light", "box2d": corners},
    ]
    frames = [{"name": f"v-{n}.jpg", "videoName": "v", "frameIndex": n, "labels": labels[: 3 - n]} for n in (1, 0)]
    out = convert(tmp_path, "bdd-boxes", put(tmp_path / "det.json", [{"name": "p.jpg", "labels": labels}]))
    made = json.loads(out.read_text())["annotations"]
    assert [(one["category_id"], one["iscrowd"]) for one in made] == [(1, 0), (4, 1), (9, 0)]
    assert made[0]["bbox"] == [10, 20, 20, 40]
    assert left_out(capsys) == {"1 labels without a box"}
    out.unlink()
    put(tmp_path / "track/v.json", frames)
    [record] = videos(convert(tmp_path, "bdd-boxes", tmp_path / "track"), tmp_path / "cache", has_masks=False)
    assert record.frames == ("v/v-0.jpg", "v/v-1.jpg")
    assert [(track.category, track.crowd) for track in record.objects] == [(0, False), (3, True)]
    assert record.objects[0].boxes_xywh == ((10, 20, 20, 40),) * 2


def test_bdd_bitmasks(tmp_path: Path) -> None:
    for frame in range(2):
        pixels = np.zeros((720, 1280, 4), np.uint8)
        pixels[10:20, 10 + frame : 30] = (3, 0, 1, 44)
        pixels[50:60, 10:30] = (1, 2, 0, 7)
        path = tmp_path / f"bitmasks/v/v-{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, "RGBA").save(path)
    [record] = videos(convert(tmp_path, "bdd-masks", tmp_path / "bitmasks"), tmp_path / "cache")
    found = {(track.category, track.crowd): track.boxes_xywh for track in record.objects}
    assert found[2, False] == ((10, 10, 20, 10), (11, 10, 19, 10))
    assert found[0, True] == ((10, 50, 20, 10),) * 2
    pictures = convert(tmp_path / "one", "bdd-masks", tmp_path / "bitmasks/v")
    records = Records(open_index(CocoInstances(pictures), tmp_path / "cache", workers=1), keep_empty=True)
    assert [record.image for record in records] == ["v-0.jpg", "v-1.jpg"]
    assert [len(record.objects) for record in records] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tao", "file.json"), "there is no such file"),
        (("taoo", "file.json"), "tao"),
        (("mot", "."), "gt.txt"),
        (("masks", "nowhere"), "folders of masks"),
        (("tao", "file.json", "--images", "x"), "takes no --images"),
        (("expressions", "file.json"), "needs --images"),
        (("burst", "text.json"), "no list of objects"),
        (("bdd-boxes", "mistyped.json"), "this is not what 'bdd-boxes' converts (TypeError"),
        (("mot", "no-section"), "no section [Sequence]"),
        (("mot", "no-format"), "seqinfo.ini"),
        (("mot", "no-text"), "cannot be read"),
        (("mot", "no-length"), "seqLength must be given"),
        (("mot", "not-finite"), "is no row of numbers"),
        (("mot", "twice"), "a second box of 5 in frame 1"),
    ],
)
def test_what_cannot_be_converted_is_said(tmp_path: Path, monkeypatch, capsys, arguments, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.json").write_text("[1]")
    put(Path("mistyped.json"), [{"name": "p", "labels": [{"category": "car", "box2d": dict.fromkeys(CORNERS, "9")}]}])
    row = b"1,5,1,4,10,10,1,1,1\n"
    sequence(Path("no-section"), b"[Other]\nimWidth=3", row)
    sequence(Path("no-format"), b"[Sequence]\n=", row)
    sequence(Path("no-text"), SEQUENCE, b"\xff\xfe")
    sequence(Path("no-length"), b"[Sequence]\nimWidth=3", row)
    sequence(Path("not-finite"), SEQUENCE, b"nan" + row[1:])
    sequence(Path("twice"), SEQUENCE, row + row)
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "convert", *arguments[:2], "out.json", *arguments[2:]])
    assert stop.value.code
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_nothing_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "mot.json", {})
    convert(tmp_path, "mot", tmp_path, code=1)
    assert json.loads((tmp_path / "mot.json").read_text()) == {}


def test_the_excerpts_agree_with_their_publisher(tmp_path: Path, shared: Path) -> None:
    out = json.loads(convert(tmp_path, "mot", shared / "data/mot17_mini/train").read_text())
    wanted = json.loads((shared / "data/mot17_mini/annotations/boxes_ytvis.json").read_text())
    assert out["videos"][0]["file_names"] == wanted["videos"][0]["file_names"]
    boxes = {one["mot_track_id"]: one["bboxes"] for one in wanted["annotations"]}
    assert {one["mot_track_id"]: one["bboxes"] for one in out["annotations"]} == boxes
    davis = shared / "data/davis_mini"
    out = json.loads(convert(tmp_path, "masks", davis / "Annotations/480p").read_text())
    wanted = json.loads((davis / "annotations/instances_ytvis.json").read_text())
    names = {one["id"]: tuple(one["file_names"]) for one in wanted["videos"]}
    ours = {one["id"]: tuple(one["file_names"]) for one in out["videos"]}
    made = {(ours[one["video_id"]], one["areas"][0]): one["segmentations"] for one in out["annotations"]}
    for one in wanted["annotations"]:
        assert made[names[one["video_id"]], one["areas"][0]] == one["segmentations"]
