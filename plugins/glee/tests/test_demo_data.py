"""The merged RefCOCO files of the sample data say what the distributed ones say."""

import json
from pathlib import Path

from mmcore_glee.data.demo import write_demo


def test_merged_files_agree_with_the_references_and_with_the_pictures(tmp_path: Path) -> None:
    root = write_demo(tmp_path, train=20, val=6)
    train, val, references, instances = (
        json.loads((root / name).read_text())
        for name in (
            "annotations/refcoco-mixed/instances_train.json",
            "annotations/refcoco-unc-val/instances_val.json",
            "refer/refcoco/refs(unc).json",
            "refer/refcoco/instances.json",
        )
    )
    objects = {a["id"]: a for a in instances["annotations"]}
    said = {(r["image_id"], s["sent"]): objects[r["ann_id"]] for r in references for s in r["sentences"]}
    for part in (train, val):
        assert [a["image_id"] for a in part["annotations"]] == [image["id"] for image in part["images"]]
        assert {a["category_id"] for a in part["annotations"]} == {1}
        assert all((root / "coco/train2014" / image["file_name"]).exists() for image in part["images"])
        for image, annotation in zip(part["images"], part["annotations"], strict=True):
            for expression in image["expressions"]:
                assert said[image["original_id"], expression]["bbox"] == annotation["bbox"]
    assert all(len(image["expressions"]) == 1 for image in val["images"])
    assert not {i["file_name"] for i in train["images"]} & {i["file_name"] for i in val["images"]}
