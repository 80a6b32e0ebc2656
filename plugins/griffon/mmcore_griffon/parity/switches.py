"""Golden switches of the training script: what trains, which conversation is taken, and how a batch is padded."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmcore import AdamW, Constant, Data, Source, Stage
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.train.optim import freeze

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import published
from mmcore_griffon.parity.conversations import style_of
from mmcore_griffon.published_config import to_published
from mmcore_griffon.recipes import SHORTHANDS

GROUPS = {
    "llm": "language.",
    "vision_tower": "tower.",
    "mm_projector": "projector.",
    "prompt_visual_encoder": "region.encoder.",
    "prompt_projector": "region.projector.",
}
"""A case's words for the parts, and ours."""
FAMILIES = {"gemma": "gemma", "qwen": "qwen"}
"""Words in the name of a case's language model; all others are LLaMA."""
TOKENIZERS = {"gemma": "conv_gemma", "llama": "conv_llama", "qwen": "conv_qwen25"}
STYLES = {
    "vicuna_v1": ("v1", "TWO"),
    "plain": ("Unknown", "PLAIN"),
    "qwen2": ("chatml", "CHATML"),
    "llava_llama_2": ("llama_v2", "LLAMA_2"),
    "llama_2": ("llama_v2", "LLAMA_2"),
    "gemma_instruct": ("gemma", "GEMMA"),
    "llama_3_turns": ("llama_v3", "LLAMA_3"),
    "mpt": ("mpt", "MPT"),
    "v1_mmtag": ("v1_mmtag", "TWO"),
    "llava_v1": ("v1", "TWO"),
    "v0_mmtag": ("v0_mmtag", "SINGLE"),
    "llava_v0": ("Unknown", "SINGLE"),
}
"""Our template, and what upstream calls its masking rule and its separators."""
TRAINED = ("tune_mm_mlp_adapter", "freeze_llm", "freeze_mm_mlp_adapter", "freeze_vision_tower")
"""Entries that repeat which parts a run trained, of no use to a loader: the groups themselves are compared."""
DEFAULT = "vicuna_v1"
"""What upstream takes for the versions v0 and v0.5 and for names that it does not know; we refuse the latter."""


def check_switches(case: Case, report: Report) -> None:
    """Every combination of switches, then every version."""
    for number, row in enumerate(case.data["rows"]):
        _check_row(case, report, f"row {number}", row)
    for one in case.data["version_resolution"]:
        _check_version(case, report, one)


def _check_row(case: Case, report: Report, label: str, row: Mapping[str, Any]) -> None:
    switches = set(row["flags"][::2])
    family = next((word for word in FAMILIES if word in row["llm"]), "llama")
    counts = {name: group["parameters"] for name, group in row["groups"].items()}
    config = _config(str(case.folder.parent), family, tuple(sorted(counts.items())))
    model = _model(config)
    freeze(model, _stage(model, switches))
    found = {name: _counts(model, GROUPS[name]) for name in row["groups"]}
    report.equal(f"{label} {sorted(switches)}", found, row["groups"])
    others = [n for n, _ in model.named_parameters() if not n.startswith(tuple(GROUPS[g] for g in row["groups"]))]
    report.equal(f"{label} parts", others, [])
    tokenizer = load_tokenizer(case.folder.parent / TOKENIZERS[family] / "tokenizer", pad="unknown")
    report.equal(f"{label} pad", (tokenizer.pad_token, tokenizer.pad_token_id), (row["pad_token"], row["pad_token_id"]))
    style = STYLES[style_of(row["version"]).name]
    report.equal(f"{label} conversation", style, (row["conversation_version"], row["sep_style"]))
    written = to_published(config.replace(max_length=row["config"]["tokenizer_model_max_length"]))
    report.equal(f"{label} padding side", written["tokenizer_padding_side"], row["padding_side"])
    stored = {name: value for name, value in row["config"].items() if name not in TRAINED}
    report.equal(f"{label} config", {name: written.get(name) for name in stored}, stored)


def _stage(model: Griffon, switches: Iterable[str]) -> Stage:
    """The switches as patterns, applied in upstream's order: each later one overrides."""
    given = {switch.removeprefix("--") for switch in switches}
    trained = {"language", "tower", "projector"} | ({"region.projector"} if model.region is not None else set())
    if "freeze_backbone" in given:
        trained = trained - {"language"} | (set() if model.language.tied else {"language.lm_head"})
    if "tune_mm_mlp_adapter" in given:
        trained = {"projector"}
    if "unshared_visual_encoder" in given:
        trained = {"region.projector"}
    if "freeze_llm" in given:
        trained = set(SHORTHANDS["freeze_llm"]["trainable"])
    later = ("freeze_mm_mlp_adapter", "freeze_vision_tower")
    frozen = tuple(part for name in later if name in given for part in SHORTHANDS[name]["frozen"])
    return Stage(
        number=1,
        name="golden",
        title="",
        origin="",
        steps=1,
        global_batch=1,
        micro_batch=1,
        data=Data(sources={"samples": Source(weight=1.0, format="LLaVA JSON")}),
        optim=AdamW(lr=1.0),
        schedule=Constant(),
        trainable=tuple(sorted(trained)),
        frozen=frozen,
    )


def _counts(model: Griffon, prefix: str) -> dict[str, int]:
    own = [p for name, p in model.named_parameters() if name.startswith(prefix)]
    trained = [p for p in own if p.requires_grad]
    return {
        "tensors": len(own),
        "trainable_tensors": len(trained),
        "parameters": sum(p.numel() for p in own),
        "trainable_parameters": sum(p.numel() for p in trained),
    }


@cache
def _config(goldens: str, family: str, counts: tuple[tuple[str, int], ...]) -> GriffonConfig:
    """Sizes that these cases do not tell: those of a neighbouring case whose parts have as many parameters.

    Raises:
        LookupError: there is none.
    """
    wanted = dict(counts)
    for path in sorted(Path(goldens).glob("*/case.json")):
        data = json.loads(path.read_text())
        if data.get("family") != family or "vision_config" not in data:
            continue
        region = data["prompt_vision_config"] or {}
        multimodal = data["multimodal_config"] | {"unshared_visual_encoder": "prompt_projector" in wanted}
        if "prompt_projector" in wanted and not region:
            continue
        config = published(family, data["llm_config"], multimodal, data["vision_config"], region or None)
        model = _model(config)
        if all(_counts(model, GROUPS[name])["parameters"] == count for name, count in wanted.items()):
            return config
    raise LookupError(f"no neighbouring case has parts of {wanted} parameters")


def _model(config: GriffonConfig) -> Griffon:
    with torch.device("meta"):
        return Griffon(config)


def _check_version(case: Case, report: Report, one: Mapping[str, Any]) -> None:
    version = one["version"]
    style = STYLES.get(style_of(version).name, STYLES[DEFAULT])
    report.equal(f"version {version}", style, (one["conversation_version"], one["sep_style"]))
    tokenizer = load_tokenizer(case.folder.parent / "conv_llama" / "tokenizer", pad="unknown")
    if "vocabulary_after" in one:
        tokenizer = load_tokenizer(case.folder.parent / "conv_llama" / "tokenizer")
        tokenizer.add_special_tokens({"pad_token": one["pad"]})
        report.equal(f"version {version}: vocabulary", len(tokenizer), one["vocabulary_after"])
    report.equal(f"version {version}: pad", tokenizer.pad_token, one["pad"])


KINDS: dict[str, Check] = {"trainable_flags": check_switches}
