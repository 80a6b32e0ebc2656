"""What VisPer-LM's tests share: the folder of reference numbers and photographs, where there is one."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, or $MMCORE_SHARED; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("MMCORE_SHARED") or Path(__file__).resolve().parents[4] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set MMCORE_SHARED to run this test")
    return folder


@pytest.fixture(scope="session")
def ranks() -> ModuleType:
    """The module `ranks.py` beside this file: small batches, and two processes that train together."""
    path = Path(__file__).parent / "ranks.py"
    spec = importlib.util.spec_from_file_location("mmcore_visper_test_ranks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
