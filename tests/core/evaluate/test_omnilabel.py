"""OmniLabel's protocol on small files: what its own toolkit is tested with, negatives, groups, and its arithmetic."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats import miniature
from mmcore.data.formats.omnilabel import FORMATS, OmniLabel
from mmcore.data.index import open_index
from mmcore.data.records import Records
from mmcore.errors import DataError
from mmcore.evaluate.omnilabel import OmniLabelEvaluator

BOXES = {n: [10.0 * n, 5.0, 8.0, 20.0] for n in range(8)}
PERSON, HAT, TALL, NOBODY, BOTH, LONG = 11, 12, 21, 22, 23, 24
TEXTS = {
    PERSON: "person",
    HAT: "hat",
    TALL: "the tall one on the left",
    NOBODY: "a person who is not here",
    BOTH: "people",
    LONG: "each of these is attached to a person whose face is at least partially visible",
}
FITS = {0: [PERSON, TALL, BOTH], 1: [PERSON, BOTH], 2: [PERSON], 3: [PERSON], 4: [PERSON], 5: [HAT], 6: [LONG]}
"""Annotation -> what it is meant by: six objects of categories, four of descriptions."""


def write(folder: Path, *, more: dict[str, Any] | None = None, fits: dict[int, list[int]] = FITS) -> Path:
    kinds = {id_: "object_category" if id_ < 20 else "object_description" for id_ in TEXTS}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 60, "width": 100}],
        "descriptions": [
            {"id": id_, "text": text, "image_ids": [1], "anno_info": {"type": kinds[id_]}}
            for id_, text in TEXTS.items()
        ],
        "annotations": [
            {"id": n, "image_id": 1, "bbox": BOXES[n], "description_ids": ids, "iscrowd": 0} for n, ids in fits.items()
        ],
    }
    path = folder / "omnilabel.json"
    path.write_text(json.dumps({**content, **(more or {})}))
    return path


def judged(path: Path, found: list[tuple[list[float], str, float]]) -> dict[str, float]:
    evaluator = OmniLabelEvaluator(path)
    boxes = torch.tensor([box for box, _, _ in found]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    evaluator.update(
        Batch("x", (), {}),
        [
            Prediction(
                image_id=1,
                size=(60, 100),
                boxes_xyxy=boxes,
                scores=torch.tensor([score for _, _, score in found]),
                names=tuple(text for _, text, _ in found),
            )
        ],
    )
    metrics = evaluator.summarise(evaluator.state())
    assert set(metrics) <= set(evaluator.metric_names)
    return metrics


def perfect(fits: dict[int, list[int]] = FITS) -> list[tuple[list[float], str, float]]:
    return [(BOXES[n], TEXTS[id_], 1.0) for n, ids in fits.items() for id_ in ids]


def test_the_truth_itself_is_perfect(tmp_path: Path) -> None:
    metrics = judged(write(tmp_path), perfect())
    assert metrics["AP"] == pytest.approx(1, abs=1e-5)
    assert metrics["AP"] == pytest.approx(2 / (2 + 1e-5), abs=1e-12)  # the published divisor
    assert {name: round(value, 6) for name, value in metrics.items() if name != "AP"} == {
        **{f"{group}/AP": 1.0 for group in ("categ", "descr", "descr-pos", "descr-s", "descr-m", "descr-l")},
        **{f"{group}/{name}": 1.0 for group in ("categ", "descr") for name in ("AP50", "AP75", "AR")},
    }


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_object_lowers_the_recall_of_its_group_alone(tmp_path: Path, missing: int) -> None:
    kept = {n: ids for n, ids in FITS.items() if n not in (3, 4)[:missing]}
    metrics = judged(write(tmp_path), perfect(kept))
    assert metrics["categ/AR"] == pytest.approx((6 - missing) / 6)
    assert metrics["descr/AR"] == 1.0


def test_a_false_box_for_a_category_counts_in_the_harmonic_mean(tmp_path: Path) -> None:
    metrics = judged(write(tmp_path), [*perfect(), (BOXES[7], "person", 2.0)])
    assert metrics["categ/AP"] == pytest.approx(6 / 7)
    assert metrics["AP"] == pytest.approx(2 * 6 / 7 / (1 + 6 / 7), abs=1e-5)


def test_a_box_for_a_negative_description_counts_but_not_among_the_positive_ones(tmp_path: Path) -> None:
    metrics = judged(write(tmp_path), [*perfect(), (BOXES[0], TEXTS[NOBODY], 2.0)])
    assert metrics["descr/AP"] == pytest.approx(4 / 5)
    assert metrics["descr-pos/AP"] == 1.0
    assert metrics["descr-m/AP"] < 1.0
    assert [metrics[f"{group}/AP"] for group in ("descr-s", "descr-l", "categ")] == pytest.approx([1.0] * 3)


def test_texts_that_the_image_is_not_asked_about_and_repeated_texts(tmp_path: Path) -> None:
    path = write(tmp_path)
    metrics = judged(path, [*perfect(), (BOXES[7], "a zebra", 9.0)])
    assert metrics["AP"] == pytest.approx(1, abs=1e-5)
    content, free = json.loads(path.read_text()), {"type": "object_description"}
    content["descriptions"].append({**content["descriptions"][0], "id": 31, "anno_info": free})
    path.write_text(json.dumps(content))
    surer = [(box, text, 5.0 if text == "person" else score) for box, text, score in perfect()]
    metrics = judged(path, surer)  # what is found for a text is found for both of this text
    assert metrics["categ/AP"] == 1.0
    assert metrics["descr/AP"] < 1.0


def test_a_group_without_objects_is_left_out_and_so_is_the_mean(tmp_path: Path) -> None:
    fits = {n: [id_ for id_ in ids if id_ < 20] for n, ids in FITS.items()}
    metrics = judged(write(tmp_path, fits=fits), perfect(fits))
    assert metrics["categ/AP"] == 1.0
    assert not any(name.startswith("descr") or name == "AP" for name in metrics)


def test_results_have_the_form_of_the_official_toolkit(tmp_path: Path) -> None:
    evaluator = OmniLabelEvaluator(write(tmp_path))
    evaluator.update(
        Batch("x", (), {}),
        [
            Prediction(
                image_id=1,
                size=(60, 100),
                boxes_xyxy=torch.tensor([[10.0, 5.0, 18.0, 25.0]]),
                scores=torch.tensor([0.5]),
                names=("person",),
            )
        ],
    )
    assert evaluator.results(evaluator.state()) == [
        {"image_id": 1, "bbox": [10.0, 5.0, 8.0, 20.0], "description_ids": [PERSON], "scores": [0.5]}
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"annotations": None}, "no list 'annotations'"),
        ({"descriptions": [{"id": 1, "text": "x"}]}, "element 0 of descriptions"),
        ({"images": [{"id": 1}]}, "element 0 of images"),
        ({"annotations": [{"id": 1, "image_id": 1, "bbox": "x", "description_ids": [PERSON]}]}, "bbox"),
    ],
)
def test_what_is_not_in_the_format_is_told(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        judged(write(tmp_path, more=more), perfect())


def test_sizes_are_read_from_the_pictures_where_the_file_has_none(tmp_path: Path) -> None:
    [format] = FORMATS
    assert format.sample is not None
    written = format.sample(tmp_path)
    path = tmp_path / str(written.annotations)
    records = Records(open_index(OmniLabel(path, tmp_path / "images"), tmp_path / "cache"))
    for record, scene in zip(records, miniature.scenes(), strict=True):
        assert (record.height, record.width) == (scene.height, scene.width)
        assert len(record.phrases) == len(record.objects) == 2 * len(miniature.objects(scene))
        assert set(record.phrases) < set(record.expressions)
    (tmp_path / "images" / miniature.file_name(miniature.scenes()[1])).unlink()
    with pytest.raises(DataError, match="missing") as caught:
        open_index(OmniLabel(path, tmp_path / "images"), tmp_path / "other")
    assert "does not say how large" in str(caught.value.do)


def test_boxes_that_mean_nothing_asked_make_a_record_unusable(tmp_path: Path) -> None:
    more = {"annotations": [{"id": 1, "image_id": 1, "bbox": BOXES[0], "description_ids": [99]}]}
    records = Records(open_index(OmniLabel(write(tmp_path, more=more)), tmp_path / "cache"))
    with pytest.raises(DataError, match="description 99 is not one that the image is asked about"):
        records[0]


def test_ids_as_text_mean_the_same_for_records_and_protocol(tmp_path: Path) -> None:
    content = json.loads(write(tmp_path).read_text())
    for one in content["images"] + content["descriptions"]:
        one["id"] = str(one["id"])
    for one in content["descriptions"]:
        one["image_ids"] = [float(id_) for id_ in one["image_ids"]]
    for one in content["annotations"]:
        one |= {"image_id": "1", "description_ids": [str(id_) for id_ in one["description_ids"]]}
    path = tmp_path / "text.json"
    path.write_text(json.dumps(content))
    [record] = Records(open_index(OmniLabel(path), tmp_path / "cache", workers=1), keep_empty=True)
    assert (record.id, len(record.objects), record.defects) == (1, sum(map(len, FITS.values())), ())
    assert judged(path, perfect()) == judged(write(tmp_path), perfect())


def test_an_object_that_no_text_means_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, fits={**FITS, 7: []})
    [record] = Records(open_index(OmniLabel(path), tmp_path / "cache", workers=1), keep_empty=True)
    assert [defect.message for defect in record.defects] == ["no text means the object"]
