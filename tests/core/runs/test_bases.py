"""A family says which parts of its models may be a folder; everything else is refused before it is opened."""

from types import SimpleNamespace
from typing import Any

import pytest
from mmcore import AdamW, Constant, Data, Family, Source, Stage
from mmcore.errors import RecipeError
from mmcore.runs.bases import with_bases

STAGE = Stage(
    number=1, name="one", title="", origin="", steps=1, global_batch=1, micro_batch=1, optim=AdamW(lr=1.0),
    data=Data(sources={"a": Source(weight=1.0, format="any")}), schedule=Constant(),
)  # fmt: skip


def family(*bases: Any) -> Any:
    return SimpleNamespace(plugin=SimpleNamespace(name="some"), family=Family(name="some", title="", bases=bases))


@pytest.mark.parametrize("model", [{"language": "/nowhere"}, {"language": {"from": "/nowhere", "x": 1}}])
def test_a_part_that_the_family_does_not_take_is_refused(model):
    with pytest.raises(RecipeError, match=r"some takes no folder for model\.language") as caught:
        with_bases(
            STAGE.replace(model=model), family("vision"), (), {"model.language": "--set model.language=/nowhere"}
        )
    assert "model.vision" in str(caught.value)


def test_plain_settings_are_left_alone():
    stage = STAGE.replace(model={"language": {"hidden_size": 3}, "vision": {"from_scratch": True}, "depth": 2})
    assert with_bases(stage, family("language", "vision"), (), {}) == (stage, {})
