"""Key lists of published checkpoints: every name and shape is consumed by our model and produced by it."""

from collections.abc import Mapping
from typing import Any

import torch
from mmcore.parity import Case, Check, Report

from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import CLIP_SIZES, published

FAMILIES = {"gemma": "gemma", "qwen": "qwen"}
"""Words in a case's name; all others are LLaMA."""


def check_keys(case: Case, report: Report) -> None:
    """The published names with their shapes, in both directions, with and without the optional parts."""
    expected: Mapping[str, tuple[str, list[int]]] = case.companion("keys.json")
    optional = tuple(case.data["optional_prefixes"])
    _check_list(case, report, expected, "")
    if optional:
        without = {name: entry for name, entry in expected.items() if not name.startswith(optional)}
        _check_list(case, report, without, "without optional parts: ")


def _check_list(case: Case, report: Report, expected: Mapping[str, tuple[str, list[int]]], label: str) -> None:
    with torch.device("meta"):
        model = Griffon(_config(case, expected))
        file = {name: torch.empty(shape) for name, (_, shape) in expected.items()}
    absent = set(case.data["may_be_absent"])
    own, names = model.state_dict(), model.published()
    produced = {name: list(tensor.shape) for name, tensor in names.to_published(own).items()}
    wanted = {name: list(shape) for name, (_, shape) in expected.items()}
    report.equal(f"{label}names", sorted({*produced} - absent), sorted({*wanted} - absent))
    report.equal(
        f"{label}shapes", {n: produced.get(n) for n in {*wanted} - absent}, {n: wanted[n] for n in {*wanted} - absent}
    )
    buffers = {name.replace("*", "x"): torch.empty(1, device="meta") for name in case.data["ignore_if_present"]}
    for what, given in {"": file, "absent": {n: t for n, t in file.items() if n not in absent}}.items():
        state, told = names.to_ours(given | buffers, own)
        report.equal(f"{label}filled {what}", sorted(state), sorted(own))
        report.equal(f"{label}ignored {what}", sorted(told.ignored), sorted(buffers))
    if not label:
        count = sum(parameter.numel() for parameter in model.parameters())
        report.equal("parameters", count, case.data["parameters"])


def _config(case: Case, expected: Mapping[str, Any]) -> Any:
    family = next((word for word in FAMILIES if word in case.name), "llama")
    words = {theirs: theirs for theirs in CLIP_SIZES} | {
        "size": "image_size",
        "patch": "patch_size",
        "hidden": "hidden_size",
    }
    vision = case.data["vision"]
    tower = {theirs: vision[word] for theirs, word in words.items() if word in vision}
    tower["inter"] = _rows(expected, "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight")
    kind = "linear" if "model.mm_projector.weight" in expected else case.data["how"].rsplit("mm_projector_type=", 1)[1]
    multimodal = {"mm_projector_type": kind, "unshared_visual_encoder": True}
    return published(family, case.data["llm_config"], multimodal, tower, _region(expected, tower))


def _region(expected: Mapping[str, Any], tower: Mapping[str, Any]) -> dict[str, Any] | None:
    """Sizes of the region tokenizer's tower, read off its tensors: cases only list them."""
    prefix = "model.prompt_visual_encoder.vision_model."
    if f"{prefix}embeddings.class_embedding" not in expected:
        return None
    (_, (width, _, patch, _)) = expected[f"{prefix}embeddings.patch_embedding.weight"]
    grid = round((_rows(expected, f"{prefix}embeddings.position_embedding.weight") - 1) ** 0.5)
    layers = {name.split(".")[5] for name in expected if name.startswith(f"{prefix}encoder.layers.")}
    return {
        "hidden": width,
        "layers": len(layers),
        "heads": tower["heads"],
        "inter": _rows(expected, f"{prefix}encoder.layers.0.mlp.fc1.weight"),
        "size": grid * patch,
        "patch": patch,
    }


def _rows(expected: Mapping[str, Any], name: str) -> int:
    return expected[name][1][0]


KINDS: dict[str, Check] = {"keys_": check_keys}
