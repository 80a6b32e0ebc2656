"""Modules that moved are still found where plugins and scripts of API 0.1 import them from."""

import importlib

import mmcore
import pytest


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("mmcore.types", ("Prediction", "Sample", "Draw", "Loss", "Losses", "Batch", "DetectionBatch")),
        ("mmcore.data.sources", ("DataContext", "Datasets")),
    ],
)
def test_an_old_address_gives_the_same_objects_and_tells_the_new_one(address: str, names: tuple[str, ...]) -> None:
    with pytest.warns(DeprecationWarning, match="is now mmcore.contract"):
        module = importlib.reload(importlib.import_module(address))
    for name in names:
        assert getattr(module, name) is getattr(mmcore, name)
