"""Golden folders: what upstream writes and we write, names, shapes and entries; rows of new words."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmcore.language.llava.names import TOWER
from mmcore.language.models import build
from mmcore.language.sizes import LLAMA2_7B
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.weights.files import read_tensors, write_safetensors
from torch import nn

from mmcore_griffon import weights
from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import clip, region_clip
from mmcore_griffon.parity.keys import tower_of
from mmcore_griffon.parity.switches import TOKENIZERS
from mmcore_griffon.published_config import from_published

HEADS = 1
"""Of the towers; no tensor depends on it."""
KINDS_OF_NUMBERS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
RUN_TIME = ("torch_dtype", "mm_vision_tower")
"""Entries that say in what precision and with which folder a run was made."""


def check_folders(case: Case, report: Report) -> None:
    """The folder of every language model, the projector's file, and rows of words that are added."""
    for family, written in case.data["families"].items():
        _check_folder(case, report, family, written)
    listed = case.data["mm_projector_bin"]
    report.covers(*case.tensors)
    tensors = {name: torch.empty(shape, dtype=getattr(torch, kind[6:])) for name, (kind, shape) in listed.items()}
    config = _config(case, "gemma" if "gemma" in case.data["families"] else next(iter(case.data["families"])))
    model = Griffon(config)
    state, _ = weights.parts(config, tensors)["projector"].map(model.state_dict()).to_ours(tensors, model.state_dict())
    report.equal("projector's file", sorted(state), sorted(n for n in model.state_dict() if n.startswith("projector.")))
    _check_rows(case, report)


def _check_folder(case: Case, report: Report, family: str, written: Mapping[str, Any]) -> None:
    config = _config(case, family)
    model = Griffon(config)
    model.tokenizer = load_tokenizer(case.folder.parent / TOKENIZERS[family] / "tokenizer", pad="unknown")
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_safetensors(model.published().to_published(model.state_dict()), folder)
        model.export_files(folder, "upstream")
        tensors = {n: [KINDS_OF_NUMBERS[t.dtype], list(t.shape)] for n, t in read_tensors(folder).items()}
        files = {path.name: json.loads(path.read_text()) for path in folder.glob("*config.json")}
        report.equal(f"{family} files", [n for n in written["files"] if not (folder / n).exists()], [])
    report.equal(f"{family} keys", tensors, written["keys"])
    own = {*model.published().to_published(model.state_dict())} | ({"lm_head.weight"} if model.language.tied else set())
    report.equal(f"{family} left out", sorted(own - {*tensors}), sorted(written["in_state_dict_but_not_in_file"]))
    stored = case.companion(f"{family}.config.json")
    entries = {n: files["config.json"].get(n) for n in stored if n not in RUN_TIME}
    report.equal(f"{family} config", entries, {n: value for n, value in stored.items() if n not in RUN_TIME})
    for entry in ("model_type", "architectures"):
        report.equal(f"{family} {entry}", files["config.json"][entry], written[entry])
    ends = files["generation_config.json"]["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    report.equal(f"{family} ends", written["generation_config"]["eos_token_id"] in ends, True)


def _config(case: Case, family: str) -> GriffonConfig:
    listed = case.data["families"][family]["keys"]
    tower = tower_of(listed, f"{TOWER}vision_model.", HEADS)
    assert tower is not None
    region = region_clip(tower_of(listed, weights.ENCODER, HEADS))
    return from_published(case.companion(f"{family}.config.json"), tower=clip(tower), region_tower=region)


def _check_rows(case: Case, report: Report) -> None:
    """New rows of both matrices are the mean of the old ones."""
    told = case.data["extra_tokens"]
    report.equal("words", told["base"] + len(case.tensors["input_rows_last"]), told["after"])
    for side in ("input", "output"):
        mean, last = case.tensors[f"{side}_mean_before"], case.tensors[f"{side}_rows_last"]
        sizes = {"hidden_size": len(mean), "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = build({**LLAMA2_7B, **sizes, "num_key_value_heads": 1, "vocab_size": told["base"]})
        weight = nn.Parameter(mean + torch.randn(told["base"], len(mean)))
        with torch.no_grad():
            weight += mean - weight.mean(0)
        for part in (model.embed_tokens, model.lm_head):
            part.weight = nn.Parameter(weight.detach().clone())
        model.resize(told["after"])
        part = model.embed_tokens if side == "input" else model.lm_head
        report.close(f"{side}_rows_last", part.weight[-len(last) :], last, absolute=1e-6)


KINDS: dict[str, Check] = {"checkpoint_layout": check_folders}
