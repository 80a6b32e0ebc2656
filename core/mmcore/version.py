"""The distribution's version and the version of the contract that plugins build on."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mmcore")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

API_VERSION = "0.2.0"
"""Grows with hookspecs, `Stage`, the batch, loss and prediction types; plugins name the range they need."""
