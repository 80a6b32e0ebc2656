"""What a user of the model trips over: one message that says what to do, and an exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.cli import main
from mmcore.geometry import masks
from mmcore_glamm.config import TINY
from mmcore_glamm.data.demo import write_demo
from mmcore_glamm.model import Glamm

QUICK = ["--workers", "0", "--variant", "tiny", "--plugin", "glamm", "--stage", "gcg", "--max-steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=16, val=2)
    return folder


@pytest.fixture(autouse=True)
def cache(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(data / "cache"))


def fails(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *options: object) -> tuple[int, str]:
    """Exit code and message of a training run; nothing of it is left."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in ("train", *QUICK, "--data", data, "--out", out, *options)])
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return int(caught.value.code or 0), told


def test_a_tokenizer_without_the_words(data, tmp_path, capsys):
    code, told = fails(capsys, data, tmp_path / "run", "--init", "random", "--set", "model.add_tokens=false")
    assert code == 2
    assert "the tokenizer lacks <im_start>" in told
    assert "model.add_tokens=true" in told


def test_a_sam_file_of_another_size(data, tmp_path, capsys):
    torch.manual_seed(0)
    other = Glamm(TINY.replace(sam={"hidden_size": 32}))
    sam = {n: t for n, t in other.published().to_published(other.state_dict()).items() if "grounding_encoder" in n}
    path = tmp_path / "sam_vit_h_4b8939.pth"
    torch.save({name.removeprefix("model.grounding_encoder."): tensor for name, tensor in sam.items()}, path)
    code, told = fails(capsys, data, tmp_path / "run", "--init", path)
    assert code == 1
    assert "have another shape: sam.image_encoder.pos_embed is (1, 16, 16, 32) there" in told


# ---- broken records: each is named, the others are used; a strict run ends at the first ----

Change = Callable[[dict[str, Any], Path], object]


def spans(record: dict[str, Any]) -> list[list[int]]:
    return [one["token_positives"] for one in record["groundings"].values()]


def overlapping(record: dict[str, Any], images: Path) -> None:
    first, second = sorted(spans(record))[:2]
    second[0] = first[0] + 1


def cut_off(record: dict[str, Any], images: Path) -> None:
    """The last phrase stands behind more words than fit."""
    record["caption"] = record["caption"].rstrip(".") + " and" * 600
    spans(record)[-1][:] = [len(record["caption"]) - 3, len(record["caption"])]


def first_masks(record: dict[str, Any], drawn: list[Any]) -> None:
    next(iter(record["groundings"].values()))["rle_masks"] = drawn


def other_file(record: dict[str, Any], images: Path, name: str, content: bytes) -> None:
    (images / name).write_bytes(content)
    record["file_name"] = name


RECORDS: dict[str, tuple[Change, str]] = {
    "spans overlap": (overlapping, "overlap at character"),
    "a span lies outside": (lambda r, _: spans(r)[0].__setitem__(1, 999), "lies outside the caption"),
    "a mask of another size": (
        lambda r, _: first_masks(r, [masks.encode(np.ones((5, 6), np.uint8))]),
        "mask is 5x6, its image",
    ),
    "a damaged mask": (lambda r, _: first_masks(r, [{"size": [9, 9], "counts": "!!"}]), "RLE counts contain"),
    "a [SEG] beyond the longest length": (cut_off, "[SEG] lie beyond the longest length of 512"),
    "no picture": (lambda r, _: r.update(file_name="nowhere.jpg"), "image is missing"),
    "half a picture": (
        lambda r, i: other_file(r, i, "half.jpg", (i / r["file_name"]).read_bytes()[:900]),
        "image file is truncated",
    ),
    "text for a picture": (lambda r, i: other_file(r, i, "text.jpg", b"no picture"), "not an image"),
    "a path out of the folder": (lambda r, _: r.update(file_name="../grounded_train.json"), "climbs out of its folder"),
    "no caption": (lambda r, _: r.pop("caption"), "there is no caption"),
}


@pytest.fixture(scope="module")
def broken(data: Path) -> Path:
    """A copy of the captions whose first records have one fault each, in the order of `RECORDS`."""
    records = json.loads((data / "glamm" / "grounded_train.json").read_text())
    for record, (change, _) in zip(records, RECORDS.values()):
        change(record, data / "glamm" / "images")
    (data / "glamm" / "broken.json").write_text(json.dumps(records))
    return data


ON_BROKEN = ["--set", "data.sources.grounded.annotations=glamm/broken.json", "--sources", "grounded"]


def test_every_broken_record_is_told_by_name(broken, capsys):
    command = ["data", "check", "--plugin", "glamm", "--variant", "tiny", "--stage", "gcg", "--data", str(broken)]
    with pytest.raises(SystemExit) as caught:
        main([*command, *ON_BROKEN])
    told = capsys.readouterr().out
    assert caught.value.code == 1
    assert "broken.json" in told
    for name, (_, said) in RECORDS.items():
        assert said in told, f"{name}: {told}"


@pytest.mark.parametrize("name", ["spans overlap", "a span lies outside", "a mask of another size", "half a picture"])
def test_a_strict_run_ends_at_a_broken_record(name, broken, tmp_path, capsys):
    records = json.loads((broken / "glamm" / "broken.json").read_text())
    (broken / "glamm" / "one.json").write_text(json.dumps([records[list(RECORDS).index(name)]]))
    options = ["--init", "random", "--set", "data.bad_samples=error"]
    options += ["--set", "data.sources.grounded.annotations=glamm/one.json"]
    code, told = fails(capsys, broken, tmp_path / "run", *options)
    assert code == 1
    assert RECORDS[name][1] in told
    assert "one.json" in told


# ---- files that are not there or damaged ----


def damaged_lmdb(folder: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the extra lmdb is not installed")
    with lmdb.open(str(folder), map_size=1 << 24) as store, store.begin(write=True) as transaction:
        for number in range(500):
            transaction.put(f"{number}.jpg".encode(), b"x" * 500)
    whole = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(whole[: len(whole) // 2])


FILES: dict[str, tuple[str, str, str, Callable[[Path], object]]] = {
    "no annotations": ("GranD-f", "glamm/gone.json", "which is not there", lambda path: None),
    "half a file": ("GranD-f", "glamm/half.json", "JSON", lambda path: path.write_text('[{"file_name": "a')),
    "another file": ("GranD-f", "glamm/other.json", "is not text", lambda path: path.write_text('{"a": 1}')),
    "no lmdb": ("GranD captions", "glamm/gone_lmdb", "gone_lmdb, which is not there", lambda path: None),
    "an empty folder": ("GranD captions", "glamm/empty_lmdb", "no LMDB", Path.mkdir),
    "half an lmdb": ("GranD captions", "glamm/half_lmdb", "the LMDB cannot be read", damaged_lmdb),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_damaged(name, data, tmp_path, capsys):
    format, place, said, make = FILES[name]
    make(data / place)
    source = [f"data.sources.grounded.{key}={value}" for key, value in {"format": format, "annotations": place}.items()]
    code, told = fails(capsys, data, tmp_path / "run", "--init", "random", "--set", source[0], "--set", source[1])
    assert code == 1
    assert said in told
    assert place in told
    assert not (tmp_path / "run" / "checkpoints").exists()
