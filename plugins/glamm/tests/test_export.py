"""A run with adapters: killed between checkpoints and resumed it is the same; merged and reloaded it says the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.cli import main
from mmcore.runs.load import load
from mmcore.weights.files import read_tensors
from mmcore_glamm.answers import generate_with_masks
from mmcore_glamm.config import TINY
from mmcore_glamm.data.demo import write_demo
from mmcore_glamm.model import Glamm
from mmcore_glamm.tokens import TokenIds
from transformers import AutoTokenizer

QUICK = ["--workers", "0", "--variant", "tiny", "--plugin", "glamm", "--stage", "gcg", "--init", "random"]
LORA = ["--set", "lora.rank=4", "--set", "lora.alpha=8", "--set", "lora.targets=[q_proj,v_proj]"]
SHORT = ["--set", "checkpoint_every=1", "--set", "eval_every=4", "--set", "global_batch=4", "--set", "micro_batch=2"]


def command(arguments: list[object], code: int = 0) -> None:
    """Run a command that ends with this code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, three steps with adapters; `again`, the same cut after the second step and resumed; both exported."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCORE_CACHE", str(folder / "cache"))
        write_demo(folder / "data")
        begin = ["train", *QUICK, *LORA, *SHORT, "--data", folder / "data", "--max-steps", "3", "--out"]
        command([*begin, folder / "whole"])
        again = folder / "again"
        shutil.copytree(folder / "whole", again)
        for step in again.glob("checkpoints/step-*"):
            if int(step.name.removeprefix("step-")) > 2:
                shutil.rmtree(step)
        for left in ("last", "best"):
            (again / "checkpoints" / left).unlink(missing_ok=True)
        shutil.rmtree(again / "exports", ignore_errors=True)
        command(["train", "--resume", again])
        command(["export", folder / "whole", "--format", "hf", "--out", folder / "hf"])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder)


def test_a_resumed_run_is_the_uninterrupted_one(runs: Path) -> None:
    one, other = (weights(runs / name / "exports" / "upstream") for name in ("whole", "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (
        [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "again")
    )
    losses = [[line["losses"] for line in lines if "losses" in line][-1] for lines in (first, second)]
    assert losses[0] == losses[1]


def test_the_upstream_folder_has_the_published_keys_and_types_and_no_adapters(runs: Path) -> None:
    found = weights(runs / "whole" / "exports" / "upstream")
    assert not [name for name in found if "lora" in name]
    fresh = Glamm(TINY)
    expected = fresh.export_tensors(fresh.published().to_published(fresh.state_dict()), "upstream", None)
    assert {name: (tuple(t.shape), t.dtype) for name, t in found.items()} == {
        name: (tuple(t.shape), t.dtype) for name, t in expected.items()
    }
    folder = runs / "whole" / "exports" / "upstream"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["GLaMMForCausalLM"]
    assert (folder / "tokenizer_config.json").is_file()


def test_a_merged_folder_says_and_draws_what_the_run_does(runs: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    found = []
    for place in (runs / "whole", runs / "hf"):
        model = load(place).model.eval()
        assert isinstance(model, Glamm)
        batch = model.prepare([picture], prompt="Describe it.")
        batch.max_new_tokens = 4
        with torch.no_grad():
            logits = model.language.lm_head(model.hidden(batch).last)
            # Every word of the answer is read as a [SEG], so that there are masks to compare.
            said = generate_with_masks(model, batch, int(logits[0, -1].argmax()))
        found.append((logits, said))
    (plain, said), (merged, again) = found
    torch.testing.assert_close(merged, plain, rtol=1e-5, atol=1e-5)
    assert said.ids == again.ids
    assert len(said.masks[0]) >= 1
    assert torch.equal(said.masks[0] > 0, again.masks[0] > 0)
    assert not [name for name in read_tensors(runs / "hf") if "lora" in name]


def test_the_words_of_boxes_and_masks_travel_with_an_export(runs: Path) -> None:
    opened = load(runs / "hf").model
    ids = TokenIds.of(opened.tokenizer)
    assert ids.box < ids.seg < TINY.language["vocab_size"]


def test_a_tokenizer_of_an_export_is_named_as_every_transformers_knows_it(runs: Path, capfd: Any) -> None:
    written = json.loads((runs / "hf" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"backend", "is_local", "local_files_only"} & set(written)
    text = "What is in [SEG] <bbox>?  <p> a red ring </p>"
    capfd.readouterr()
    said = load(runs / "hf").model.tokenizer(text).input_ids
    assert capfd.readouterr().err == ""
    assert AutoTokenizer.from_pretrained(runs / "hf")(text).input_ids == said
