"""The battery that every plugin passes, in one file by what is checked."""

from mmcore.conformance.battery import Outcome, battery

__all__ = ["Outcome", "battery"]
