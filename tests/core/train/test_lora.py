"""Adapters: nothing changes until they train, and folding them back changes nothing either."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmcore.contract.recipe import Lora
from mmcore.errors import RecipeError, UsageError, WeightsError
from mmcore.runs.adapter import write_adapter
from mmcore.train.lora import add_lora, fold, merge
from mmcore.train.optim import freeze
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

RECIPE = Lora(rank=3, alpha=6, dropout=0.0, targets=("language.*.q_proj", "language.*.v_proj"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.norm = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.v_proj(self.q_proj(self.norm(x)).tanh())


class Family(nn.Module):
    """A language model whose tower has layers of the same name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Sequential(Block())
        self.language = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.language(self.tower(x)))


def trained(recipe: Lora = RECIPE) -> Family:
    """Adapters whose product is no longer zero."""
    family = Family()
    add_lora(family, recipe)
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return family


INPUT = torch.linspace(-1, 1, 12).view(2, 6)


def test_fresh_adapters_change_nothing() -> None:
    family = Family()
    before = family(INPUT)
    assert add_lora(family, RECIPE) == [f"language.{i}.{part}" for i in range(2) for part in ("q_proj", "v_proj")]
    torch.testing.assert_close(family(INPUT), before)


def test_only_the_named_layers_get_adapters_though_a_tower_has_the_same_names() -> None:
    adapted = {name.split(".lora_")[0] for name, _ in trained().named_parameters() if ".lora_" in name}
    assert adapted == {f"language.{i}.{part}" for i in range(2) for part in ("q_proj", "v_proj")}


def test_what_trained_before_still_trains_but_adapted_weights() -> None:
    family = Family()
    family.tower.requires_grad_(False)
    add_lora(family, RECIPE)
    flags = {name: parameter.requires_grad for name, parameter in family.named_parameters()}
    assert flags["head.weight"]
    assert flags["language.0.norm.weight"]
    assert not flags["tower.0.q_proj.weight"]
    assert not flags["language.0.q_proj.base_layer.weight"]
    assert all(flag for name, flag in flags.items() if "lora_" in name)


def test_folded_and_merged_weights_give_the_adapted_outputs() -> None:
    family = trained()
    with torch.no_grad():
        expected = family(INPUT)
        assert not torch.allclose(expected, Family()(INPUT))
        plain = Family()
        plain.load_state_dict(fold(family.state_dict(), RECIPE))
        torch.testing.assert_close(plain(INPUT), expected)
        merged = merge(family)
        torch.testing.assert_close(merged(INPUT), expected)
    assert merged.state_dict().keys() == Family().state_dict().keys()
    assert all(type(part) is nn.Linear for part in merged.modules() if isinstance(part, nn.Linear))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("q_proj",), ["language.0.q_proj", "language.1.q_proj"]),
        (("all-linear",), [f"language.{i}.{part}" for i in range(2) for part in ("q_proj", "v_proj")]),
        (("head", "v_proj"), ["language.0.v_proj", "language.1.v_proj", "head"]),
        (("*.q_proj",), ["tower.0.q_proj", "language.0.q_proj", "language.1.q_proj"]),
        (("tower.*",), ["tower.0.q_proj", "tower.0.v_proj"]),
    ],
)
def test_short_targets_look_only_where_the_model_says(targets: tuple[str, ...], adapted: list[str]) -> None:
    family = Family()
    assert add_lora(family, Lora(targets=targets), [family.language]) == adapted


@pytest.mark.parametrize(
    ("target", "told", "remedy"),
    [
        ("tower", "a part with 2 linear layers, no layer", "tower.*"),
        ("language.1", "a part with 2 linear layers, no layer", "language.1.*"),
        ("0", "parts with 4 linear layers, no layer", "*.0.*"),
    ],
)
def test_a_part_that_holds_layers_is_refused_and_the_remedy_works(target: str, told: str, remedy: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"{target!r} names {told}")) as caught:
        add_lora(Family(), Lora(targets=(target,)))
    assert f"'{remedy}'" in str(caught.value)
    assert len(add_lora(Family(), Lora(targets=(remedy,)))) == int(told.split(" linear")[0].split()[-1])


def test_a_recipe_may_leave_everything_to_the_defaults() -> None:
    recipe = Lora()
    assert (recipe.rank, recipe.scale, recipe.targets) == (16, 2.0, ("all-linear",))
    assert len(add_lora(Family(), recipe)) == 7


