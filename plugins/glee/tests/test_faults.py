"""Faults around a run, from the command line: what it is told, what is written, what exit code it ends with."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmcore.base.lock import run_lock
from mmcore.data.demo.write import write_demo

Run = Callable[..., tuple[int, str]]
TRAIN = ["train", "--plugin", "glee", "--stage", "2", "--variant", "tiny", "--sources", "coco", "--workers", "0"]
QUICK = ["--set", "validation={}", "--set", "best_metric=null", "--set", "global_batch=2", "--set", "micro_batch=2"]
QUICK += ["--init", "random", "--device", "cpu"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("scenes"), train=6, val=2)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """A run of one step, and the data it was started with."""
    from click.testing import CliRunner
    from mmcore.cli import cli

    folder = tmp_path_factory.mktemp("started")
    shutil.copytree(scenes, folder / "data")
    os.environ["MMCORE_CACHE"] = str(folder / "cache")
    arguments = [*TRAIN, *QUICK, "--data", folder / "data", "--out", folder / "run", "--max-steps", "1"]
    result = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return folder


@pytest.fixture
def folder(started: Path, tmp_path: Path) -> Path:
    """A copy of both."""
    shutil.copytree(started, tmp_path / "copy")
    return tmp_path / "copy"


def drop_one_image(data: Path) -> None:
    path = data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    gone = content["images"].pop()["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != gone]
    path.write_text(json.dumps(content))


def test_data_that_changed_since_the_start_is_told_and_refused_unless_allowed_by_name(run: Run, folder: Path) -> None:
    drop_one_image(folder / "data")
    resume = ["train", "--resume", folder / "run", "--data", folder / "data", "--max-steps", "2"]
    code, said = run(*resume)
    assert code == 1
    assert "source coco has changed" in said
    assert "--allow-changed-data" in said
    assert len(json.loads((folder / "run" / "run.json").read_text())["starts"]) == 1
    assert "source coco has changed" in (folder / "run" / "log.txt").read_text()
    code, said = run(*resume, "--allow-changed-data")
    assert code == 0
    assert "going on although source coco has changed" in said


def test_data_that_moved_is_named_once_and_then_known(run: Run, folder: Path) -> None:
    (folder / "data").rename(folder / "elsewhere")
    code, said = run("train", "--resume", folder / "run", "--data", folder / "elsewhere", "--max-steps", "2")
    assert code == 0, said
    assert str(folder / "elsewhere") in (folder / "run" / "config.yaml").read_text()
    assert "max_steps: 1" in (folder / "run" / "config.yaml").read_text()


def test_what_an_error_tells_to_do_is_taken_by_the_command_line(run: Run, folder: Path) -> None:
    code, said = run(
        "train", "--resume", folder / "run", "--data", folder / "data", "--max-steps", "2",
        "--set", "skip_nonfinite=10", "--workers", "0", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    assert "skip_nonfinite: 10" in (folder / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (["--out", "elsewhere"], "--out"),
        (["--seed", "0"], "--seed"),
        (["--set", "optim.lr=1e-3"], "optim.lr"),
        (["--plugin", "glee"], "--plugin"),
        (["--init", "random"], "--init"),
    ],
)
def test_what_would_make_another_run_of_it_is_refused_by_name(run: Run, started: Path, option: list, word: str) -> None:
    code, said = run("train", "--resume", started / "run", *option)
    assert code == 2
    assert word in said


def test_a_start_that_is_refused_writes_nothing(run: Run, started: Path, tmp_path: Path) -> None:
    code, said = run(*TRAIN, *QUICK, "--data", started / "data", "--out", started / "run", "--seed", "5")
    assert code == 1
    assert "already holds a run" in said
    assert "seed: 5" not in (started / "run" / "config.yaml").read_text()
    child = os.fork()
    if child == 0:
        with run_lock(tmp_path / "taken"):
            (tmp_path / "ready").touch()
            while not (tmp_path / "done").exists():
                pass
        os._exit(0)
    while not (tmp_path / "ready").exists():
        pass
    code, said = run(*TRAIN, *QUICK, "--data", started / "data", "--out", tmp_path / "taken", "--seed", "5")
    (tmp_path / "done").touch()
    os.waitpid(child, 0)
    assert code == 1
    assert f"in use by process {child}" in said
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [".lock"]


DEEP = b"[" * 100_000
DAMAGE = {
    "config.yaml": [b"[]", b"{", b"stage: 3", b"\xff\xfe", b"a: &a [*a]", DEEP, None],
    "run.json": [b"[]", b"\xff", None],
    "metrics.jsonl": [DEEP, b"[]", b"\xff\n", None],
    "bad_samples.jsonl": [DEEP, b"[]", b"\xff\n", b'{"source": 3}\n', None],
    "log.txt": [b"\xff", None],
    ".lock": [b"\xff", None],
    "checkpoints/last": [b"\xff", b"step-00000007", None],
    "checkpoints/best": [b"\xff", None],
    "tensorboard": [b"a file"],
    "curves.png": [None],
}
"""Content of a run folder's files after an accident; None puts a folder there."""


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, several in DAMAGE.items() for one in several])
def test_whatever_happened_to_a_run_folder_no_command_ends_in_a_traceback(
    run: Run, folder: Path, name: str, content: bytes | None
) -> None:
    path = folder / "run" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)
    for command in (["runs", folder / "run"], ["report", folder / "run"], ["train", "--resume", folder / "run"]):
        quarantine = ["--set", "data.bad_samples=quarantine"] if name.startswith("bad") else []
        more = ["--data", folder / "data", "--max-steps", "2", *quarantine] if command[0] == "train" else []
        code, said = run(*command, *more)  # which finds no traceback
        assert code in (0, 1, 2)
        if code:
            assert name.rpartition("/")[2] in said
            assert "Error: " in said


