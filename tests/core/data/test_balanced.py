"""Micro-batches change places until the ranks of a step cost alike; what is drawn in all stays what it was."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from mmcore import AdamW, ByLength, Constant, Data, Source, Stage, WholeEpochs
from mmcore.contract.protocols import Datasets
from mmcore.contract.run import Settings
from mmcore.data.order.balanced import BalancedOrder, waiting
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.data.order.source_per_sample import SourcePerSampleOrder
from mmcore.errors import RecipeError
from mmcore.runs.build import build_order
from mmcore.runs.ranks import told_waiting

COSTS = {"boxes": 1.0, "masks": 5.0}
SIZES = {"boxes": 300, "masks": 100}


def drawn(weights: dict[str, float] | None = None, *, kind=SourcePerBatchOrder, seed: int = 3):
    return kind(SIZES, weights or {"boxes": 1.0, "masks": 1.0}, {"boxes": 2, "masks": 2}, seed=seed)


def balanced(inner=None, **changes) -> BalancedOrder:
    return BalancedOrder(inner or drawn(), COSTS, **{"per_step": 2, "window": 8, **changes})


def loads(order, steps: int, per_step: int, ranks: int) -> np.ndarray:
    """(steps, ranks): what each rank reads, counted as the loader numbers it."""
    found = np.zeros((steps, ranks))
    for step in range(steps):
        for turn in range(per_step // ranks):
            for rank in range(ranks):
                m = (step * (per_step // ranks) + turn) * ranks + rank
                found[step, rank] += sum(COSTS[draw.source] for draw in order.draws(m))
    return found


def test_two_ranks_of_costs_one_and_five_no_longer_wait() -> None:
    """Half of the steps have a 1 beside a 5 as drawn; of eight steps at most one has afterwards."""
    spread = {}
    for name, order in (("drawn", drawn()), ("balanced", balanced())):
        by_rank = loads(order, 400, 2, 2)
        spread[name] = (by_rank.max(1) - by_rank.min(1)).sum() / by_rank.sum()
        assert waiting(order, COSTS, per_step=2, ranks=2, steps=400) == pytest.approx(
            by_rank.max(1).sum() / by_rank.mean(1).sum()
        )
    assert 0.25 < spread["drawn"] < 0.4
    assert spread["balanced"] < 0.05


@pytest.mark.parametrize("kind", [SourcePerBatchOrder, SourcePerSampleOrder])
def test_every_window_holds_what_was_drawn(kind) -> None:
    inner = drawn({"boxes": 3.0, "masks": 1.0}, kind=kind)
    order = balanced(inner, per_step=4, window=5)
    for window in range(6):
        numbers = range(window * 20, window * 20 + 20)
        assert sorted(order.drawn_as(m) for m in numbers) == list(numbers)
        assert Counter(d for m in numbers for d in order.draws(m)) == Counter(
            d for m in numbers for d in inner.draws(m)
        )
    assert order.names == inner.names
    assert order.source(7) == order.draws(7)[0].source


@tries(max_examples=60, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(0, 40),
    st.randoms(use_true_random=False),
)
def test_a_run_of_any_length_reads_exactly_what_it_would_have_read(per_step, window, steps, random) -> None:
    order = balanced(drawn(), per_step=per_step, window=window, steps=steps)
    numbers = list(range(steps * per_step))
    random.shuffle(numbers)  # any position can be asked for at any time, as a resumed run does
    assert sorted(order.drawn_as(m) for m in numbers) == sorted(numbers)
    beyond = range(steps * per_step, (steps + 2 * window) * per_step)
    assert {order.drawn_as(m) for m in beyond}.isdisjoint(numbers)


@pytest.mark.parametrize("ranks", [2, 4])
def test_sorting_a_step_evens_out_the_turns_of_its_ranks(ranks: int) -> None:
    """With a window of one step every step keeps its samples."""
    inner, per_step = drawn(), 4 * ranks
    order = balanced(inner, per_step=per_step, window=1)
    for step in range(50):
        numbers = range(per_step * step, per_step * step + per_step)
        assert sorted(order.drawn_as(m) for m in numbers) == list(numbers)
    as_drawn, dealt = loads(inner, 200, per_step, ranks), loads(order, 200, per_step, ranks)
    most = 2 * (COSTS["masks"] - COSTS["boxes"])  # of an odd number one rank has one more
    assert np.ptp(as_drawn, axis=1).max() > most
    assert np.ptp(dealt, axis=1).max() <= most
    changed = {"costs": COSTS, "per_step": per_step, "ranks": ranks, "steps": 200}
    assert waiting(order, **changed) < waiting(inner, **changed)


def test_equal_costs_change_nothing() -> None:
    order = BalancedOrder(drawn(), dict.fromkeys(SIZES, 2.0), per_step=6, window=7)
    assert [order.drawn_as(m) for m in range(300)] == list(range(300))


def test_steps_of_dear_samples_are_spread_over_a_window() -> None:
    """They do not all come first, which would make a curriculum of every window."""
    order = balanced(per_step=2, window=16)
    first = Counter(order.source(2 * 16 * window) for window in range(60))
    assert min(first.values()) > 10


STAGE = Stage(
    number=1,
    name="mixed",
    title="",
    origin="assumed",
    steps=20,
    global_batch=4,
    micro_batch=2,
    data=Data(sources={name: Source(weight=1.0, format="x", cost=COSTS[name]) for name in SIZES}),
    optim=AdamW(lr=1e-3),
    schedule=Constant(),
)


def test_only_orders_that_mix_freely_can_be_balanced() -> None:
    assert STAGE.data.balance is None
    STAGE.data.replace(balance=8, mixture=WholeEpochs())
    with pytest.raises(RecipeError, match=r"data\.balance has nothing to do with data\.mixture\.kind length"):
        STAGE.data.replace(balance=8, mixture=ByLength())


class Drawable:
    """A source of which only the number of records matters."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def aspect_groups(self) -> None:
        return None


def test_plan_says_how_long_ranks_wait_and_what_would_change_that() -> None:
    datasets = Datasets({name: Drawable(size) for name, size in SIZES.items()}, {})  # type: ignore[dict-item]
    off = Settings(plugin="x", variant="tiny", stage=STAGE, data="data", seed=3)
    told = told_waiting(off, datasets, build_order(off, datasets), 2)
    assert told is not None
    assert "data.balance is off" in told
    on = off.replace(stage=STAGE.replace(data=STAGE.data.replace(balance=8)))
    told = told_waiting(on, datasets, build_order(on, datasets), 2)
    assert told is not None
    assert "without data.balance=8 it would be" in told
    assert told_waiting(on, datasets, build_order(on, datasets), 1) is None
    alike = {name: Source(weight=1.0, format="x") for name in SIZES}
    same = off.replace(stage=STAGE.replace(data=STAGE.data.replace(sources=alike)))
    assert "data.balance is off" in str(told_waiting(same, datasets, build_order(same, datasets), 2))
