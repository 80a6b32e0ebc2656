"""The base class of models: whatever a family leaves out has an answer, and what it misspells is found."""

import inspect
from pathlib import Path

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
    """Nothing to do, nothing to add, or an error that says what the family cannot do: never NotImplementedError."""
    model, answers = Least(), {}
    for name in OPTIONAL:
        method = getattr(model, name)
        needed = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
        try:
            answers[name] = method(*(tmp_path if one.name == "folder" else {} for one in needed))
        except UsageError as error:
            answers[name] = str(error).partition("\n")[0]
    said = {name: answer for name, answer in answers.items() if answer not in (None, (), {})}
    assert said == {
        "published_parts": "map of upstream",
        "lora_modules": (model,),
        "prepare": "Least cannot predict on loose images",
        "prepare_video": "Least follows nothing through videos",
        "converse": "Least holds no conversation",
    }
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
