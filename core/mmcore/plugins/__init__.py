"""Plugins found, verified and explained; the scaffold of new ones."""
