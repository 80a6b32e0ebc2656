"""Excerpts of the published sets as own data, by the commands of a user: checked, drawn, trained on, evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from mmcore.cli import main
from PIL import Image

pytestmark = pytest.mark.slow

REFER, MDETR = "Refer_Segm", "RefCoco_Reg/mdetr_annotations"
ADE = "Semantic_Segm/ade20k"
PLACES = {
    "refcoco": (
        "refcoco_mini",
        "RefCOCO by image",
        [f"{REFER}/refcoco/refs(unc).p", f"{REFER}/refcoco/instances.json"],
    ),
    "refcoco+": (
        "refcoco_mini",
        "RefCOCO by image",
        [f"{REFER}/refcoco+/refs(unc).p", f"{REFER}/refcoco+/instances.json"],
    ),
    "refcocog": (
        "refcoco_mini",
        "RefCOCO by image",
        [f"{REFER}/refcocog/refs(umd).p", f"{REFER}/refcocog/instances.json"],
    ),
    "regions": ("refcoco_mini", "MDETR region captions", f"{MDETR}/finetune_refcocog_val.json"),
    "genome": ("ferret_bench_mini", "Visual Genome region captions", "visual_genome/train.json"),
    "stuff": ("coco_panoptic_mini", "COCO-Stuff maps", "Semantic_Segm/cocostuff/train2017"),
    "scenes": ("ade20k_mini", "ADE20K maps", f"{ADE}/annotations/training"),
    "photographs": ("coco_mini", "COCO instances", "annotations/instances_train2017.json"),
    "captions": ("coco_mini", "COCO captions", "annotations/captions_train2017.json"),
    "grand captions": ("grand_examples", "GranD captions", "level_4_extra_context"),
    "grand regions": ("grand_examples", "GranD regions", "level_3_dense_caption"),
}
IMAGES = {
    "refcoco_mini": "coco_2014/train2014",
    "ferret_bench_mini": "val2017",
    "coco_panoptic_mini": "coco_2017/train2017",
    "ade20k_mini": f"{ADE}/images/training",
    "coco_mini": "train2017",
    "grand_examples": "images",
}
MASKED = ("refcoco", "refcoco+", "refcocog", "stuff", "scenes", "photographs")
SPLITS = {"refcoco": "val", "refcoco+": "testA", "refcocog": "val"}
"""The excerpts hold these alone."""


def command(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ends well says."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert not caught.value.code, told.err[-2000:]
    return told.out + told.err


@pytest.mark.parametrize("name", PLACES)
def test_a_published_excerpt_is_checked_drawn_trained_on_and_evaluated(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, format, annotations = PLACES[name]
    root = shared / "data" / folder
    if folder == "grand_examples":  # its picture could not be had; a plain one of the size that its boxes lie in
        root = Path(shutil.copytree(root, tmp_path / folder, copy_function=shutil.copyfile))
        root.chmod(0o755)
        (root / "images").mkdir()
        Image.new("RGB", (2250, 1500), "gray").save(root / "images" / "sa_302406.jpg")
    options = {"split": SPLITS[name]} if name in SPLITS else {}
    entry = {"annotations": annotations, "images": IMAGES[folder], "format": format, "options": options}
    described = tmp_path / "own.yaml"
    described.write_text(yaml.safe_dump({"name": "own", "root": str(root), "train": entry, "val": entry}))
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    own = ["--plugin", "glamm", "--variant", "tiny", "--own", described]

    assert "no problems" in command(["data", "check", *own], capsys)
    command(["data", "show", *own, "--count", "2", "--out", tmp_path / "shown"], capsys)
    assert len(list((tmp_path / "shown").glob("*.png"))) >= 1
    run = tmp_path / "run"
    quick = ["--init", "random", "--max-steps", "3", "--workers", "0", "--set", "global_batch=2", "--set"]
    command(["train", *own, *quick, "micro_batch=2", "--out", run], capsys)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "losses" in line][-1]
    assert last["step"] == 3
    assert ("mask_dice" in last["losses"]) == (name in MASKED)
    assert ("gIoU" if name in MASKED else " ce ") in command(["eval", run], capsys)
