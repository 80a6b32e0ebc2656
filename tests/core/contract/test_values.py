"""Values hold what they say: shapes are checked when they are made, and tensors are found wherever they lie."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from mmcore.contract.values import Batch, Draw, Encoded, Phrase, Region, Sample, VisualPrompt, map_tensors


def test_a_sample_whose_rows_disagree_is_refused_in_tests():
    whole = {"draw": Draw("x", 0, 0), "image_id": 1, "original_size": (4, 4), "masks": None}
    Sample(
        image=torch.zeros(3, 4, 4, dtype=torch.uint8),
        boxes_xyxy=torch.zeros(2, 4),
        labels=torch.zeros(2).long(),
        **whole,
    )
    with pytest.raises(TypeCheckError, match="labels"):
        Sample(
            image=torch.zeros(3, 4, 4, dtype=torch.uint8),
            boxes_xyxy=torch.zeros(2, 4),
            labels=torch.zeros(3).long(),
            **whole,
        )
    with pytest.raises(TypeCheckError, match="ids"):
        Encoded(np.zeros(3), np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        ("mask", {}, "needs its mask"),
        ("point", {}, "needs its points"),
        ("box", {"points_xy": torch.zeros(3, 2)}, "two"),
    ],
)
def test_a_prompt_without_its_marks_is_refused(kind, given, problem):
    with pytest.raises(ValueError, match=problem):
        VisualPrompt(kind, **given)


@dataclass(slots=True)
class Nested(Batch):
    regions: tuple[Region, ...]
    tables: dict[str, list[torch.Tensor]]
    prompts: tuple[VisualPrompt | None, ...]


def test_every_tensor_moves_and_everything_else_stays():
    batch = Nested(
        source="x",
        draws=(Draw("x", 0, 0),),
        normalisers={"tokens": 2.0},
        regions=(Region(box_xyxy=(0.0, 0.0, 1.0, 1.0), mask=torch.ones(2, 2, dtype=torch.uint8), text="a"),),
        tables={"a": [torch.ones(1), torch.ones(2)]},
        prompts=(None, VisualPrompt("point", points_xy=torch.ones(1, 2), region=0)),
    )
    moved = batch.to("meta")
    found = [moved.regions[0].mask, *moved.tables["a"], moved.prompts[1].points_xy]
    assert all(tensor.device.type == "meta" for tensor in found)
    assert (moved.draws, moved.normalisers, moved.regions[0].text, moved.prompts[1].region) == (
        batch.draws, batch.normalisers, "a", 0,
    )  # fmt: skip
    assert type(moved.draws[0]) is Draw
    assert map_tensors(Phrase(0, 1, 2, (3,)), None) == Phrase(0, 1, 2, (3,))
