"""Sources read real files: samples depend on their draw alone, words follow the picture, mistakes name the remedy."""

import dataclasses
import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.protocols import DataContext, DataSource
from mmcore.contract.values import Draw, Prediction, Sample
from mmcore.data.formats.registry import Formats
from mmcore.data.transforms import Crop, Flip, Transform
from mmcore.errors import DataError, MissingDataError, RecipeError
from mmcore.evaluate.class_agnostic import ClassAgnosticEvaluator
from mmcore.evaluate.lvis import LvisEvaluator
from mmcore_glee import vocabulary
from mmcore_glee.data import build
from mmcore_glee.data.demo import write_demo
from mmcore_glee.recipes import stages
from PIL import Image

TINY = next(stage for stage in stages("tiny") if stage.name == "joint")
LITE = stages("lite")[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo"), train=12, val=4)


def context(root: Path, *only: str) -> DataContext:
    return DataContext(root, root / ".cache", "tiny", 0, only or None)


def one_image(root: Path, annotations, *, expressions=None, categories=((18, "dog"), (1, "person"))) -> None:
    """A data root with one 60 x 80 image, as COCO or as RefCOCO in COCO form."""
    image = {"id": 5, "file_name": "a.png", "height": 60, "width": 80}
    where, folder = (
        ("annotations/refcoco-mixed", "coco/train2014") if expressions else ("coco/annotations", "coco/train2017")
    )
    name = "instances_train.json" if expressions else "instances_train2017.json"
    if expressions:
        image["expressions"] = expressions
    content = {
        "images": [image],
        "annotations": [
            {"id": i, "image_id": 5, "iscrowd": 0, "area": 1, "category_id": 1, **annotation}
            for i, annotation in enumerate(annotations)
        ],
        "categories": [{"id": id_, "name": word} for id_, word in categories],
    }
    (root / where).mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / where / name).write_text(json.dumps(content))
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(root / folder / "a.png")


SQUARE = {"bbox": [10.5, 10, 30, 20], "segmentation": [[10.5, 10, 40.5, 10, 40.5, 30, 10.5, 30]]}


class Watched:
    """An image pipeline that remembers what it drew."""

    def __init__(self, pipeline):
        self.pipeline, self.drawn = pipeline, []

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def train(self, *given, **named):
        self.drawn.append(self.pipeline.train(*given, **named))
        return self.drawn[-1]


def watched(source):
    return dataclasses.replace(source, pipeline=Watched(source.pipeline))


def same(one: Sample | None, two: Sample | None) -> bool:
    if one is None or two is None:
        return one is two
    tensors = ("image", "boxes_xyxy", "labels", "masks")
    equal = all(torch.equal(getattr(one, name), getattr(two, name)) for name in tensors)
    return equal and (one.expression, one.image_id, one.names) == (two.expression, two.image_id, two.names)


def test_the_recipe_builds_sources_that_keep_the_contract(demo):
    datasets = build(TINY, "train", context(demo))
    assert set(datasets.sources) == set(datasets.collate) == {"coco", "refcoco"}
    for name, source in datasets.sources.items():
        assert isinstance(source, DataSource)
        assert source.name == name
        assert len(source.aspect_groups()) == len(source) > 0
        samples = [source.sample(Draw(name, position, 7)) for position in range(4)]
        batch = datasets.collate[name]([sample for sample in samples if sample], 3)
        assert batch.source == name
        assert batch.masks is not None
        assert sum(batch.num_objects) == len(batch.labels) == len(batch.boxes_cxcywh) == len(batch.masks)


def test_validation_gives_images_and_evaluators_without_targets(demo):
    datasets = build(TINY, "val", context(demo))
    assert set(datasets.sources) == set(datasets.evaluators) == {"coco_val", "refcoco_val"}
    for name, source in datasets.sources.items():
        samples = [source.sample(Draw(name, position, 0)) for position in range(3)]
        batch = datasets.collate[name](samples, 0)
        assert batch.num_objects == (0, 0, 0)
        assert batch.masks is None
        assert len(batch.original_sizes) == 3
        assert (batch.expressions is None) == (name == "coco_val")
        datasets.evaluators[name]().update(batch, [])


def test_the_same_draw_gives_the_same_sample_in_any_process(demo):
    source = build(TINY, "train", context(demo)).sources["refcoco"]
    draws = [Draw("refcoco", position % len(source), 100 + position) for position in range(8)]
    here = [source.sample(draw) for draw in draws]
    np.random.seed(0)
    torch.manual_seed(0)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(source.sample, reversed(draws)))[::-1]
    assert all(same(one, two) for one, two in zip(here, there, strict=True))
    assert len({tuple(sample.image.shape) for sample in here}) > 1


