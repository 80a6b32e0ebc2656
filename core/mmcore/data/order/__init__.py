"""Training orders, one a file: what is drawn at micro-batch m is a pure function of seed, epoch and position."""
