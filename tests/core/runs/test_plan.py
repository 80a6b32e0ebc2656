"""Plans: shapes without memory, nobody on the Hub asked, one problem not hiding the next."""

from pathlib import Path

import pytest
import torch
from mmcore import plugins
from mmcore.base import hub
from mmcore.runs.plan import make_plan
from mmcore.runs.settings import Request
from torch import nn

CASES = [
    (name, variant, stage.name)
    for name in plugins.installed()
    for variant in plugins.load(name).variants
    for stage in plugins.stages(plugins.manager(plugins.load(name), ()), plugins.load(name), variant)
]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(hub, "_answers", refuse)


@pytest.mark.parametrize(("plugin", "variant", "stage"), CASES)
def test_every_published_size_is_planned_without_its_memory(
    plugin: str, variant: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every parameter is counted and none has values; of the data only what is missing is said."""
    real: list[int] = []
    registered = nn.Module.register_parameter

    def watch(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        registered(self, name, param)
        kept = self._parameters[name]
        real.append(kept.numel() if kept is not None and not kept.is_meta else 0)

    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    plan = make_plan(Request(plugin=plugin, stage=stage, variant=variant, data=tmp_path))
    assert sum(group.parameters for group in plan.groups) > 100_000
    assert sum(real) == 0
    assert not torch.empty(1).is_meta
