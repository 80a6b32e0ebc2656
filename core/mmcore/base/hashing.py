"""Randomness as a function: the same numbers in always give the same 64 bits out, on every machine and Python.

The mixing step is SplitMix64 (Steele, Lea & Flood 2014). Nothing here keeps state.
"""

import hashlib

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """64 well mixed bits that depend on every value and on their order.

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    state = 0
    for value in values:
        state = ((state ^ value) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def fraction(*values: int) -> float:
    """A number in [0, 1) made of the upper 53 bits of `mix`."""
    return (mix(*values) >> 11) * 2.0**-53


def name_key(name: str) -> int:
    """64 bits that stand for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def permuted(index: int, size: int, key: int) -> int:
    """Where a permutation of `range(size)` sends `index`, without listing the permutation.

    The indices lie in a table of about sqrt(size) columns and rows; each round shifts the column by a hash of the row
    and the row by a hash of the column, which can be undone and so is a permutation of the table (a Feistel network
    over mixed radices, Black & Rogaway 2002). Places past `size`, less than one row, are walked through.
    """
    if size < 2:
        return index
    columns = int((size - 1) ** 0.5) + 1
    rows = -(-size // columns)
    while True:
        row, column = divmod(index, columns)
        for turn in range(4):
            column = (column + mix(key, turn, row)) % columns
            row = (row + mix(key, turn + 4, column)) % rows
        index = row * columns + column
        if index < size:
            return index
