"""What is shown may get lost; it never ends what it tells about, and it steers no terminal."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmcore.base.terminal import Forgiving, tell
from mmcore.errors import DataError
from mmcore.train.metrics import log_failure


class Gone(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "pipe"), OSError(28, "full"), ValueError("closed file")])
def test_a_stream_that_goes_away_is_no_error(monkeypatch, error: Exception) -> None:
    stream = Forgiving(Gone(error))
    assert stream.write("text") == 4
    stream.flush()
    stream.writelines(["a", "b"])
    assert stream.isatty() is False
    monkeypatch.setattr(sys, "stderr", Gone(error))
    tell("text")
    monkeypatch.setattr(sys, "stderr", None)
    tell("text")


def test_a_command_whose_standard_error_is_a_full_device_ends_as_it_would() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mmcore", "train", "--plugin", "nobody", "--stage", "1"]
        done = subprocess.run(command, stderr=full, stdout=subprocess.DEVNULL, check=False, timeout=60)
    assert done.returncode == 2


def test_an_encoding_that_lacks_a_letter_gets_escapes() -> None:
    code = "from mmcore.base.terminal import protect; protect(); print('caf\\u00e9 \\u4e2d')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == b"caf\xe9 \\u4e2d\n"


def test_why_a_run_failed_stands_in_its_log(tmp_path: Path) -> None:
    log_failure(tmp_path, DataError("image is truncated", where="7.jpg"), 1)
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        log_failure(tmp_path, error, 0)
    text = (tmp_path / "log.txt").read_text()
    assert "rank 1: DataError: image is truncated\n  where: 7.jpg" in text
    assert "Traceback" in text
    assert "ZeroDivisionError" in text


def test_names_from_files_cannot_steer_the_terminal() -> None:
    said = str(DataError("image \x1b[2J is bad", where="photo\x1b]0;title\x07.jpg", known="a\u202eb", do="fetch\rit"))
    assert {c for c in said if not c.isprintable()} == {"\n"}
