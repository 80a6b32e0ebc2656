"""Length grouping: records of like length share a global batch, and its parts take equally long on every process.

The published samplers (LLaVA's trainer; VisPer-LM reference 5.1) shuffle all records, cut the order into megabatches of
one global batch each, sort each by length and deal it out so that every micro-batch holds about as many words. With
modalities, records with and without an image are grouped apart, and their megabatches shuffled together.

`group` is that rule, given the permutations; `LengthGroupedOrder` draws the permutations from the seed and the number
of the epoch, so a position of the order is a function of its number like everything in `mmcore.data.order`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mmcore.base.hashing import mix, name_key
from mmcore.contract.recipe import Source, Stage
from mmcore.contract.values import Draw
from mmcore.errors import DataError, RecipeError

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
    if not lengths.all():
        number = int(np.flatnonzero(lengths == 0)[0])
        raise DataError("a record has no words, so it has no length to group by", where=f"record {number}")
    kinds = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
    if not modality or not all(map(len, kinds)):
        # The published code keeps the sign where there is one kind: all text goes from short to long.
        return _by_length(lengths if modality else np.abs(lengths), batch, world, permutation)
    return group_kinds(kinds, lengths, batch, world, permutation)


def group_kinds(
    kinds: Sequence[Int[np.ndarray, " some"]],
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


class LengthGroupedOrder:
    """The draws of every micro-batch, grouped by length; each record once per epoch.

    Micro-batches are numbered as in `mmcore.data.order.Order`, and `global_batch / micro_batch` of them make one
    megabatch however many processes share them, so the order does not depend on the world. The last megabatch of an
    epoch is filled with the epoch's first records, as the published loader does for the processes to stay even.

    Args:
        lengths: (records,) words of each source, negative without an image.
        micro_batch: samples per micro-batch.
        global_batch: samples per optimiser step.
        modality: keep records with and without an image apart.
        seed: everything follows from it.

    Raises:
        DataError: there are no records, or one has no words.
        RecipeError: the global batch is no multiple of the micro-batch.
    """

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        micro_batch: int,
        global_batch: int,
        *,
        modality: bool = True,
        seed: int = 0,
    ) -> None:
        if global_batch % micro_batch:
            raise RecipeError(f"global_batch {global_batch} is not a multiple of micro_batch {micro_batch}")
        self.names = tuple(lengths)
        self.seed = seed
        self._lengths = np.concatenate([np.asarray(column, np.int64) for column in lengths.values()] or [np.zeros(0)])
        if not len(self._lengths):
            raise DataError("there are no records to draw from", where=", ".join(lengths), do="see `mmcore data check`")
        self._starts = np.cumsum([0, *(len(column) for column in lengths.values())])
        self._micro_batch, self._world, self._modality = micro_batch, global_batch // micro_batch, modality
        self._key = mix(seed, name_key("lengths"))
        self._megabatches = math.ceil(len(self._lengths) / global_batch)
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._indices(0)  # complains about records without words before anything is trained

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        epoch, turn = divmod(m, self._megabatches * self._world)
        first = turn * self._micro_batch
        records = self._indices(epoch)[first : first + self._micro_batch]
        number = m * self._micro_batch
        return tuple(self._draw(int(record), number + slot) for slot, record in enumerate(records))

    def source(self, m: int) -> str:
        """The source of the first sample of global micro-batch `m`."""
        return self.draws(m)[0].source

    def _draw(self, record: int, number: int) -> Draw:
        source = int(np.searchsorted(self._starts, record, side="right")) - 1
        return Draw(self.names[source], record - int(self._starts[source]), mix(self._key, 3, number))

    def _indices(self, epoch: int) -> np.ndarray:
        """All positions of one epoch, the last megabatch filled up; the newest epoch is kept."""
        if self._epoch[0] != epoch:
            permutation = _Permutations(mix(self._key, 2, epoch))
            order = group(self._lengths, self._micro_batch, self._world, permutation, modality=self._modality)
            self._epoch = epoch, np.resize(order, self._megabatches * self._world * self._micro_batch)
        return self._epoch[1]


class _Permutations:
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


def grouped_order(
    stage: Stage, recipe: Mapping[str, Source], sources: Mapping[str, Any], seed: int
) -> LengthGroupedOrder:
    """The order of a stage with `data.group_by_length`.

    Args:
        stage: its recipe.
        recipe: the active sources.
        sources: the same as built; each offers `lengths()`.
        seed: of the run.

    Raises:
        RecipeError: the recipe also asks for what grouping cannot do, or a source knows no lengths.
    """
    data = stage.data
    where = f"stage {stage.number} {stage.name}, data.group_by_length"
    if data.replacement:
        raise RecipeError(
            "grouping by length takes each record once per epoch and cannot draw with replacement",
            where=where,
            do="--set data.replacement=false",
        )
    if data.group_by_aspect:
        raise RecipeError("records are grouped by length or by aspect, not both", where=where, do="leave one out")
    if len(recipe) > 1 and data.one_source_per_batch:
        raise RecipeError(
            "grouping by length mixes the sources of a batch",
            where=where,
            do="--set data.one_source_per_batch=false, or one source with --sources",
        )
    if len({source.weight for source in recipe.values()}) > 1:
        raise RecipeError(
            "grouping by length takes each record once per epoch, so weights cannot differ",
            where=where,
            known={name: source.weight for name, source in recipe.items()}.items(),
            do="give all sources one weight",
        )
    sizes = {source.micro_batch or stage.micro_batch for source in recipe.values()}
    if len(sizes) > 1:
        raise RecipeError("grouping by length needs one micro_batch for all sources", where=where, known=sorted(sizes))
    without = [name for name in recipe if not hasattr(sources[name], "lengths")]
    if without:
        raise RecipeError(
            f"source {without[0]!r} does not know how long its records are",
            where=where,
            do="leave data.group_by_length out, or choose other sources",
        )
    lengths: dict[str, np.ndarray] = {name: sources[name].lengths() for name in recipe}
    return LengthGroupedOrder(
        lengths, sizes.pop(), stage.global_batch, modality=data.group_by_length == "modality", seed=seed
    )
