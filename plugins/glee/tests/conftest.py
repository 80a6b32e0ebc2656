"""What GLEE's tests share: the folder of reference numbers and photographs, where there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, or $MMCORE_SHARED; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("MMCORE_SHARED") or Path(__file__).resolve().parents[4] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set MMCORE_SHARED to run this test")
    return folder