def test_a_source_is_small_when_it_travels(demo):
    source = build(TINY, "train", context(demo)).sources["coco"]
    source.sample(Draw("coco", 0, 0))
    assert len(pickle.dumps(source)) < 4000


def test_boxes_of_whole_objects_surround_their_masks(demo):
    source = build(TINY, "train", context(demo)).sources["coco"]
    for position in range(8):
        sample = source.sample(Draw("coco", position, position))
        for box, mask in zip(sample.boxes_xyxy, sample.masks, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert columns.min() >= box[0] - 2
            assert rows.min() >= box[1] - 2
            assert columns.max() <= box[2] + 2
            assert rows.max() <= box[3] + 2


def test_a_mirrored_image_swaps_left_and_right(tmp_path):
    one_image(tmp_path, [SQUARE], expressions=["The Left one"], categories=[(1, "object")])
    source = watched(build(TINY, "train", context(tmp_path, "refcoco")).sources["refcoco"])
    heard = set()
    for seed in range(40):
        sample = source.sample(Draw("refcoco", 0, seed))
        flipped = any(isinstance(step, Flip) for step in source.pipeline.drawn[-1].steps)
        assert sample.expression == ("the right one" if flipped else "the left one")
        heard.add(sample.expression)
    assert len(heard) == 2


def test_expressions_that_count_are_never_cropped(tmp_path):
    stage = TINY.replace(data=TINY.data.replace(transform={"crop_probability": 1.0}))
    for expressions, cropped in ((["second dog"], False), (["a dog", "the FIRST dog"], False), (["a dog"], True)):
        root = tmp_path / expressions[0]
        one_image(root, [SQUARE], expressions=expressions, categories=[(1, "object")])
        source = watched(build(stage, "train", context(root, "refcoco")).sources["refcoco"])
        for seed in range(30):
            source.sample(Draw("refcoco", 0, seed))
        steps = [step for transform in source.pipeline.drawn for step in transform.steps]
        assert any(isinstance(step, Crop) for step in steps) == cropped


def test_every_expression_is_chosen(tmp_path):
    one_image(tmp_path, [SQUARE], expressions=["one", "two", "three"], categories=[(1, "object")])
    source = build(TINY, "train", context(tmp_path, "refcoco")).sources["refcoco"]
    assert {source.sample(Draw("refcoco", 0, seed)).expression for seed in range(60)} == {"one", "two", "three"}


def test_a_referred_object_that_is_cropped_away_gives_no_sample(tmp_path):
    small = {"bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    one_image(tmp_path, [small], expressions=["the corner"], categories=[(1, "object")])
    stage = TINY.replace(data=TINY.data.replace(transform={"crop_probability": 1.0}))
    source = build(stage, "train", context(tmp_path, "refcoco")).sources["refcoco"]
    samples = [source.sample(Draw("refcoco", 0, seed)) for seed in range(30)]
    assert any(sample is None for sample in samples)
    assert any(sample is not None for sample in samples)


def test_crowds_are_no_targets_and_lost_objects_are_left_out(tmp_path):
    crowd = {**SQUARE, "iscrowd": 1}
    line = {"bbox": [50, 50, 10, 0], "segmentation": [[50, 50, 60, 50, 60, 50]]}
    one_image(tmp_path, [crowd, SQUARE, line])
    source = build(TINY, "train", context(tmp_path, "coco")).sources["coco"]
    assert len(source.sample(Draw("coco", 0, 1)).labels) == 1


def test_labels_follow_names_not_numbers(tmp_path):
    one_image(tmp_path, [{**SQUARE, "category_id": 18}], categories=[(18, "dog"), (3, "Car")])
    datasets = build(TINY, "train", context(tmp_path, "coco"))
    batch = datasets.collate["coco"]([datasets.sources["coco"].sample(Draw("coco", 0, 0))], 0)
    assert [batch.names[label] for label in batch.labels] == ["dog"]
    assert len(batch.names) == 80


def with_option(**options):
    coco = TINY.data.sources["coco"]
    changed = {"coco": coco.replace(options={**coco.options, **options})}
    return TINY.replace(data=TINY.data.replace(sources=changed))


def test_an_unknown_category_is_an_error_that_names_two_remedies(tmp_path):
    one_image(tmp_path, [SQUARE], categories=[(1, "persn"), (2, "unicorn")])
    with pytest.raises(DataError, match="did you mean 'person'"):
        build(TINY, "train", context(tmp_path, "coco"))
    one_image(tmp_path, [SQUARE], categories=[(1, "unicorn")])
    with pytest.raises(DataError, match="names=file"):
        build(TINY, "train", context(tmp_path, "coco"))


def test_a_data_set_of_ones_own_brings_its_own_names(tmp_path):
    one_image(tmp_path, [SQUARE], categories=[(1, "unicorn"), (7, "griffin")])
    datasets = build(with_option(names="file"), "train", context(tmp_path, "coco"))
    batch = datasets.collate["coco"]([datasets.sources["coco"].sample(Draw("coco", 0, 0))], 0)
    assert batch.names == ("unicorn", "griffin")
    assert batch.labels.tolist() == [0]


def test_an_unknown_option_is_refused(tmp_path):
    one_image(tmp_path, [SQUARE])
    with pytest.raises(RecipeError, match="did you mean 'names'"):
        build(with_option(name="file"), "train", context(tmp_path, "coco"))


def test_an_object_without_mask_names_the_annotation_and_the_remedy(tmp_path):
    one_image(tmp_path, [{"bbox": [1, 2, 3, 4]}])
    source = build(TINY, "train", context(tmp_path, "coco")).sources["coco"]
    with pytest.raises(DataError, match=r"annotation 0(.|\n)*COCO boxes"):
        source.sample(Draw("coco", 0, 0))


def test_boxes_without_masks_are_read_as_such(tmp_path):
    one_image(tmp_path, [{"bbox": [1, 2, 30, 40]}])
    boxes = TINY.data.sources["coco"].replace(format="COCO boxes")
    stage = TINY.replace(data=TINY.data.replace(sources={"coco": boxes}))
    datasets = build(stage, "train", context(tmp_path))
    sample = datasets.sources["coco"].sample(Draw("coco", 0, 0))
    assert sample.masks is None
    assert datasets.collate["coco"]([sample], 0).masks is None


def test_an_image_of_another_size_names_both(tmp_path):
    one_image(tmp_path, [SQUARE])
    Image.new("RGB", (33, 44)).save(tmp_path / "coco/train2017/a.png")
    source = build(TINY, "train", context(tmp_path, "coco")).sources["coco"]
    with pytest.raises(DataError, match="44x33, its record says 60x80"):
        source.sample(Draw("coco", 0, 0))


def test_an_unknown_format_names_those_that_are_known(tmp_path):
    coco = TINY.data.sources["coco"].replace(format="LVIS v2")
    with pytest.raises(DataError, match=r"the format 'LVIS v2' is not known(.|\n)*'coco'(.|\n)*LVIS v1"):
        build(TINY.replace(data=TINY.data.replace(sources={"coco": coco})), "train", context(tmp_path))


def test_every_format_of_the_published_recipes_is_read():
    for stage in stages("lite"):
        entries = [*stage.data.sources.values(), *stage.validation.values()]
        assert {entry.format for entry in entries} <= set(Formats.of())


def lvis(root: Path, annotations) -> None:
    """A data root with one image in LVIS's form, searched for dogs and for nothing else."""
    one_image(root, [])
    image = {"id": 5, "height": 60, "width": 80, "coco_url": "http://images.cocodataset.org/train2017/a.png"}
    image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    categories = [{"id": 1, "name": "aerosol_can", "frequency": "c"}, {"id": 3, "name": "airplane", "frequency": "f"}]
    boxes = [{"id": i + 1, "image_id": 5, "area": 600, **one} for i, one in enumerate(annotations)]
    (root / "lvis").mkdir()
    content = json.dumps({"images": [image], "annotations": boxes, "categories": categories})
    for name in ("lvis_v1_train.json", "lvis_v1_minival_inserted_image_name.json"):
        (root / "lvis" / name).write_text(content)


def test_lvis_finds_images_by_their_split_and_labels_by_their_names(tmp_path):
    lvis(tmp_path, [{**SQUARE, "category_id": 3}])
    datasets = build(LITE, "train", context(tmp_path, "lvis"))
    sample = datasets.sources["lvis"].sample(Draw("lvis", 0, 1))
    assert sample.labels.tolist() == [vocabulary.names("lvis").index("airplane")]
    batch = datasets.collate["lvis"]([sample], 0)
    assert len(batch.names) == 100
    assert batch.names[batch.labels[0]] == "airplane"


def test_lvis_is_evaluated_by_its_own_protocol(tmp_path):
    lvis(tmp_path, [{**SQUARE, "category_id": 3}])
    evaluators = build(LITE, "val", context(tmp_path, "lvis")).evaluators
    evaluator = evaluators["lvis_minival"]()
    assert isinstance(evaluator, LvisEvaluator)
    assert evaluator.category_ids[vocabulary.names("lvis").index("airplane")] == 3
    assert len(evaluator.category_ids) == 1203


def test_frames_of_uvo_are_judged_whatever_is_found_is_called(tmp_path):
    stage = next(stage for stage in stages("lite") if stage.name == "uvo_video")
    entry = stage.validation["uvo_val"]
    one_image(tmp_path, [SQUARE], categories=((1, "object"),))
    for made, wanted in (
        ("coco/annotations/instances_train2017.json", entry.annotations),
        ("coco/train2017", entry.images),
    ):
        (tmp_path / wanted).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).rename(tmp_path / wanted)
    datasets = build(stage.replace(validation={"uvo_val": entry}), "val", context(tmp_path, "uvo_val"))
    sample = datasets.sources["uvo_val"].sample(Draw("uvo_val", 0, 1))
    assert datasets.collate["uvo_val"]([sample], 0).names == ("object",)
    evaluator = datasets.evaluators["uvo_val"]()
    assert isinstance(evaluator, ClassAgnosticEvaluator)
    found = Prediction(5, (60, 80), torch.tensor([[10.5, 10, 40.5, 30]]), torch.ones(1), torch.zeros(1).long())
    evaluator = type(evaluator)(evaluator.annotations, iou_types=("bbox",), category_ids=evaluator.category_ids)
    evaluator.update(None, [found])
    assert evaluator.summarise(evaluator.state())["bbox/AR@100"] == 1.0


def phrases(root: Path, annotations) -> None:
    """A data root with one image whose objects are named in free words."""
    image = {"id": 1, "file_name": "a.png", "height": 60, "width": 80}
    found = [{"id": i + 1, "image_id": 1, "bbox": [10, 10, 30, 20], "category_id": 1} for i in range(len(annotations))]
    content = {
        "images": [image],
        "annotations": [{**box, **names} for box, names in zip(found, annotations, strict=True)],
        "categories": [{"id": 1, "name": "object"}],
    }
    for folder in ("annotations", "images"):
        (root / "visual_genome" / folder).mkdir(parents=True)
    (root / "visual_genome/annotations/train_from_objects.json").write_text(json.dumps(content))
    Image.new("RGB", (80, 60)).save(root / "visual_genome/images/a.png")


def test_phrases_become_the_names_of_a_batch(tmp_path):
    phrases(tmp_path, [{"object_name": "red bus"}, {"caption": "a dog runs"}])
    datasets = build(LITE, "train", context(tmp_path, "vg"))
    sample = datasets.sources["vg"].transformed(
        datasets.sources["vg"].records[0], np.zeros((60, 80, 3), np.uint8), Transform((60, 80), ()), Draw("vg", 0, 0)
    )
    assert sample.masks is None
    batch = datasets.collate["vg"]([sample], 0)
    assert [batch.names[label] for label in batch.labels] == ["red bus", "a dog runs"]
    assert len(batch.names) == 200


def test_an_object_without_a_phrase_is_named(tmp_path):
    phrases(tmp_path, [{"object_name": " "}])
    source = build(LITE, "train", context(tmp_path, "vg")).sources["vg"]
    with pytest.raises(DataError, match=r"is no phrase(.|\n)*annotation 1, field caption_with_token"):
        source.sample(Draw("vg", 0, 0))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MissingDataError, match="coco/train2017"):
        build(TINY, "train", context(tmp_path, "coco"))
    (tmp_path / "coco/train2017").mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"instances_train2017\.json"):
        build(TINY, "train", context(tmp_path, "coco"))


