"""Every installed family passes the battery, and the battery finds what it is there to find."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmcore import plugins
from mmcore.conformance import Outcome, battery
from mmcore.plugins.scaffold import KINDS, write_plugin

FAMILIES = [plugin.name for plugin in plugins.inspect_all() if plugin.is_family]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_installed_family_passes_the_battery(name):
    failed = [outcome for outcome in battery(name) if not outcome.ok]
    assert not failed, "\n".join(f"{outcome.check}: {outcome.detail}" for outcome in failed)


def test_no_installed_plugin_is_broken():
    assert {plugin.name: plugin.problem for plugin in plugins.inspect_all() if plugin.problem} == {}


# What the battery catches: the scaffold with one thing broken at a time


@pytest.fixture
def scaffold(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`scaffold(file, old, new)` installs the scaffold with one piece of its text replaced."""
    folder = tmp_path / "otter"
    write_plugin("otter", folder, getattr(request, "param", "detector"))
    info = folder / "mmcore_otter-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmcore-otter\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[mmcore]\notter = mmcore_otter\n")
    monkeypatch.syspath_prepend(str(folder))
    # The check for a light import runs in its own interpreter.
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def replace(file: str = "", old: str = "", new: str = "") -> Iterator[Outcome]:
        if file:
            path = folder / "mmcore_otter" / file
            text = path.read_text()
            assert text.count(old) >= 1, f"{file} has no {old!r}"
            path.write_text(text.replace(old, new))
        return (outcome for outcome in battery("otter") if not outcome.ok)

    yield replace
    for module in [name for name in sys.modules if name.partition(".")[0] == "mmcore_otter"]:
        del sys.modules[module]


@pytest.mark.parametrize("scaffold", KINDS, indirect=True)
def test_the_scaffold_passes_unchanged(scaffold):
    assert list(scaffold()) == []


@pytest.mark.parametrize(("kind", "lines"), [("detector", 500), ("lmm", 400)])
def test_the_scaffold_is_small_and_filled_in(kind, lines, tmp_path):
    files = write_plugin("otter", tmp_path / "otter", kind)
    assert sum(len(path.read_text().splitlines()) for path in files) <= lines
    assert not [path for path in files if "{{" in path.read_text()]


@pytest.mark.parametrize(
    ("file", "old", "new", "check", "detail"),
    [
        ("__init__.py", "from mmcore import Fam", "import torch\nfrom mmcore import Fam", "torch", "imports torch"),
        ("__init__.py", "@hookimpl\ndef write_demo(", "def write_dmeo(", "misspelt", "did you mean 'write_demo'?"),
        (
            "__init__.py",
            "from mmcore import Fam",
            "TITLE = ''\nfrom mmcore import Fam",
            "misspelt",
            "Family(title=...)",
        ),
        ("model.py", "def prepare(", "def prepares(", "model builds", "did you mean 'prepare'?"),
        ("model.py", "class Otter(Model)", "class Otter(nn.Module)", "model builds", "not a mmcore.Model"),
        ("model.py", "def published(", "def publish(", "model builds", "does not implement published"),
        (
            "__init__.py",
            "def stage_params(variant",
            "def stage_prams(variant",
            "it loads",
            "unknown hook 'stage_prams'",
        ),
        ("recipes.py", "steps=200", "steps=-1", "recipes validate", "greater than 0"),
        (
            "model.py",
            "self.head = nn.Conv2d",
            "self.spare = nn.Linear(2, 2)\n        self.head = nn.Conv2d",
            "gradients reach",
            "no gradient reaches them: spare.",
        ),
        (
            "recipes.py",
            'loss_weights={"loss_class": 1.0, "loss_box": 5.0},',
            'loss_weights={"loss_class": 1.0, "loss_box": 5.0}, frozen=("backbone.9",),',
            "gradients reach",
            "matches no parameter",
        ),
        (
            "model.py",
            'Loss(self.loss_weights["loss_box"] * placed, "objects")',
            'Loss(placed, "boxes")',
            "one step",
            "'boxes'",
        ),
        ("model.py", "F.l1_loss(", "torch.nan * F.l1_loss(", "one step", "not finite"),
        (
            "model.py",
            'read_entries(Settings, stage.model, "Otter has no setting", "model").width',
            'stage.model["width"]',
            "typing errors",
            "of model is accepted",
        ),
        (
            "data.py",
            "image = resize(pixels, size)",
            "image = resize(pixels, size) + int(np.random.default_rng().integers(1, 100))",
            "sample data",
            "two different samples",
        ),
        (
            "model.py",
            "for i in range(len(batch))",
            "for i in range(len(batch) - 1)",
            "predictions",
            "1 predictions for 2 images",
        ),
        (
            "model.py",
            '{name: loss_weights.get(name, 1.0) for name in ("loss_class", "loss_box")}',
            "{'loss_class': 1.0, 'loss_box': 1.0, **loss_weights}",
            "no entry of the recipe is silent",
            "loss_weights.no_such_entry=1.0 is accepted in silence",
        ),
        (
            "model.py",
            'loss_weights.get(name, 1.0) for name in ("loss_class", "loss_box")',
            '1.0 for name in ("loss_class", "loss_box")',
            "the model builds",
            "does not go by this entry",
        ),
        (
            "data.py",
            "max_pixels=self.max_pixels",
            "max_pixels=10**9",
            "no entry of the recipe is silent",
            "data.max_pixels is not looked at: source shapes",
        ),
        (
            "data.py",
            'return read_entries(Transform, stage.data.transform, "Otter has no number", "data.transform")',
            'return Transform(size=stage.data.transform["size"], flip=bool(stage.data.transform["flip"]))',
            "no entry of the recipe is silent",
            "data.transform.flip={'no such': ['value']} is accepted in silence",
        ),
        ("model.py", 'Rule("detect.*", "head.*")', 'Rule("detect.*", "heads.*")', "export", "no published name"),
        ("model.py", "in labels[i][keep[i]].tolist()", "in labels[i].tolist()", "predictions", "about its number"),
    ],
)
def test_the_battery_finds_a_broken_plugin(scaffold, file, old, new, check, detail):
    seen = []
    for outcome in scaffold(file, old, new):
        seen.append(outcome)
        if check in outcome.check and detail in outcome.detail:
            return
    pytest.fail(f"not found; the battery said {seen or 'nothing'}")
