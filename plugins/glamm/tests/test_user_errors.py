"""What a user of the model trips over: one message that says what to do, and an exit code."""

import json
from pathlib import Path

import pytest
import torch
from mmcore.cli import main
from mmcore_glamm.config import TINY
from mmcore_glamm.data.demo import write_demo
from mmcore_glamm.model import Glamm

QUICK = ["--workers", "0", "--variant", "tiny", "--plugin", "glamm", "--stage", "gcg", "--max-steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=8, val=2)
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


def test_a_conversation_whose_masks_are_cut_off(data, tmp_path, capsys):
    words = 300
    caption = f"a circle {'and ' * words}a square"  # its second mask stands behind more words than fit
    spans = {"a circle": [0, 8], "a square": [len(caption) - 8, len(caption)]}
    path = data / "glamm" / "cut.json"
    records = json.loads((data / "glamm" / "grounded_train.json").read_text())
    for record in records:
        drawn = next(iter(record["groundings"].values()))["rle_masks"]
        record["caption"] = caption
        record["groundings"] = {text: {"token_positives": span, "rle_masks": drawn} for text, span in spans.items()}
    path.write_text(json.dumps(records))
    options = ["--init", "random", "--set", "data.sources.grounded.annotations=glamm/cut.json"]
    options += ["--set", f"max_length={words}", "--set", "data.bad_samples=error"]
    code, told = fails(capsys, data, tmp_path / "run", *options)
    assert code == 1
    assert f"1 of 2 [SEG] lie beyond the longest length of {words}" in told
    assert "--set max_length=" in told
