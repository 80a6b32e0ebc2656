"""Run folders of API 0.1 still open: their recipes mean what they meant."""

import pytest
from mmcore import AdamW, ByLength, Constant, Data, Source, SourcePerBatch, SourcePerSample, Stage, WholeEpochs
from mmcore.runs.config import from_tree, to_tree


@pytest.fixture
def tree() -> dict:
    stage = Stage(
        number=1, name="one", title="a test", origin="nowhere", steps=4, global_batch=2, micro_batch=1,
        data=Data(sources={"coco": Source(weight=1.0, format="COCO instances")}), optim=AdamW(lr=1e-3),
        schedule=Constant(),
    )  # fmt: skip
    tree = to_tree(stage)
    del tree["data"]["mixture"]
    return tree


@pytest.mark.parametrize(
    ("flags", "mixture"),
    [
        ({"replacement": True}, SourcePerBatch()),
        ({"group_by_aspect": True}, SourcePerBatch(by_aspect=True)),
        ({"one_source_per_batch": False}, SourcePerSample()),
        ({"replacement": False}, WholeEpochs()),
        ({"replacement": False, "one_source_per_batch": False}, WholeEpochs(source_per="sample")),
        ({"replacement": False, "group_by_length": "modality"}, ByLength(by_modality=True)),
        ({"replacement": False, "group_by_length": "length"}, ByLength()),
    ],
)
def test_the_former_flags_are_one_mixture(tree: dict, flags: dict, mixture: object) -> None:
    tree["data"] |= flags
    assert from_tree(tree, "a run").data.mixture == mixture


def test_former_validation_sets_keep_their_names(tree: dict) -> None:
    tree["validation"] = [{"source": "mine", "format": "COCO instances", "annotations": "val.json"}]
    assert list(from_tree(tree, "a run").validation) == ["mine"]
