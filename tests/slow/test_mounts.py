"""Real file systems that are too small or cannot be written, mounted for one command each.

The command gets name spaces of its own, so that the mount is nobody else's and goes with it. Where the machine does
not allow that, these tests are skipped.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmcore.data.demo.write import coco_categories
from PIL import Image

pytestmark = pytest.mark.slow

TRAIN = ["train", "--plugin", "glee", "--stage", "2", "--variant", "tiny", "--sources", "coco", "--device", "cpu"]
TRAIN += ["--set", "validation={}", "--set", "best_metric=null", "--init", "random", "--max-steps", "2"]
TRAIN += ["--set", "global_batch=8", "--set", "micro_batch=8", "--no-tensorboard"]
ALONE = ["unshare", "--map-root-user", "--mount"]


def _why_not() -> str | None:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "needs unshare of Linux"
    tried = subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    return f"mounting is not permitted here: {tried.stderr.strip()}" if tried.returncode else None


@pytest.fixture(scope="session", autouse=True)
def permitted() -> None:
    if reason := _why_not():
        pytest.skip(reason)


On = Callable[..., tuple[int, str]]


@pytest.fixture
def on(tmp_path: Path) -> On:
    """`on(mount, command, place)`: run mmcore after a mount command; its exit code and what it said, no traceback."""

    def call(mount: str, arguments: list[object], *, cache: Path = tmp_path / "cache", **more: str) -> tuple[int, str]:
        words = shlex.join([sys.executable, "-m", "mmcore", *map(str, arguments)])
        done = subprocess.run(
            [*ALONE, "sh", "-c", f"{mount} && exec {words}"],
            env={**os.environ, "MMCORE_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more},
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        return done.returncode, said

    return call


def tmpfs(folder: Path | str, size: str, *options: str) -> str:
    Path(folder).mkdir(exist_ok=True)
    return f"mount -t tmpfs -o {','.join((f'size={size}', *options))} tmpfs {shlex.quote(str(folder))}"


def read_only(folder: Path) -> str:
    here = shlex.quote(str(folder))
    return f"mount --bind {here} {here} && mount -o remount,bind,ro {here}"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of 800 x 800 px with an object each, in the layout of COCO."""
    import json

    root = tmp_path_factory.mktemp("photographs")
    (root / "coco" / "train2017").mkdir(parents=True)
    (root / "coco" / "annotations").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 800, 800, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(root / "coco" / "train2017" / f"{number}.jpg")
    side = {"width": 800, "height": 800}
    thing = {"category_id": 1, "bbox": [100, 100, 300, 300], "area": 90000, "iscrowd": 0}
    thing["segmentation"] = [[100, 100, 400, 100, 400, 400, 100, 400]]
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", **side} for n in range(12)],
        "annotations": [{"id": n + 1, "image_id": n, **thing} for n in range(12)],
        "categories": coco_categories(),
    }
    (root / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def finished(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that read its data in its own process."""
    folder = tmp_path_factory.mktemp("finished")
    words = [sys.executable, "-m", "mmcore", *TRAIN, "--data", photographs, "--workers", "0", "--out", folder / "run"]
    environment = {**os.environ, "MMCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], env=environment, check=True, capture_output=True)
    return folder / "run"


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes()


# Shared memory


@pytest.mark.parametrize("size", ["64m", "1m"])
def test_a_small_dev_shm_slows_a_run_and_changes_nothing(
    on: On, photographs: Path, finished: Path, tmp_path: Path, size: str
) -> None:
    run = tmp_path / "run"
    code, said = on(tmpfs("/dev/shm", size), [*TRAIN, "--data", photographs, "--workers", 4, "--out", run])
    assert code == 0, said
    assert "--shm-size=8g" in said
    assert ("batches travel through pipes" in said) == (size == "1m")
    assert weights(run) == weights(finished)


def test_a_dev_shm_that_cannot_be_written_is_told_with_the_remedy(on: On, photographs: Path, tmp_path: Path) -> None:
    mount = tmpfs("/dev/shm", "64m", "ro")
    code, said = on(mount, [*TRAIN, "--data", photographs, "--workers", 1, "--out", tmp_path / "run"])
    assert code == 1
    assert "DataError: data workers cannot start: /dev/shm cannot be written" in said
    assert "--workers 0" in said


# Disks


def test_a_full_disk_under_the_sample_data_is_no_plugins_fault(on: On, tmp_path: Path) -> None:
    small, start = tmp_path / "small", ["train", "--plugin", "glee", "--stage", 2, "--demo", "--out", tmp_path / "run"]
    code, said = on(tmpfs(small, "300k"), start, cache=small)
    assert code == 1
    assert "FileSystemError: a file cannot be used: No space left on device" in said
    assert "MMCORE_CACHE" in said
    assert "plugin" not in said
    assert not (tmp_path / "run").exists()


def test_a_disk_that_gets_full_while_data_is_indexed_is_told(on: On, photographs: Path, tmp_path: Path) -> None:
    small, run = tmp_path / "small", tmp_path / "run"
    code, said = on(tmpfs(small, "8k"), [*TRAIN, "--data", photographs, "--out", run], cache=small)
    assert code == 1
    assert "No space left on device" in said
    assert not run.exists()


def test_a_home_that_cannot_be_written_is_no_plugins_fault(on: On, photographs: Path, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    command = [*TRAIN, "--data", photographs, "--out", tmp_path / "run"]
    code, said = on(f"unset MMCORE_CACHE XDG_CACHE_HOME; {read_only(home)}", command, HOME=str(home))
    assert code == 1
    assert "Read-only file system" in said
    assert "MMCORE_CACHE" in said
    assert "plugin" not in said


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--resume", "RUN", "--max-steps", 3], ["eval", "RUN", "--on", "coco", "--split", "train"],
        ["predict", "RUN", "PHOTO"], ["report", "RUN"], ["export", "RUN", "--format", "hf"],
        ["export", "RUN", "--format", "hf", "--out", "RUN/mine"],
    ],
    ids=lambda command: " ".join(map(str, command[:1] + command[4:])),
)  # fmt: skip
def test_a_run_folder_that_cannot_be_written_is_told(
    on: On, photographs: Path, finished: Path, command: list[object]
) -> None:
    places = {"RUN": str(finished), "PHOTO": str(photographs / "coco" / "train2017" / "1.jpg")}
    words = [places.get(str(word), str(word).replace("RUN/", f"{finished}/")) for word in command]
    code, said = on(read_only(finished), list(words))
    assert code == 1
    assert "Read-only file system" in said
    assert "do: " in said


def test_what_only_reads_a_run_folder_needs_no_more(on: On, finished: Path, tmp_path: Path) -> None:
    assert on(read_only(finished), ["runs", finished])[0] == 0
    assert on(read_only(finished), ["export", finished, "--format", "hf", "--out", tmp_path / "mine"])[0] == 0


def test_a_disk_that_gets_full_during_a_run_costs_nothing_that_was_saved(
    on: On, photographs: Path, finished: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    run = small / "run"
    start = [*TRAIN, "--set", "checkpoint_every=1", "--set", "keep_last=1", "--data", photographs, "--out", run]
    first = shlex.join([sys.executable, "-m", "mmcore", *map(str, start)])
    # One checkpoint fits beside the other file, and not two.
    size = sum(path.stat().st_size for path in (finished / "checkpoints").rglob("*")) // 2**20
    fill = f"{tmpfs(small, f'{4 * size}m')} && fallocate -l {5 * size // 2}M {small}/other"
    code, said = on(f"{fill}; {first}; echo ended with $? >&2; rm {small}/other", ["train", "--resume", run])
    assert code == 0, said
    assert "saved " in said.partition("ended with 1")[0]
    assert "do:    free space" in said.partition("ended with 1")[0]
    assert "resumed at step 1 of 2" in said.partition("ended with 1")[2]
