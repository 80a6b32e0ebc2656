"""The page that wraps a detector of torchvision: its files are put together, checked, trained, and asked."""

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmcore.cli import main
from mmcore.conformance import battery
from mmcore.contract.values import Draw, Sample
from mmcore.data.demo.write import write_demo
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "torchvision.md"
FILE = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", re.M | re.S)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
OWN = "{{annotations: coco/annotations/instances_{0}2017.json, images: coco/{0}2017}}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the plugin, installed as far as Python can see, sample scenes, and own data."""
    folder = tmp_path_factory.mktemp("retina")
    project = folder / "mmcore-retina"
    files = dict(FILE.findall(PAGE.read_text()))
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    told = project / "mmcore_retina.egg-info"
    told.mkdir()
    (told / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: mmcore-retina\nVersion: 0.1.0\n")
    (told / "entry_points.txt").write_text("[mmcore]\nretina = mmcore_retina\n")
    assert '[project.entry-points.mmcore]\nretina = "mmcore_retina"' in files["pyproject.toml"]
    write_demo(folder / "shop", train=12, val=4)
    (folder / "shelves.yaml").write_text(
        f"name: shelves\nroot: shop\ntrain: {OWN.format('train')}\nval: {OWN.format('val')}\n"
        "classes: {person: forklift, car: pallet}\n"
    )
    Image.new("RGB", (96, 64), (30, 90, 160)).save(folder / "photo.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project)
        patch.setenv("PYTHONPATH", f"{project}:{':'.join(path for path in sys.path if path)}")
        patch.setenv("MMCORE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        importlib.invalidate_caches()
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mmcore_retina"]:
        del sys.modules[name]


@pytest.fixture
def run(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a command of mmcore, which must succeed; what it printed."""
    monkeypatch.chdir(desk)

    def do(command: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(shlex.split(command))
        said = capsys.readouterr()
        assert not end.value.code, f"mmcore {command}\n{said.out}{said.err}"
        return said.out

    return do


def test_the_battery_passes(desk):
    assert [outcome for outcome in battery("retina") if not outcome.ok] == []


def test_the_printed_commands_train_judge_draw_and_export_with_own_names(desk, run):
    blocks = [code for language, code in FENCE.findall(PAGE.read_text()) if not language]
    commands = [line.removeprefix("mmcore ") for line in "".join(blocks).splitlines() if line.startswith("mmcore ")]
    assert len(commands) == 7
    for command in commands:
        short = " --max-steps 1 --no-tensorboard --quiet" if command.startswith("train") else ""
        if command.startswith("eval"):
            short = " --limit 2"
        if not command.startswith("plugins check"):  # the battery is a test of its own
            run(command + short)
    names = yaml.safe_load((desk / "runs" / "shelves" / "config.yaml").read_text())["stage"]["class_names"]
    assert {"forklift", "pallet"} <= {*names}
    assert not {"person", "car"} & {*names}
    assert (desk / "runs" / "shelves" / "found" / "photo.json").is_file()
    assert list((desk / "retina-weights").glob("*.safetensors"))


def test_micro_batches_add_up_to_the_whole_batch(desk):
    """What the page says of sums: cut anywhere, the parts' sums are the sum of the whole."""
    from mmcore_retina import data, model
    from mmcore_retina.recipes import TINY

    rng = np.random.default_rng(0)

    def sample(number: int) -> Sample:
        corners = torch.from_numpy(np.sort(rng.uniform(0, 96, (2 + number, 2, 2)), axis=1)).float()
        picture = torch.from_numpy(rng.integers(0, 256, (3, 96, 128), dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(0, 80, len(corners)))
        return Sample(picture, corners.flatten(1), labels, None, Draw("coco", number, 0), number, (96, 128))

    samples, collate = [sample(number) for number in range(5)], data.collate
    retina = model.build(TINY)
    whole = retina(collate(samples, 0))
    parts = [retina(collate(part, 0)) for part in (samples[:4], samples[4:])]
    for name, loss in whole.items():
        torch.testing.assert_close(sum(part[name].total for part in parts), loss.total, rtol=1e-6, atol=0)


def test_torchvisions_own_file_starts_it_and_its_91_classes_do_not_matter(desk, run):
    from mmcore_retina.model import RetinaNet, small
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    torch.manual_seed(3)
    published = RetinaNet(small(), 91, anchor_generator=AnchorGenerator(((24, 48, 96),), ((0.5, 1.0, 2.0),)))
    torch.save(published.state_dict(), desk / "coco.pth")
    run("train --plugin retina --variant tiny --own shelves.yaml --init coco.pth --out runs/from --max-steps 1 --quiet")
    log = (desk / "runs" / "from" / "run.json").read_text()
    assert "coco.pth" in log
