"""The table of contents of a run: settings, build, train, plan, evaluate, export."""
