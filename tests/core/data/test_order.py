"""The order is a pure function of seed and position: shares, epochs, groups and seeds follow from it alone."""

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.base.hashing import fraction, mix, permuted
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.data.order.source_per_sample import SourcePerSampleOrder
from mmcore.data.order.weighted import WeightedOrder
from mmcore.data.select import BLOCK, Select
from mmcore.errors import DataError, RecipeError

SIZES = {"a": 37, "b": 5, "c": 200}
WEIGHTS = {"a": 1.5, "b": 0.2, "c": 3.0}
BATCH = {"a": 2, "b": 3, "c": 4}


def columns(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: (rng.random(size) < 0.6).astype(np.uint8) for name, size in SIZES.items()}


def make(one_source: bool = True, **changes) -> WeightedOrder:
    order = SourcePerBatchOrder if one_source else SourcePerSampleOrder
    return order(**{"sizes": SIZES, "weights": WEIGHTS, "micro_batch": BATCH, **changes})


@pytest.mark.parametrize(
    ("one_source", "whole_epochs", "grouped", "expected"),
    [
        (True, False, False, "7c59db80d7648feb"),
        (True, False, True, "cdcd2640f9449fb8"),
        (True, True, False, "0df296d22391b924"),
        (True, True, True, "67b064ce8069a077"),
        (False, False, False, "aa4b3332fa3bfc3b"),
        (False, False, True, "4012011182f070bf"),
        (False, True, False, "720c3ab58c692dd7"),
        (False, True, True, "d13e126373533619"),
    ],
)
def test_what_a_seed_draws_never_changes(one_source, whole_epochs, grouped, expected):
    """A run that was started with an earlier version is resumed in the order it began with."""
    groups = {name: (np.arange(size) * 7 % 3 == 0).astype(np.uint8) for name, size in SIZES.items()}
    batch = BATCH if one_source else dict.fromkeys(SIZES, 4)
    order = make(one_source, micro_batch=batch, groups=groups if grouped else None, whole_epochs=whole_epochs, seed=11)
    assert digest(order) == expected


def digest(order) -> str:
    drawn = hashlib.sha256()
    for m in [*range(500), 10**7]:
        drawn.update(repr([(draw.source, draw.position, draw.seed) for draw in order.draws(m)]).encode())
    return drawn.hexdigest()[:16]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=40)
def test_a_permutation_reaches_every_index_once(size, key):
    assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


def test_permutations_put_every_record_anywhere():
    first = Counter(permuted(0, 12, mix(1, epoch)) for epoch in range(6000))
    assert min(first.values()) > 400
    assert max(first.values()) < 600
    together = Counter((permuted(0, 7, mix(2, e)), permuted(1, 7, mix(2, e))) for e in range(8400))
    assert len(together) == 42
    assert max(together.values()) < 320


def test_hashes_are_the_same_on_every_machine():
    # SplitMix64 of state 0 starts with this number in its authors' own test vectors.
    assert mix(0) == 0xE220A8397B1DCDAF
    assert 0 <= fraction(1, 2, 3) < 1


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32), st.integers(0, 10**9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_order_has_no_memory(whole_epochs, one_source, grouped, seed, m, other):
    same = {"a": 4, "b": 4, "c": 4}
    options = {
        "whole_epochs": whole_epochs,
        "one_source": one_source,
        "groups": columns() if grouped else None,
        "seed": seed,
        "micro_batch": BATCH if one_source else same,
    }
    order = make(**options)
    first = order.draws(m)
    order.draws(other)
    assert order.draws(m) == first == make(**options).draws(m)
    assert all(0 <= draw.position < SIZES[draw.source] for draw in first)
    if one_source:
        assert len({draw.source for draw in first}) == 1
        assert len(first) == BATCH[first[0].source]
        assert order.source(m) == first[0].source
    if grouped:
        assert len({columns()[draw.source][draw.position] for draw in first}) == 1


@pytest.mark.parametrize("whole_epochs", [True, False])
@pytest.mark.parametrize("one_source", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_shares_of_samples_follow_the_weights(whole_epochs, one_source, grouped):
    batch = BATCH if one_source else dict.fromkeys(SIZES, 4)
    order = make(
        micro_batch=batch,
        whole_epochs=whole_epochs,
        one_source=one_source,
        groups=columns() if grouped else None,
    )
    num_batches = 2000 if whole_epochs else 20_000
    draws = [draw for m in range(num_batches) for draw in order.draws(m)]
    for name, weight in WEIGHTS.items():
        share = sum(draw.source == name for draw in draws) / len(draws)
        assert share == pytest.approx(weight / 4.7, abs=0.001 if whole_epochs else 0.012)
    if not grouped:
        return
    for name, column in columns().items():
        drawn = [column[draw.position] for draw in draws if draw.source == name]
        assert np.mean(drawn) == pytest.approx(column.mean(), abs=0.01 if whole_epochs else 0.06)


@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.integers(1, 60), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_in_whole_epochs_every_record_comes_once_before_any_repeats(seed, one_source, grouped, size, batch):
    sizes = {"a": size, "b": 7}
    rng = np.random.default_rng(seed)
    groups = {name: (rng.random(n) < 0.5).astype(np.uint8) for name, n in sizes.items()}
    order = make(
        one_source,
        sizes=sizes,
        weights={"a": 2.0, "b": 0.7},
        micro_batch={"a": batch, "b": batch},
        groups=groups if grouped else None,
        whole_epochs=True,
        seed=seed,
    )
    drawn: dict[tuple[str, int], list[int]] = {}
    for m in range(120):
        for draw in order.draws(m):
            group = int(groups[draw.source][draw.position]) if grouped else 0
            drawn.setdefault((draw.source, group), []).append(draw.position)
    for (source, group), positions in drawn.items():
        members = int((groups[source] == group).sum()) if grouped else sizes[source]
        for start in range(0, len(positions), members):
            epoch = positions[start : start + members]
            assert len(set(epoch)) == len(epoch)
            assert len(epoch) < members or set(epoch) == set(positions)


def test_epochs_have_different_orders():
    order = SourcePerBatchOrder({"a": 40}, {"a": 1.0}, {"a": 40}, whole_epochs=True)
    epochs = [tuple(draw.position for draw in order.draws(m)) for m in range(5)]
    assert len(set(epochs)) == 5
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)


def test_stratified_shares_are_never_far_from_their_goal():
    order = make(whole_epochs=True)
    rates = {name: WEIGHTS[name] / BATCH[name] for name in SIZES}
    shares = {name: rate / sum(rates.values()) for name, rate in rates.items()}
    counts = Counter()
    for m in range(3000):
        counts[order.source(m)] += 1
        for name, share in shares.items():
            assert abs(counts[name] - share * (m + 1)) < 3


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None)
def test_another_world_size_sees_the_same_samples_in_the_same_order(world, accumulation, step):
    order = make()
    whole = world * accumulation
    seen = [
        order.draws((step * accumulation + turn) * world + rank)
        for turn in range(accumulation)
        for rank in range(world)
    ]
    assert seen == [order.draws(m) for m in range(step * whole, (step + 1) * whole)]


