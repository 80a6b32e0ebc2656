"""Golden cases of GLEE: numbers of the published code against ours. `python -m mmcore_glee.parity CASE...`."""
