"""Golden cases of the published code, run from a checkout."""
