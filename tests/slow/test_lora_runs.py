"""LoRA from the start to the export, by commands, for a language model and a detector.

From a finished stage and from a file in its published form; killed and resumed; on two processes; merged, and as an
adapter folder that plain peft opens beside the plain base.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.contract.values import Encoded
from mmcore.language.splice import lay_out
from mmcore.runs.opened import open_model
from mmcore.train.lora import is_adapter
from mmcore.weights.files import read_tensors
from torch import Tensor, nn

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str]]
SHORT = ["--demo", "--workers", "0", "--device", "cpu", "--no-tensorboard", "--log-every", "1"]
SHORT += ["--set", "validation={}", "--set", "best_metric=null", "--set", "checkpoint_every=1"]
SHORT += ["--set", "global_batch=4", "--set", "micro_batch=2", "--set", "normalise=global"]


@dataclass(frozen=True)
class Case:
    """A family's two stages, what its recipe trains beside adapters, and the numbers that are compared."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    beside: tuple[str, ...]
    logits: Callable[[nn.Module], Tensor]


def words(model: Any) -> Tensor:
    """Logits of a text under our language model; none of the words is a task's token, which exports fill."""
    ids = np.arange(100, 120)
    sequences = lay_out([Encoded(ids, ids)], {})
    hidden = model.language(model.language.embed(sequences, {}), sequences)
    return model.language.lm_head(hidden.last)


def queries(model: Any) -> Tensor:
    """Scores and box sides of a picture under the detector, each sorted: of two scores that are as good as equal
    rounding decides which comes first."""
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    [found] = model.predict(model.prepare([image], names=["circle", "square"]))
    return torch.cat([found.scores[:, None], found.boxes_xyxy], dim=1).sort(dim=0).values


VISPER = ("--plugin", "visper", "--variant", "tiny")
GLEE = ("--plugin", "glee", "--variant", "tiny", "--sources", "coco")
CASES = {
    "visper": Case((*VISPER, "--stage", "pt"), (*VISPER, "--stage", "ift"), ("projector",), words),
    "glee": Case((*GLEE, "--stage", "2", "--init", "random"), (*GLEE, "--stage", "2"), (), queries),
}


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """A folder with a stage (`first`), LoRA from it (`lora`), and their exports."""
    pytest.importorskip(f"mmcore_{request.param}")
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    mmcore(folder, "train", *case.first, *SHORT, "--steps", "1", "--out", "first")
    mmcore(folder, "train", *lora(case), "--init", "first", "--out", "lora")
    mmcore(folder, "export", "first", "--format", "upstream", "--out", "published")
    mmcore(folder, "export", "first", "--format", "hf", "--out", "base")
    mmcore(folder, "export", "lora", "--format", "hf", "--out", "merged")
    mmcore(folder, "export", "lora", "--format", "adapter", "--out", "adapter")
    return case, folder


def lora(case: Case) -> list[str]:
    return [*case.second, *SHORT, "--steps", "3", "--set", "lora.rank=4", "--set", "optim.lr=0.01"]


def mmcore(folder: Path, *given: str) -> None:
    done = subprocess.run(command(*given), cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def command(*given: str) -> list[str]:
    return [sys.executable, "-m", "mmcore", *given]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MMCORE_CACHE": str(folder / "cache")}


def weights(run: Path) -> dict[str, Tensor]:
    return open_model(run).model.state_dict()


def test_what_trains_is_the_adapters_and_what_the_recipe_names(made: tuple[Case, Path]) -> None:
    case, folder = made
    before, after = weights(folder / "first"), weights(folder / "lora")
    moved = set()
    for name, tensor in after.items():
        plain = name.replace(".base_layer", "")
        if is_adapter(name):
            if ".lora_B" in name and bool(tensor.any()):
                moved.add("adapters")
        elif not torch.equal(tensor, before[plain]):
            moved.add(plain.split(".")[0])
    assert moved == {"adapters", *case.beside}


def test_a_published_file_is_the_same_start_as_the_run_that_wrote_it(made: tuple[Case, Path]) -> None:
    case, folder = made
    mmcore(folder, "train", *lora(case), "--init", "published", "--out", "again")
    expected, found = weights(folder / "lora"), weights(folder / "again")
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_a_killed_run_goes_on_as_if_nothing_had_been(made: tuple[Case, Path]) -> None:
    case, folder = made
    process = subprocess.Popen(
        command("train", *lora(case), "--init", "first", "--out", "killed"),
        cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    saved = folder / "killed" / "checkpoints" / "step-00000001"
    deadline = time.monotonic() + 240
    while not saved.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert saved.exists()
    mmcore(folder, "train", "--resume", "killed")
    expected, found = weights(folder / "lora"), weights(folder / "killed")
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_two_processes_lose_what_one_does(made: tuple[Case, Path]) -> None:
    case, folder = made
    mmcore(folder, "train", *lora(case), "--init", "first", "--nproc", "2", "--out", "two")
    assert losses(folder / "two") == pytest.approx(losses(folder / "lora"), rel=1e-4)


def losses(run: Path) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["total"] for record in records if "losses" in record]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@torch.no_grad()
def test_merged_and_plain_peft_say_what_the_run_says(made: tuple[Case, Path]) -> None:
    case, folder = made
    run = open_model(folder / "lora").model.eval()
    base = open_model(folder / "first").model.eval()
    expected = case.logits(run)
    assert not torch.allclose(case.logits(base), expected, atol=1e-3), "the adapters learned nothing"
    torch.testing.assert_close(case.logits(open_model(folder / "merged").model.eval()), expected, rtol=1e-5, atol=1e-5)
    if not case.beside:
        fresh = open_model(folder / "first").model  # the other one remembers what its text encoder said of these names
        plain = peft.PeftModel.from_pretrained(fresh, str(folder / "adapter")).eval()
        torch.testing.assert_close(case.logits(plain.base_model.model), expected, rtol=1e-5, atol=1e-5)
        return
    beside = read_tensors(folder / "adapter" / "trained_beside")
    assert {name.split(".")[0] for name in beside} == set(case.beside)
    # The adapters of the language model fit the one of transformers, without anything of ours.
    from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

    ids = torch.arange(100, 120)[None]
    merged = LlavaForConditionalGeneration.from_pretrained(folder / "merged").eval()
    llama = LlamaForCausalLM(merged.config.text_config)
    published = read_tensors(folder / "published")
    llama.load_state_dict({name: published[name] for name in llama.state_dict()})
    plain = peft.PeftModel.from_pretrained(llama, str(folder / "adapter")).eval()
    for model in (plain, merged):
        torch.testing.assert_close(model(input_ids=ids).logits[0], expected.reshape(20, -1), rtol=1e-5, atol=1e-5)
