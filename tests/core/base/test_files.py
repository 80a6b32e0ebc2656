"""A file is the old one or the new one, and a lock belongs to one process at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mmcore.base.files import WRITING, replace_text, replacing
from mmcore.base.lock import held, holder, run_lock, waited_for
from mmcore.errors import CheckpointError, DataError


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new, in pieces")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.name.startswith(WRITING)
    assert path.read_text() == "new, in pieces"
    replace_text(path, "ü")
    assert path.read_bytes() == "ü".encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(FileExistsError), replacing(path) as temporary:
        (temporary.write_text("half"), temporary.touch(exist_ok=False))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


HOLD = """
import sys, time
from pathlib import Path
from mmcore.base.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_goes_with_it_even_by_kill(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert holder(tmp_path) == other.pid
        with pytest.raises(CheckpointError, match=f"in use by process {other.pid}"), run_lock(tmp_path):
            pass
        waited: list[str] = []
        with pytest.raises(DataError, match="taken"), held(tmp_path / ".lock", lambda p: DataError(f"taken {p}")):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with waited_for(tmp_path / ".lock", lambda: waited.append("waits")):
            assert not waited
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert holder(tmp_path) is None


def test_a_holder_may_enter_its_own_run_folder_again(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"), run_lock(tmp_path / "run"):
        assert holder(tmp_path / "run") == os.getpid()
    assert holder(tmp_path / "run") is None
    assert holder(tmp_path / "never") is None


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"), run_lock(tmp_path / "file"):
        pass
