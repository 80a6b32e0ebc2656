"""The published sampler's rules as lists: weights of records, repeat factors, buckets by data set and orientation.

`mmcore.data.order.source_per_batch` draws from the same distribution without any list.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def record_weights(
    sizes: Sequence[int], ratios: Sequence[float], repeat_factors: Sequence[np.ndarray | None] | None = None
) -> np.ndarray:
    """Sampling weight of every record when several data sets lie in one list (GLEE's multi-dataset sampler).

    A data set's total is proportional to its ratio.

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

    The training order needs no buckets, since it knows a record's group beforehand.

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
