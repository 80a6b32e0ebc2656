"""What GLaMM's tests share: two processes that train together."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def ranks() -> ModuleType:
    """The module `ranks.py` beside this file: small batches, and two processes that train together."""
    path = Path(__file__).parent / "ranks.py"
    spec = importlib.util.spec_from_file_location("mmcore_glamm_test_ranks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
