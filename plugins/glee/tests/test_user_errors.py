"""What a user gets wrong, from the command line to the message and the exit code; never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from mmcore_glee.data.demo import write_demo

Run = Callable[..., tuple[int, str]]
TRAIN = ["train", "--plugin", "glee", "--stage", "2", "--variant", "tiny", "--sources", "coco", "--workers", "0"]
QUICK = ["--max-steps", "1", "--set", "validation={}", "--set", "best_metric=null", "--set", "global_batch=2"]
QUICK += ["--set", "micro_batch=2", "--init", "random"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of sample scenes."""
    return write_demo(tmp_path_factory.mktemp("scenes"), train=6, val=2)


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """A copy of them to damage."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def train_file(root: Path) -> Path:
    """The training annotations of the scenes."""
    return root / "coco" / "annotations" / "instances_train2017.json"


def change(root: Path, edit: Callable[[dict], None]) -> None:
    """Rewrite the training annotations."""
    content = json.loads(train_file(root).read_text())
    edit(content)
    train_file(root).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plugin", "gle", "--stage", "2"], ["no plugin named 'gle'", "did you mean 'glee'?"]),
        (["--plugin", "glee", "--stage", "99"], ["glee has no stage 99", "1 pretrain, 2 joint, 3 scaleup"]),
        (["--plugin", "glee", "--stage", "2", "--set", "optim.lrr=1"], ["no recipe key 'lrr'", "did you mean 'lr'?"]),
        (["--plugin", "glee", "--stage", "2", "--sources", "refcco"], ["no data source 'refcco'", "'refcoco'"]),
        (["--plugin", "glee", "--stage", "2", "--variant", "light"], ["no variant 'light'", "'lite'"]),
        (["--plugin", "glee"], ["--stage is needed", "2 joint", "mmcore plugins show glee"]),
        (["--plugin", "gle"], ["no plugin named 'gle'", "did you mean 'glee'?"]),
    ],
)
def test_a_wrong_name_is_wrong_usage_and_answered_with_the_nearest(run: Run, arguments: list, words: list) -> None:
    code, said = run("train", *arguments)
    assert code == 2
    assert all(word in said for word in words), said


def test_a_missing_data_folder_is_named(run: Run, tmp_path: Path) -> None:
    code, said = run(*TRAIN, "--data", tmp_path / "nowhere")
    assert code == 1
    assert f"there is no data folder {tmp_path / 'nowhere'}" in said
    assert "--demo" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command",
    [
        "train --plugin glee --stage 2 --data NAME",
        "train --plugin glee --stage 2 --demo --config NAME",
        "train --plugin glee --stage finetune --own NAME",
        "train --resume NAME",
        "eval NAME",
        "export NAME",
        "report NAME",
        "chat NAME",
        "runs NAME",
    ],
)
@pytest.mark.parametrize("name", ["n" * 300, "é" * 200])
def test_a_name_no_file_system_takes_is_told(run: Run, tmp_path: Path, monkeypatch, command: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(*command.replace("NAME", name).split(" "))
    assert code in (1, 2)
    assert "name too long" in said, said[:300]
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_missing_annotation_file_is_named(run: Run, root: Path) -> None:
    train_file(root).unlink()
    code, said = run(*TRAIN, *QUICK, "--data", root)
    assert code == 1
    assert "MissingDataError" in said
    assert "instances_train2017.json" in said


def test_an_unknown_format_names_those_that_work(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, *QUICK, "--data", root, "--set", "data.sources.coco.format=LVIS v2")
    assert code == 1
    assert "'LVIS v2' is not known" in said
    assert "did you mean 'LVIS v1'" in said


def test_a_corrupt_jpeg_stops_a_strict_run_with_its_name(run: Run, root: Path) -> None:
    for path in (root / "coco" / "train2017").glob("*.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    code, said = run(*TRAIN, *QUICK, "--data", root, "--set", "data.bad_samples=error")
    assert code == 1
    assert "DataError" in said
    assert ".jpg" in said


def test_samples_that_were_replaced_are_counted_and_listed(run: Run, root: Path, tmp_path: Path) -> None:
    paths = sorted((root / "coco" / "train2017").glob("*.jpg"))
    for path in paths[::2]:
        path.write_bytes(path.read_bytes()[:200])
    # Which samples one step draws depends on the grouping; a damaged one is among them without it.
    code, said = run(*TRAIN, *QUICK, "--data", root, "--out", "one", "--set", "data.mixture.by_aspect=false")
    assert code == 0, said
    assert "samples that could not be used and were replaced: coco" in said
    listed = (tmp_path / "one" / "bad_samples.jsonl").read_text()
    assert any(path.name in listed for path in paths[::2])


def test_a_path_that_climbs_out_of_the_data_root_is_refused(run: Run, root: Path) -> None:
    def climb(content: dict) -> None:
        for image in content["images"]:
            image["file_name"] = "../../../../etc/passwd"

    change(root, climb)
    code, said = run(*TRAIN, *QUICK, "--data", root, "--set", "data.bad_samples=error")
    assert code == 1
    assert "climbs out of its folder" in said
    assert "instances_train2017.json" in said


def test_an_unknown_category_is_named_with_a_remedy(run: Run, root: Path) -> None:
    change(root, lambda content: content["categories"][0].update(name="persn"))
    code, said = run(*TRAIN, *QUICK, "--data", root)
    assert code == 1
    assert "category 'persn'" in said
    assert "did you mean 'person'?" in said


def test_a_box_outside_the_image_is_found_by_the_check(run: Run, root: Path) -> None:
    change(root, lambda content: content["annotations"][0].update(bbox=[5000.0, 5000.0, 10.0, 10.0]))
    record = json.loads(train_file(root).read_text())["annotations"][0]["id"]
    code, said = run("data", "check", *TRAIN[1:-2], "--data", root)
    assert code == 1
    assert "outside" in said
    assert str(record) in said


def test_a_pickle_posing_as_weights_is_refused_and_not_run(run: Run, root: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (canary,)

    torch.save({"model": Evil()}, tmp_path / "weights.pth")
    quick = QUICK[: QUICK.index("--init")]
    code, said = run(*TRAIN, *quick, "--data", root, "--init", tmp_path / "weights.pth")
    assert code == 1
    assert "WeightsError" in said
    assert not canary.exists()


def test_a_second_run_in_one_folder_is_refused(run: Run, root: Path) -> None:
    assert run(*TRAIN, *QUICK, "--data", root, "--out", "one")[0] == 0
    code, said = run(*TRAIN, *QUICK, "--data", root, "--out", "one")
    assert code == 1
    assert "already holds a run" in said
    assert "--resume one" in said


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(run: Run, root: Path, tmp_path: Path) -> None:
    bad = ["--set", "optim.lr=1e30", "--set", "schedule.warmup_factor=1.0", "--max-steps", "4"]
    code, said = run(*TRAIN, *QUICK, *bad, "--data", root, "--out", "one")
    assert code == 1
    assert "NonFiniteError" in said
    assert list((tmp_path / "one").rglob("*.safetensors"))
    assert list((tmp_path / "one").rglob("image-0.png"))


def test_a_full_disk_during_a_save_says_so(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from mmcore.base import files

    write_all = files.write_all

    def full(file: BinaryIO, data: memoryview) -> None:
        if not str(file.name).endswith(".safetensors"):
            return write_all(file, data)
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(files, "write_all", full)
    code, said = run(*TRAIN, *QUICK, "--data", root, "--out", "one")
    assert code == 1
    assert "the disk is full" in said


def test_not_a_run_folder_names_the_nearest(run: Run, root: Path) -> None:
    assert run(*TRAIN, *QUICK, "--data", root, "--out", "runs/first")[0] == 0
    code, said = run("train", "--resume", "runs/frist")
    assert code == 1
    assert "is not a run folder" in said
    assert "did you mean 'first'?" in said


@pytest.mark.parametrize("processes", [1, 2])
def test_a_start_that_failed_leaves_nothing_behind(run: Run, root: Path, tmp_path: Path, processes: int) -> None:
    fails = ["--data", root, "--set", "data.sources.coco.annotations=nono.json", "--nproc", processes]
    before = {path.name for path in tmp_path.iterdir()}
    code, _ = run(*TRAIN, *QUICK, *fails, "--out", "runs/one")
    assert code == 1
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert run(*TRAIN, *QUICK, *fails, "--out", "mine")[0] == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_folder_where_a_start_failed_is_free(run: Run, root: Path, tmp_path: Path) -> None:
    assert run(*TRAIN, *QUICK, "--data", root, "--out", "one", "--set", "data.sources.coco.annotations=nono")[0] == 1
    alone = ["--set", "micro_batch=1", "--nproc", 2]
    assert run(*TRAIN, *QUICK, "--data", root, "--out", "one", *alone)[0] == 0
    assert (tmp_path / "one" / "config.yaml").exists()
    assert not list((tmp_path / "one").glob(".starting*"))


def test_a_finished_run_is_extended_and_says_what_becomes_of_its_rate(run: Run, root: Path, tmp_path: Path) -> None:
    quick = QUICK[QUICK.index("--set") :]
    start = ["--steps", "2", "--set", "schedule.kind=cosine", "--set", "schedule.warmup_steps=0"]
    code, said = run(*TRAIN, *quick, *start, "--data", root, "--out", "one")
    assert code == 0
    assert "one pass over the 6 records takes" not in said
    assert "finished" in run("runs", "one")[1]
    code, said = run("train", "--resume", "one")
    assert code == 0
    assert "the run is finished, all 2 steps are made; `mmcore train --resume one --steps N` goes on" in said
    code, said = run("train", "--resume", "one", "--steps", "4", "--max-steps", "3")
    assert code == 0
    assert (
        "the run was of 2 steps and is now of 4: the learning rate goes on at 0.5 of the base rate, where it was 0"
        in said
    )
    assert "stopped" in run("runs", "one")[1]
    code, said = run("train", "--resume", "one", "--max-steps", "2")
    assert code == 0
    assert "the run stands at step 3 of 4: --max-steps 2 is reached; `mmcore train --resume one --max-steps N`" in said
    assert run("train", "--resume", "one")[0] == 0
    assert "finished" in run("runs", "one")[1]
    code, said = run("train", "--resume", "one", "--steps", "3")
    assert code == 2
    assert "the run has made 4 steps and cannot end after 3" in said
    steps = [json.loads(line)["step"] for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4]
    code, said = run("train", "--resume", "one", "--epochs", "2")  # passes over 6 records, 2 of them a step
    assert code == 0
    assert (
        "the run was of 4 steps and is now of 6: the learning rate goes on at 0.25 of the base rate, where it was 0,"
        " and follows the cosine schedule over all 6" in said
    )
    assert json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_what_lies_beyond_the_end_is_told_by_plan_and_train(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, *QUICK, "--data", root, "--out", "one", "--steps", "3")
    assert code == 0
    assert "milestones 580 lie beyond the last of 3 steps" in said
    assert "the warm-up takes 50 steps of 3" in said
    asked = [word for word in TRAIN[1:] if word not in ("--workers", "0")]
    code, said = run("plan", *asked, "--data", root, "--set", "steps=3", "--json")
    assert any("milestones 580 lie beyond" in note for note in json.loads(said[said.index("{") :])["notes"])
