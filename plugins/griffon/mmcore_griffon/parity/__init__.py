"""Golden cases of Griffon: numbers of the published code against ours. Run from a checkout; not in the wheel."""
