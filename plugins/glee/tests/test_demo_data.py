"""The sample data of GLEE: merged RefCOCO files say what the distributed ones say, and every stage reads its own."""

import json
from pathlib import Path

import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.values import Draw
from mmcore_glee import vocabulary
from mmcore_glee.data import build
from mmcore_glee.data.demo import write_demo
from mmcore_glee.recipes import stages


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo"), train=20, val=6)


@pytest.mark.parametrize("stage", stages("tiny"), ids=lambda stage: stage.name)
def test_every_tiny_stage_reads_the_sample_data(stage, root: Path) -> None:
    for split in ("train", "val"):
        data = build(stage, split, DataContext(root, root.parent / "cache", "tiny", 0))
        assert set(data.sources) == set(stage.data.sources if split == "train" else stage.validation)
        for name, source in data.sources.items():
            assert not list(source.problems())
            samples = [source.sample(Draw(name, position, 0)) for position in range(2)]
            batch = data.collate[name]([sample for sample in samples if sample is not None], 0)
            assert split == "val" or sum(batch.num_objects) > 0


def test_two_lists_of_names_call_the_same_things_otherwise(root: Path) -> None:
    coco = json.loads((root / "coco/annotations/instances_train2017.json").read_text())
    kinds = {a["id"]: {c["id"]: c["name"] for c in coco["categories"]}[a["category_id"]] for a in coco["annotations"]}
    seen = []
    for name, file in (
        ("obj365", "Objects365V2/annotations/zhiyuan_objv2_train_new.json"),
        ("openimage", "open_image/openimages_v6_train_bbox_splitdir.json"),
    ):
        read = json.loads((root / file).read_text())
        assert [category["name"] for category in read["categories"]] == list(vocabulary.names(name))
        called = {category["id"]: category["name"].lower() for category in read["categories"]}
        for one in read["annotations"]:
            kind = kinds[one["id"]]
            assert called[one["category_id"]] == kind or (
                kind == "sports ball" and "ball" in called[one["category_id"]]
            )
        seen.append({image["id"] for image in read["images"]})
    assert not seen[0] & seen[1]


def test_merged_files_agree_with_the_references_and_with_the_pictures(root: Path) -> None:
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
