"""`mmcore data` finds every kind of damage with file, record and field, and says it by its exit code."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from mmcore import cli
from mmcore_glee.data.demo import write_demo

INSTANCES = "coco/annotations/instances_train2017.json"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "data", train=5, val=2)


@pytest.fixture
def root(pristine, tmp_path, monkeypatch) -> Path:
    """A copy of the sample data that a test may damage."""
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(pristine, tmp_path / "data")
    return tmp_path / "data"


def run(capsys, root: Path, command: str, *options: str) -> tuple[int, str, str]:
    arguments = ["data", command, "--plugin", "glee", "--stage", "2", "--variant", "tiny", "--data", str(root)]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--sources", "coco", *options])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def check(capsys, root: Path) -> tuple[int, list[dict[str, Any]], str]:
    code, out, err = run(capsys, root, "check", "--split", "train", "--workers", "0", "--json")
    report = json.loads(out)
    assert report["ok"] == (code == 0)
    return code, report["sources"]["train/coco"]["problems"], err


def edit(root: Path, change) -> None:
    path = root / INSTANCES
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_good_data_pass(capsys, root):
    assert check(capsys, root)[:2] == (0, [])


def test_pictures_in_a_tar_are_checked_drawn_planned_and_trained_on(capsys, root, tmp_path):
    """The folder of a recipe is a folder of shards here; every command takes it as it is."""
    folder = root / "coco" / "train2017"
    paths = sorted(folder.iterdir())
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in (0, 1):
        with tarfile.open(shards / f"{number:05d}.tar", "w") as archive:
            for path in paths[number::2]:
                archive.add(path, path.name)
    shutil.rmtree(folder)
    shards.rename(folder)
    assert check(capsys, root)[:2] == (0, [])
    code, _, err = run(capsys, root, "show", "--count", "2", "--out", str(tmp_path / "drawn"))
    assert code == 0, err
    assert len(list((tmp_path / "drawn").glob("*.png"))) >= 1
    common = ["--plugin", "glee", "--stage", "2", "--variant", "tiny", "--data", str(root), "--sources", "coco"]
    small = ["--set", "steps=1", "--set", "global_batch=2", "--set", "micro_batch=1", "--set", "checkpoint_every=1"]
    for arguments in (["plan"], ["train", "--out", str(tmp_path / "run"), "--workers", "2", "--set", "validation={}"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([arguments[0], *common, *small, *arguments[1:]])
        captured = capsys.readouterr()
        assert not stop.value.code, captured.err
    assert (tmp_path / "run" / "checkpoints").is_dir()
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:700])
    code, out, _ = run(capsys, root, "check", "--split", "train", "--workers", "0")
    assert code == 1
    assert "00001.tar" in out
    assert "the tar is damaged" in out


def set_box(content):
    content["annotations"][0]["bbox"] = [4000, 10, 50, 20]


def set_nan(content):
    content["annotations"][0]["bbox"] = [float("nan"), 10, 50, 20]


def set_category(content):
    content["annotations"][0]["category_id"] = 999


def set_polygon(content):
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]


def set_traversal(content):
    content["images"][0]["file_name"] = "../../../etc/passwd"


def set_name(content):
    content["images"][0]["file_name"] = "gone.jpg"


def set_size(content):
    content["images"][0]["height"] += 1


@pytest.mark.parametrize(
    ("change", "message", "where"),
    [
        (set_box, "pixels outside its", "field bbox"),
        (set_nan, "not four finite numbers", "field bbox"),
        (set_category, "category 999 is not among the file's", "field category_id"),
        (set_polygon, "no polygon has three points", "field segmentation"),
        (set_traversal, "climbs out", "field file_name"),
        (set_name, "image is missing", "gone.jpg"),
        (set_size, "its record says", INSTANCES),
    ],
)
def test_damage_is_found_with_its_place(capsys, root, change, message, where):
    edit(root, change)
    code, problems, err = check(capsys, root)
    assert code == 1
    assert any(message in problem["what"] and where in problem["where"] for problem in problems)
    assert "DataError" in err


def test_a_truncated_image_is_found(capsys, root):
    image = next((root / "coco/train2017").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:500])
    code, problems, _ = check(capsys, root)
    assert code == 1
    assert [image.name in problem["where"] for problem in problems] == [True]


def test_a_missing_annotation_file_is_reported_for_its_source_only(capsys, root):
    (root / INSTANCES).unlink()
    code, out, _ = run(capsys, root, "check", "--workers", "0")
    assert code == 1
    assert "train coco: 0 records, 1 problem" in out
    assert "instances_train2017.json" in out
    assert "coco_val: 2 records, no problems" in out


def test_a_missing_data_folder_says_what_to_do(capsys, root):
    code, _, err = run(capsys, root / "nowhere", "check")
    assert code == 1
    assert "MissingDataError" in err
    assert "--demo" in err


def test_indexes_are_built_ahead(capsys, root):
    code, out, _ = run(capsys, root, "index", "--json")
    built = json.loads(out)
    assert code == 0
    assert built["train/coco"]["records"] == 5
    assert Path(built["train/coco"]["folder"], "index.json").exists()


def test_samples_are_drawn_as_the_network_sees_them(capsys, root, tmp_path):
    code, out, _ = run(capsys, root, "show", "--count", "3", "--out", str(tmp_path / "pictures"))
    assert code == 0
    assert len(list((tmp_path / "pictures").glob("*-coco.png"))) == 3
    assert (tmp_path / "pictures/sheet.png").exists()
    assert "3 samples" in out