@pytest.mark.parametrize("content", ["[]", "{", '{"starts": 3}', '{"starts": [3]}', "[" * 100_000])
def test_a_damaged_record_is_told(run: Run, folder: Path, content: str) -> None:
    (folder / "run" / "run.json").write_text(content)
    code, said = run("train", "--resume", folder / "run", "--data", folder / "data", "--max-steps", "2")
    assert code == 1
    assert "run.json is damaged" in said


def test_a_truncated_validation_picture_is_left_out_told_and_costs_nothing(run: Run, folder: Path) -> None:
    pictures = sorted((folder / "data" / "coco" / "val2017").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])
    code, said = run(
        *TRAIN, "--data", folder / "data", "--out", folder / "second", "--max-steps", "1", "--init", "random",
        "--set", "global_batch=2", "--set", "micro_batch=2", "--set", "best_metric=null",
    )  # fmt: skip
    assert code == 0, said
    assert "1 of 2 records cannot be read and are left out of the metrics" in said
    assert pictures[0].name in said
    assert pictures[0].name in (folder / "second" / "bad_samples.jsonl").read_text()
    code, said = run(
        *TRAIN, "--data", folder / "data", "--out", folder / "third", "--max-steps", "1", "--init", "random",
        "--set", "global_batch=2", "--set", "micro_batch=2", "--set", "best_metric=null",
        "--set", "data.bad_samples=error",
    )  # fmt: skip
    assert code == 1
    assert "the training is complete and saved; its last evaluation failed" in said
    assert list((folder / "third" / "checkpoints").glob("step-*1"))
    code, said = run("eval", folder / "second", "--on", "coco_val")
    assert code == 0, said
    assert "incomplete: 1 records are left out, so this is not the figure of the whole set" in said
    measured = json.loads(next((folder / "second" / "evals").glob("coco_val-step-*/metrics.json")).read_text())
    assert measured["complete"] is False
    assert pictures[0].name in measured["left_out"][0]["where"]
    few = ("--set", "model.detections=1", "--out", folder / "few")
    code, said = run("eval", folder / "second", "--on", "coco_val", *few)
    assert code == 0, said
    found = json.loads(next((folder / "few").glob("coco_val-step-*/predictions.json")).read_text())
    assert len(found) == 1  # of the one picture that can be read: a setting of the model is the model's
    code, said = run("eval", folder / "second", "--on", "coco_val", "--set", "data.bad_samples=error")
    assert code == 1
    assert pictures[0].name in said
