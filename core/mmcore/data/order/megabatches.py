"""Length grouping, given the permutations: records of like length share a global batch, dealt out evenly.

The published samplers (LLaVA's trainer; VisPer-LM reference 5.1; Griffon reference 5.3) shuffle all records, cut the
order into megabatches of one global batch each, sort each by length and deal it out so that every micro-batch holds
about as many words. With kinds, such as modalities or tasks, each is grouped apart, and the megabatches of all are
shuffled together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from mmcore.base.hashing import mix
from mmcore.errors import DataError

Permutation = Callable[[int], np.ndarray]
"""The next random order of so many things."""


def group(
    lengths: Int[np.ndarray, " records"], batch: int, world: int, permutation: Permutation, *, modality: bool = True
) -> Int[np.ndarray, " records"]:
    """Indices of all records in the published order.

    Args:
        lengths: words, negative without an image.
        batch: samples per micro-batch.
        world: micro-batches per global batch, over processes and accumulation.
        permutation: asked for an order of the records with an image, then of those without, then of megabatches.
        modality: group the two kinds apart; False takes all for one kind.

    Raises:
        DataError: a record has no words.
    """
    lengths = np.asarray(lengths, np.int64)
    check_lengths(lengths)
    kinds = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
    if not modality or not all(map(len, kinds)):
        # The published code keeps the sign where there is one kind: all text goes from short to long.
        return _by_length(lengths if modality else np.abs(lengths), batch, world, permutation)
    return group_kinds(kinds, lengths, batch, world, permutation)


def check_lengths(lengths: Int[np.ndarray, " records"]) -> None:
    """Refuse records of length 0.

    Raises:
        DataError: a record has no words.
    """
    if not lengths.all():
        number = int(np.flatnonzero(lengths == 0)[0])
        raise DataError("a record has no words, so it has no length to group by", where=f"record {number}")


def group_kinds(
    kinds: Sequence[Int[np.ndarray, " _"]],
    lengths: Int[np.ndarray, " records"],
    batch: int,
    world: int,
    permutation: Permutation,
    *,
    joined: Sequence[int] | None = None,
    keep_rest: bool = True,
) -> Int[np.ndarray, " kept"]:
    """Records of several kinds that never share a megabatch, but for the last.

    Args:
        kinds: indices of each kind, in the order in which they are permuted.
        lengths: of all records; the sign does not count.
        batch: samples per micro-batch.
        world: micro-batches per global batch.
        permutation: asked once per kind, then for an order of the megabatches.
        joined: the order in which kinds are laid end to end before that; None keeps theirs.
        keep_rest: put what fills no megabatch at the end, by index (LLaVA); Griffon leaves it out.
    """
    size = batch * world
    ordered = [kind[_by_length(np.abs(lengths[kind]), batch, world, permutation)] for kind in kinds]
    # Even a whole last megabatch of a kind counts as its rest.
    whole = [indices[: (len(indices) - 1) // size * size] for indices in ordered]
    rest = np.concatenate([indices[len(part) :] for indices, part in zip(ordered, whole)])
    order = range(len(kinds)) if joined is None else joined
    megabatches = np.concatenate([whole[kind] for kind in order]).reshape(-1, size)
    shuffled = megabatches[permutation(len(megabatches))] if len(megabatches) else megabatches
    return np.concatenate([shuffled.reshape(-1), np.sort(rest)] if keep_rest else [shuffled.reshape(-1)])


def _by_length(
    lengths: Int[np.ndarray, " records"], batch: int, world: int, permutation: Permutation
) -> Int[np.ndarray, " records"]:
    """One kind: permuted, sorted within megabatches, dealt into chunks of like sums."""
    size = batch * world
    indices = np.asarray(permutation(len(lengths)), np.int64)
    whole = indices[: len(indices) // size * size].reshape(-1, size)
    rest = indices[whole.size :]
    parts = [_deal(_sorted(lengths, whole), lengths, world).reshape(-1)]
    if len(rest):
        tail = _sorted(lengths, rest[None])
        even = len(rest) % world == 0
        parts += (
            [_deal(tail, lengths, world).reshape(-1)] if even else [tail[0, start::world] for start in range(world)]
        )
    return np.concatenate(parts)


def _sorted(lengths: Int[np.ndarray, " records"], rows: Int[np.ndarray, "rows size"]) -> Int[np.ndarray, "rows size"]:
    """Each row from long to short; equal lengths stay in order."""
    return np.take_along_axis(rows, np.argsort(-lengths[rows], axis=1, kind="stable"), axis=1)


def _deal(
    rows: Int[np.ndarray, "rows size"], lengths: Int[np.ndarray, " records"], world: int
) -> Int[np.ndarray, "rows world batch"]:
    """Every record to the chunk that is shortest so far and not full; all rows at once."""
    count, size = rows.shape
    dealt = np.empty((count, world, size // world), np.int64)
    sums, filled = np.zeros((count, world)), np.zeros((count, world), np.int64)
    every = np.arange(count)
    for column in range(size):
        chunk = sums.argmin(axis=1)
        place = filled[every, chunk]
        dealt[every, chunk, place] = rows[:, column]
        filled[every, chunk] = place + 1
        sums[every, chunk] += lengths[rows[:, column]]
        sums[every, chunk] = np.where(place + 1 == size // world, np.inf, sums[every, chunk])
    return dealt


class Permutations:
    """Random orders one after the other, the same on every machine: sort keys are hashes of the positions."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._asked = 0

    def __call__(self, size: int) -> np.ndarray:
        self._asked += 1
        return np.argsort(mix_all(mix(self._key, self._asked), np.arange(size, dtype=np.uint64)), kind="stable")


def mix_all(key: int, values: np.ndarray) -> np.ndarray:
    """`mmcore.base.hashing.mix(key, value)` of every value, uint64."""
    state = np.uint64(mix(key)) ^ values
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
