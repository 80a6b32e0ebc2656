"""GLEE data: sources, transforms and collation."""
