"""The distribution's version and the version of the contract that plugins build on."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "mmcore-trainer"
"""What pip installs; `mmcore` on the package index is somebody else's."""

try:
    __version__ = version(DISTRIBUTION)
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

API_VERSION = "0.2.0"
"""Grows with hookspecs, `Stage`, the batch, loss and prediction types; plugins name the range they need."""
