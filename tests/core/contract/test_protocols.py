"""What a plugin's data may leave out has an answer; whatever it gives is one of the declared kinds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore import Batch, Collator, DataSource, DetectionBatch, Draw, Evaluator
from mmcore.contract.protocols import Datasets
from mmcore.errors import DataError, PluginError
from mmcore.evaluate.run import _pick
from mmcore.show.batch import draw_batch
from PIL import Image


def test_a_source_needs_a_name_a_length_and_samples_only() -> None:
    source = DataSource()
    assert source.aspect_groups() is None
    assert source.lengths() is None
    assert source.annotations() is None
    assert list(source.problems()) == []
    for missing in (lambda: len(source), lambda: source.sample(None)):  # type: ignore[arg-type]
        with pytest.raises(NotImplementedError):
            missing()


def test_the_problems_of_a_source_are_those_of_its_annotations() -> None:
    class Indexed(DataSource):
        def annotations(self):
            return SimpleNamespace(problems=lambda: [DataError("torn")])

    assert [error.what for error in Indexed().problems()] == ["torn"]


def test_an_evaluator_writes_nothing_unless_it_says_so(tmp_path: Path) -> None:
    evaluator = Evaluator()
    assert evaluator.results([]) is None
    assert evaluator.write([], tmp_path) is None
    assert dict(evaluator.category_ap) == {}
    assert not list(tmp_path.iterdir())


def test_an_evaluator_of_another_kind_is_refused_by_name() -> None:
    given = Datasets({"val": DataSource()}, {}, {"val": dict})  # type: ignore[dict-item]
    with pytest.raises(PluginError, match="the evaluator of 'val' is a dict, not"):
        _pick(given, "val")


def detections() -> DetectionBatch:
    return DetectionBatch(
        source="a", draws=(Draw("a", 0, 0),), normalisers={}, images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        image_sizes=((8, 8),), original_sizes=((8, 8),), image_ids=(0,), num_objects=(0,),
        labels=torch.zeros(0, dtype=torch.int64), boxes_cxcywh=torch.zeros(0, 4), masks=None,
    )  # type: ignore[arg-type]  # fmt: skip


class Painter(Collator):
    def draw(self, batch):
        return [Image.fromarray(np.full((4, 4, 3), 7, np.uint8))]


def test_a_collators_own_pictures_come_before_the_cores() -> None:
    (own,) = draw_batch(detections(), Painter())
    assert own.size == (4, 4)
    (plain,), (function,) = draw_batch(detections(), Collator()), draw_batch(detections(), lambda samples, seed: None)  # type: ignore[arg-type, return-value]
    assert plain.size == function.size != (4, 4)


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(DataError, match="hold no images"):
        draw_batch(Batch("a", (), {}), Collator())
