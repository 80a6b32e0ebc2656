"""Plans: shapes without memory, nobody on the Hub asked, one problem not hiding the next."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from mmcore import plugins
from mmcore.base import hub
from mmcore.errors import UsageError
from mmcore.runs.plan import make_plan, read_rate
from mmcore.runs.settings import Request
from torch import nn

CASES = [
    (name, variant, stage.name)
    for name in plugins.installed()
    for variant in plugins.load(name).variants
    for stage in plugins.stages(plugins.manager(plugins.load(name), ()), plugins.load(name), variant)
]
FIRST_TINY = {name: stage for name, size, stage in reversed(CASES) if size == "tiny"}
"""Plugin -> the first stage of its tiny size."""


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


def test_a_rate_is_a_number_or_what_a_run_logged(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(f'{{"step": {i}, "timing": {{"samples_per_s": {rate}}}}}' for i, rate in enumerate((1, 8, 6, 7)))
        + '\n{"step": 3, "eval": {}, "timing": {"seconds": 2}}\n'
    )
    assert read_rate("2.5") == 2.5
    assert read_rate(str(tmp_path)) == 7
    for wrong in ("fast", "-1", "nan", str(tmp_path / "none")):
        with pytest.raises(UsageError, match="no rate"):
            read_rate(wrong)


@pytest.mark.parametrize(
    ("plugin", "stage"), {name: stage for name, size, stage in CASES[::-1] if size == "tiny"}.items()
)
def test_a_demo_is_planned_with_its_activations_and_hours(
    plugin: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path))
    plan = make_plan(Request(plugin=plugin, stage=stage, demo=True), rate=10.0)
    assert plan.memory is not None
    assert plan.memory.step is not None, plan.memory.note
    assert plan.memory.peak > plan.memory.weights + plan.memory.optimiser + plan.memory.gradients
    assert plan.samples is not None
    assert plan.hours == plan.samples / 36_000


@pytest.mark.parametrize(("plugin", "stage"), FIRST_TINY.items())
def test_everything_for_which_training_would_stop_is_listed(plugin: str, stage: str, tmp_path: Path, run) -> None:
    asked = ("--plugin", plugin, "--variant", "tiny", "--stage", stage, "--data", str(tmp_path))
    code, said = run("plan", *asked, "--init", str(tmp_path / "no.pth"), "--set", "frozen=[nothing_like_it]", "--json")
    plan = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert code == 1
    told = "\n".join(plan["problems"])
    for name in (*(one["name"] for one in plan["sources"]), *(one["name"] for one in plan["validation"])):
        assert f"{name}: " in told, name
    assert "there are no weights at" in told
    assert "nothing_like_it" in told


@pytest.mark.parametrize(("plugin", "stage"), FIRST_TINY.items())
def test_a_probe_measures_a_step_and_leaves_nothing_behind(
    plugin: str, stage: str, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    first = next(iter(make_plan(Request(plugin=plugin, stage=stage, demo=True)).sources)).name
    changed = ("--set", "global_batch=2", "--set", "micro_batch=2", "--set", f"data.sources.{first}.weight=2.0")
    code, said = run(
        "plan", "--plugin", plugin, "--stage", stage, "--demo", "--probe", "--workers", "0", *changed, "--json"
    )
    assert code == 0, said
    plan = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert plan["probe"]["step_s"] > 0
    assert plan["hours"] == pytest.approx(plan["samples"] / plan["probe"]["samples_per_s"] / 3600)
    assert [one["name"] for one in plan["sources"] if one["changed"]] == [first]
    assert not list((tmp_path / "tmp").glob("mmcore-probe-*"))
