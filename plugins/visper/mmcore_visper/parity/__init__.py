"""Golden cases of VisPer-LM: `python -m mmcore_visper.parity CASE...`."""
