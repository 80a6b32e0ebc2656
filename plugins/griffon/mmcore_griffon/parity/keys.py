"""Key lists of published checkpoints: every name and shape is consumed by our model and produced by it."""

from collections.abc import Mapping
from typing import Any

import torch
from mmcore.language.llava.names import TOWER
from mmcore.parity import Case, Check, Report

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import published
from mmcore_griffon.weights import ENCODER

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


def _config(case: Case, expected: Mapping[str, Any]) -> GriffonConfig:
    family = next((word for word in FAMILIES if word in case.name), "llama")
    heads = case.data["vision"]["heads"]
    kind = "linear" if "model.mm_projector.weight" in expected else case.data["how"].rsplit("mm_projector_type=", 1)[1]
    multimodal = {"mm_projector_type": kind, "unshared_visual_encoder": True}
    tower = tower_of(expected, TOWER + "vision_model.", heads)
    assert tower is not None
    return published(family, case.data["llm_config"], multimodal, tower, tower_of(expected, ENCODER, heads))


def tower_of(listed: Mapping[str, Any], prefix: str, heads: int) -> dict[str, int] | None:
    """Sizes of a tower, read off its tensors; the number of heads they do not show.

    Args:
        listed: published names, each with something and a shape.
        prefix: of the tower's names.
        heads: of the tower.
    """
    if f"{prefix}embeddings.class_embedding" not in listed:
        return None
    width, _, patch, _ = listed[f"{prefix}embeddings.patch_embedding.weight"][1]
    positions = listed[f"{prefix}embeddings.position_embedding.weight"][1][0]
    layers = {name.removeprefix(prefix).split(".")[2] for name in listed if name.startswith(f"{prefix}encoder.layers.")}
    return {
        "hidden": width,
        "layers": len(layers),
        "heads": heads,
        "inter": listed[f"{prefix}encoder.layers.0.mlp.fc1.weight"][1][0],
        "size": round((positions - 1) ** 0.5) * patch,
        "patch": patch,
    }


KINDS: dict[str, Check] = {"keys_": check_keys}
