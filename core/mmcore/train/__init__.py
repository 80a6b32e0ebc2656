"""The training engine: `loop.train` reads top to bottom, and each other file is one idea it uses."""
