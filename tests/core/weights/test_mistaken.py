"""What is taken for weights and is something else is named for what it is; what wraps real weights is taken off."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, MmcoreError, WeightsError
from mmcore.weights.files import read_tensors, write_safetensors
from mmcore.weights.wrapped import without_wrappers
from safetensors.torch import save_file

WEIGHTS = {"stem.weight": torch.arange(6.0).reshape(2, 3), "layers.0.bias": torch.ones(2)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 598641023\n"


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "Git LFS pointer"),
        ("<!DOCTYPE html>\n<html><head><title>Sign in</title>", "web page"),
        ("\n  <HTML>moved</HTML>", "web page"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        ("", "empty"),
    ],
)
def test_a_download_that_is_no_weights_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_tensors(tmp_path / name)
    assert caught.value.do
    assert "weights_only" not in str(caught.value)


def test_a_pointer_says_what_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text(POINTER)
    with pytest.raises(WeightsError, match="598,641,023 bytes"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "words"), [("a.gguf", "llama.cpp"), ("a.h5", "Keras"), ("a.pkl", "pickle"), ("a.zip", "archive")]
)
def test_other_formats_are_named(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(WeightsError, match=words):
            read_tensors(path)


def shards(folder: Path) -> None:
    (folder / "global_step500").mkdir()
    (folder / "global_step500" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    (folder / "zero_to_fp32.py").write_text("")
    (folder / "config.json").write_text("{}")


def distributed(folder: Path) -> None:
    (folder / "__0_0.distcp").write_bytes(b"x")


def adapter(folder: Path) -> None:
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(4, 8)}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "my/model"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (shards, "ZeRO.*\n.*\n.*zero_to_fp32.py"),
        (distributed, "dcp_to_torch"),
        (adapter, "LoRA adapter for my/model.*\n.*\n.*merge it into its base"),
    ],
)
def test_folders_of_a_training_say_how_weights_are_made_of_them(tmp_path: Path, make, words: str) -> None:
    make(tmp_path)
    with pytest.raises(WeightsError, match=words):
        read_tensors(tmp_path)


def test_an_adapters_file_and_a_checkpoint_that_was_not_merged_are_named(tmp_path: Path) -> None:
    adapter(tmp_path)
    with pytest.raises(WeightsError, match="LoRA adapter"):
        read_tensors(tmp_path / "adapter_model.safetensors")
    torch.save({"q_proj.base_layer.weight": torch.zeros(8, 8), "q_proj.lora_B.default.weight": torch.zeros(8, 4)},
               tmp_path / "whole.pth")  # fmt: skip
    with pytest.raises(WeightsError, match="LoRA adapter"):
        read_tensors(tmp_path / "whole.pth")


def test_an_empty_folder_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(MissingDataError, match="it holds notes"):
        read_tensors(tmp_path)


def test_shards_without_their_index_are_joined_or_the_missing_one_is_named(tmp_path: Path) -> None:
    written = write_safetensors(WEIGHTS, tmp_path, max_shard_bytes=24)
    assert len(written) == 3
    written[-1].unlink()
    assert read_tensors(tmp_path).keys() == WEIGHTS.keys()
    written[1].unlink()
    with pytest.raises(WeightsError, match="1 of 2 parts of this checkpoint are missing, the first is number 2"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.", ""]
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("level", [None, "state_dict", "model"])
def test_what_trainers_wrap_around_a_model_is_taken_off(
    tmp_path: Path, prefix: str, ending: str, level: str | None
) -> None:
    wrapped = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    path = tmp_path / f"a.{ending}"
    if ending == "pth":
        torch.save({level: wrapped, "epoch": 3} if level else wrapped, path)
    else:
        save_file(wrapped, path)
    found = read_tensors(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_names_of_a_model_are_left_as_they_are() -> None:
    for names in (
        ("model.layers.0.weight", "model.norm.weight"),  # a language model whose output layer is tied
        ("model.language_model.layers.0.weight", "lm_head.weight"),
        ("module.a", "b"),
        ("a._orig_mod.x", "a.x"),
    ):
        assert tuple(without_wrappers(dict.fromkeys(names, 0))) == names
    inside = ("model.model.layers.0.weight", "model.lm_head.weight")
    assert tuple(without_wrappers(dict.fromkeys(inside, 0))) == ("model.layers.0.weight", "lm_head.weight")


@pytest.mark.parametrize("value", [np.float64(0.3), np.float32(1), np.int64(9), np.bool_(True), 0.5, 7])
@pytest.mark.parametrize("nested", [True, False])
def test_scores_and_counters_beside_the_tensors_are_no_weights(tmp_path: Path, value: object, nested: bool) -> None:
    torch.save(
        {"model": dict(WEIGHTS), "best_ap": value} if nested else {**WEIGHTS, "best_ap": value}, tmp_path / "a.pth"
    )
    assert read_tensors(tmp_path / "a.pth").keys() == WEIGHTS.keys()


@pytest.mark.parametrize("value", [np.zeros(3), Path("x"), np.array([{}], object)])
def test_anything_else_is_refused_by_name_without_torchs_advice(tmp_path: Path, value: object) -> None:
    torch.save({"model": dict(WEIGHTS), "extra": value}, tmp_path / "a.pth")
    with pytest.raises(MmcoreError) as caught:
        read_tensors(tmp_path / "a.pth")
    assert "weights_only" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "it holds " in str(caught.value)


def test_weights_of_which_one_of_several_is_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averaged = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"model": dict(WEIGHTS), "model_ema": averaged, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    assert torch.equal(read_tensors(tmp_path / "a.pth")["stem.weight"], WEIGHTS["stem.weight"])
    assert "model_ema, which is not" in capsys.readouterr().err
