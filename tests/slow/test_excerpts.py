"""Excerpts of the published sets as own data, by the commands of a user: checked, drawn, trained on, evaluated."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from mmcore.cli import main
from PIL import Image

pytestmark = pytest.mark.slow


class Excerpt(NamedTuple):
    """A file of a published set, and what a family makes of it."""

    folder: str
    format: str
    annotations: str | list[str]
    images: str
    loss: str
    """A loss that it brings."""
    metric: str | None = None
    """What it is judged by; None where it can only be learned."""
    split: str | None = None
    """Of RefCOCO's files: the excerpts hold these alone."""


REFER, MDETR = "Refer_Segm", "RefCoco_Reg/mdetr_annotations"
COCO_2014 = "coco_2014/train2014"


def referring(name: str, by: str, split: str, loss: str, metric: str | None) -> Excerpt:
    references = f"{REFER}/{name}/refs({by}).p"
    files = [references, f"{REFER}/{name}/instances.json"]
    format = "RefCOCO by image" if metric else "RefCOCO"
    return Excerpt("refcoco_mini", format, files, COCO_2014, loss, metric, split)


GLAMM = {
    "refcoco": referring("refcoco", "unc", "val", "mask_dice", "gIoU"),
    "refcoco+": referring("refcoco+", "unc", "testA", "mask_dice", "gIoU"),
    "refcocog": referring("refcocog", "umd", "val", "mask_dice", "gIoU"),
    "regions": Excerpt(
        "refcoco_mini", "MDETR region captions", f"{MDETR}/finetune_refcocog_val.json", COCO_2014, "text", "ce"
    ),
    "genome": Excerpt(
        "ferret_bench_mini",
        "Visual Genome region captions",
        "visual_genome/train.json",
        "val2017",
        "text",
        "ce",
    ),
    "stuff": Excerpt(
        "coco_panoptic_mini",
        "COCO-Stuff maps",
        "Semantic_Segm/cocostuff/train2017",
        "coco_2017/train2017",
        "mask_dice",
        "gIoU",
    ),
    "scenes": Excerpt(
        "ade20k_mini",
        "ADE20K maps",
        "Semantic_Segm/ade20k/annotations/training",
        "Semantic_Segm/ade20k/images/training",
        "mask_dice",
        "gIoU",
    ),
    "photographs": Excerpt(
        "coco_mini", "COCO instances", "annotations/instances_train2017.json", "train2017", "mask_dice", "gIoU"
    ),
    "captions": Excerpt("coco_mini", "COCO captions", "annotations/captions_train2017.json", "train2017", "text", "ce"),
    "grand captions": Excerpt("grand_examples", "GranD captions", "level_4_extra_context", "images", "text", "ce"),
    "grand regions": Excerpt("grand_examples", "GranD regions", "level_3_dense_caption", "images", "text", "ce"),
}
GLEE = {
    "lvis": Excerpt("lvis_mini", "LVIS v1", "annotations/lvis_val_excerpt.json", ".", "loss_mask", "segm/AP"),
    "refcoco": referring("refcoco", "unc", "val", "loss_mask", None),
    "refcocog": referring("refcocog", "umd", "val", "loss_mask", None),
    **{
        f"{name}, converted": Excerpt(
            "refcoco_mini",
            "RefCOCO-COCO",
            f"glee_annotations/{name}/instances_val.json",
            COCO_2014,
            "loss_mask",
            "bbox/P@0.5",
        )
        for name in ("refcoco-unc", "refcocog-umd")
    },
    "genome": Excerpt(
        "ferret_bench_mini",
        "Visual Genome phrases",
        "visual_genome/train.json",
        "val2017",
        "loss_bbox",
    ),
    "photographs": Excerpt(
        "coco_mini", "COCO instances", "annotations/instances_train2017.json", "train2017", "loss_mask", "segm/AP"
    ),
}
GRIFFON = {
    "detection": Excerpt("", "DET lines", "griffon_jsonl/coco_det.jsonl", "coco_mini/train2017", "text", "bbox/AP"),
    "similar": Excerpt("", "VISJ lines", "griffon_jsonl/coco_visj.jsonl", "coco_mini/train2017", "text", "MAE"),
    "expressions": Excerpt(
        "refcoco_mini", "REC lines", "griffon/REC_refcoco_unc_testA.jsonl", COCO_2014, "text", "accuracy@0.5"
    ),
    "several places": Excerpt("refcoco_mini", "VG lines", "griffon/refcoco_vg.jsonl", COCO_2014, "text"),
    "descriptions": Excerpt("refcoco_mini", "REG lines", "griffon/ref3_reg.jsonl", COCO_2014, "text", "CIDEr"),
    "hard expressions": Excerpt(
        "refcocos_mini", "REC lines", "griffon/REC_refcocos_test.jsonl", "val2017", "text", "accuracy@0.5"
    ),
    "genome": Excerpt("ferret_bench_mini", "REG lines", "griffon/vg_reg.jsonl", "val2017", "text", "CIDEr"),
}
ALL = {
    f"{plugin}, {name}": (plugin, one)
    for plugin, excerpts in (("glamm", GLAMM), ("glee", GLEE), ("griffon", GRIFFON))
    for name, one in excerpts.items()
}
SMALL = {
    "glee": [
        f"data.transform.{name}"
        for name in ("min_sizes=[128]", "max_size=192", "test_min_size=128", "test_max_size=192")
    ]
}
"""Recipe entries that make a step of photographs quick."""


def command(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ends well says."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert not caught.value.code, told.err[-2000:]
    return told.out + told.err


@pytest.mark.parametrize("name", ALL)
def test_a_published_excerpt_is_checked_drawn_trained_on_and_evaluated(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, one = ALL[name]
    root = shared / "data" / one.folder
    if one.folder == "grand_examples":  # its picture could not be had; a plain one of the size that its boxes lie in
        root = Path(shutil.copytree(root, tmp_path / one.folder, copy_function=shutil.copyfile))
        root.chmod(0o755)
        (root / "images").mkdir()
        Image.new("RGB", (2250, 1500), "gray").save(root / "images" / "sa_302406.jpg")
    options = {"split": one.split} if one.split else {}
    entry = {"annotations": one.annotations, "images": one.images, "format": one.format, "options": options}
    brief = {"max_new_tokens": 24} if plugin == "griffon" else {}  # what has learned nothing yet never ends
    sets = {"train": entry} | ({"val": entry | {"options": options | brief}} if one.metric else {})
    described = tmp_path / "own.yaml"
    described.write_text(yaml.safe_dump({"name": "own", "root": str(root), **sets}))
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    own = ["--plugin", plugin, "--variant", "tiny", "--own", described]

    assert "no problems" in command(["data", "check", *own], capsys)
    command(["data", "show", *own, "--count", "2", "--out", tmp_path / "shown"], capsys)
    assert len(list((tmp_path / "shown").glob("*.png"))) >= 1
    run, entries = tmp_path / "run", ["global_batch=2", "micro_batch=2", *SMALL.get(plugin, [])]
    quick = ["--init", "random", "--max-steps", "3", "--workers", "0", *(f"--set={entry}" for entry in entries)]
    command(["train", *own, *quick, "--out", run], capsys)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "losses" in line][-1]
    assert last["step"] == 3
    assert any(loss.startswith(one.loss) for loss in last["losses"])
    if one.metric:
        told = command(["eval", run, "--limit", "4", "--json"], capsys)
        assert one.metric in json.loads(told[told.index("{\n") : told.rindex("}") + 1])["sets"]["own_val"]["metrics"]
