"""Command line of the golden cases; every file of this package that names `KINDS` contributes its checks."""

import importlib
import pkgutil
import sys

from mmcore.parity import Check, main

import mmcore_glamm.parity as package


def kinds() -> dict[str, Check]:
    """Checks by the beginning of a case's name."""
    result: dict[str, Check] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            result |= getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "KINDS", {})
    return result


if __name__ == "__main__":
    sys.exit(main("glamm", kinds(), sys.argv[1:]))
