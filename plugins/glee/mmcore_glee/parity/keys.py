"""Key lists of full-size models: names, shapes, what is a parameter and what trains."""

import torch
from mmcore.parity import Case, Check, Report

from mmcore_glee.model import Glee
from mmcore_glee.parity.settings import config_of


def check_keys(case: Case, report: Report) -> None:
    """Every published key with its shape, type, role and whether it trains; and the parameter counts."""
    expected: dict[str, list[object]] = case.companion("keys.json")
    with torch.device("meta"):
        model = Glee(config_of(case))
    names = model.published()
    published = names.to_published(model.state_dict())
    parameters = dict(model.named_parameters())
    trained = names.to_published({name: torch.ones(()) * p.requires_grad for name, p in parameters.items()})
    report.equal("keys", sorted(published), sorted(expected))
    roles = {
        name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch."), *_role(name, trained, names.constants)]
        for name, tensor in published.items()
    }
    report.equal("shape, type, role, trained", roles, expected)
    data = case.data
    report.equal("tensors", len(published), data["tensors"])
    report.equal("parameters", _count(parameters.values()), data["parameters"])
    report.equal("trainable", _count(p for p in parameters.values() if p.requires_grad), data["trainable"])
    report.equal("backbone", _count(model.backbone.parameters()), data["backbone"])
    report.equal("text", _count(model.text_encoder.parameters()), data["text"])


def _role(name: str, trained: dict[str, torch.Tensor], constants: object) -> tuple[str, bool]:
    if name not in trained or name in constants:  # type: ignore[operator]
        return "buffer", False
    return "parameter", bool(trained[name])


def _count(parameters: object) -> int:
    return sum(parameter.numel() for parameter in parameters)  # type: ignore[attr-defined]


KINDS: dict[str, Check] = {"keys_": check_keys}
