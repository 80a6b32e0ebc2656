"""Golden cases of VisPer-LM: numbers of the published code against ours. `python -m mmcore_visper.parity CASE...`."""
