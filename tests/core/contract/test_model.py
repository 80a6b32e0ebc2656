"""The base class of models: whatever a family leaves out has an answer, and what it misspells is found."""

from pathlib import Path

import numpy as np
import pytest
from mmcore import Losses, Model
from mmcore.contract.model import OPTIONAL, missing_methods, misspelt_methods, overrides
from mmcore.errors import UsageError
from torch import nn


class Least(Model):
    """Only what every family writes."""

    def forward(self, batch):
        return Losses()

    def predict(self, batch):
        return []

    def published(self, format="upstream"):
        return f"map of {format}"


def test_every_optional_method_has_an_answer(tmp_path: Path) -> None:
    model = Least()
    answers = {
        "published_parts": model.published_parts({}),
        "initialise": model.initialise(tmp_path),
        "initialise_part": model.initialise_part(tmp_path, "tower"),
        "attach": model.attach(None, None),  # type: ignore[arg-type]
        "keep_files": model.keep_files(tmp_path),
        "export_hf": model.export_hf(tmp_path, {}, 1),
        "export_tensors": model.export_tensors({}, "upstream", None) or None,
        "plain_config": model.plain_config(),
        "export_files": model.export_files(tmp_path, "hf"),
        "idle_parameters": model.idle_parameters(None),  # type: ignore[arg-type]
        "checkpoint_blocks": model.checkpoint_blocks(),
        "lora_modules": model.lora_modules(),
        "zero3_leaves": model.zero3_leaves(),
    }
    with pytest.raises(UsageError, match="Least cannot predict on loose images"):
        model.prepare([np.zeros((2, 2, 3), np.uint8)])
    assert {*answers, "prepare", "prepare_video", "converse"} == set(OPTIONAL)
    assert answers.pop("published_parts") == "map of upstream"
    assert answers.pop("lora_modules") == (model,)
    assert set(answers.values()) == {None, ()}
    assert not list(tmp_path.iterdir())


def test_what_a_family_must_write_is_told() -> None:
    assert missing_methods(Model()) == ["forward", "predict", "published"]
    assert missing_methods(Least()) == []
    half = type("Half", (Model,), {"predict": Least.predict})
    assert missing_methods(half()) == ["forward", "published"]


def test_an_inherited_method_counts_as_a_familys_own() -> None:
    derived = type("Derived", (Least,), {})()
    assert overrides(derived, Model.predict)
    assert not overrides(derived, Model.prepare)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("zero3_leafs", "zero3_leaves"),
        ("initialize", "initialise"),
        ("idle_parameter", "idle_parameters"),
        ("keep_file", "keep_files"),
        ("checkpoint_block", "checkpoint_blocks"),
    ],
)
def test_a_misspelt_method_is_found_with_the_one_it_is_near(name: str, near: str) -> None:
    assert misspelt_methods(type("Typo", (Least,), {name: lambda self: None})()) == {name: near}


def test_helpers_of_a_family_are_no_misspellings() -> None:
    own = ("forward_hidden", "encode_text", "features", "_prepares", "publish_date", "losses")
    assert misspelt_methods(type("Own", (Least,), dict.fromkeys(own, lambda self: None))()) == {}


def test_defaults_of_one_model_are_not_shared_with_another() -> None:
    with pytest.raises(TypeError):
        Least().loss_weights["box"] = 1.0  # type: ignore[index]
    assert isinstance(Least(), nn.Module)
    assert Least().max_length is None
