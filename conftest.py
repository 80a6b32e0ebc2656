"""What tests of the core and of every plugin share: reference data where there are some, and the command line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mmcore.cli import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, or $MMCORE_SHARED; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("MMCORE_SHARED") or Path(__file__).resolve().parents[1] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set MMCORE_SHARED to run this test")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder; its exit code and everything it said, which is never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        code = caught.value.code
        assert isinstance(code, int)
        return code, said.out + said.err

    return call
