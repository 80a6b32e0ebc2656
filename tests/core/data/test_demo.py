import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.demo.write import MANIFEST, More, coco_categories, write_demo, write_once
from mmcore.errors import DataError
from mmcore.geometry import masks
from PIL import Image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "data", train=60, val=12)


def load(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name).read_text())


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first, again, other = (write_demo(tmp_path / n, seed=s, train=3, val=1) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert tree(first) == tree(again)
    assert tree(first) != tree(other)


def test_nothing_is_written_twice_and_damage_is_repaired(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "demo", train=3, val=1)
    before = tree(root)
    picture = next((root / "coco/train2017").iterdir())
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_demo(root, train=3, val=1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    picture.write_bytes(b"damaged")
    (root / "coco/annotations/instances_val2017.json").unlink()
    write_demo(root, train=3, val=1)
    assert tree(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_other_counts_replace_the_scenes_and_leave_no_stale_picture(tmp_path: Path) -> None:
    root = write_demo(tmp_path / "demo", train=4, val=2)
    write_demo(root, train=2, val=1)
    assert tree(root) == tree(write_demo(tmp_path / "fresh", train=2, val=1))


def test_a_users_own_data_is_never_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "coco/annotations/instances_train2017.json"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(DataError, match="other data"):
        write_demo(tmp_path, train=2, val=1)
    assert own.read_text() == "mine"
    assert not (tmp_path / MANIFEST).exists()


def test_a_manifest_that_points_outside_removes_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    root = write_demo(tmp_path / "demo", train=1, val=1)
    manifest = load(root, MANIFEST)
    manifest["files"]["../precious.txt"] = "x"
    (root / MANIFEST).write_text(json.dumps(manifest))
    write_demo(root, train=1, val=1)
    assert precious.read_text() == "keep"


def test_all_80_coco_categories_are_listed_with_their_ids() -> None:
    categories = coco_categories()
    assert len(categories) == len({c["name"] for c in categories}) == len({c["id"] for c in categories}) == 80
    by_name = {c["name"]: c for c in categories}
    assert by_name["banana"] == {"supercategory": "food", "id": 52, "name": "banana"}
    assert (categories[0]["id"], categories[-1]["id"], by_name["stop sign"]["id"]) == (1, 90, 13)


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_describe_the_pictures(root: Path, split: str) -> None:
    data = load(root, f"coco/annotations/instances_{split}2017.json")
    images = {image["id"]: image for image in data["images"]}
    for image in images.values():
        with Image.open(root / f"coco/{split}2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert 120 <= min(picture.size) <= max(picture.size) <= 160
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        assert min(x, y) >= 0
        assert x + w <= image["width"]
        assert y + h <= image["height"]
        bitmap = masks.to_bitmap(annotation["segmentation"], image["height"], image["width"])
        assert bitmap.sum() == annotation["area"] > 0
        tight = np.array(masks.tight_box(bitmap))
        assert np.abs(tight - [x, y, x + w, y + h]).max() <= 1.5


def test_objects_are_large_and_of_six_categories(root: Path) -> None:
    data = load(root, "coco/annotations/instances_train2017.json")
    objects = [a for a in data["annotations"] if not a["iscrowd"]]
    assert len(Counter(a["category_id"] for a in objects)) == 6
    sides = [max(a["bbox"][2:]) / 140 for a in objects]
    assert np.mean(np.array(sides) > 0.25) > 0.9


def test_every_kind_of_segmentation_occurs(tmp_path: Path) -> None:
    data = load(write_demo(tmp_path / "many", train=120, val=1), "coco/annotations/instances_train2017.json")
    kinds = Counter(
        "crowd" if a["iscrowd"] else "rle" if isinstance(a["segmentation"], dict) else "polygons"
        for a in data["annotations"]
    )
    assert kinds["polygons"] > kinds["rle"] > kinds["crowd"] > 0
    crowds = [a["segmentation"]["counts"] for a in data["annotations"] if a["iscrowd"]]
    assert all(isinstance(counts, list) for counts in crowds)


def test_hidden_parts_belong_to_nobody_twice(root: Path) -> None:
    data = load(root, "coco/annotations/instances_train2017.json")
    for image in data["images"]:
        bitmaps = [
            masks.to_bitmap(a["segmentation"], image["height"], image["width"]).astype(int)
            for a in data["annotations"]
            if a["image_id"] == image["id"]
        ]
        assert not bitmaps or np.sum(bitmaps, axis=0).max() == 1


def test_references_agree_with_the_objects_and_the_pictures(root: Path) -> None:
    references = load(root, "refer/refcoco/refs(unc).json")
    file = load(root, "refer/refcoco/instances.json")
    objects = {a["id"]: a for a in file["annotations"]}
    assert all((root / "coco/train2014" / image["file_name"]).exists() for image in file["images"])
    assert all(objects[r["ann_id"]]["image_id"] == r["image_id"] for r in references)
    said = {(r["image_id"], s["sent"]) for r in references for s in r["sentences"]}
    assert len(said) == sum(len(r["sentences"]) for r in references)


def test_left_is_left_of_every_twin(root: Path) -> None:
    file = load(root, "refer/refcoco/instances.json")
    categories = {c["id"]: c["name"] for c in file["categories"]}
    objects = {a["id"]: a for a in file["annotations"]}
    checked = 0
    for reference in load(root, "refer/refcoco/refs(unc).json"):
        for sentence in reference["sentences"]:
            if not sentence["sent"].startswith("left "):
                continue
            noun = sentence["sent"].removeprefix("left ")
            twins = [
                a["bbox"][0] + a["bbox"][2] / 2
                for a in file["annotations"]
                if a["image_id"] == reference["image_id"] and categories[a["category_id"]].endswith(noun)
            ]
            assert len(twins) > 1
            box = objects[reference["ann_id"]]["bbox"]
            assert box[0] + box[2] / 2 == pytest.approx(min(twins), abs=0.02)
            checked += 1
    assert checked > 0


def test_a_family_writes_files_of_its_own_about_the_same_scenes(tmp_path: Path) -> None:
    more = More("counts", lambda scenes, out: out.put_json("own.json", {k: len(v) for k, v in scenes.items()}))
    root = write_demo(tmp_path / "demo", train=2, val=1, more=more)
    assert load(root, "own.json") == {"train": 2, "val": 1}
    plain = write_demo(tmp_path / "plain", train=2, val=1)
    assert set(tree(root)) - set(tree(plain)) == {"own.json"}
    write_demo(root, train=2, val=1)
    assert not (root / "own.json").exists()


def test_what_a_killed_writer_left_is_removed_and_a_second_one_waits(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        write_once(tmp_path / "demo", {"n": 1}, lambda folder: (folder / "half").touch() or time.sleep(60) or {})
        os._exit(0)
    while not list(tmp_path.glob(".demo-writing-*/half")):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.glob(".demo-writing-*"))
    turns = []
    with ThreadPoolExecutor() as pool:  # each thread has a lock of its own, as a process has
        for _ in range(3):
            pool.submit(write_once, tmp_path / "demo", {"n": 1}, lambda folder: turns.append(1) or {})
    assert turns == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]
