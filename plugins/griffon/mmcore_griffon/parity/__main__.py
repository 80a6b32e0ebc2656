"""Command line of the golden cases; every file of this package that names `KINDS` contributes its checks."""

import sys

from mmcore.parity import checks_of, main

import mmcore_griffon.parity as package

if __name__ == "__main__":
    sys.exit(main("griffon", checks_of(package), sys.argv[1:]))