def test_layers_inside_torchs_own_attention_are_refused_rather_than_adapted_in_vain() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 4)

    assert add_lora(Mixed(), Lora()) == ["head"]
    with pytest.raises(RecipeError, match="torch's own attention"):
        add_lora(Mixed(), Lora(targets=("out_proj",)))


@pytest.mark.parametrize(
    "trainable", [("*",), ("*", "head"), ("language", "head", "tower"), ("language.0.norm", "head")]
)
def test_beside_adapters_only_what_the_recipe_names_trains(toy, trainable: tuple[str, ...]) -> None:
    family = Family()
    add_lora(family, RECIPE)
    freeze(family, toy.toy_stage(trainable=trainable, frozen=("tower",), lora=RECIPE))
    trained_names = {name for name, parameter in family.named_parameters() if parameter.requires_grad}
    beside = {name for name in trained_names if ".lora_" not in name}
    named = {one for one in trainable if one not in ("*", "language", "tower")}  # the tower is frozen by its name
    assert {name.rpartition(".")[0] for name in beside} == named
    assert not [name for name in beside if ".base_layer." in name]
    assert len(trained_names - beside) == 8


@pytest.mark.parametrize("targets", [RECIPE.targets, ("q_proj",)])
def test_the_adapter_folder_opens_in_plain_peft(toy, tmp_path: Path, targets: tuple[str, ...]) -> None:
    recipe = RECIPE.replace(targets=targets)
    family = trained(recipe)
    use = write_adapter(family, toy.toy_stage(trainable=("head",), frozen=(), lora=recipe), tmp_path, {})
    with torch.no_grad():
        expected = family(INPUT)
        plain = Family()
        if "language" in targets[0]:  # all adapters lie in one part, which the folder fits alone
            plain.language = PeftModel.from_pretrained(plain.language, str(tmp_path))
            assert "part `language`" in use
        else:
            plain = PeftModel.from_pretrained(plain, str(tmp_path))
        torch.testing.assert_close(plain(INPUT), expected)
    assert set(load_file(tmp_path / "trained_beside" / "model.safetensors")) == {"head.weight", "head.bias"}
    assert "head" in use


def test_a_run_without_adapters_has_no_adapter_folder(toy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapters"):
        write_adapter(Family(), toy.toy_stage(frozen=()), tmp_path, {})


def test_a_state_without_adapters_is_left_as_it_is() -> None:
    state = Family().state_dict()
    assert fold(state, RECIPE).keys() == state.keys()


def test_a_target_that_names_no_layer_suggests_one() -> None:
    with pytest.raises(RecipeError, match=r"'\*\.q_prj'(.|\n)*did you mean 'q_proj'"):
        add_lora(Family(), RECIPE.replace(targets=("*.q_prj",)))


def test_an_incomplete_adapter_or_another_rank_is_refused() -> None:
    state = trained().state_dict()
    with pytest.raises(WeightsError, match="rank 3, the recipe 4"):
        fold(state, RECIPE.replace(rank=4))
    del state["language.0.q_proj.lora_B.default.weight"]
    with pytest.raises(WeightsError, match=r"language\.0\.q_proj is incomplete"):
        fold(state, RECIPE)


def test_glamms_published_merge(shared: Path) -> None:
    from mmcore.parity import deterministic_array

    folder = shared / "goldens/glamm/merge_main_lora"
    case, names = (json.loads((folder / file).read_text()) for file in ("case.json", "train_keys.json"))
    state = {
        name: torch.from_numpy(deterministic_array(name, tuple(shape)))
        for name, (shape, _) in names.items()
        if "_proj" in name
    }
    folded = fold(state, Lora(rank=case["lora"]["r"], alpha=case["lora"]["alpha"], targets=("*",)))
    for name, expected in load_file(folder / "tensors.safetensors").items():
        torch.testing.assert_close(folded[name.removeprefix("out.")], expected, rtol=1e-5, atol=1e-6)


def test_adapters_are_drawn_alike_beside_a_base_in_half_precision() -> None:
    def adapters(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).to(dtype).requires_grad_(False)
        torch.manual_seed(1)
        add_lora(model, Lora(rank=2, targets=("all-linear",)))
        assert model[0].base_layer.weight.dtype == dtype
        return {name: value for name, value in model.state_dict().items() if ".lora_" in name}

    whole, half = adapters(torch.float32), adapters(torch.bfloat16)
    assert whole.keys() == half.keys()
    assert all(torch.equal(value, half[name]) for name, value in whole.items())
