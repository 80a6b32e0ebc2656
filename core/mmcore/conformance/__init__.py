"""The battery that every plugin passes."""
