"""The training order: what is drawn at micro-batch m is a pure function of the seed and m.

No permutation array, no generator state, nothing to save: resuming is asking for the next m, worker processes only
read what the order names, and a world of any size walks the same sequence (`mmcore.data.loader` numbers micro-batches
over steps, accumulation and ranks).

A micro-batch is found by three picks, each of which also says how often its choice was picked before:

    source   one per micro-batch, so that its share of samples is proportional to its weight
    group    landscape or portrait, in proportion to the records of the source (only with aspect groups)
    record   the next one of that source and group

With replacement every pick is an independent draw by hash, which is the published rule of GLEE (reference sampler:
record weight proportional to ratio / size, full buckets emitted). Without, choices are stratified: each falls due once
in every stretch of 1 / share picks, at a random moment of it, so how often it was picked before has a closed form, and
records come from a permutation of the source that is a function too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from mmcore.base.hashing import fraction, mix, name_key, permuted
from mmcore.contract.values import Draw
from mmcore.data.select import Select
from mmcore.errors import DataError, RecipeError

Item = TypeVar("Item")


class Order:
    """The draws of every micro-batch of a run.

    Args:
        sizes: records of each source.
        weights: share of the samples, any scale; a weight of 0 leaves the source out.
        micro_batch: samples per micro-batch of each source.
        groups: (records,) uint8 per source, records of one micro-batch share a value; None, or None for a source,
            leaves records ungrouped.
        replacement: draw records independently; False goes through each source before any record repeats.
        one_source_per_batch: False lets every sample of a micro-batch choose its source; sizes must then agree.
        seed: everything follows from it.

    Raises:
        RecipeError: no source has a weight, a weight or size is no usable number, or mixed micro-batches differ.
        DataError: a source with a weight has no records.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        micro_batch: Mapping[str, int],
        groups: Mapping[str, np.ndarray | None] | None = None,
        *,
        replacement: bool = True,
        one_source_per_batch: bool = True,
        seed: int = 0,
    ) -> None:
        _check(sizes, weights, micro_batch, one_source_per_batch)
        self.names = tuple(name for name in sizes if weights[name] > 0)
        self.weights = {name: weights[name] / sum(weights.values()) for name in self.names}
        self.micro_batch = {name: micro_batch[name] for name in self.names}
        self.replacement = replacement
        self.seed = seed
        columns = {name: (groups or {}).get(name) for name in self.names}
        leaves = {name: _leaves(name, sizes[name], columns[name], replacement, seed) for name in self.names}
        kind = _BySource if one_source_per_batch else _Mixed
        self._plan: _Plan = kind(leaves, self.weights, self.micro_batch, replacement, mix(seed, name_key("order")))

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        return tuple(leaf.draw(number) for leaf, number in self._plan.picks(m))

    def source(self, m: int) -> str:
        """The source of global micro-batch `m` (of its first sample, when sources mix)."""
        return next(iter(self._plan.picks(m)))[0].source

    def batch_shares(self) -> dict[str, float]:
        """Long-run share of micro-batches per source; sums to 1."""
        rates = {name: self.weights[name] / self.micro_batch[name] for name in self.names}
        total = sum(rates.values())
        return {name: rate / total for name, rate in rates.items()}


def record_weights(
    sizes: Sequence[int], ratios: Sequence[float], repeat_factors: Sequence[np.ndarray | None] | None = None
) -> np.ndarray:
    """Sampling weight of every record when several data sets lie in one list (GLEE's multi-dataset sampler).

    `Order` draws from the same distribution without the list: a data set's total is proportional to its ratio.

    Args:
        sizes: records per data set.
        ratios: share of the samples per data set, any scale.
        repeat_factors: (records,) per data set, or None for all ones; scaled here to mean 1.

    Returns:
        (all records,) float64, data sets one after the other.
    """
    factors = repeat_factors or [None] * len(sizes)
    parts = []
    for size, ratio, factor in zip(sizes, ratios, factors, strict=True):
        repeat = np.ones(size) if factor is None else np.asarray(factor) * (size / np.sum(factor))
        parts.append(max(sizes) / size * ratio / sum(ratios) * repeat)
    return np.concatenate(parts)


