"""Records to samples, batches and evaluations: sample data, the shared files, own data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Data, Source, Stage, Validation
from mmcore.contract.values import Draw, Prediction
from mmcore.data.formats.registry import Formats
from mmcore.errors import DataError, MissingDataError, RecipeError
from mmcore.language.sequence import IMAGE, REGION
from mmcore.runs.own import with_own
from mmcore_griffon.answers import BOXES, extract, read
from mmcore_griffon.data import build
from mmcore_griffon.data.demo import write_demo
from mmcore_griffon.data.formats import FORMATS
from mmcore_griffon.stages import stages

STAGES = {stage.name: stage for stage in stages("tiny")}
PICTURES = "griffon/pictures"
LEARNS = ("detect", "refer", "ground", "region_caption", "count", "converse", "caption")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data"), train=12, val=6)


def context(root: Path, **more: Any) -> DataContext:
    return DataContext(root=root, cache=root / "cache", variant="tiny", seed=0, formats=FORMATS, **more)


def named(variant: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages(variant)}


def reading(format: str, annotations: str, images: str, **options: Any) -> Stage:
    """The fine-tuning stage on one source."""
    source = Source(weight=1.0, format=format, annotations=annotations, images=images, options=options)
    return STAGES["finetune"].replace(data=Data(sources={"one": source}), validation={})


def sample(stage: Stage, root: Path, position: int = 0, seed: int = 1) -> Any:
    return build(stage, "train", context(root)).sources["one"].sample(Draw("one", position, seed))


# ---- sample data ----


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_reads_its_sample_data(root: Path, name: str) -> None:
    datasets = build(STAGES[name], "train", context(root))
    for source in datasets.sources.values():
        samples = [source.sample(Draw(source.name, position, position)) for position in range(min(4, len(source)))]
        batch = datasets.collate[source.name](samples, 0)
        assert batch.normalisers["tokens"] > 0
        lengths = source.lengths()
        assert lengths is not None
        assert len(lengths) == len(source)
        assert lengths.all()


@pytest.mark.parametrize(("stage", "picture"), [("pretrain", 128), ("instruct", 0)])
@pytest.mark.parametrize("kind", ["DET", "RANDDET", "VG", "REG", "VISJ"])
def test_records_are_as_long_as_the_published_samplers_take_them_for(
    root: Path, kind: str, stage: str, picture: int
) -> None:
    """30 words a box and 128 a picture where batches are grouped by modality; by task the boxes alone, at least 1."""
    mixture = named("g-gemma2-9b")[stage].data.mixture
    source = Source(
        weight=1.0,
        format=f"{kind} lines",
        annotations=f"griffon/{kind.lower()}.jsonl",
        images=PICTURES,
        group=None if picture else "localisation",
    )
    built = build(STAGES[stage].replace(data=Data(sources={"one": source}, mixture=mixture)), "train", context(root))
    lines = [json.loads(line) for line in (root / f"griffon/{kind.lower()}.jsonl").read_text().splitlines()]
    boxes = [
        1 if kind == "REG" else len(line["bboxes"]) if kind == "VG" else sum(len(o["bboxes"]) for o in line["objects"])
        for line in lines
    ]
    lengths = built.sources["one"].lengths()
    assert lengths is not None
    assert lengths.tolist() == [max(1, 30 * count + picture) for count in boxes]


@pytest.mark.parametrize("kind", ["det", "vg", "randdet"])
def test_what_is_written_is_where_the_regions_are(root: Path, kind: str) -> None:
    drawn = sample(reading(f"{kind.upper()} lines", f"griffon/{kind}.jsonl", "griffon/pictures"), root)
    answer = drawn.turns[1].text
    found = BOXES.read(answer, drawn.original_size)
    given = np.array([region.box_xyxy for region in drawn.regions])
    assert np.abs(found.boxes_xyxy - given).max() < 0.2
    assert [one.name for one in found.found] == [region.text for region in drawn.regions]
    pieces = [answer[phrase.start : phrase.end] for phrase in drawn.phrases]
    assert pieces == answer.split("&")


def test_a_seed_decides_a_sample(root: Path) -> None:
    stage = reading("DET lines", "griffon/det.jsonl", "griffon/pictures")
    first, again, other = (sample(stage, root, seed=seed) for seed in (1, 1, 2))
    assert first.turns == again.turns != other.turns


def test_an_example_is_one_token_and_a_picture_of_its_own(root: Path) -> None:
    drawn = sample(reading("VISJ lines", "griffon/visj.jsonl", "griffon/pictures"), root)
    assert (drawn.encoded.ids == REGION).sum() == 1
    assert drawn.images["crop"][0].shape == (3, 56, 56)
    assert drawn.turns[1].text.startswith("[")
    (shown,) = drawn.prompts
    assert tuple(shown.points_xy.flatten().tolist()) in [pytest.approx(region.box_xyxy) for region in drawn.regions]


def test_classes_may_be_asked_for_one_by_one(root: Path) -> None:
    drawn = sample(reading("DET lines", "griffon/det.jsonl", "griffon/pictures", kind="VG"), root)
    assert len({one.text for one in drawn.regions}) == 1
    with pytest.raises(RecipeError) as caught:
        sample(reading("DET lines", "griffon/det.jsonl", "griffon/pictures", kind="REG"), root)
    assert "cannot be asked as REG" in str(caught.value)


def test_a_file_replaces_the_wordings(root: Path) -> None:
    (root / "mine.yaml").write_text("refer: ['Seek <expr>!']\n")
    stage = reading("VG lines", "griffon/vg.jsonl", "griffon/pictures")
    stage = stage.replace(data=stage.data.replace(templates="mine.yaml"))
    assert sample(stage, root).turns[0].text.startswith("<image>\nSeek ")


# ---- what cannot be read ----


def lines_with(root: Path, name: str, **changes: Any) -> Stage:
    first = json.loads((root / "griffon/vg.jsonl").read_text().splitlines()[0])
    (root / f"griffon/{name}.jsonl").write_text(json.dumps(first | changes) + "\n")
    return reading("VG lines", f"griffon/{name}.jsonl", "griffon/pictures")


def test_a_missing_picture_and_one_of_another_shape_are_named_with_their_line(root: Path) -> None:
    with pytest.raises(MissingDataError) as missing:
        sample(lines_with(root, "lost", image_path="lost.jpg"), root)
    assert "lost.jsonl, line 1" in str(missing.value.where)
    first = json.loads((root / "griffon/vg.jsonl").read_text().splitlines()[0])
    with pytest.raises(DataError) as other:
        sample(lines_with(root, "wide", width=2 * first["width"]), root)
    assert "its record says" in other.value.what


def test_a_picture_that_was_made_smaller_keeps_its_boxes(root: Path) -> None:
    first = json.loads((root / "griffon/vg.jsonl").read_text().splitlines()[0])
    doubled = {"width": 2 * first["width"], "height": 2 * first["height"]}
    stage = lines_with(root, "small", **doubled, bboxes=[[2 * side for side in box] for box in first["bboxes"]])
    drawn = sample(stage, root)
    np.testing.assert_allclose(drawn.regions[0].box_xyxy, first["bboxes"][0])


def test_training_does_not_start_with_an_answer_that_cannot_be_read_back(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        build(lines_with(root, "salt", expression="salt & pepper"), "train", context(root))
    assert "1 of 1 training answers cannot be read back" in str(caught.value)


def test_a_conversation_that_speaks_of_a_region_shows_none_and_is_refused(root: Path) -> None:
    first = json.loads((root / "griffon/general.json").read_text())[0]
    first["conversations"][0]["value"] = "<image>\nWhat is <region>?"
    text = {"id": 2, "conversations": [{"from": "human", "value": "What is <region>?"}, {"from": "gpt", "value": "No"}]}
    (root / "griffon/spoken.json").write_text(json.dumps([first, text]))
    stage = reading("LLaVA JSON", "griffon/spoken.json", "griffon/pictures")
    with pytest.raises(DataError) as caught:
        sample(stage, root)
    assert "the text has <region>, and the record shows nothing for it" in caught.value.what
    assert "spoken.json, record 0" in str(caught.value.where)
    assert not (sample(stage, root, 1).encoded.ids < 0).any(), "without a picture it is only text"
    val = Validation(format="LLaVA JSON", annotations="griffon/spoken.json", images="griffon/pictures")
    asked = build(STAGES["finetune"].replace(validation={"v": val}), "val", context(root)).sources["v"]
    with pytest.raises(DataError, match="the text has <region>"):
        asked.sample(Draw("v", 0, 0))


# ---- evaluation ----


def judged(stage: Stage, root: Path, name: str, answer: Any) -> dict[str, float]:
    """The figures of a validation set when `answer` says what is true of each sample."""
    datasets = build(stage, "val", context(root))
    source, evaluator = datasets.sources[name], datasets.evaluators[name]()
    for position in range(len(source)):
        one = source.sample(Draw(name, position, 0))
        said = answer(source, position)
        predicted = Prediction(
            one.image_id, one.original_size, record_id=one.record_id, **read(said, one.original_size)
        )
        evaluator.update(datasets.collate[name]([one], 0), [predicted])
    return evaluator.summarise(evaluator.state())


def truth(source: Any, position: int) -> str:
    """What a perfect model says."""
    target = source.targets[position]
    scene = source.scenes[target.position]
    names, boxes = scene.rows()
    if source.kind == "VISJ":
        names, boxes = None, scene.boxes[target.part]  # type: ignore[assignment]
    height, width = scene.size
    return BOXES.write(np.array(boxes, np.float64).reshape(-1, 4), (height, width), names).text


@pytest.mark.parametrize(
    ("stage", "name", "best"),
    [
        ("pretrain", "shapes_rec", {"accuracy@0.5": 1.0, "parse_rate": 1.0}),
        ("instruct", "shapes_det", {"bbox/AP50": 1.0, "parse_rate": 1.0}),
        ("visual-referring", "shapes_count", {"MAE": 0.0, "RMSE": 0.0, "parse_rate": 1.0}),
    ],
)
def test_the_truth_scores_best_and_nothing_scores_worst(root: Path, stage: str, name: str, best: Any) -> None:
    figures = judged(STAGES[stage], root, name, truth)
    if name == "shapes_rec":  # every box of the picture stands in that answer; the first may be another shape's
        assert figures["accuracy@0.5"] >= figures["chance"]
        assert figures["parse_rate"] == 1.0
    else:
        assert {key: figures[key] for key in best} == pytest.approx(best)
    silent = judged(STAGES[stage], root, name, lambda source, position: "I do not know")
    assert silent["parse_rate"] == 0.0
    assert silent.get("MAE", 1.0) > 0


KINDS = {"det": "DET", "randdet": "RANDDET", "vg": "VG", "reg": "REG", "visj": "VISJ", "REC_shapes_val": "REC"}


def asking(root: Path, file: str, **options: Any) -> Any:
    """The source of a validation set on one of the sample files."""
    val = Validation(
        format=f"{KINDS[file]} lines", annotations=f"griffon/{file}.jsonl", images="griffon/pictures", options=options
    )
    return build(STAGES["finetune"].replace(validation={"one": val}), "val", context(root)).sources["one"]


@pytest.mark.parametrize("file", KINDS)
def test_every_kind_of_lines_is_asked_about_its_picture(root: Path, file: str) -> None:
    source = asking(root, file)
    asked = source.sample(Draw("one", 0, 0))
    assert (asked.encoded.ids == IMAGE).sum() == len(asked.images["main"]) == 1
    assert (asked.encoded.ids == REGION).sum() == len(asked.images.get("crop", ())) == (file == "visj")
    spoken = asked.turns[0].text.removeprefix("<image>\n").replace("<region>", "")
    assert "<" not in spoken, "every placeholder is filled"
    assert ("Answer in the format" in spoken) == (file == "visj"), "in training detection is told how to answer"
    names = source.scenes[0].names
    assert file in ("reg", "visj") or names[0] in spoken
    assert file != "randdet" or all(name in spoken for name in names)


@pytest.mark.parametrize("file", KINDS)
def test_a_question_of_ones_own_has_the_picture_in_front_and_says_what_is_asked_about(root: Path, file: str) -> None:
    mark = {"det": "<category set>", "reg": "<objs>", "visj": "<region>"}.get(file, "<expr>")
    asked = asking(root, file, question=f"Seek {mark}, please.").sample(Draw("one", 0, 0))
    assert (asked.encoded.ids == IMAGE).sum() == 1
    assert asked.turns[0].text.startswith("<image>\nSeek ")
    if file == "det":  # its classes may be written out
        asked = asking(root, file, question="Seek any circle.").sample(Draw("one", 0, 0))
        assert asked.turns[0].text == "<image>\nSeek any circle."
        return
    with pytest.raises(RecipeError) as caught:
        asking(root, file, question="Seek.")
    assert f"the question lacks {mark}" in str(caught.value)


def test_a_few_named_classes_are_judged_as_detection_is(root: Path) -> None:
    val = Validation(format="RANDDET lines", annotations="griffon/randdet.jsonl", images="griffon/pictures")
    figures = judged(STAGES["finetune"].replace(validation={"one": val}), root, "one", truth)
    assert figures["bbox/AP50"] == pytest.approx(1.0)
    assert figures["parse_rate"] == 1.0


@pytest.mark.parametrize(("options", "best"), [({}, 1.0), ({"whole_names": False}, 0.0)], ids=["found", "as published"])
def test_a_class_with_a_hyphen_is_found(root: Path, options: Any, best: float) -> None:
    line = json.loads((root / "griffon/det.jsonl").read_text().splitlines()[0])
    line["objects"] = [{"category_name": "t-shirt", "bboxes": line["objects"][0]["bboxes"]}]
    (root / "griffon/hyphen.jsonl").write_text(json.dumps(line) + "\n")
    val = Validation(format="DET lines", annotations="griffon/hyphen.jsonl", images="griffon/pictures", options=options)
    assert judged(STAGES["finetune"].replace(validation={"v": val}), root, "v", truth)["bbox/AP50"] == pytest.approx(
        best
    )


def test_questions_know_their_records_where_these_are_asked_several_times(root: Path) -> None:
    line = json.loads((root / "griffon/visj_val.jsonl").read_text().splitlines()[0])
    line["objects"].append({**line["objects"][0], "category_name": "another"})
    (root / "griffon/broken.jsonl").write_text(f"{{}}\n{json.dumps(line)}\n")
    val = STAGES["visual-referring"].validation["shapes_count"].replace(annotations="griffon/broken.jsonl")
    stage = STAGES["visual-referring"].replace(validation={"shapes_count": val})
    source = build(stage, "val", context(root)).sources["shapes_count"]
    known = source.annotations()
    assert (len(source), len(known)) == (3, 3)
    assert [known.unusable(position) for position in range(3)] == [True, False, False]
    assert [problem.what for problem in source.problems()] == [problem.what for problem in known.problems()]


def test_more_classes_than_a_question_holds_are_asked_several_times(root: Path) -> None:
    val = STAGES["instruct"].validation["shapes_det"]
    val = val.replace(options={**val.options, "classes_per_question": 3})
    stage = STAGES["instruct"].replace(validation={"shapes_det": val})
    source = build(stage, "val", context(root)).sources["shapes_det"]
    assert len(source) == 2 * len(source.scenes)  # type: ignore[attr-defined]

    def of_part(source: Any, position: int) -> str:
        asked = source.lists[source.targets[position].part]
        pieces = truth(source, position).split("&")
        return "&".join(piece for piece in pieces if piece.split("-[")[0] in asked) or "None"

    assert judged(stage, root, "shapes_det", of_part)["bbox/AP50"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["shapes_rec", "shapes_det", "shapes_count"])
def test_a_strip_shows_the_boxes_that_are_wanted(root: Path, name: str) -> None:
    stage = next(stage for stage in STAGES.values() if name in stage.validation)
    source = build(stage, "val", context(root)).sources[name]
    shown = source.shown(1)
    assert shown.truth.boxes_xyxy is not None
    wanted = read(truth(source, 1), shown.truth.size)
    found, wanted = sorted(shown.truth.boxes_xyxy.tolist()), sorted(wanted["boxes_xyxy"].tolist())
    # Three decimals are written, and corners are rounded to the nearest.
    np.testing.assert_allclose(found, wanted, atol=0.0005 * max(shown.truth.size) + 1e-5, rtol=0)
    assert bool(shown.question) == (name != "shapes_det")
    assert [one.text for one in shown.truth.regions] == (["like this"] if name == "shapes_count" else [])


def test_a_strip_is_as_large_as_the_record_says(root: Path, tmp_path: Path) -> None:
    line = json.loads((root / "griffon/REC_shapes_val.jsonl").read_text().splitlines()[0])
    line |= {"height": 2 * line["height"], "width": 2 * line["width"], "bbox": [2 * side for side in line["bbox"]]}
    (root / "griffon/double.jsonl").write_text(json.dumps(line) + "\n")
    val = Validation(format="REC lines", annotations="griffon/double.jsonl", images="griffon/pictures")
    shown = build(STAGES["finetune"].replace(validation={"v": val}), "val", context(root)).sources["v"].shown(0)
    assert shown.truth.size == shown.image.shape[:2] == (line["height"], line["width"])


# ---- the shared files ----

SHARED = {
    "griffon_jsonl/coco_det.jsonl": ("DET lines", "coco_mini/train2017", 80),
    "griffon_jsonl/coco_visj.jsonl": ("VISJ lines", "coco_mini/train2017", 41),
    "refcoco_mini/griffon/refcoco_vg.jsonl": ("VG lines", "refcoco_mini/coco_2014/train2014", None),
    "refcoco_mini/griffon/ref3_reg.jsonl": ("REG lines", "refcoco_mini/coco_2014/train2014", None),
    "refcoco_mini/griffon/REC_refcoco_unc_testA.jsonl": ("REC lines", "refcoco_mini/coco_2014/train2014", None),
    "refcocos_mini/griffon/REC_refcocos_test.jsonl": ("REC lines", "refcocos_mini/val2017", 7),
    "ferret_bench_mini/griffon/vg_reg.jsonl": ("REG lines", "ferret_bench_mini/visual_genome", None),
}


@pytest.mark.parametrize("file", SHARED)
def test_the_shared_lines_are_recognised_read_and_learnt(shared: Path, tmp_path: Path, file: str) -> None:
    data, (format, images, count) = shared / "data", SHARED[file]
    if not (data / images).is_dir() or not any((data / images).glob("*.jpg")):
        images = next(path for path in (data / file.split("/")[0]).rglob("*") if any(path.glob("*.jpg"))).relative_to(
            data
        )
    assert Formats.of(FORMATS).recognise(data / file).name == format
    where = DataContext(root=data, cache=tmp_path, variant="tiny", seed=0, formats=FORMATS)
    datasets = build(reading(format, file, str(images)), "train", where)
    source = datasets.sources["one"]
    assert count is None or len(source) == count
    drawn = [source.sample(Draw("one", position, position)) for position in range(min(4, len(source)))]
    batch = datasets.collate["one"](drawn, 0)
    assert batch.normalisers["tokens"] > 0
    if format != "REG lines":
        assert all(extract(one.turns[1].text) for one in drawn)


def test_the_shared_expressions_are_evaluated(shared: Path, tmp_path: Path) -> None:
    val = Validation(
        format="REC lines",
        annotations="refcocos_mini/griffon/REC_refcocos_test.jsonl",
        images="refcocos_mini/val2017",
    )
    stage = STAGES["finetune"].replace(validation={"hard": val})
    where = DataContext(root=shared / "data", cache=tmp_path, variant="tiny", seed=0, formats=FORMATS)
    datasets = build(stage, "val", where)
    source, evaluator = datasets.sources["hard"], datasets.evaluators["hard"]()
    for position in range(len(source)):
        one = source.sample(Draw("hard", position, 0))
        said = truth(source, position)
        evaluator.update(None, [Prediction(one.image_id, one.original_size, record_id=one.record_id, text=said)])  # type: ignore[arg-type]
    figures = evaluator.summarise(evaluator.state())
    assert figures["accuracy@0.5"] == 1.0
    assert figures["chance"] < 1.0


def test_one_coco_file_becomes_detection_and_expressions(shared: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        f"name: photos\nroot: {shared / 'data/coco_mini'}\n"
        "train: {annotations: annotations/instances_train2017.json, images: train2017}\n"
        "val: {annotations: annotations/instances_val2017.json, images: val2017}\n"
    )
    stage, notes = with_own(STAGES["finetune"], own, Formats.of(FORMATS), LEARNS, tmp_path / "cache")
    assert not notes
    where = DataContext(root=tmp_path, cache=tmp_path / "cache", variant="tiny", seed=0, formats=FORMATS)
    source = build(stage, "train", where).sources["photos"]
    drawn = [source.sample(Draw("photos", position % 8, position)) for position in range(16)]
    asked = ["class name-[" in one.turns[0].text for one in drawn]
    assert any(asked)
    assert not all(asked)
    assert all(extract(one.turns[1].text) or one.turns[1].text.endswith("None']") for one in drawn)
    datasets = build(stage, "val", where)
    one = datasets.sources["photos_val"].sample(Draw("photos_val", 0, 0))
    assert one.turns[0].text.count(", ") >= 79
    assert "bbox/AP" in datasets.evaluators["photos_val"]().metric_names


def test_the_longest_answers_of_photographs_are_learnt_whole(shared: Path, tmp_path: Path) -> None:
    def cut(stage: Stage, positions: Sequence[int]) -> float:
        stage = stage.replace(data=Data(sources={"one": source}), validation={})
        built = build(stage, "train", where)
        drawn = [built.sources["one"].sample(Draw("one", position, 0)) for position in positions]
        return built.collate["one"](drawn, 0).statistics["cut"]

    source = Source(
        weight=1.0,
        format="DET lines",
        annotations="griffon_jsonl/coco_det.jsonl",
        images="coco_mini/train2017",
    )
    where = DataContext(root=shared / "data", cache=tmp_path, variant="tiny", seed=0, formats=FORMATS)
    scenes = build(reading("DET lines", source.annotations, source.images), "train", where).sources["one"].annotations()
    longest = np.argsort(scenes.num_boxes())[-3:].tolist()
    assert scenes.num_boxes()[longest[-1]] > 30
    assert cut(STAGES["finetune"], longest) == 0
    assert cut(STAGES["finetune"].replace(max_length=512), longest) == 3
