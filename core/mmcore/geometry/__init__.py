"""Boxes and masks: formats, conversions, areas."""