def repeat_factors(categories: Sequence[Iterable[int]], threshold: float) -> np.ndarray:
    """How much oftener a record with rare categories is drawn (LVIS, Gupta et al. 2019, section 4.1).

    Args:
        categories: the categories in each record; repetitions do not count.
        threshold: share of records below which a category counts as rare; 0 gives all ones.

    Returns:
        (records,) float64, at least 1.
    """
    present = [set(record) for record in categories]
    frequency: dict[int, int] = {}
    for record in present:
        for category in record:
            frequency[category] = frequency.get(category, 0) + 1
    rates = {category: max(1.0, math.sqrt(threshold * len(present) / n)) for category, n in frequency.items()}
    return np.array([max((rates[category] for category in record), default=1.0) for record in present])


def group_by_aspect(stream: Iterable[tuple[int, bool, Item]], batch_sizes: Sequence[int]) -> Iterator[list[Item]]:
    """Batches of a stream of samples: one data set and one orientation each, given out when full.

    The published loaders batch like this. `Order` needs no buckets, since it knows a record's group beforehand.

    Args:
        stream: data set number, whether wider than high, and the sample, in order of arrival.
        batch_sizes: samples per batch of each data set.

    Yields:
        Batches in the order in which they fill up; what is left in a bucket at the end is never given out.
    """
    buckets: dict[tuple[int, bool], list[Item]] = {}
    for number, landscape, item in stream:
        bucket = buckets.setdefault((number, landscape), [])
        bucket.append(item)
        if len(bucket) == batch_sizes[number]:
            del buckets[number, landscape]
            yield bucket


class _Leaf:
    """The records of one source and group, as an endless sequence of draws."""

    def __init__(self, source: str, records: "Select | range", replacement: bool, key: int) -> None:
        self.source = source
        self._records = records
        self._replacement = replacement
        self._key = key
        self.size = len(records)

    def draw(self, number: int) -> Draw:
        """Draw `number` of this sequence; its seed is as unique as the number."""
        if self._replacement:
            index = mix(self._key, 1, number) % self.size
        else:
            epoch, offset = divmod(number, self.size)
            index = permuted(offset, self.size, mix(self._key, 2, epoch))
        return Draw(self.source, self._records[index], mix(self._key, 3, number))


class _Independent:
    """Pick `k` by hash, whatever was picked before."""

    def __init__(self, shares: Sequence[float], key: int) -> None:
        self._edges = np.cumsum(np.asarray(shares, np.float64) / np.sum(shares))
        self._edges[-1] = 1.0
        self._key = key

    def pick(self, k: int) -> tuple[int, int]:
        """The choice, and a number that this choice has at no other `k`."""
        if len(self._edges) == 1:
            return 0, k
        return int(np.searchsorted(self._edges, fraction(self._key, k), side="right")), k


class _Stratified:
    """Choice i falls due once in each stretch of 1 / share picks, at a random moment of the stretch.

    So the share is met to within one pick at any time, and time order is known without a table: event n of a choice
    happens at (n + jitter) / share, and pick k is the k-th event of all choices together.
    """

    def __init__(self, shares: Sequence[float], key: int) -> None:
        total = float(np.sum(shares))
        self._shares = [share / total for share in shares]
        self._key = key

    def pick(self, k: int) -> tuple[int, int]:
        """The choice, and how often it was picked before."""
        if len(self._shares) == 1:
            return 0, k
        # At time t between t - choices and t + choices events have happened, so begin that much earlier and walk.
        start = float(max(0, k - len(self._shares) - 1))
        counts = [self._count(choice, start) for choice in range(len(self._shares))]
        due = [self._time(choice, count) for choice, count in enumerate(counts)]
        missing = k - sum(counts)
        assert missing >= 0
        while True:
            choice = min(range(len(due)), key=due.__getitem__)
            if missing == 0:
                return choice, counts[choice]
            missing -= 1
            counts[choice] += 1
            due[choice] = self._time(choice, counts[choice])

    def _count(self, choice: int, time: float) -> int:
        """How many events of this choice happened before `time`."""
        count = max(0, int(time * self._shares[choice]) - 1)
        while self._time(choice, count) < time:
            count += 1
        return count

    def _time(self, choice: int, number: int) -> float:
        return (number + fraction(self._key, choice, number)) / self._shares[choice]