def test_a_single_source_gives_the_same_sequence_for_any_micro_batch():
    for whole_epochs in (True, False):
        sequences = []
        for batch in (1, 3, 12):
            order = SourcePerBatchOrder({"a": 50}, {"a": 1.0}, {"a": batch}, whole_epochs=whole_epochs, seed=4)
            sequences.append([draw for m in range(60 // batch) for draw in order.draws(m)])
        assert sequences[0] == sequences[1] == sequences[2]


def test_every_drawn_position_has_its_own_augmentation_seed():
    for whole_epochs in (True, False):
        seeds = [draw.seed for m in range(2000) for draw in make(whole_epochs=whole_epochs, groups=columns()).draws(m)]
        assert len(set(seeds)) == len(seeds)


def test_another_seed_gives_another_order():
    assert [make(seed=0).draws(m) for m in range(5)] != [make(seed=1).draws(m) for m in range(5)]


def test_records_are_drawn_evenly_with_replacement():
    order = SourcePerBatchOrder({"a": 20}, {"a": 1.0}, {"a": 10}, seed=5)
    counts = Counter(draw.position for m in range(2000) for draw in order.draws(m))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150
    pairs = Counter((x.position % 2, y.position % 2) for m in range(2000) for x, y in pairwise(order.draws(m)))
    assert max(pairs.values()) < 1.1 * min(pairs.values())


def test_a_source_of_weight_zero_is_never_drawn():
    order = make(weights={"a": 1.0, "b": 0.0, "c": 1.0}, sizes={**SIZES, "b": 0})
    assert {order.source(m) for m in range(200)} == {"a", "c"}


@pytest.mark.parametrize("records", [11_000_000, (1 << 24) + 5])
def test_millions_of_records_need_no_list(records):
    """More than 2**24 are too many for `torch.multinomial`, with which the published GLEE draws."""
    column = np.zeros(records, np.uint8)
    column[::3] = 1
    order = SourcePerBatchOrder({"a": len(column)}, {"a": 1.0}, {"a": 2}, {"a": column}, whole_epochs=True)
    for m in (0, 1, 10**8):
        assert len({int(column[draw.position]) for draw in order.draws(m)}) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"weights": {"a": 0.0, "b": 0.0, "c": 0.0}}, RecipeError, "no data source has a weight"),
        ({"weights": {"a": float("nan"), "b": 1.0, "c": 1.0}}, RecipeError, "not a share"),
        ({"weights": {"a": -1.0, "b": 1.0, "c": 1.0}}, RecipeError, "not a share"),
        ({"weights": {"a": 1.0}}, RecipeError, "says nothing about"),
        ({"sizes": {"a": 0, "b": 1, "c": 1}}, DataError, "no records"),
        ({"one_source": False}, RecipeError, "one micro-batch size"),
        ({"groups": {"a": np.zeros(3, np.uint8)}}, DataError, "37 records but 3"),
    ],
)
def test_impossible_mixtures_are_explained(changes, kind, message):
    with pytest.raises(kind, match=message):
        make(**changes)


@given(st.integers(0, 3 * BLOCK), st.integers(0, 100), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_kth_marked_record_is_found(length, percent, seed):
    column = (np.random.default_rng(seed).random(length) * 100 < percent).astype(np.uint8)
    marked = np.flatnonzero(column)
    select = Select(column)
    assert len(select) == len(marked)
    assert [select[k] for k in range(0, len(marked), 97)] == marked[::97].tolist()
    with pytest.raises(IndexError):
        select[len(marked)]
