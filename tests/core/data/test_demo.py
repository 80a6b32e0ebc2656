import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.data.demo.write import MANIFEST, coco_categories, write_demo
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


def test_referring_files_agree_with_each_other_and_with_the_pictures(root: Path) -> None:
    train = load(root, "annotations/refcoco-mixed/instances_train.json")
    val = load(root, "annotations/refcoco-unc-val/instances_val.json")
    references = load(root, "refer/refcoco/refs(unc).json")
    objects = {a["id"]: a for a in load(root, "refer/refcoco/instances.json")["annotations"]}
    for part in (train, val):
        assert [a["image_id"] for a in part["annotations"]] == [image["id"] for image in part["images"]]
        assert {a["category_id"] for a in part["annotations"]} == {1}
        assert all((root / "coco/train2014" / image["file_name"]).exists() for image in part["images"])
    assert all(len(image["expressions"]) == 1 for image in val["images"])
    assert not {i["file_name"] for i in train["images"]} & {i["file_name"] for i in val["images"]}
    said = {(r["image_id"], s["sent"]): objects[r["ann_id"]] for r in references for s in r["sentences"]}
    assert len(said) == sum(len(r["sentences"]) for r in references)
    for part in (train, val):
        for image, annotation in zip(part["images"], part["annotations"], strict=True):
            for expression in image["expressions"]:
                assert said[image["original_id"], expression]["bbox"] == annotation["bbox"]


def test_left_is_left_of_every_twin(root: Path) -> None:
    data = load(root, "coco/annotations/instances_train2017.json")
    categories = {c["id"]: c["name"] for c in data["categories"]}
    checked = 0
    train = load(root, "annotations/refcoco-mixed/instances_train.json")
    for image, annotation in zip(train["images"], train["annotations"], strict=True):
        for expression in image["expressions"]:
            if not expression.startswith("left "):
                continue
            noun = expression.removeprefix("left ")
            twins = [
                a["bbox"][0] + a["bbox"][2] / 2
                for a in data["annotations"]
                if a["image_id"] == image["original_id"] and categories[a["category_id"]].endswith(noun)
            ]
            assert len(twins) > 1
            assert annotation["bbox"][0] + annotation["bbox"][2] / 2 == pytest.approx(min(twins), abs=0.02)
            checked += 1
    assert checked > 0