class _Plan(Protocol):
    def picks(self, m: int) -> Iterator[tuple[_Leaf, int]]: ...


Leaves = Mapping[str, Mapping[int, _Leaf]]
"""Source -> group -> records."""


class _BySource:
    """One source, then one of its groups, for the whole micro-batch."""

    def __init__(
        self, leaves: Leaves, weights: Mapping[str, float], micro_batch: Mapping[str, int], replacement: bool, key: int
    ) -> None:
        pick = _Independent if replacement else _Stratified
        self._sources = pick([weights[name] / micro_batch[name] for name in leaves], key)
        self._leaves = [list(groups.values()) for groups in leaves.values()]
        self._sizes = [micro_batch[name] for name in leaves]
        self._groups = [
            pick([leaf.size for leaf in groups], mix(key, name_key(name))) for name, groups in zip(leaves, self._leaves)
        ]

    def picks(self, m: int) -> Iterator[tuple[_Leaf, int]]:
        source, before = self._sources.pick(m)
        group, before = self._groups[source].pick(before)
        size = self._sizes[source]
        return ((self._leaves[source][group], before * size + slot) for slot in range(size))


class _Mixed:
    """One group for the whole micro-batch, then a source for each of its samples."""

    def __init__(
        self, leaves: Leaves, weights: Mapping[str, float], micro_batch: Mapping[str, int], replacement: bool, key: int
    ) -> None:
        pick = _Independent if replacement else _Stratified
        self._size = next(iter(micro_batch.values()))
        groups = sorted({group for source in leaves.values() for group in source})
        self._leaves, shares = [], []
        for group in groups:
            members = {name: source[group] for name, source in leaves.items() if group in source}
            self._leaves.append(list(members.values()))
            shares.append([weights[name] * leaf.size / _total(leaves[name]) for name, leaf in members.items()])
        self._groups = pick([sum(share) for share in shares], key)
        self._sources = [pick(share, mix(key, group)) for group, share in zip(groups, shares)]

    def picks(self, m: int) -> Iterator[tuple[_Leaf, int]]:
        group, before = self._groups.pick(m)
        for slot in range(self._size):
            source, number = self._sources[group].pick(before * self._size + slot)
            yield self._leaves[group][source], number


def _leaves(name: str, size: int, column: np.ndarray | None, replacement: bool, seed: int) -> dict[int, _Leaf]:
    key = mix(seed, name_key(name))
    if column is None:
        return {0: _Leaf(name, range(size), replacement, key)}
    if len(column) != size:
        raise DataError(f"source {name!r} has {size} records but {len(column)} aspect groups", where="aspect_groups()")
    return {
        int(group): _Leaf(name, Select(column, int(group)), replacement, mix(key, int(group)))
        for group in np.unique(column)
    }


def _total(groups: Mapping[int, _Leaf]) -> int:
    return sum(leaf.size for leaf in groups.values())


def _check(
    sizes: Mapping[str, int], weights: Mapping[str, float], micro_batch: Mapping[str, int], one_source: bool
) -> None:
    for other, values in (("weights", weights), ("micro_batch", micro_batch)):
        missing = set(sizes) - set(values)
        if missing:
            raise RecipeError(f"{other} says nothing about {sorted(missing)}", known=values)
    active = [name for name in sizes if weights[name] > 0]
    if not active:
        raise RecipeError("no data source has a weight above 0", where="data.sources", known=sizes)
    for name in sizes:
        if not 0 <= weights[name] < math.inf:
            raise RecipeError(f"weight {weights[name]} is not a share", where=f"data.sources.{name}.weight")
    for name in active:
        if sizes[name] < 1:
            raise DataError(
                f"source {name!r} has no records to draw from",
                where=f"data.sources.{name}",
                do="see `mmcore data check`, or leave it out with --sources",
            )
        if micro_batch[name] < 1:
            raise RecipeError(f"micro-batch {micro_batch[name]} is not positive", where=f"data.sources.{name}")
    if not one_source and len({micro_batch[name] for name in active}) > 1:
        chosen: dict[str, Any] = {name: micro_batch[name] for name in active}
        raise RecipeError(
            f"sources that mix within a batch need one micro-batch size, not {chosen}",
            where="data.one_source_per_batch",
            do="give all sources the same micro_batch, or keep one source per batch",
        )