def test_the_root_may_be_the_folder_of_the_data_set(tmp_path):
    one_image(tmp_path, [SQUARE])
    source = build(TINY, "train", context(tmp_path / "coco", "coco")).sources["coco"]
    assert source.sample(Draw("coco", 0, 0)) is not None


def test_validation_narrows_with_the_training_sources(demo):
    assert set(build(LITE, "val", context(demo, "coco")).sources) == {"coco_val"}
    assert set(build(LITE, "val", context(demo, "coco", "refcoco")).sources) == {"coco_val", "refcoco_val"}
    assert set(build(LITE, "val", context(demo, "refcoco_val")).sources) == {"refcoco_val"}


def test_refcoco_is_read_as_distributed(demo):
    refer = TINY.data.sources["refcoco"].replace(
        format="RefCOCO", annotations=("refer/refcoco/refs(unc).p", "refer/refcoco/instances.json")
    )
    stage = TINY.replace(data=TINY.data.replace(sources={"refcoco": refer}))
    source = build(stage, "train", context(demo)).sources["refcoco"]
    samples = [source.sample(Draw("refcoco", position, position)) for position in range(min(len(source), 6))]
    assert all(len(sample.labels) == 1 and sample.expression for sample in samples if sample)
    one = refer.replace(annotations="refer/refcoco/refs(unc).p")
    stage = TINY.replace(data=TINY.data.replace(sources={"refcoco": one}))
    with pytest.raises(RecipeError, match="2 annotation files"):
        build(stage, "train", context(demo))
